//! Two engines that do not agree: the fewest instructions that still show it, and what each of
//! them makes of these.

use std::fmt::Write as _;

use bpf::insn::disasm::{NoNames, disasm_all};
use bpf::{Arch, Endian};

use super::Engine;
use super::engines::{Miss, Ran, Rig};
use super::judge::{Cell, cells, difference};
use super::vector::{Vector, program};
use crate::native::disassemble;
use crate::shrink::shrink;

/// The first engine that does not agree with the interpreter of its byte order, explained.
pub fn explain(rig: &mut Rig, v: &Vector, found: &[Cell]) -> Option<(Engine, String)> {
    let differs = |c: &&Cell| {
        let reference = found.iter().find(|r| r.engine == reference_of(c.engine));
        reference.is_some_and(|r| difference(&c.result, &r.result).is_some())
    };
    let engine = found.iter().find(differs)?.engine;
    let small = smallest(v, |v| shows(rig, v, engine));
    let agreeing = found.iter().find(|c| {
        c.engine != engine
            && c.engine.order() == engine.order()
            && c.engine.kind() == "jit"
            && !differs(c)
    });
    let other = agreeing.map(|c| c.engine);
    Some((engine, text(rig, &small, engine, other)))
}

fn reference_of(engine: Engine) -> Engine {
    Engine::Interpreter { big: engine.order() == Endian::Big }
}

/// Whether an engine and the interpreter part on a vector.
fn shows(rig: &mut Rig, v: &Vector, engine: Engine) -> bool {
    let [reference, own] = both(rig, v, engine);
    match (reference, own) {
        (Some(reference), Some(own)) => difference(&own, &reference).is_some(),
        _ => false,
    }
}

fn both(rig: &mut Rig, v: &Vector, engine: Engine) -> [Option<Result<Ran, Miss>>; 2] {
    let all = cells(rig, v, &[engine]);
    let of = |e: Engine| all.iter().find(|c| c.engine == e).map(|c| c.result.clone());
    [of(reference_of(engine)), of(engine)]
}

/// The vector without what is not needed for something to show.
pub(crate) fn smallest(v: &Vector, mut shows: impl FnMut(&Vector) -> bool) -> Vector {
    let with = |insns: Vec<bpf::Insn>| Vector {
        lines: vec![0; insns.len()],
        insns,
        mem: v.mem.clone(),
        expect: v.expect.clone(),
        notes: Vec::new(),
    };
    let small = shrink(program(v.insns.clone()), |p| shows(&with(p.insns.clone())));
    with(small.insns)
}

/// A vector, what the engines say of it, and their code.
fn text(rig: &mut Rig, v: &Vector, engine: Engine, other: Option<Engine>) -> String {
    let mut out = format!(
        "{} instructions that still differ:\n{}",
        v.insns.len(),
        disasm_all(&v.insns, &NoNames)
    );
    let [reference, own] = both(rig, v, engine);
    for (engine, said) in [(reference_of(engine), reference), (engine, own)] {
        let words = match said {
            Some(Ok(ran)) => {
                let retired = ran.retired.map(|n| format!(", {n} instructions retired"));
                format!("r0 {:#x}{}", ran.r0, retired.unwrap_or_default())
            }
            Some(Err(miss)) => miss.to_string(),
            None => "not run".to_owned(),
        };
        let _ = writeln!(out, "{engine}: {words}");
    }
    for engine in [Some(engine), other].into_iter().flatten() {
        if let Engine::Jit(arch) = engine {
            let _ = writeln!(out, "{engine}:\n{}", native(rig, v, arch).unwrap_or_default());
        }
    }
    out
}

/// Native code of a vector.
fn native(rig: &mut Rig, v: &Vector, arch: Arch) -> Option<String> {
    let m = rig.native(arch).ok()?;
    let loaded = m.load(v).ok()?;
    // What it comes to was said: only the code is wanted.
    let _ran = m.run(v, &loaded);
    let code = m.code(&loaded).map(|c| c.code.clone());
    m.unload(&loaded).ok()?;
    let insns = disassemble(arch, &code?, 0).ok()?;
    Some(insns.iter().map(|n| format!("{:>5x}  {}\n", n.at, n.text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::assemble_insns;
    use bpf::insn::{AluOp, Insn};

    fn vector(text: &str) -> Vector {
        let insns = assemble_insns(text).unwrap();
        Vector::new(insns.clone(), vec![1; insns.len()])
    }

    /// An engine that believed `*=` to be something else.
    fn wrong(v: &Vector) -> bool {
        v.wrapped().is_ok() && v.insns.iter().any(|i| matches!(i, Insn::Alu { op: AluOp::Mul, .. }))
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        let v = vector("r0 = 3\nr1 = 4\nif r1 == 4 goto pc+1\nr0 = 9\nr0 *= r1\nr0 += 1\nexit");
        let small = smallest(&v, wrong);
        assert_eq!(small.insns.len(), 2, "{:?}", small.insns);
        assert_eq!(small.insns[1], Insn::Exit);
    }

    #[test]
    fn both_disassemblies_are_shown() {
        let mut rig = Rig::new(1000);
        let v = vector("r0 = 3\nexit");
        let (own, other) = (Engine::Jit(Arch::Arm64), Engine::Jit(Arch::Riscv64));
        let text = text(&mut rig, &v, own, Some(other));
        assert!(text.contains("r0 = 3") && text.contains("interpreter bpfel: r0 0x3"), "{text}");
        assert!(text.contains("jit arm64:\n") && text.contains("jit riscv64:\n"), "{text}");
        assert!(text.contains(" ret\n"), "{text}");
    }

    #[test]
    fn engines_that_agree_have_nothing_to_explain() {
        let mut rig = Rig::new(1000);
        let v = vector("r0 = 3\nexit");
        let found = cells(&mut rig, &v, &[Engine::Jit(Arch::S390x)]);
        assert_eq!(explain(&mut rig, &v, &found), None);
    }
}
