//! `x/i`, `jit`: BPF and native code.

use std::fmt::Write as _;

use bpf::insn::InsnIdx;
use kernel_model::{Prog, ProgId};

use super::{Here, Reply, names, no_more, number, state};
use crate::cli::why::{source, text};
use crate::engine::Loaded;
use crate::native::disassemble;

/// Instructions that are shown.
const SHOWN: usize = 8;

fn loaded<'m>(here: &Here<'m>, prog: ProgId) -> Result<&'m Loaded, String> {
    let none = || format!("{prog} has no native code");
    here.machine.text().prog(prog).map(|p| &**p).ok_or_else(none)
}

/// Native ranges of an original instruction, as offsets in the program.
fn ranges(l: &Loaded, insn: InsnIdx) -> impl Iterator<Item = (u32, u32)> {
    let all = l.compiled.debug.insns.iter().filter(move |r| r.orig == insn && r.start < r.end);
    all.map(|r| (r.start.0, r.end.0))
}

/// Indices of instructions that begin one, from one on.
fn from(p: &Prog, at: InsnIdx) -> impl Iterator<Item = InsnIdx> {
    let insns = p.verified.program().insns.iter().enumerate().skip(at.idx());
    let real = insns.filter(|(_, i)| !matches!(i, bpf::insn::Insn::LdImm64Hi));
    real.map(|(n, _)| InsnIdx(n as u32))
}

/// `x/i [N]`.
pub(super) fn list(here: &Here<'_>, args: &[&str]) -> Reply {
    let (k, site) = (here.kernel(), here.site()?);
    let count = match args {
        [] => SHOWN,
        [n, more @ ..] => {
            no_more(more)?;
            usize::try_from(number(n)?).unwrap_or(usize::MAX)
        }
    };
    let prog = k.prog(site.prog).ok_or("the program is gone")?;
    let (program, native) = (prog.verified.program(), loaded(here, site.prog)?);
    let log = state::log_of(k, site.prog);
    let regs = here.machine.bpf_regs(here.cpu);
    let mut out = match &log {
        Ok(_) => String::new(),
        Err(e) => format!("  no abstract states: {e}\n"),
    };
    let mut line = String::new();
    for insn in from(prog, site.insn).take(count) {
        let now = source(program, insn.0);
        if now != line && !now.is_empty() {
            let _ = writeln!(out, "; {now}");
            line = now;
        }
        let mark = if insn == site.insn { "=>" } else { "  " };
        let _ = writeln!(out, "{mark} {:>4}: {}", insn.0, text(program, insn.0));
        let regs = regs.filter(|_| insn == site.insn);
        let known = log.as_ref().ok().and_then(|log| state::state_of(log, insn, regs));
        if let Some(known) = known {
            let _ = writeln!(out, "            ; {known}");
        }
        for (start, end) in ranges(native, insn) {
            let at = native.base + u64::from(start);
            let code = k.mem.read_vec(at, (end - start) as usize).unwrap_or_default();
            for n in disassemble(here.machine.arch(), &code, start)? {
                let _ = writeln!(out, "        {:#x}  {}", native.base + u64::from(n.at), n.text);
            }
        }
    }
    Ok(out)
}

/// `jit [PROG]`.
pub(super) fn jit(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let prog = match args {
        [] => here.site().map_err(|e| format!("{e}; or give a program: jit PROG"))?.prog,
        [name, more @ ..] => {
            no_more(more)?;
            names::prog(k, name)?.id
        }
    };
    let (l, p) = (loaded(here, prog)?, k.prog(prog).ok_or("the program is gone")?);
    let program = p.verified.program();
    let (end, count) = (l.base + l.compiled.code.len() as u64, l.compiled.native_insns);
    let mut out = format!("{}: {:#x} to {end:#x}, {count} native instructions\n", p.name(), l.base);
    for f in &l.compiled.debug.funcs {
        let (start, body) = (l.base + u64::from(f.start.0), l.base + u64::from(f.body.0));
        let _ = writeln!(out, "{} at {start:#x}, body {body:#x}, frame {}", f.name, f.frame_bytes);
    }
    for insn in from(p, InsnIdx(0)) {
        let at: Vec<String> = ranges(l, insn)
            .map(|(s, e)| format!("{:#x}+{}", l.base + u64::from(s), e - s))
            .collect();
        let _ = writeln!(out, "{:>5}: {:<44} {}", insn.0, text(program, insn.0), at.join(" "));
    }
    Ok(out)
}
