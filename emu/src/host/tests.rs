//! The running kernel answers. Where it does not let us, each test says so and ends.

use bpf::Endian;
use bpf::uapi::MapType;

use super::*;
use crate::loader::{self, Bpf, LoadOptions, MapCreate};

const EL: &[u8] = include_bytes!("../../../tests/corpus/objects/el/object_basic.bpf.o");

/// r0 = 42; exit
const ANSWER: [u8; 16] = [0xb7, 0, 0, 0, 42, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

fn host() -> Option<HostKernel> {
    match HostKernel::open() {
        Ok(host) => Some(host),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

#[test]
fn a_raw_program_is_judged_and_run() {
    let Some(mut host) = host() else { return };
    let xdp = bpf::uapi::ProgType::Xdp as u32;
    let load = RawLoad { prog_type: xdp, insns: &ANSWER, level: 2, ..RawLoad::default() };
    let v = host.load_raw(&load);
    assert_eq!(v.errno, 0, "{}", v.log);
    assert_eq!((v.stats.insns_processed, v.stats.total_states), (2, 0));
    assert!(v.log.contains("(b7) r0 = 42"), "{}", v.log);
    assert_eq!(v.xlated, ANSWER);
    assert!(!v.jited.is_empty());
    let packet = [0u8; 64];
    let given = TestRunIn { data: &packet, data_out: 64, ..TestRunIn::default() };
    let out = host.test_run(v.fd.unwrap(), &given).unwrap();
    assert_eq!((out.retval, out.data.len()), (42, 64));
}

#[test]
fn a_refusal_has_its_reason_and_a_long_log_fits() {
    let Some(mut host) = host() else { return };
    let exit = &ANSWER[8..];
    let v = host.load_raw(&RawLoad { prog_type: 1, insns: exit, level: 1, ..RawLoad::default() });
    assert_eq!((v.errno, v.reason()), (13, Some("R0 !read_ok")));
    // 4000 instructions at level 2 are far more than the first buffer.
    let mut long = ANSWER[..8].repeat(4000);
    long.extend(exit);
    let v = host.load_raw(&RawLoad { prog_type: 1, insns: &long, level: 2, ..RawLoad::default() });
    assert_eq!((v.errno, v.stats.insns_processed), (0, 4001));
    assert!(v.log.len() > 100_000 && v.log.starts_with("func#0"), "{}", v.log.len());
}

#[test]
fn maps_are_those_of_this_process() {
    let Some(mut host) = host() else { return };
    let def = MapCreate {
        name: "m".into(),
        map_type: MapType::Hash,
        key_size: 4,
        value_size: 8,
        max_entries: 2,
        flags: 0,
        numa_node: None,
        map_extra: 0,
        inner: None,
        btf_types: (0, 0),
    };
    let m = host.map_create(&def, None).unwrap();
    host.map_update(m, &[1; 4], &[2; 8]).unwrap();
    assert_eq!(host.map_lookup(m, Some(&[1; 4])).unwrap(), [2; 8]);
    assert_eq!(host.map_next_key(m, None).unwrap(), [1; 4]);
    host.map_delete(m, &[1; 4]).unwrap();
    assert_eq!(host.map_lookup(m, Some(&[1; 4])), Err(kernel_model::Errno::ENOENT));
    assert_eq!(host.map_info(m).unwrap().max_entries, 2);
    host.map_freeze(m).unwrap();
    assert_eq!(host.map_update(m, &[1; 4], &[2; 8]), Err(kernel_model::Errno::EPERM));
    // A buffer of another size never gets to the kernel.
    assert_eq!(host.map_update(m, &[1; 4], &[2; 4]), Err(kernel_model::Errno::EINVAL));
    host.close(m);
    assert_eq!(host.map_lookup(m, Some(&[1; 4])), Err(kernel_model::Errno::EBADF));
}

#[test]
fn nothing_attaches() {
    for cmd in [bpf::uapi::Cmd::LinkCreate, bpf::uapi::Cmd::ObjPin, bpf::uapi::Cmd::ProgAttach] {
        assert_eq!(door::bpf(cmd, &mut [0; ATTR_SIZE], Vec::new()).err(), Some(door::EPERM));
    }
}

#[test]
fn the_loader_loads_into_the_running_kernel() {
    let Some(mut host) = host() else { return };
    let vmlinux = host.vmlinux().clone();
    let opts = LoadOptions { kconfig: host.kconfig(), log_level: 2, ..LoadOptions::default() };
    let loaded = loader::load(&mut host, &vmlinux, Endian::Little, EL, &opts).unwrap();
    let main = loaded.prog("main_prog").unwrap();
    assert!(main.id != 0 && main.log.contains("processed "), "{}", main.log);
    let detail = host.prog_detail(main.fd).unwrap();
    assert!(detail.info.btf_id != 0 && detail.info.nr_line_info > 0 && detail.info.nr_map_ids > 0);
    host.close_all();
}
