//! `verifier`, `why`: what the verifier knew of an instruction.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bpf::insn::{Insn, InsnIdx, Reg};
use kernel_model::cpu::Site;
use kernel_model::{Kernel, ProgId};

use super::{Here, Reply, names, no_more, number};
use crate::cli::why::{history, source, states, text, trace};

/// Instructions of a verification beyond which its log is too long to look through.
const PROCESSED_MAX: u32 = 200_000;
/// States that are shown.
const STATES: usize = 16;
/// Lines of the log that are shown.
const LINES: usize = 20;

/// The log of a program at level 2.
pub(crate) fn log_of(k: &Kernel, prog: ProgId) -> Result<String, String> {
    let p = k.prog(prog).ok_or("the program is gone")?;
    if p.verified.stats().insns_processed > PROCESSED_MAX {
        return Err(format!("the log of {} is too long; `orrery why` looks at objects", p.name()));
    }
    k.prog_log(prog, 2)
}

/// The first state that was met before each instruction.
pub(crate) fn first_states(log: &str) -> BTreeMap<u32, String> {
    let mut out = BTreeMap::new();
    trace::walk(log, |event, tracker| {
        if let (trace::Event::Insn(step), Some(state)) = (event, tracker.state()) {
            out.entry(step.insn).or_insert_with(|| states::words(state));
        }
    });
    out
}

/// What a state says of a register or slot, by its name as in the log.
pub(crate) fn value<'s>(state: &'s str, name: &str) -> Option<&'s str> {
    let (mut depth, mut from) = (0i32, 0);
    let mut items = Vec::new();
    for (at, c) in state.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 => {
                items.push(&state[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&state[from..]);
    items.into_iter().filter_map(|i| i.split_once('=')).find(|(k, _)| *k == name).map(|i| i.1)
}

/// Bounds of a scalar as the log has them.
fn fits(value: &str, n: u64) -> bool {
    let value = value.trim_start_matches('P');
    let int = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse::<i64>().ok().map(i64::cast_unsigned),
    };
    if let Some(constant) = int(value) {
        return constant == n;
    }
    let Some(inside) = value.strip_prefix("scalar(").and_then(|v| v.strip_suffix(')')) else {
        // A pointer: its kind says nothing about the number, but that it is one.
        return value.contains("or_null") || value.starts_with("fp") || n != 0;
    };
    let mut all = inside.split(',').flat_map(|part| {
        // `smin=umin=1`: several names of one bound.
        let (names, bound) = part.rsplit_once('=').unwrap_or((part, ""));
        names.split('=').map(move |name| (name.to_owned(), bound.to_owned()))
    });
    all.all(|(name, bound)| {
        let Some(bound) = int(&bound) else { return true };
        let (signed, low) = (n.cast_signed(), n as u32);
        match name.as_str() {
            "smin" => signed >= bound.cast_signed(),
            "smax" => signed <= bound.cast_signed(),
            "umin" => n >= bound,
            "umax" => n <= bound,
            "smin32" => low.cast_signed() >= (bound as u32).cast_signed(),
            "smax32" => low.cast_signed() <= (bound as u32).cast_signed(),
            "umin32" => low >= bound as u32,
            "umax32" => low <= bound as u32,
            _ => true,
        }
    })
}

/// The abstract states before an instruction, and those of them that the registers are in.
pub(crate) fn states_at(
    log: &str,
    insn: InsnIdx,
    regs: Option<[Option<u64>; 11]>,
) -> Vec<(String, bool)> {
    let found = states::at(log, insn.0);
    let mut out: Vec<(String, bool)> = Vec::new();
    for (state, _) in found {
        let fit = (0u8..).zip(regs.unwrap_or_default()).all(|(n, reg)| {
            let known = value(&state, &format!("R{n}"));
            reg.zip(known).is_none_or(|(reg, known)| fits(known, reg))
        });
        out.push((state, fit));
    }
    out
}

/// The one state to show of an instruction: the first that the registers are in.
pub(crate) fn state_of(
    log: &str,
    insn: InsnIdx,
    regs: Option<[Option<u64>; 11]>,
) -> Option<String> {
    let mut all = states_at(log, insn, regs);
    let n = all.iter().position(|s| s.1).unwrap_or(0);
    (n < all.len()).then(|| all.swap_remove(n).0)
}

/// `verifier`, `verifier log [N]`.
pub(super) fn verifier(here: &Here<'_>, args: &[&str]) -> Reply {
    let (k, site) = (here.kernel(), here.site()?);
    match args {
        ["log", rest @ ..] => {
            let lines = match rest {
                [] => LINES,
                [n, more @ ..] => {
                    no_more(more)?;
                    usize::try_from(number(n)?).unwrap_or(usize::MAX)
                }
            };
            Ok(around(&log_of(k, site.prog)?, site.insn, lines))
        }
        _ => {
            no_more(args)?;
            let log = log_of(k, site.prog)?;
            let regs = here.machine.bpf_regs(here.cpu);
            let mut out = heading(k, site);
            let all = states_at(&log, site.insn, regs);
            let fit = all.iter().filter(|s| s.1).count();
            for (n, (state, fits)) in all.iter().take(STATES).enumerate() {
                let mark = if *fits { '*' } else { ' ' };
                let _ = writeln!(out, "{mark} state {}: {state}", n + 1);
            }
            if all.len() > STATES {
                let _ = writeln!(out, "  and {} more", all.len() - STATES);
            }
            let of = all.len();
            let _ = writeln!(out, "  the registers are in {fit} of {of} states (*)");
            holds(here, &mut out);
            Ok(out)
        }
    }
}

/// The instruction in words.
fn heading(k: &Kernel, site: Site) -> String {
    let Some(p) = k.prog(site.prog) else { return String::new() };
    let program = p.verified.program();
    let (insn, line) = (site.insn.0, source(program, site.insn.0));
    format!("{} {insn}: {}  {line}\n", p.name(), text(program, insn))
}

/// What the program holds now.
fn holds(here: &Here<'_>, out: &mut String) {
    let k = here.kernel();
    let all: Vec<_> =
        k.ledger.iter().filter(|(.., h)| h.cpu == here.cpu && h.prog.is_some()).collect();
    for (kind, at, h) in all {
        let by = h.prog.map_or(String::new(), |p| names::prog_name(k, p));
        let _ = writeln!(out, "  holds {kind:?} {at:#x}: {} in {by}", h.what);
    }
    let party = k.lock_party(here.cpu).to_string();
    if !party.is_empty() {
        let _ = writeln!(out, "{party}");
    }
}

/// Lines of the log around the first visit of an instruction.
fn around(log: &str, insn: InsnIdx, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let prefix = format!("{}: (", insn.0);
    let at = lines.iter().position(|l| l.starts_with(&prefix)).unwrap_or(0);
    let from = at.saturating_sub(count / 2);
    let shown = lines.iter().skip(from).take(count);
    shown.map(|l| format!("{l}\n")).collect()
}

/// The path that the verifier went when it first came to an instruction.
fn path_to(log: &str, insn: u32) -> Vec<trace::Step> {
    let (mut path, mut done): (Vec<trace::Step>, bool) = (Vec::new(), false);
    trace::walk(log, |event, _| {
        if done {
            return;
        }
        match event {
            trace::Event::Insn(step) => {
                path.push(step.clone());
                done = step.insn == insn;
            }
            trace::Event::Path { from, .. } => {
                let at = path.iter().rposition(|s| s.insn == *from);
                path.truncate(at.map_or(0, |n| n + 1));
            }
            trace::Event::Safe(_) => {}
        }
    });
    if done { path } else { Vec::new() }
}

/// Registers that an instruction reads, those of calls by their arguments' number.
fn reads(insn: &Insn) -> Vec<Reg> {
    let text = bpf::insn::disasm::disasm_op(insn, &bpf::insn::disasm::NoNames);
    let mut out: Vec<Reg> = Vec::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        let n = word.strip_prefix(['r', 'w']).and_then(|n| n.parse::<u8>().ok());
        if let Some(n) = n.filter(|n| *n < 10)
            && !out.contains(&Reg(n))
        {
            out.push(Reg(n));
        }
    }
    out
}

/// `why [INSN]`.
pub(super) fn why(here: &Here<'_>, args: &[&str]) -> Reply {
    let (k, site) = (here.kernel(), here.site()?);
    let insn = match args {
        [] => site.insn.0,
        [n, more @ ..] => {
            no_more(more)?;
            u32::try_from(number(n)?).map_err(|_| "that is no instruction")?
        }
    };
    let prog = k.prog(site.prog).ok_or("the program is gone")?;
    let program = prog.verified.program();
    let count = program.insns.len();
    if insn as usize >= count {
        return Err(format!("{} has {count} instructions, numbered from 0", prog.name()));
    }
    let log = log_of(k, site.prog)?;
    let mut out = states::explain(program, &log, insn);
    let path = path_to(&log, insn);
    for reg in reads(&program.insns[insn as usize]) {
        for link in history::of_register(program, &path, reg) {
            let line = source(program, link.insn);
            let place = if line.is_empty() { line } else { format!("  [{line}]") };
            let _ = writeln!(out, "  r{} from insn {}: {}{place}", reg.0, link.insn, link.what);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_in_a_state_or_not() {
        assert!(fits("7", 7) && !fits("7", 8) && fits("-1", u64::MAX));
        assert!(fits("scalar(smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff))", 255));
        assert!(!fits("scalar(smin=smin32=0,smax=umax=255,var_off=(0x0; 0xff))", 256));
        assert!(fits("map_value_or_null(id=1,map=m)", 0) && !fits("map_value(map=m)", 0));
        assert_eq!(
            value("R1=ctx() R2=scalar(id=1, umax=5) fp-8=mm", "R2"),
            Some("scalar(id=1, umax=5)")
        );
        assert_eq!(value("R1=ctx() fp-8=mm", "fp-8"), Some("mm"));
    }
}
