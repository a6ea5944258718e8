//! A vector on all engines, and what that says.

use std::time::Instant;

use bpf::insn::{EndianOp, Insn};
use bpf::{Arch, Endian};

use super::engines::{Miss, Ran, Rig};
use super::vector::Vector;
use super::{Engine, Kind, Outcome, Record, diverge};

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
            note: "the vector is for machines of the other byte order".into(),
            ..Record::new(*engine, Outcome::Skip)
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
    let (outcome, kind, note) = outcome(v, cell, all);
    let notes: Vec<&str> = (v.notes.iter().map(String::as_str)).chain(note.as_deref()).collect();
    let note = notes.join("; ");
    let wall_us = cell.wall_us;
    Record { kind, expected, got, note, wall_us, ..Record::new(cell.engine, outcome) }
}

/// An outcome, what it is besides, and why.
type Judged = (Outcome, Kind, Option<String>);

fn fails(why: impl Into<String>) -> Judged {
    (Outcome::Fail, Kind::Plain, Some(why.into()))
}

fn outcome(v: &Vector, cell: &Cell, all: &[Cell]) -> Judged {
    const PASS: Judged = (Outcome::Pass, Kind::Plain, None);
    let order = cell.engine.order();
    let reference = all.iter().find(|c| {
        c.engine != cell.engine && c.engine.order() == order && c.engine.kind() == "interpreter"
    });
    if let Some(other) = reference
        && let Some(what) = difference(&cell.result, &other.result)
    {
        return fails(format!("differs from the interpreter: {what}"));
    }
    if let (Engine::Host, Err(Miss::Refused(why)), Some(Ok(_))) =
        (cell.engine, &cell.result, reference.map(|r| &r.result))
    {
        return fails(format!("this kernel refuses what the verifier accepts: {why}"));
    }
    let ran = match (&cell.result, &v.expect.error) {
        (Err(Miss::Absent(_)), _) => return (Outcome::Skip, Kind::Plain, None),
        // What this kernel does is not our doing.
        (Err(Miss::Broken(_)), _) if cell.engine != Engine::Host => {
            return (Outcome::Fail, Kind::Internal, None);
        }
        (Err(Miss::Refused(why) | Miss::Fault(why)), Some(_)) => {
            return match v.expect.says(why) {
                true => PASS,
                false => fails("it fails in other words"),
            };
        }
        (Ok(_), Some(_)) => return fails("it should fail"),
        (Err(Miss::Refused(_) | Miss::Unsupported(_)), None) => {
            let why = "only verified programs run".to_owned();
            return (Outcome::Unsupported, Kind::Plain, Some(why));
        }
        (Err(Miss::Unsupported(_)), _) => return (Outcome::Unsupported, Kind::Plain, None),
        (Err(Miss::Fault(_) | Miss::Broken(_)), _) => return (Outcome::Fail, Kind::Plain, None),
        (Ok(ran), None) => ran,
    };
    if let Some(what) = v.expect.mem.as_ref().and_then(|m| bytes_differ(&ran.mem, m.of(order))) {
        return fails(what);
    }
    match v.expect.r0 {
        Some(want) if ran.r0 != want => wrong(v, cell, want, all),
        _ => PASS,
    }
}

/// R0 is not what is expected: that may be because the expectation is of another byte order.
fn wrong(v: &Vector, cell: &Cell, want: u64, all: &[Cell]) -> Judged {
    let of = |order| all.iter().filter(move |c| c.engine.order() == order);
    let right = |c: &Cell| c.result.as_ref().is_ok_and(|r| r.r0 == want);
    let little_right = of(Endian::Little).count() > 0 && of(Endian::Little).all(right);
    if cell.engine.order() == Endian::Little || !little_right {
        return fails("r0 is not what is expected");
    }
    match v.insns.iter().any(sees_order) {
        true => {
            let note = format!(
                "the expectation, {want:#x}, assumes little endian; this was run in big endian"
            );
            (Outcome::Pass, Kind::LittleEndian, Some(note))
        }
        false => fails("r0 is not what is expected, and nothing depends on the byte order"),
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
    fn big(text: &str, r0: u64) -> (Outcome, Kind) {
        let insns = assemble_insns(text).unwrap();
        let lines = vec![1; insns.len()];
        let mut v = Vector::new(insns, lines);
        v.expect.r0 = Some(r0);
        let mut records = vector(&mut Rig::new(1000), &v, &Engine::ALL);
        records.retain(|r| r.engine == Engine::Jit(Arch::S390x));
        (records[0].outcome, records[0].kind)
    }

    #[test]
    fn byte_order_excuses_only_what_depends_on_it() {
        let stored = "r1 = 0x102\n*(u64 *)(r10 -8) = r1\nr0 = *(u8 *)(r10 -8)\nexit";
        assert_eq!(big(stored, 2), (Outcome::Pass, Kind::LittleEndian));
        assert_eq!(big("r0 = 1\nr0 = bswap16 r0\nexit", 0x100).0, Outcome::Pass);
        assert_eq!(big(stored, 3).0, Outcome::Fail);
    }
}
