//! The reference interpreter and four native back ends, on the same programs: results, memory and
//! counts of retired instructions must agree.
//!
//! `ORRERY_SEED=n` starts the generated programs elsewhere, `ORRERY_PROGRAMS=n` runs more.

mod arena;
mod engine;
mod faults;
mod pairs;

use bpf::insn::generate::{Options, program};
use bpf::insn::{Insn, disasm};
use bpf::{Arch, Endian};
use emu::conform::line;
use engine::{Native, interpret};

#[test]
fn instruction_vectors() {
    let folder = tests::root().join("tests/corpus/vectors");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut engines: Vec<Native> = Arch::ALL.into_iter().map(Native::new).collect();
    let (mut count, mut wrong) = (0, Vec::new());
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for v in line::parse(&name, &text).unwrap() {
            count += 1;
            let insns = v.program().unwrap();
            for endian in [Endian::Little, Endian::Big] {
                let got = interpret(&insns, &v.cells(), endian).map(|r| r.0);
                check(&mut wrong, &v, "interpreter", endian, got);
            }
            for e in &mut engines {
                let endian = e.endian();
                let got = e.run(&insns, &v.cells()).map(|r| r.0);
                check(&mut wrong, &v, e.arch().name(), endian, got);
            }
        }
    }
    assert!(count > 1000, "{count} vectors found");
    let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {count} vectors:\n{shown}", wrong.len());
}

fn check(
    wrong: &mut Vec<String>,
    v: &line::Line,
    engine: &str,
    endian: Endian,
    got: Result<engine::Cells, String>,
) {
    let want = v.expected(endian).unwrap();
    match got {
        Ok(got) if got == want => {}
        Ok(got) => {
            let differs = want.iter().zip(&got).enumerate().filter(|(_, (w, g))| w != g);
            let list: Vec<String> =
                differs.map(|(i, (w, g))| format!("cell {i}: want {w:#x}, got {g:#x}")).collect();
            wrong.push(format!("{} on {engine}: {}", v.name, list.join(", ")));
        }
        Err(e) => wrong.push(format!("{} on {engine}: {e}", v.name)),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Program shapes: straight with calls, loops over a buffer, loops without calls.
fn shapes() -> [Options; 3] {
    let plain = Options::default();
    [
        plain,
        Options { loops: true, memory: true, ..plain },
        Options { loops: true, memory: true, subprogs: 0, len: 120, ..plain },
    ]
}

#[test]
fn generated_programs() {
    let (from, count) = (number("ORRERY_SEED", 1), number("ORRERY_PROGRAMS", 120));
    let mut engines: Vec<Native> = Arch::ALL.into_iter().map(Native::new).collect();
    let cells: Vec<u64> = (1..=16u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    for seed in from..from + count {
        for opts in shapes() {
            let insns = program(seed, opts);
            for e in &mut engines {
                let want = interpret(&insns, &cells, e.endian());
                let got = e.run(&insns, &cells);
                let arch = e.arch();
                assert!(got == want, "{}", disagreement(seed, opts, arch, &insns, &want, &got));
            }
        }
    }
}

type Ran = Result<(engine::Cells, u64), String>;

fn disagreement(
    seed: u64,
    opts: Options,
    arch: Arch,
    insns: &[Insn],
    want: &Ran,
    got: &Ran,
) -> String {
    format!(
        "ORRERY_SEED={seed} ORRERY_PROGRAMS=1 ({opts:?}) on {arch}\ninterpreter: {want:x?}\n\
         native:      {got:x?}\n{}",
        disasm::disasm_all(insns, &disasm::NoNames)
    )
}
