//! BTF on a real kernel's blob, where the machine has one.

use bpf::btf::{Btf, Kind};

#[test]
fn vmlinux_parses() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        println!("skipped: no /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::parse(&bytes).unwrap();
    let task = btf.find("task_struct", Kind::Struct).unwrap();
    assert!(btf.size_of(task).unwrap() > 1000);
    assert!(btf.member(task, "pid").is_some());
    let names: Vec<&str> = btf.members(task).map(|m| m.name).collect();
    assert!(names.contains(&"comm"));
    let xdp = btf.find("xdp_action", Kind::Enum).unwrap();
    assert!(btf.enumerators(xdp).any(|(n, v)| n == "XDP_PASS" && v == 2));
    let func = btf.find("bpf_xdp_metadata_rx_hash", Kind::Func).unwrap();
    assert_eq!(btf.func_proto(func).unwrap().1.len(), 3);
}
