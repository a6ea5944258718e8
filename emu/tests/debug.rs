//! A machine under a debugger: breakpoints, single steps, and all of it backwards.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;
use emu::debug::Target;
use emu::runner::RunOptions;
use emu::runner::cells::{self, Cell};
use gdb::{Debuggee, Direction, RegName, Resume, Stop, WatchKind};
use scenarios::Scenario;

const ARCHS: [Arch; 4] = [Arch::X86_64, Arch::Arm64, Arch::Riscv64, Arch::S390x];

fn library(name: &str) -> (Scenario, RunOptions) {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let parsed = cells::read(&path, &text, &Cell::default());
    (parsed.scenario.expect("the library parses"), cells::options(&path, &Cell::default()))
}

fn on(direction: Direction, step: Option<u32>) -> Resume {
    Resume { direction, step: step.map(|cpu| (cpu, None)), only: None }
}

fn go(t: &mut Target<'_>, direction: Direction, step: Option<u32>) -> Stop {
    t.resume(&on(direction, step), &mut || false).unwrap()
}

const FORWARD: Direction = Direction::Forward;
const BACK: Direction = Direction::Backward;

/// Address of the first instruction of a program.
fn first(t: &Target<'_>, prog: usize) -> u64 {
    let images = t.images();
    images[prog].base + u64::from(images[prog].debug.funcs[0].body.0)
}

#[test]
fn steps_forward_and_back_are_where_they_were() {
    let (s, options) = library("lb/l4_lb.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        let at = first(&t, 0);
        t.add_breakpoint(at, false);
        assert!(matches!(go(&mut t, FORWARD, None), Stop::Breakpoint { .. }), "{arch}");
        let cpu = t.current();
        assert_eq!(t.regs(cpu).pc, at, "{arch}");
        let mut seen = vec![(t.position(), t.state_hash(), t.regs(cpu).pc)];
        for _ in 0..60 {
            assert_eq!(go(&mut t, FORWARD, Some(cpu)), Stop::Step, "{arch}");
            let pc = t.regs(cpu).pc;
            assert_ne!(pc, seen.last().unwrap().2, "{arch}: a step moves");
            seen.push((t.position(), t.state_hash(), pc));
        }
        while let Some((position, hash, pc)) = seen.pop() {
            assert_eq!((t.position(), t.regs(cpu).pc), (position, pc), "{arch}");
            assert_eq!(t.state_hash(), hash, "{arch} at {position:?}");
            if !seen.is_empty() {
                assert_eq!(go(&mut t, BACK, Some(cpu)), Stop::Step, "{arch}");
            }
        }
    }
}

#[test]
fn breakpoints_are_hit_alike_in_both_directions() {
    let (s, options) = library("lb/l4_lb.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        let at = first(&t, 0);
        t.add_breakpoint(at, false);
        let mut hits = Vec::new();
        loop {
            match go(&mut t, FORWARD, None) {
                Stop::Breakpoint { .. } => hits.push(t.position()),
                Stop::End => break,
                other => panic!("{arch}: {other:?}"),
            }
        }
        assert!(hits.len() > 2, "{arch}: {hits:?}");
        for hit in hits.iter().rev() {
            assert!(matches!(go(&mut t, BACK, None), Stop::Breakpoint { .. }), "{arch}");
            assert_eq!(t.position(), *hit, "{arch}");
        }
        assert_eq!(go(&mut t, BACK, None), Stop::Begin, "{arch}");
        // And from the beginning again, to one of them by its number of BPF instructions.
        assert_eq!(t.goto(hits[1].insns).unwrap(), hits[1], "{arch}");
        assert!(t.remove_breakpoint(at, false));
        assert_eq!(go(&mut t, FORWARD, None), Stop::End, "{arch}");
    }
}

#[test]
fn what_the_user_writes_is_another_future() {
    let (s, options) = library("lb/l4_lb.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        let at = first(&t, 0);
        t.add_breakpoint(at, false);
        go(&mut t, FORWARD, None);
        let (cpu, before) = (t.current(), t.state_hash());
        let pc = t.regs(cpu).pc;
        go(&mut t, FORWARD, Some(cpu));
        let sp = RegName::Gpr(jit::facts(arch).regs[6]);
        t.set_reg(cpu, sp, 0x1234).unwrap();
        assert_eq!(t.take_notices().len(), 1);
        let changed = t.state_hash();
        go(&mut t, FORWARD, Some(cpu));
        go(&mut t, BACK, Some(cpu));
        assert_eq!(t.state_hash(), changed, "{arch}: the new future is kept");
        go(&mut t, BACK, Some(cpu));
        assert_eq!((t.state_hash(), t.regs(cpu).pc), (before, pc), "{arch}: so is the past");
    }
}

#[test]
fn each_cpu_steps_by_itself() {
    let (s, options) = library("explore/abba.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        for cpu in [0, 1, 0, 0, 1, 1, 0] {
            if go(&mut t, FORWARD, Some(cpu)) == Stop::End {
                // It has nothing left to do.
                assert_eq!(go(&mut t, BACK, Some(cpu)), Stop::Step, "{arch}");
            }
            let here = (t.position(), t.state_hash(), t.regs(cpu));
            if go(&mut t, FORWARD, Some(cpu)) == Stop::End {
                break;
            }
            assert_eq!(go(&mut t, BACK, Some(cpu)), Stop::Step, "{arch}");
            assert_eq!((t.position(), t.state_hash(), t.regs(cpu)), here, "{arch} cpu {cpu}");
        }
    }
}

#[test]
fn watched_writes_stop_beside_the_access() {
    let (s, options) = library("lb/l4_lb.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        t.add_breakpoint(first(&t, 0), false);
        go(&mut t, FORWARD, None);
        let cpu = t.current();
        let fp = t.regs(cpu).gprs[jit::facts(arch).regs[10].num as usize];
        let (from, len) = (fp - 64, 64u64);
        let stack = |t: &Target<'_>| {
            let mut bytes = [0; 64];
            assert_eq!(t.read(cpu, from, &mut bytes), 64);
            bytes
        };
        let before = stack(&t);
        // The first change, by single steps.
        let start = t.position();
        while stack(&t) == before {
            assert_eq!(go(&mut t, FORWARD, Some(cpu)), Stop::Step, "{arch}");
        }
        let changed = t.position();
        t.seek(start.at).unwrap();
        t.add_watchpoint(from, len, WatchKind::Write);
        let after = matches!(arch, Arch::X86_64 | Arch::S390x);
        loop {
            let stop = go(&mut t, FORWARD, None);
            let want = Stop::Watch { cpu, addr: from, kind: WatchKind::Write };
            assert_eq!(stop, want, "{arch}");
            let here = t.position();
            if !after {
                t.remove_watchpoint(from, len, WatchKind::Write);
                assert_eq!(go(&mut t, FORWARD, Some(cpu)), Stop::Step, "{arch}");
                t.add_watchpoint(from, len, WatchKind::Write);
            }
            if stack(&t) != before {
                assert_eq!(t.position(), changed, "{arch}");
                // Backwards it is the same access, from its other side.
                assert_eq!(go(&mut t, BACK, None), want, "{arch}");
                let same = if after { changed.at - 1 } else { changed.at };
                assert_eq!(t.position().at, same, "{arch}");
                break;
            }
            assert!(here < changed, "{arch}: {here:?}");
        }
    }
}

#[test]
fn the_kernel_has_names_and_text() {
    let (s, options) = library("lb/l4_lb.ron");
    for arch in ARCHS {
        let t = Target::new(&s, arch, &options).unwrap();
        let kernel = t.kernel();
        let (idle, named) = (t.regs(0).pc, |at: u64| {
            let mut all = kernel.symbols.iter();
            all.find(|s| (s.addr..s.addr + s.size).contains(&at)).map(|s| s.name.as_str())
        });
        assert_eq!(named(idle), Some("cpu_idle"), "{arch}");
        assert_eq!(named(kernel.entry), Some("bpf_prog_run"), "{arch}");
        for s in &kernel.symbols {
            let mut byte = [0];
            assert_eq!(t.read(0, s.addr, &mut byte), 1, "{arch} {}", s.name);
        }
    }
}

/// The words that [`gdb::KernelUnwind::Stub`] speaks of.
#[test]
fn from_a_callback_the_way_leads_to_the_program() {
    let (s, options) = library("streams/report.ron");
    for arch in ARCHS {
        let mut t = Target::new(&s, arch, &options).unwrap();
        let images = t.images();
        let calls = |name: &str| {
            let all = images.iter().flat_map(|i| i.debug.funcs.iter().map(move |f| (i, f)));
            let range = |i: &gdb::Image, f: &jit::FuncMap| {
                i.base + u64::from(f.start.0)..i.base + u64::from(f.end.0)
            };
            let found = all.filter(|(_, f)| f.name == name).map(|(i, f)| range(i, f));
            found.collect::<Vec<_>>()
        };
        for each in calls("each") {
            t.add_breakpoint(each.start, false);
        }
        assert!(matches!(go(&mut t, FORWARD, None), Stop::Breakpoint { .. }), "{arch}");
        let regs = t.regs(t.current());
        let word = |at: u64| {
            let mut bytes = [0; 8];
            assert_eq!(t.read(t.current(), at, &mut bytes), 8);
            match arch.endian() {
                bpf::Endian::Little => u64::from_le_bytes(bytes),
                bpf::Endian::Big => u64::from_be_bytes(bytes),
            }
        };
        let (back, above) = match arch {
            Arch::X86_64 => (word(regs.gprs[4]), regs.gprs[4] + 8),
            Arch::Arm64 => (regs.gprs[30], regs.gprs[31]),
            Arch::Riscv64 => (regs.gprs[1], regs.gprs[2]),
            Arch::S390x => (regs.gprs[14], regs.gprs[15] + 160),
        };
        let kernel = t.kernel();
        let stub = kernel.symbols.iter().find(|s| (s.addr..s.addr + s.size).contains(&(back - 1)));
        let stub = stub.expect("it returns to a stub");
        assert_eq!((stub.name.as_str(), back - stub.addr), ("bpf_loop", 8), "{arch}");
        assert!(calls("looped").iter().any(|f| f.contains(&word(above + 8))), "{arch}");
        assert!(word(above) > above, "{arch}: the caller's frame is older");
        if arch == Arch::X86_64 {
            assert_eq!(word(word(above)), word(above + 8));
        }
        assert!(!gdb::symbols::kernel(&kernel).is_empty());
    }
}
