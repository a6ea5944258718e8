//! A clang-built XDP program from object file to verdict: loader, verifier, native code, NIC,
//! the same trace on four architectures.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use bpf::Arch;
use emu::loader::{LoadOptions, LoadedObject};
use emu::{Config, Machine};
use kernel_model::net::{NicConfig, SkbFields};
use kernel_model::{Event, EventKind, ProgId};

fn object(arch: Arch) -> Vec<u8> {
    let twin = if arch == Arch::S390x { "eb" } else { "el" };
    let root = env!("CARGO_MANIFEST_DIR");
    std::fs::read(format!("{root}/../tests/corpus/objects/{twin}/xdp_count.bpf.o")).unwrap()
}

/// An Ethernet frame with an IPv4 header.
fn frame(proto: u8, source: u32, len: usize) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = u16::try_from(len - 14).unwrap().to_be_bytes();
    f.extend([0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, proto, 0, 0]);
    f.extend(source.to_be_bytes());
    f.extend([10, 0, 0, 1]);
    f.resize(len, 0xab);
    f
}

struct Run {
    machine: Machine,
    object: LoadedObject,
}

fn run(arch: Arch, frames: &[Vec<u8>]) -> Run {
    let mut m = Machine::new(arch, Config::default()).unwrap();
    let nic = m.kernel.net_add(NicConfig::default()).unwrap();
    let object = m.load_object(&object(arch), &LoadOptions::default()).unwrap();
    let prog = ProgId(object.prog("xdp_count").unwrap().id);
    m.kernel.xdp_attach(nic, Some(prog)).unwrap();
    for f in frames {
        m.kernel.net_receive(nic, None, f, SkbFields::default()).unwrap();
        m.run_until_idle().unwrap();
    }
    Run { machine: m, object }
}

fn verdicts(events: &[Event]) -> Vec<&'static str> {
    let name = |e: &Event| match e.kind {
        EventKind::Verdict { name, .. } => Some(name),
        _ => None,
    };
    events.iter().filter_map(name).collect()
}

#[test]
fn verdicts_maps_and_traces_agree() {
    let frames = [
        frame(17, 0x0a00_0007, 100),
        frame(6, 0x0a00_0007, 200),
        frame(6, 0x0a00_0008, 60),
        vec![0; 20],
        frame(17, 0x0a00_0007, 1000),
    ];
    let mut first: Option<Vec<Event>> = None;
    for arch in Arch::ALL {
        let mut r = run(arch, &frames);
        let want = ["XDP_DROP", "XDP_PASS", "XDP_PASS", "XDP_PASS", "XDP_DROP"];
        assert_eq!(verdicts(r.machine.events()), want, "{arch}");
        let map = |name| r.machine.kernel.fd_map(r.object.map(name).unwrap()).unwrap();
        let (by_proto, bytes_from, bss) = (map("by_proto"), map("bytes_from"), map(".bss"));
        let word = |v: u32| match arch.endian() {
            bpf::Endian::Little => v.to_le_bytes(),
            bpf::Endian::Big => v.to_be_bytes(),
        };
        let number = |b: Vec<u8>| {
            let b = b[..8].try_into().unwrap();
            match arch.endian() {
                bpf::Endian::Little => u64::from_le_bytes(b),
                bpf::Endian::Big => u64::from_be_bytes(b),
            }
        };
        let k = &mut r.machine.kernel;
        assert_eq!(number(k.user_lookup(by_proto, &word(17)).unwrap()), 2, "{arch}");
        assert_eq!(number(k.user_lookup(by_proto, &word(6)).unwrap()), 2, "{arch}");
        let from = number(k.user_lookup(bytes_from, &word(0x0a00_0007)).unwrap());
        assert_eq!(from, 1 + 186 + 986, "{arch}");
        assert_eq!(number(k.user_lookup(bss, &word(0)).unwrap()), 2, "{arch}");
        let events = r.machine.events().to_vec();
        let want = first.get_or_insert_with(|| events.clone());
        for (a, b) in want.iter().zip(&events) {
            assert_eq!(a.kind, b.kind, "{arch}");
            // The big-endian twin needs no byte swaps: another program, with other counts.
            if arch != Arch::S390x {
                assert_eq!(a.clock_ns, b.clock_ns, "{arch}");
            }
        }
        assert_eq!(want.len(), events.len(), "{arch}");
    }
}
