//! Objects compiled by clang: maps, globals, subprograms, relocations, CO-RE, both byte orders.

use std::collections::BTreeMap;

use bpf::btf::{Btf, Kind};
use bpf::insn::{Call, Imm64, Insn, InsnIdx};
use bpf::object::{InitialSlot, Kconfig, LinkEnv, MapOrigin, Object, inspect};
use bpf::uapi::{MapType, ProgType};

fn load(order: &str, name: &str) -> Vec<u8> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/objects");
    std::fs::read(format!("{dir}/{order}/{name}.bpf.o")).expect("a committed object")
}

fn link(obj: &Object, name: &str, target: &Btf) -> bpf::Program {
    let kconfig = Kconfig { kernel_version: 0x61200, values: BTreeMap::new() };
    let ksyms: BTreeMap<String, u64> = BTreeMap::new();
    let env = LinkEnv { target_btf: target, kconfig: &kconfig, ksyms: &ksyms };
    obj.link(obj.program(name).expect("the program"), &env).expect("it links")
}

#[test]
fn maps_and_globals() {
    for order in ["el", "eb"] {
        let obj = Object::parse(&load(order, "object_basic")).unwrap();
        assert_eq!(obj.license, "GPL");
        let (_, counts) = obj.map("counts").unwrap();
        assert_eq!((counts.map_type, counts.key_size, counts.value_size), (MapType::Hash, 4, 8));
        assert_eq!((counts.max_entries, counts.flags), (64, 1));
        let (outer_idx, outer) = obj.map("outer").unwrap();
        assert_eq!(outer.inner.as_ref().unwrap().max_entries, 4);
        let (inner, _) = obj.map("inner").unwrap();
        assert_eq!(outer.slots, [(1, InitialSlot::Map(inner))]);
        assert_ne!(outer_idx, inner);
        let (_, jumps) = obj.map("jumps").unwrap();
        assert_eq!(jumps.slots, [(0, InitialSlot::Prog("tail".into()))]);
        let (map, var) = obj.global("limit").unwrap();
        let (def, at) = (&obj.maps()[map], var.offset as usize);
        assert_eq!(def.origin, MapOrigin::Rodata);
        let raw: [u8; 4] = def.data.as_ref().unwrap()[at..at + 4].try_into().unwrap();
        let value = if order == "el" { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) };
        assert_eq!(value, 1500);
        assert!(inspect(&obj).to_string().contains("counts"));
    }
}

#[test]
fn subprograms_are_gathered() {
    for order in ["el", "eb"] {
        let obj = Object::parse(&load(order, "object_basic")).unwrap();
        let p = link(&obj, "main_prog", &Btf::default());
        assert_eq!(p.prog_type, ProgType::Xdp);
        let names: Vec<&str> = p.funcs.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["main_prog", "twice", "visible"]);
        assert!(p.funcs[2].global && !p.funcs[1].global);
        for (i, insn) in p.insns.iter().enumerate() {
            if let Insn::Call(Call::Local(off)) = insn {
                let dest = (i as i32 + 1 + off) as u32;
                assert!(p.funcs.iter().any(|f| f.start.0 == dest), "call at {i}");
            }
        }
        assert!(p.insns.iter().any(|i| matches!(i, Insn::LdImm64 { imm: Imm64::MapIdx(_), .. })));
        assert!(!p.lines.is_empty());
    }
}

#[test]
fn core_fields_move() {
    for order in ["el", "eb"] {
        let obj = Object::parse(&load(order, "object_core")).unwrap();
        let target = Object::parse(&load(order, "object_core_target")).unwrap();
        let target = target.btf().unwrap();
        let p = link(&obj, "fields", target);
        let thing = target.find("thing", Kind::Struct).unwrap();
        let want = target.member(thing, "moved").unwrap().byte_off() as i16;
        let has = |off| p.insns.iter().any(|i| matches!(i, Insn::Load { off: o, .. } if *o == off));
        assert!(has(want), "{order}: {:?}", p.insns);
        let p = link(&obj, "missing", target);
        let bad = Insn::Call(Call::Helper(195_896_080));
        let at = p.insns.iter().position(|i| *i == bad).unwrap();
        let lacks = obj.missing(&p, InsnIdx(at as u32));
        assert_eq!(lacks.as_deref(), Some("struct thing.gone (byte_off)"));
    }
}

/// A symbol that the kernel does not have keeps the whole object out, whoever uses it.
#[test]
fn externs_are_resolved_first() {
    for order in ["el", "eb"] {
        let obj = Object::parse(&load(order, "object_externs")).unwrap();
        let target = Object::parse(&load(order, "object_core_target")).unwrap();
        let kconfig = Kconfig { kernel_version: 0x61200, values: BTreeMap::new() };
        let few = BTreeMap::from([("present".to_owned(), 0x1000)]);
        let mut all = few.clone();
        all.insert("needed".to_owned(), 0x2000);
        let types = target.btf().unwrap();
        let few = LinkEnv { target_btf: types, kconfig: &kconfig, ksyms: &few };
        let all = LinkEnv { target_btf: types, kconfig: &kconfig, ksyms: &all };
        let e = obj.check_externs(&few).unwrap_err();
        assert!(e.what.contains("'needed': no such kernel symbol"), "{e}");
        obj.check_externs(&all).unwrap();
        let p = obj.link(obj.program("calls").unwrap(), &all).unwrap();
        let at = p.insns.iter().position(|i| matches!(i, Insn::Call(Call::Helper(_)))).unwrap();
        let lacks = obj.missing(&p, InsnIdx(at as u32));
        assert_eq!(lacks.as_deref(), Some("kernel function optional"));
    }
}

/// Every instruction says which bytes of the file it is made of; what a relocation leaves alone is
/// there to compare.
#[test]
fn instructions_know_where_they_come_from() {
    for order in ["el", "eb"] {
        let bytes = load(order, "object_basic");
        let elf = goblin::elf::Elf::parse(&bytes).unwrap();
        let obj = Object::parse(&bytes).unwrap();
        let mut sections = std::collections::BTreeSet::new();
        for def in obj.programs() {
            let program = link(&obj, &def.name, obj.btf().unwrap());
            let origins = obj.origins(def).unwrap();
            assert_eq!(origins.len(), program.insns.len());
            for (insn, (section, off)) in program.insns.iter().zip(&origins) {
                sections.insert(*section);
                let at = elf.section_headers[*section as usize].sh_offset + off;
                let exit = bytes[at as usize] == 0x95;
                assert_eq!(exit, *insn == bpf::insn::Insn::Exit);
            }
        }
        assert!(sections.len() > 1, "programs call functions of .text");
        for (section, map) in obj.data_sections() {
            let name = elf.section_headers[section as usize].sh_name;
            assert_eq!(elf.shdr_strtab.get_at(name), Some(obj.maps()[map].section.as_str()));
        }
    }
}

/// What libbpf refuses when it opens an object: a static program, and a call out of .text.
#[test]
fn programs_and_functions_keep_apart() {
    let good = load("el", "object_basic");
    let elf = goblin::elf::Elf::parse(&good).unwrap();
    let symbols = elf.section_headers.iter().find(|s| s.sh_type == 2).unwrap().sh_offset;
    let is_program = |s: &goblin::elf::Sym| elf.strtab.get_at(s.st_name) == Some("tail");
    let index = elf.syms.iter().position(|s| is_program(&s)).unwrap();
    let mut local = good.clone();
    local[symbols as usize + index * 24 + 4] &= 0xf;
    let e = Object::parse(&local).unwrap_err();
    assert!(e.what.contains("static function"), "{e}");

    let mut elsewhere = good.clone();
    for at in 0..good.len() - 6 {
        if &good[at..at + 6] == b".text\0" {
            elsewhere[at + 2] = b'f';
        }
    }
    let e = Object::parse(&elsewhere).unwrap_err();
    assert!(e.what.contains("not in .text"), "{e}");
}

/// Cut, flipped and random input ends in an error or a value, never in a panic.
#[test]
fn hostile_objects() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let kconfig = Kconfig::default();
    let ksyms: BTreeMap<String, u64> = BTreeMap::new();
    let inputs = [load("el", "object_basic"), load("eb", "object_core")];
    let target = Object::parse(&load("eb", "object_core_target")).unwrap();
    let env = LinkEnv { target_btf: target.btf().unwrap(), kconfig: &kconfig, ksyms: &ksyms };
    for case in 0..20_000 {
        let mut bytes = inputs[case % 2].clone();
        if case % 5 == 0 {
            bytes.truncate(next() as usize % bytes.len());
        }
        for _ in 0..next() % 8 + 1 {
            if bytes.is_empty() {
                break;
            }
            let at = next() as usize % bytes.len();
            bytes[at] ^= (next() % 255 + 1) as u8;
        }
        let _ = Btf::parse(&bytes);
        if let Ok(obj) = Object::parse(&bytes) {
            for p in obj.programs() {
                let _ = obj.link(p, &env);
            }
            let _ = inspect(&obj).to_string();
        }
    }
}
