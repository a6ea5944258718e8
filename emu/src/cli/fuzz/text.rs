//! Programs as text that the assembler reads, with what was said about them.

use std::fmt::Write as _;

use bpf::insn::asm::assemble;
use bpf::insn::disasm::{NoNames, disasm_op};
use bpf::insn::{Call, Imm64, Insn};
use verifier::annotated::Kfuncs;
use verifier::explore::Opts;

use super::world::{self, Answer, Sample, World};

/// A program; what is not in its instructions is in comments that [`judge`] understands.
pub(super) fn text(world: &World, s: &Sample) -> String {
    let p = &s.program;
    let mut text = String::new();
    if !world.opts.allow_ptr_leaks {
        text += "; without perfmon\n";
    }
    for f in &p.funcs {
        let _ = writeln!(text, "; func {} {}", f.start.0, f.name);
    }
    let _ = writeln!(text, "; prog {} {}", p.prog_type.name(), p.name);
    for (i, insn) in p.insns.iter().enumerate().filter(|(_, i)| **i != Insn::LdImm64Hi) {
        let line = match *insn {
            Insn::LdImm64 { dst, imm: Imm64::MapIdx(m) } => format!("r{} = map[{m}] ll", dst.0),
            Insn::LdImm64 { dst, imm: Imm64::MapIdxValue { idx, off } } => {
                format!("r{} = map_value[{idx}]+{off} ll", dst.0)
            }
            Insn::LdImm64 { dst, imm: Imm64::Func(off) } => {
                format!("r{} = func pc{off:+} ll", dst.0)
            }
            // By name alone: ids are those of one kernel.
            Insn::Call(Call::Kfunc { btf_id, .. }) => {
                format!("call {}", world.kernel.name(btf_id.cast_unsigned()))
            }
            ref insn => disasm_op(insn, &NoNames),
        };
        let _ = writeln!(text, "{i:4}: {line}");
    }
    text
}

fn said(a: &Answer) -> String {
    let verdict = if a.accepted { "accepted".to_owned() } else { format!("rejected: {}", a.words) };
    format!("{verdict} ({} insns, {} states, {} at most)", a.insns, a.states, a.peak)
}

/// A difference as a file of the corpus.
pub(super) fn case(
    world: &World,
    kind: &str,
    seed: u64,
    s: &Sample,
    ours: &Answer,
    theirs: &Answer,
) -> String {
    let (theirs, ours) = (said(theirs), said(ours));
    let program = text(world, s);
    format!("; {kind} of seed {seed}\n; kernel: {theirs}\n; orrery: {ours}\n{program}")
}

/// A program of the corpus, with the maps and functions that generated programs have.
pub(super) fn sample(world: &mut World, text: &str) -> Result<Sample, String> {
    let kernel = world.kernel.clone();
    let mut a = assemble(text, &Kfuncs(&kernel)).map_err(|e| e.to_string())?;
    if a.progs.len() != 1 {
        return Err("not one program".to_owned());
    }
    let mut program = a.progs.remove(0);
    let origin = world.generated(program.prog_type).map_err(|_| "no maps".to_owned())?;
    program.lines.clear();
    program.funcs.clear();
    let btf = world.origins[origin].btf.clone().unwrap_or_default();
    for line in text.lines().filter_map(|l| l.strip_prefix("; func ")) {
        if let Some((at, name)) = line.split_once(' ')
            && let Ok(at) = at.parse()
        {
            program.funcs.push(world::func(&btf, at, name));
        }
    }
    Ok(Sample { program, origin })
}

/// What the verifier says to a program of the corpus: `accepted`, or `rejected: ` and the last
/// line of the words.
#[must_use]
pub fn judge(text: &str) -> String {
    let perfmon = !text.lines().any(|l| l == "; without perfmon");
    let opts = Opts { allow_ptr_leaks: perfmon, ..Opts::default() };
    let Ok(mut world) = World::open(false, opts) else { return "no kernel".to_owned() };
    let answer = match sample(&mut world, text) {
        Ok(sample) => world.ours(&sample),
        Err(e) => return e,
    };
    match answer.accepted {
        true => "accepted".to_owned(),
        false => format!("rejected: {}", answer.words),
    }
}
