//! BTF on a real kernel's blob, where the machine has one.

use bpf::Endian;
use bpf::btf::{Btf, BtfBuilder, Kind, Linkage};

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

/// Writing what was parsed gives types that parse to the same again, in both byte orders.
#[test]
fn vmlinux_round_trips() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        println!("skipped: no /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::parse(&bytes).unwrap();
    for endian in [Endian::Little, Endian::Big] {
        let (again, read) = Btf::parse_with_endian(&btf.to_bytes(endian)).unwrap();
        assert_eq!(read, endian);
        assert!(again.types == btf.types, "{endian:?}");
    }
}

#[test]
fn built_types_read_back() {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let u64 = b.int("unsigned long", 8, false);
    let id = b.next_id();
    let node = b.structure("node", 16, &[("next", id + 1, 0, 0), ("bits", int, 64, 3)]);
    let ptr = b.ptr(node);
    let arr = b.array(ptr, int, 4);
    let td = b.typedef("nodes", arr);
    b.enumeration("color", 4, true, &[("RED", -1), ("BLUE", 7)]);
    b.enumeration("wide", 8, false, &[("BIG", 1 << 40)]);
    b.func("f", Linkage::Global, int, &[("a", u64), ("n", ptr)]);
    let btf = b.finish().unwrap();
    for endian in [Endian::Little, Endian::Big] {
        let again = Btf::parse(&btf.to_bytes(endian)).unwrap();
        assert!(again.types == btf.types);
        assert_eq!(again.size_of(td), Some(32));
        let m = again.member(node, "bits").unwrap();
        assert_eq!((m.bit_off, m.bits), (64, 3));
        let color = again.find("color", Kind::Enum).unwrap();
        assert_eq!(again.enumerators(color).next(), Some(("RED", u64::MAX)));
        let wide = again.find("wide", Kind::Enum64).unwrap();
        assert_eq!(again.enumerators(wide).next(), Some(("BIG", 1 << 40)));
    }
}

#[test]
fn self_containment_is_refused() {
    let mut b = BtfBuilder::new();
    let id = b.next_id();
    b.structure("loop", 8, &[("again", id, 0, 0)]);
    assert!(b.finish().unwrap_err().to_string().contains("Loop detected"));
}

/// What is used by value is defined first, what is pointed to is declared first.
#[test]
fn header_is_in_order() {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let first = b.next_id();
    b.structure("outer", 24, &[("in", first + 1, 0, 0), ("link", first + 2, 64, 0)]);
    b.structure("inner", 8, &[("a", int, 0, 3), ("b", int, 32, 0)]);
    b.ptr(first + 3);
    b.structure("late", 4, &[("x", int, 0, 0)]);
    let text = b.finish().unwrap().to_c_header();
    let at = |s: &str| text.find(s).unwrap_or_else(|| panic!("no {s:?} in {text}"));
    assert!(at("struct inner {") < at("struct outer {"));
    assert!(at("struct late;") < at("struct outer {"));
    assert!(text.contains("int a : 3;") && text.contains("struct late *link;"));
}
