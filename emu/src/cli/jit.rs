//! `orrery jit OBJ --arch A`: source, BPF and native code of a program side by side.

use std::fmt::Write as _;
use std::path::PathBuf;

use bpf::Arch;
use bpf::insn::NoNames;
use bpf::insn::disasm::disasm_op;
use jit::{Compiled, FuncMap, InsnRange};
use verifier::Verified;

use super::world::World;
use super::{Exit, arch, gravest, out};
use crate::native::{Native, disassemble};

/// Width of the BPF column.
const BPF_CHARS: usize = 46;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A BPF object in the byte order of the architecture
    #[arg(value_name = "OBJ")]
    object: PathBuf,
    /// x86_64, arm64, riscv64 or s390x
    #[arg(long, value_parser = arch)]
    arch: Arch,
    /// Only this program
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
}

pub(super) fn run(args: &Args) -> Exit {
    let opened = World::open(&args.object, Some(args.arch))
        .and_then(|w| w.programs(&args.object, args.prog.as_deref()).map(|p| (w, p)));
    let (world, programs) = match opened {
        Ok(v) => v,
        Err(exit) => return exit,
    };
    let file = args.object.display();
    let mut exits = Vec::new();
    for def in &programs {
        let name = &def.name;
        let verified = match world.link(def) {
            Ok(program) => world.verify(program, 0).result,
            Err(e) => {
                let (what, exit) = match &world.lacks {
                    Some(what) => (format!("unsupported: {what}"), Exit::Unsupported),
                    None => (e.to_string(), Exit::BadInput),
                };
                out::error(&format!("{file}: {name}: {what}"), "orrery inspect shows the object");
                exits.push(exit);
                continue;
            }
        };
        match verified {
            Ok(v) => match listing(&v, &jit::compile(&v, args.arch)) {
                Ok(text) => out::print(&text),
                Err(e) => {
                    out::error(&format!("{file}: {name}: {e}"), "");
                    exits.push(Exit::Internal);
                }
            },
            Err(r) => {
                out::error(&format!("{file}: {name}: {r}"), "orrery verify --log-level 1");
                let not = if r.is_unsupported() { Exit::Unsupported } else { Exit::NotMet };
                exits.push(not);
            }
        }
    }
    gravest(exits)
}

/// One program as text.
fn listing(v: &Verified, c: &Compiled) -> Result<String, String> {
    let mut text = format!("{} on {}\n", v.program().name, c.arch);
    let mut line = None;
    for f in &c.debug.funcs {
        let _ = writeln!(text, "\n{} at {:#06x}:", f.name, f.start.0);
        columns(&mut text, "prologue", &native(c, f.start.0, f.body.0)?);
        let within = |r: &&InsnRange| r.start >= f.body && r.end <= f.end;
        let mut done = f.body.0;
        for r in c.debug.insns.iter().filter(within) {
            if r.start.0 > done {
                columns(&mut text, "", &native(c, done, r.start.0)?);
            }
            done = done.max(r.end.0);
            if r.start == r.end && !r.first {
                continue;
            }
            let at = v.program().line_at(r.orig);
            if r.first && at != line {
                line = at;
                if let Some(l) = at {
                    let _ = writeln!(text, "; {} @ {}:{}", l.text.trim(), l.file_name(), l.line);
                }
            }
            let bpf = format!("{:>5}: {}", r.orig.0, disasm_op(v.insn(r.insn).0, &NoNames));
            columns(&mut text, &bpf, &native(c, r.start.0, r.end.0)?);
        }
        let rest = if f.epilogue.is_some() { "epilogue" } else { "" };
        columns(&mut text, rest, &native(c, done, f.end.0)?);
    }
    text += &sizes(v, c);
    Ok(text)
}

fn native(c: &Compiled, start: u32, end: u32) -> Result<Vec<Native>, String> {
    let code = c.code.get(start as usize..end as usize).unwrap_or_default();
    disassemble(c.arch, code, start)
}

/// What the BPF side says beside the native instructions it became.
fn columns(text: &mut String, bpf: &str, native: &[Native]) {
    if native.is_empty() {
        if !bpf.is_empty() && bpf != "prologue" && bpf != "epilogue" {
            let _ = writeln!(text, "{bpf}");
        }
        return;
    }
    for (i, n) in native.iter().enumerate() {
        let left = if i == 0 { bpf } else { "" };
        let _ = writeln!(text, "{left:<BPF_CHARS$} {:>5x}  {}", n.at, n.text);
    }
}

fn sizes(v: &Verified, c: &Compiled) -> String {
    let bpf = v.program().insns.len();
    let frames: Vec<String> =
        c.debug.funcs.iter().map(|f: &FuncMap| format!("{} {}", f.name, f.frame_bytes)).collect();
    format!(
        "\n{bpf} BPF slots, {} after rewriting; {} native instructions, {} bytes; \
         native stack frames in bytes: {}\n",
        v.len(),
        c.native_insns,
        c.code.len(),
        frames.join(", ")
    )
}
