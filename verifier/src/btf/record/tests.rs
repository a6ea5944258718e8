//! Declarations in BTF, and the fields they make.

use super::*;
use bpf::btf::BtfBuilder;

/// A structure with these members; returns the parse of it as a map's value.
fn parse_value(b: BtfBuilder, id: TypeId) -> Result<Vec<(&'static str, u32)>, i32> {
    let btf = b.finish().expect("well-formed types");
    let rec = parse(&btf, None, id, Place::MapValue)?;
    Ok(rec.fields.iter().map(|f| (f.kind.name(), f.off)).collect())
}

fn lock(b: &mut BtfBuilder) -> TypeId {
    let int = b.int("unsigned int", 4, false);
    b.structure("bpf_spin_lock", 4, &[("val", int, 0, 0)])
}

#[test]
fn fields_are_found_in_nested_structures() {
    let mut b = BtfBuilder::new();
    let lock = lock(&mut b);
    let long = b.int("long", 8, true);
    let inner = b.structure("inner", 16, &[("x", long, 0, 0), ("l", lock, 64, 0)]);
    let outer = b.structure("outer", 32, &[("x", long, 0, 0), ("i", inner, 64, 0)]);
    assert_eq!(parse_value(b, outer), Ok(vec![("bpf_spin_lock", 16)]));
}

#[test]
fn one_lock_in_a_value() {
    let mut b = BtfBuilder::new();
    let lock = lock(&mut b);
    let two = b.structure("two", 8, &[("a", lock, 0, 0), ("b", lock, 32, 0)]);
    assert_eq!(parse_value(b, two), Err(E2BIG));
}

#[test]
fn pointers_are_fields_by_their_tag() {
    let mut b = BtfBuilder::new();
    let obj = b.structure("obj", 8, &[]);
    let mut tagged = |tag| {
        let t = b.type_tag(tag, obj);
        b.ptr(t)
    };
    let (unref, kptr, percpu) = (tagged("kptr_untrusted"), tagged("kptr"), tagged("percpu_kptr"));
    let plain = b.ptr(obj);
    let members = [("a", plain, 0, 0), ("b", unref, 64, 0), ("c", kptr, 128, 0)];
    let v = b.structure("v", 32, &[&members[..], &[("d", percpu, 192, 0)]].concat());
    let want = vec![("kptr", 8), ("kptr", 16), ("percpu_kptr", 24)];
    assert_eq!(parse_value(b, v), Ok(want));
}

#[test]
fn lists_say_what_they_contain_and_need_a_lock() {
    for locked in [true, false] {
        let mut b = BtfBuilder::new();
        let lock = lock(&mut b);
        let long = b.int("long", 8, true);
        let node = b.structure("bpf_list_node", 24, &[("x", long, 0, 0)]);
        let elem = b.structure("elem", 32, &[("data", long, 0, 0), ("node", node, 64, 0)]);
        assert!(elem != 0);
        let head = b.structure("bpf_list_head", 16, &[("x", long, 0, 0)]);
        let with = if locked { lock } else { long };
        let v = b.structure("v", 24, &[("head", head, 0, 0), ("l", with, 128, 0)]);
        b.decl_tag("contains:elem:node", v, 0);
        let want = vec![("bpf_list_head", 0), ("bpf_spin_lock", 16)];
        assert_eq!(parse_value(b, v), if locked { Ok(want) } else { Err(EINVAL) });
    }
}
