//! Attributes and maps: errno and text as 6.18 gives them.

use super::*;
use crate::testing::bare_program;
use bpf::insn::{AluOp, Reg, Src, Width};

fn program(t: ProgType) -> Program {
    let mov = Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg::R0, src: Src::Imm(0) };
    bare_program("t", t, vec![mov, Insn::Exit])
}

fn attributes(p: &Program) -> (i32, String) {
    match check_attributes(p, &Options::default()) {
        Ok(()) => (0, String::new()),
        Err(r) => (r.errno, r.message),
    }
}

#[test]
fn flags_and_lengths() {
    let mut p = program(ProgType::SocketFilter);
    assert_eq!(attributes(&p).0, 0);
    p.flags = 1 << 8;
    assert_eq!(attributes(&p).0, EINVAL);
    p.flags = BPF_F_SLEEPABLE;
    assert!(attributes(&p).1.starts_with("Only fentry/fexit/fmod_ret, lsm, iter, uprobe"));
    let syscall = program(ProgType::Syscall);
    assert_eq!(attributes(&syscall).1, "Syscall programs can only be sleepable");
    let tracing = program(ProgType::Tracing);
    assert_eq!(attributes(&tracing).1, "Tracing programs must provide btf_id");
    let mut long = program(ProgType::Xdp);
    long.insns = vec![Insn::Exit; 1_000_001];
    assert_eq!(attributes(&long).0, E2BIG);
}

#[test]
fn attach_types() {
    let rows: &[(ProgType, Option<AttachType>, bool)] = &[
        (ProgType::Xdp, Some(AttachType::XdpDevmap), true),
        (ProgType::CgroupSkb, Some(AttachType::CgroupInetEgress), true),
        (ProgType::CgroupSkb, Some(AttachType::CgroupInetSockCreate), false),
        (ProgType::CgroupSockAddr, None, false),
        (ProgType::CgroupSockAddr, Some(AttachType::CgroupUnixConnect), true),
        (ProgType::SkLookup, None, false),
        (ProgType::Netfilter, Some(AttachType::Netfilter), true),
        (ProgType::LircMode2, None, false),
    ];
    for &(t, attach_type, fits) in rows {
        let p = Program { attach_type, ..program(t) };
        assert_eq!(attach_type_fits(&p), fits, "{t:?} {attach_type:?}");
    }
}

#[test]
fn licences() {
    assert!(is_gpl_compatible("GPL") && is_gpl_compatible("Dual BSD/GPL"));
    assert!(!is_gpl_compatible("Proprietary") && !is_gpl_compatible("gpl"));
}

#[test]
fn an_index_needs_an_array_of_descriptors() {
    assert_eq!(fd_of(&[], 0).unwrap_err().errno, EPROTO);
    assert_eq!(fd_of(&[5, 7], 1), Ok(7));
}
