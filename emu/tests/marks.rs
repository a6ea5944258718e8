//! `Snapshot` in a timeline: a point that the machine of the run goes back to, and on from.

use std::path::Path;

use bpf::Arch;
use emu::runner::cells::{self, Cell};
use emu::runner::{RunOptions, run_marked};
use kernel_model::{Event, EventKind};

const SCENARIO: &str = r##"Scenario(
    orrery: 1,
    machine: (nics: {"eth0": ()}, until: "1ms"),
    objects: {"o": (asm: r#"
        ; prog xdp slow
        r0 = 1
        r1 = 1000
        r1 -= 1
        if r1 != 0 goto pc-2
        exit
    "#)},
    attach: [Xdp(prog: "slow", nic: "eth0")],
    packets: {"any": [Eth(), Ip4(src: "10.0.0.2", dst: "10.0.0.1"), Udp(dport: 7)]},
    timeline: [
        At("0us", Send(packet: "any", on: "eth0", times: 3)),
        At("3us", Snapshot("in the middle")),
        At("100us", Send(packet: "any", on: "eth0")),
    ],
    expect: [Verdicts(prog: "slow", are: (DROP: 4))],
)"##;

fn verdicts(events: &[Event]) -> Vec<(u64, String)> {
    let verdict = |e: &Event| match &e.kind {
        EventKind::Verdict { name, .. } => Some((e.clock_ns, (*name).to_owned())),
        _ => None,
    };
    events.iter().filter_map(verdict).collect()
}

#[test]
fn a_snapshot_of_the_timeline_goes_on_as_the_run_did() {
    for arch in Arch::ALL {
        let parsed = cells::read(Path::new("marks.ron"), SCENARIO, &Cell::default());
        let scenario = parsed.scenario.expect("it parses");
        let (outcome, mut marks) = run_marked(&scenario, arch, &RunOptions::default()).unwrap();
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        let [mark] = marks.marks.as_slice() else { panic!("one snapshot") };
        assert_eq!(mark.name, "in the middle");
        assert!(mark.events > 4 && mark.events < outcome.events, "{}", mark.events);
        let mut ends = Vec::new();
        for _ in 0..2 {
            marks.machine.restore(&mark.at);
            let before = marks.machine.kernel.now(kernel_model::CpuId(0));
            marks.machine.run_until_idle().unwrap();
            let seen = verdicts(marks.machine.events());
            // Of the three packets of time 0, those that were not done.
            assert!((1..3).contains(&seen.len()), "{arch}: {seen:?}");
            assert!(seen.iter().all(|v| v.0 >= before && v.1 == "XDP_DROP"), "{arch}: {seen:?}");
            ends.push((seen, marks.machine.insns()));
        }
        assert_eq!(ends[0], ends[1], "{arch}");
    }
}
