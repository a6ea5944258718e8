//! A vector on all engines, and what that says.

use std::time::Instant;

use bpf::insn::{EndianOp, Insn};
use bpf::{Arch, Endian};

use super::engines::{Miss, Ran, Rig};
use super::vector::Vector;
use super::{Engine, Outcome, Record, diverge};

/// One engine's answer.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Engine.
    pub engine: Engine,
    /// Answer.
    pub result: Result<Ran, Miss>,
    /// Time it took.
    pub wall_us: u64,
}

/// Machines of a byte order; the first stands for all of them to the interpreter.
pub(super) const fn archs(order: Endian) -> &'static [Arch] {
    match order {
        Endian::Little => &[Arch::X86_64, Arch::Arm64, Arch::Riscv64],
        Endian::Big => &[Arch::S390x],
    }
}

/// Runs a vector on both interpreters and on the machines that are named, among them perhaps the
/// one this runs on.
pub fn cells(rig: &mut Rig, v: &Vector, engines: &[Engine]) -> Vec<Cell> {
    let mut out = Vec::new();
    for order in [Endian::Little, Endian::Big] {
        if v.expect.order.is_some_and(|o| o != order) {
            continue;
        }
        for (n, arch) in archs(order).iter().enumerate() {
            let native = engines.contains(&Engine::Jit(*arch));
            if n == 0 || native {
                machine(rig, v, *arch, n == 0, native, &mut out);
            }
        }
    }
    if engines.contains(&Engine::Host) && v.expect.order != Some(Endian::Big) {
        let began = Instant::now();
        let ran = rig.host().and_then(|h| h.run(v, v.mem.as_slice()));
        let none = || Miss::Broken("it did not run".to_owned());
        let result = ran.and_then(|r| r.into_iter().next().ok_or_else(none));
        let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        out.push(Cell { engine: Engine::Host, result, wall_us });
    }
    out
}

fn machine(
    rig: &mut Rig,
    v: &Vector,
    arch: Arch,
    interpret: bool,
    native: bool,
    out: &mut Vec<Cell>,
) {
    let mut began = Instant::now();
    let mut took = || {
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        began = Instant::now();
        us
    };
    let interpreter = Engine::Interpreter { big: arch.endian() == Endian::Big };
    let mut say = |engine, result, wall_us| out.push(Cell { engine, result, wall_us });
    let loaded = rig.native(arch).and_then(|m| Ok((m.load(v)?, m)));
    let (loaded, m) = match loaded {
        Ok(both) => both,
        Err(miss) => {
            let us = took();
            if interpret {
                say(interpreter, Err(miss.clone()), us);
            }
            if native {
                say(Engine::Jit(arch), Err(miss), us);
            }
            return;
        }
    };
    let load_us = took();
    if interpret {
        let result = m.interpret(v, &loaded);
        say(interpreter, result, took() + load_us);
    }
    if native {
        let result = m.run(v, &loaded);
        say(Engine::Jit(arch), result, took() + load_us);
    }
    if let Err(e) = m.unload(&loaded) {
        say(Engine::Jit(arch), Err(e), 0);
    }
}

/// Runs a vector and judges the engines that are named.
pub fn vector(rig: &mut Rig, v: &Vector, engines: &[Engine]) -> Vec<Record> {
    let cells = cells(rig, v, engines);
    let judged = |engine: &Engine| match cells.iter().find(|c| c.engine == *engine) {
        Some(cell) => record(v, cell, &cells),
        None => Record {
            engine: *engine,
            outcome: Outcome::Skip,
            expected: String::new(),
            got: String::new(),
            note: "the vector is for machines of the other byte order".into(),
            details: String::new(),
            at: None,
            wall_us: 0,
        },
    };
    let running = engines.iter().filter(|e| !matches!(e, Engine::Verifier { .. }));
    let mut records: Vec<Record> = running.map(judged).collect();
    if let Some((engine, details)) = diverge::explain(rig, v, &cells)
        && let Some(r) = records.iter_mut().find(|r| r.engine == engine)
    {
        r.details = details;
    }
    records
}

/// What two engines of a byte order do not agree on.
#[must_use]
pub fn difference(a: &Result<Ran, Miss>, b: &Result<Ran, Miss>) -> Option<String> {
    match (a, b) {
        (Ok(a), Ok(b)) if a.r0 != b.r0 => Some(format!("r0 is {:#x}, not {:#x}", a.r0, b.r0)),
        (Ok(a), Ok(b)) if a.mem != b.mem => bytes_differ(&a.mem, &b.mem),
        (Ok(Ran { retired: Some(a), .. }), Ok(Ran { retired: Some(b), .. })) if a != b => {
            Some(format!("{a} instructions retired, not {b}"))
        }
        (Ok(_), Err(Miss::Fault(why))) => Some(format!("it returns, and the other not: {why}")),
        (Err(Miss::Fault(why)), Ok(_)) => Some(format!("it does not return: {why}")),
        _ => None,
    }
}

fn bytes_differ(got: &[u8], want: &[u8]) -> Option<String> {
    let at = got.iter().zip(want).position(|(g, w)| g != w)?;
    Some(format!("byte {at} of mem is {:#04x}, not {:#04x}", got[at], want[at]))
}

fn record(v: &Vector, cell: &Cell, all: &[Cell]) -> Record {
    let expected = match (&v.expect.error, v.expect.r0) {
        (Some(error), _) => format!("error: {error}"),
        (None, Some(r0)) => format!("{r0:#x}"),
        (None, None) => "mem".to_owned(),
    };
    let got = match &cell.result {
        Ok(ran) => format!("{:#x}", ran.r0),
        Err(miss) => miss.to_string(),
    };
    let (outcome, note) = outcome(v, cell, all);
    let notes: Vec<&str> = (v.notes.iter().map(String::as_str)).chain(note.as_deref()).collect();
    let note = notes.join("; ");
    let (engine, wall_us) = (cell.engine, cell.wall_us);
    let details = String::new();
    Record { engine, outcome, expected, got, note, details, at: None, wall_us }
}

fn outcome(v: &Vector, cell: &Cell, all: &[Cell]) -> (Outcome, Option<String>) {
    let order = cell.engine.order();
    let reference = all.iter().find(|c| {
        c.engine != cell.engine && c.engine.order() == order && c.engine.kind() == "interpreter"
    });
    if let Some(other) = reference
        && let Some(what) = difference(&cell.result, &other.result)
    {
        return (Outcome::Fail, Some(format!("differs from the interpreter: {what}")));
    }
    if let (Engine::Host, Err(Miss::Refused(why)), Some(Ok(_))) =
        (cell.engine, &cell.result, reference.map(|r| &r.result))
    {
        let note = format!("this kernel refuses what the verifier accepts: {why}");
        return (Outcome::Fail, Some(note));
    }
    let ran = match (&cell.result, &v.expect.error) {
        (Err(Miss::Absent(_)), _) => return (Outcome::Skip, None),
        (Err(Miss::Refused(why) | Miss::Fault(why)), Some(error)) => {
            return match why.contains(error.as_str()) {
                true => (Outcome::Pass, None),
                false => (Outcome::Fail, Some("it fails in other words".into())),
            };
        }
        (Ok(_), Some(_)) => return (Outcome::Fail, Some("it should fail".into())),
        (Err(Miss::Refused(_) | Miss::Unsupported(_)), None) => {
            return (Outcome::Unsupported, Some("only verified programs run".into()));
        }
        (Err(Miss::Unsupported(_)), _) => return (Outcome::Unsupported, None),
        (Err(_), _) => return (Outcome::Fail, None),
        (Ok(ran), None) => ran,
    };
    if let Some(what) = v.expect.mem.as_ref().and_then(|m| bytes_differ(&ran.mem, m.of(order))) {
        return (Outcome::Fail, Some(what));
    }
    match v.expect.r0 {
        Some(want) if ran.r0 != want => wrong(v, cell, want, all),
        _ => (Outcome::Pass, None),
    }
}

/// What a record says where an expectation holds for one byte order only.
pub const ASSUMES: &str = "assumes little endian";

/// R0 is not what is expected: that may be because the expectation is of another byte order.
fn wrong(v: &Vector, cell: &Cell, want: u64, all: &[Cell]) -> (Outcome, Option<String>) {
    let of = |order| all.iter().filter(move |c| c.engine.order() == order);
    let right = |c: &Cell| c.result.as_ref().is_ok_and(|r| r.r0 == want);
    let little_right = of(Endian::Little).count() > 0 && of(Endian::Little).all(right);
    if cell.engine.order() == Endian::Little || !little_right {
        return (Outcome::Fail, Some("r0 is not what is expected".into()));
    }
    match v.insns.iter().any(sees_order) {
        true => {
            let note = format!("the expectation, {want:#x}, {ASSUMES}; this was run in big endian");
            (Outcome::Pass, Some(note))
        }
        false => {
            let note = "r0 is not what is expected, and nothing depends on the byte order";
            (Outcome::Fail, Some(note.into()))
        }
    }
}

/// Whether what an instruction does depends on the byte order of the machine.
fn sees_order(insn: &Insn) -> bool {
    match insn {
        Insn::Load { .. }
        | Insn::LoadAcquire { .. }
        | Insn::Store { .. }
        | Insn::StoreRelease { .. }
        | Insn::Atomic { .. } => true,
        Insn::End { op, .. } => *op != EndianOp::Swap,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::assemble_insns;

    /// What big-endian machines come to when `r0` is expected.
    fn big(text: &str, r0: u64) -> (Outcome, String) {
        let insns = assemble_insns(text).unwrap();
        let lines = vec![1; insns.len()];
        let mut v = Vector::new(insns, lines);
        v.expect.r0 = Some(r0);
        let mut records = vector(&mut Rig::new(1000), &v, &Engine::ALL);
        records.retain(|r| r.engine == Engine::Jit(Arch::S390x));
        (records[0].outcome, records[0].note.clone())
    }

    #[test]
    fn byte_order_excuses_only_what_depends_on_it() {
        let stored = "r1 = 0x102\n*(u64 *)(r10 -8) = r1\nr0 = *(u8 *)(r10 -8)\nexit";
        let (outcome, note) = big(stored, 2);
        assert!(outcome == Outcome::Pass && note.contains(ASSUMES), "{note}");
        assert_eq!(big("r0 = 1\nr0 = bswap16 r0\nexit", 0x100).0, Outcome::Pass);
        assert_eq!(big(stored, 3).0, Outcome::Fail);
    }
}
