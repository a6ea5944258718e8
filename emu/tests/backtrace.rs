//! Call stacks of a running program, unwound from its native frames: three functions deep on both
//! sides of a callback, the same on four architectures.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use bpf::Arch;
use emu::loader::LoadOptions;
use emu::{Config, Machine};
use kernel_model::net::{NicConfig, SkbFields};
use kernel_model::{CpuId, EventKind, ProgId};

/// A machine with the program that is about to get a packet.
fn begin(arch: Arch) -> Machine {
    let twin = if arch == Arch::S390x { "eb" } else { "el" };
    let root = env!("CARGO_MANIFEST_DIR");
    let file = format!("{root}/../scenarios/library/streams/report.{twin}.bpf.o");
    let mut m = Machine::new(arch, Config::default()).unwrap();
    let nic = m.kernel.net_add(NicConfig::default()).unwrap();
    let object = m.load_object(&std::fs::read(file).unwrap(), &LoadOptions::default()).unwrap();
    let prog = ProgId(object.prog("words").unwrap().id);
    m.kernel.xdp_attach(nic, Some(prog)).unwrap();
    m.kernel.net_receive(nic, None, &[0; 60], SkbFields::default()).unwrap();
    m
}

/// `function file:line` of each frame.
fn places(m: &Machine, stack: &[kernel_model::cpu::Site]) -> Vec<String> {
    let line = |s| {
        let p = m.kernel.place(s).unwrap();
        let (file, n, _) = p.line.unwrap();
        format!("{} {file}:{n}", p.func)
    };
    stack.iter().map(|s| line(*s)).collect()
}

#[test]
fn frames_of_subprograms_and_callbacks() {
    let want = [
        "leaf report.bpf.c:26",
        "middle report.bpf.c:37",
        "each report.bpf.c:42",
        "looped report.bpf.c:50",
        "outer report.bpf.c:56",
        "words report.bpf.c:80",
    ];
    for arch in Arch::ALL {
        let mut m = begin(arch);
        let mut stacks = Vec::new();
        while m.kernel.ledger.iter().all(|h| h.2.prog.is_none()) {
            m.step(CpuId(0)).unwrap();
        }
        let (_, _, held) = m.kernel.ledger.iter().find(|h| h.2.prog.is_some()).unwrap();
        stacks.push(held.stack.clone());
        stacks.push(m.backtrace(CpuId(0)));
        for stack in stacks {
            assert_eq!(places(&m, &stack), want, "{arch}");
        }
        m.run_until_idle().unwrap();
        assert!(m.backtrace(CpuId(0)).is_empty(), "{arch}");
        assert!(m.events().iter().any(|e| matches!(e.kind, EventKind::Stream { .. })), "{arch}");
    }
}
