//! Rewritten sequences against those Linux 6.18 emits: rows are `code dst src off imm` as
//! `BPF_OBJ_GET_INFO_BY_FD` gave them.

use super::*;
use crate::env::{CtxAccess, CtxConv, GuestAddr, Layout};
use crate::explore::{MapState, PtrClass};
use crate::reject::RejectKind;
use crate::testing::{TEST_LAYOUT, bare_program};
use crate::verified::MemClass;
use bpf::insn::{AluOp, AtomicOp, Cast, Imm64, InsnIdx, JmpOp, Reg, Slot, Src};
use bpf::uapi::{AttachType, MapType, ProgType};

/// With or without `may_goto` by time.
struct Env(bool);

impl KernelEnv for Env {
    fn timed_may_goto(&self) -> bool {
        self.0
    }
    fn map_by_fd(&self, _fd: i32) -> Option<MapInfo> {
        None
    }
    fn btf(&self) -> Option<&bpf::btf::Btf> {
        None
    }
    fn layout(&self) -> Layout {
        TEST_LAYOUT
    }
    fn arena(&self, map: &MapInfo) -> Option<Arena> {
        let user_vm_start = map.map_extra;
        (user_vm_start != 0)
            .then_some(Arena { kern_vm_start: 0xffff_c900_0000_0000, user_vm_start })
    }
    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        let Insn::Load { size, dst, src, off, .. } = access.insn else { return None };
        let off = 100 + off;
        Some(CtxConv {
            insns: vec![Insn::Load { size, sext: false, dst, src, off }],
            target_size: 8,
        })
    }
    fn has_helper(&self, _id: i32) -> bool {
        true
    }
    fn identity(&self) -> u64 {
        1
    }
}

fn mov(dst: Reg, imm: i32) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src: Src::Imm(imm) }
}

/// Rewrites `insns` plus `exit`, all of it seen but for `dead`.
fn run_with(insns: &[Insn], endian: Endian, dead: &[usize], aux: InsnAux) -> Rewritten {
    try_run(insns, endian, dead, aux, &[array()]).unwrap()
}

fn try_run(
    insns: &[Insn],
    endian: Endian,
    dead: &[usize],
    aux: InsnAux,
    maps: &[MapInfo],
) -> Result<Rewritten, Box<Rejection>> {
    try_in(&Env(false), insns, endian, dead, aux, maps)
}

fn try_in(
    env: &Env,
    insns: &[Insn],
    endian: Endian,
    dead: &[usize],
    aux: InsnAux,
    maps: &[MapInfo],
) -> Result<Rewritten, Box<Rejection>> {
    let mut insns = insns.to_vec();
    insns.push(Insn::Exit);
    of(env, &bare_program("t", ProgType::SchedCls, insns), endian, dead, aux, maps)
}

fn of(
    env: &Env,
    program: &Program,
    endian: Endian,
    dead: &[usize],
    aux: InsnAux,
    maps: &[MapInfo],
) -> Result<Rewritten, Box<Rejection>> {
    let n = program.insns.len();
    let each = (0..n).map(|i| InsnAux { seen: !dead.contains(&i), ..aux }).collect();
    of_each(env, program, endian, each, maps)
}

fn of_each(
    env: &Env,
    program: &Program,
    endian: Endian,
    aux: Vec<InsnAux>,
    maps: &[MapInfo],
) -> Result<Rewritten, Box<Rejection>> {
    let cfg = crate::cfg::build(program, &[], true, None, None).unwrap();
    let n = program.insns.len();
    let explored =
        Explored { aux, stack_depth: vec![8; cfg.subprogs.len()], ..Explored::default() };
    rewrite(&Input {
        program,
        cfg: &cfg,
        maps,
        insn_map: &vec![Some(0); n],
        tables: &[],
        explored: &explored,
        env,
        endian,
        bpf_capable: true,
        bypass_spec_v1: true,
    })
}

fn run(insns: &[Insn]) -> Rewritten {
    run_with(insns, Endian::Little, &[], InsnAux::default())
}

fn array() -> MapInfo {
    MapInfo {
        id: 1,
        name: "a".to_string(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: 12,
        max_entries: 10,
        flags: 0,
        map_extra: 0,
        addr: GuestAddr(0xffff_8880_0000_1000),
        value_addr: Some(GuestAddr(0xffff_8880_0000_2000)),
        frozen_value: None,
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    }
}

/// All but the final `exit`, as text.
fn text(r: &Rewritten) -> String {
    let slots: Vec<Slot> = bpf::insn::encode_all(&r.insns);
    let body = &slots[..slots.len() - 1];
    let row = |s: &Slot| format!("{:02x} {} {} {} {}", s.code, s.dst, s.src, s.off, s.imm);
    body.iter().map(row).collect::<Vec<_>>().join("; ")
}

#[test]
fn divisions() {
    use AluOp::{Div, Mod, SDiv, SMod};
    use Width::{W32, W64};
    let rows: &[(Width, AluOp, &str)] = &[
        (W64, Div, "55 8 0 2 0; ac 7 7 0 0; 05 0 0 1 0; 3f 7 8 0 0"),
        (W32, Div, "56 8 0 2 0; ac 7 7 0 0; 05 0 0 1 0; 3c 7 8 0 0"),
        (W64, Mod, "15 8 0 1 0; 9f 7 8 0 0"),
        (W32, Mod, "16 8 0 2 0; 9c 7 8 0 0; 05 0 0 1 0; bc 7 7 0 0"),
        (
            W64,
            SDiv,
            "bf 11 8 0 0; 07 11 0 0 1; 25 11 0 4 1; 15 11 0 1 0; b7 7 0 0 0; 87 7 0 0 0; \
             05 0 0 1 0; 3f 7 8 1 0",
        ),
        (
            W32,
            SDiv,
            "bf 11 8 0 0; 04 11 0 0 1; 26 11 0 4 1; 16 11 0 1 0; b4 7 0 0 0; 84 7 0 0 0; \
             05 0 0 1 0; 3c 7 8 1 0",
        ),
        (
            W64,
            SMod,
            "bf 11 8 0 0; 07 11 0 0 1; 25 11 0 3 1; 15 11 0 3 1; b4 7 0 0 0; 05 0 0 1 0; \
             9f 7 8 1 0",
        ),
        (
            W32,
            SMod,
            "bf 11 8 0 0; 04 11 0 0 1; 26 11 0 3 1; 16 11 0 4 1; b4 7 0 0 0; 05 0 0 1 0; \
             9c 7 8 1 0; 05 0 0 1 0; bc 7 7 0 0",
        ),
    ];
    for &(width, op, want) in rows {
        let insn = Insn::Alu { width, op, dst: Reg(7), src: Src::Reg(Reg(8)) };
        assert_eq!(text(&run(&[insn])), want, "{width:?} {op:?}");
    }
    let by = |op, imm| Insn::Alu { width: W64, op, dst: Reg(7), src: Src::Imm(imm) };
    assert_eq!(text(&run(&[by(SDiv, -1)])), "87 7 0 0 0");
    assert_eq!(text(&run(&[by(SMod, -1)])), "b4 7 0 0 0");
    assert_eq!(text(&run(&[by(Div, 2)])), "37 7 0 0 2");
}

#[test]
fn may_goto_counts_down() {
    let r = run(&[mov(Reg(6), 0), Insn::MayGoto { off: 1 }, Insn::Ja { off: -2, long: false }]);
    let want = "7a 10 0 -16 8388608; b7 6 0 0 0; 79 11 10 -16 0; 15 11 0 3 0; 17 11 0 0 1; \
                7b 10 11 -16 0; 05 0 0 -5 0";
    assert_eq!(text(&r), want);
    assert_eq!(r.subprogs[0].stack_depth, 16);
    let firsts: Vec<bool> = r.facts.iter().map(|f| f.first).collect();
    assert_eq!(firsts, [false, true, true, false, false, false, true, true]);
}

#[test]
fn may_goto_looks_at_the_time() {
    let insns = [mov(Reg(6), 0), Insn::MayGoto { off: 1 }, Insn::Ja { off: -2, long: false }];
    let aux = InsnAux::default();
    let r = try_in(&Env(true), &insns, Endian::Little, &[], aux, &[array()]).unwrap();
    let want = "7a 10 0 -24 65535; 7a 10 0 -16 0; b7 6 0 0 0; 79 11 10 -24 0; 15 11 0 6 0; \
                17 11 0 0 1; 55 11 0 2 0; b7 11 0 0 -24; 85 0 0 0 4100; 7b 10 11 -24 0; \
                05 0 0 -8 0";
    assert_eq!(text(&r), want);
    assert_eq!(r.subprogs[0].stack_depth, 24);
}

#[test]
fn array_lookup_is_inlined() {
    let aux = InsnAux { map: MapState::Unique(0), ..InsnAux::default() };
    let insns = [
        Insn::LdImm64 { dst: Reg::R1, imm: Imm64::MapFd(3) },
        Insn::LdImm64Hi,
        Insn::Call(Call::Helper(1)),
    ];
    let r = run_with(&insns, Endian::Little, &[], aux);
    assert_eq!(
        r.insns[0],
        Insn::LdImm64 { dst: Reg::R1, imm: Imm64::Const(0xffff_8880_0000_1000) }
    );
    let want =
        "07 1 0 0 272; 61 0 2 0 0; 35 0 0 3 10; 67 0 0 0 4; 0f 0 1 0 0; 05 0 0 1 0; b7 0 0 0 0";
    assert!(text(&r).ends_with(want), "{}", text(&r));
}

#[test]
fn per_cpu_lookup_and_the_cpus_number_are_inlined() {
    let aux = InsnAux { map: MapState::Unique(0), ..InsnAux::default() };
    let insns = [Insn::Call(Call::Helper(1))];
    let map = MapInfo { map_type: MapType::PercpuArray, ..array() };
    let r = try_in(&Env(false), &insns, Endian::Little, &[], aux, &[map]).unwrap();
    let want = "07 1 0 0 272; 61 0 2 0 0; 35 0 0 5 10; 67 0 0 0 3; 0f 0 1 0 0; 79 0 0 0 0; \
                bf 0 0 -1 0; 05 0 0 1 0; b7 0 0 0 0";
    assert_eq!(text(&r), want);
    let map = MapInfo { map_type: MapType::ArrayOfMaps, value_size: 4, ..array() };
    let r = try_in(&Env(false), &insns, Endian::Little, &[], aux, &[map]).unwrap();
    let want = "07 1 0 0 272; 61 0 2 0 0; 35 0 0 5 10; 67 0 0 0 3; 0f 0 1 0 0; 79 0 0 0 0; \
                15 0 0 1 0; 05 0 0 1 0; b7 0 0 0 0";
    assert_eq!(text(&r), want);
    let r = run(&[Insn::Call(Call::Helper(8))]);
    assert_eq!(text(&r), "b7 0 0 0 24; bf 0 0 -1 0; 61 0 0 0 0");
}

/// From the rules of `do_misc_fixups`.
#[test]
fn what_a_trampoline_left_is_read() {
    let rewritten = |id, attach| {
        let insns = vec![Insn::Call(Call::Helper(id)), Insn::Exit];
        let mut program = bare_program("t", ProgType::Tracing, insns);
        program.attach_type = Some(attach);
        text(&of(&Env(false), &program, Endian::Little, &[], InsnAux::default(), &[]).unwrap())
    };
    let fentry = |id| rewritten(id, AttachType::TraceFentry);
    assert_eq!(fentry(173), "79 0 1 -16 0");
    assert_eq!(fentry(185), "79 0 1 -8 0");
    let want = "79 0 1 -8 0; 3e 2 0 6 0; 64 2 0 0 3; 0f 2 1 0 0; 79 0 2 0 0; 7b 3 0 0 0; \
                b7 0 0 0 0; 05 0 0 1 0; b7 0 0 0 -22";
    assert_eq!(fentry(183), want);
    assert_eq!(fentry(184), "b7 0 0 0 -95");
    let want = "79 0 1 -8 0; 67 0 0 0 3; 0f 0 1 0 0; 79 0 0 0 0; 7b 2 0 0 0; b7 0 0 0 0";
    assert_eq!(rewritten(184, AttachType::TraceFexit), want);
}

#[test]
fn packet_loads_call() {
    let ind = Insn::LdInd { size: Size::H, src: Reg::R0, imm: 3 };
    let want =
        "bf 2 0 0 0; 07 2 0 0 3; bf 1 6 0 0; 85 0 0 0 4098; 75 0 0 2 0; ac 0 0 0 0; 95 0 0 0 0";
    assert_eq!(text(&run(&[ind])), want);
}

#[test]
fn dead_code_goes() {
    let jeq =
        |off| Insn::Jmp { width: Width::W64, op: JmpOp::Eq, dst: Reg(6), src: Src::Imm(0), off };
    // The fallthrough is dead: the branch becomes a jump, which is a nop once the rest is gone.
    let insns = [mov(Reg(6), 0), jeq(1), mov(Reg(7), 7), Insn::Ja { off: 0, long: false }];
    let r = run_with(&insns, Endian::Little, &[2], InsnAux::default());
    assert_eq!(text(&r), "b7 6 0 0 0");
    assert_eq!(r.facts[1].orig, InsnIdx(4));
    // The branch is dead.
    let insns = [mov(Reg(6), 1), jeq(1), Insn::Ja { off: 1, long: false }, mov(Reg(7), 7)];
    let r = run_with(&insns, Endian::Little, &[3], InsnAux::default());
    assert_eq!(text(&r), "b7 6 0 0 1");
}

#[test]
fn spills_around_inlined_calls_go() {
    let size = Size::DW;
    let spill = |src, off| Insn::Store { size, dst: Reg::FP, off, src: Src::Reg(src) };
    let fill = |dst, off| Insn::Load { size, sext: false, dst, src: Reg::FP, off };
    let call = Insn::Call(Call::Helper(GET_SMP_PROCESSOR_ID));
    let (r1, r2) = (Reg(1), Reg(2));
    let code = [spill(r2, -8), spill(r1, -16), call, fill(r1, -16), fill(r2, -8)];
    let inlined = "b7 0 0 0 24; bf 0 0 -1 0; 61 0 0 0 0";
    let left = |n| {
        let mut program = bare_program("t", ProgType::SchedCls, code.to_vec());
        program.insns.push(Insn::Exit);
        let mut aux = vec![InsnAux { seen: true, ..InsnAux::default() }; code.len() + 1];
        aux[2].fastcall_spills = n;
        text(&of_each(&Env(false), &program, Endian::Little, aux, &[array()]).unwrap())
    };
    assert_eq!(left(2), inlined);
    let outer = format!("7b 10 2 -8 0; {inlined}; 79 2 10 -8 0");
    assert_eq!(left(1), outer);
}

#[test]
fn a_jump_that_its_patches_make_too_long() {
    let divide =
        Insn::Alu { width: Width::W64, op: AluOp::Div, dst: Reg(1), src: Src::Reg(Reg(2)) };
    let refused = |n: usize, back: bool| {
        let off = i16::try_from(n).unwrap();
        let jump = |off| Insn::Jmp {
            width: Width::W64,
            op: JmpOp::Eq,
            dst: Reg(1),
            src: Src::Imm(0),
            off,
        };
        let mut body = vec![mov(Reg(3), 0); n - 2];
        body.extend([divide, divide]);
        match back {
            true => body.push(jump(-off - 1)),
            false => body.insert(0, jump(off)),
        }
        let r = try_run(&body, Endian::Little, &[], InsnAux::default(), &[array()]);
        r.err().map(|r| (r.errno, r.message.clone()))
    };
    let said = |at| Some((12, format!("insn {at} cannot be patched due to 16-bit range")));
    // Each division becomes four instructions.
    assert_eq!(refused(32761, false), None);
    assert_eq!(refused(32762, false), said(32762));
    assert_eq!(refused(32765, false), said(32761 + 3));
    assert_eq!(refused(32761, true), None);
    assert_eq!(refused(32762, true), said(32761));
}

#[test]
fn narrow_context_loads_depend_on_the_byte_order() {
    let aux = InsnAux { ptr: PtrClass::Ctx, ctx_field_size: 4, ..InsnAux::default() };
    let load = [Insn::Load { size: Size::B, sext: false, dst: Reg(2), src: Reg(1), off: 1 }];
    let le = run_with(&load, Endian::Little, &[], aux);
    assert_eq!(text(&le), "61 2 1 100 0; 74 2 0 0 8; 54 2 0 0 255");
    let be = run_with(&load, Endian::Big, &[], aux);
    assert_eq!(text(&be), "61 2 1 100 0; 74 2 0 0 16; 54 2 0 0 255");
}

#[test]
fn calls_reach_the_prologue_and_jumps_the_instruction() {
    let insns = [
        Insn::Call(Call::Local(1)),
        Insn::Exit,
        Insn::MayGoto { off: 1 },
        Insn::Ja { off: -2, long: false },
    ];
    let r = run(&insns);
    assert_eq!(r.insns[0], Insn::Call(Call::Local(1)));
    assert!(matches!(r.insns[2], Insn::Store { .. }));
    assert_eq!(r.insns[7], Insn::Ja { off: -5, long: false });
    assert_eq!((r.subprogs[1].start, r.subprogs[1].orig_start), (InsnIdx(2), InsnIdx(2)));
}

#[test]
fn what_no_back_end_lowers_is_refused_by_name() {
    let arena = InsnAux { ptr: PtrClass::Arena, ..InsnAux::default() };
    let (size, dst, src) = (Size::W, Reg(2), Reg(3));
    let load = Insn::Load { size, sext: false, dst, src, off: 0 };
    let store = Insn::Store { size, dst, off: 0, src: Src::Imm(1) };
    let add = Insn::Atomic { size, op: AtomicOp::Add, dst, off: 0, src };
    let cast = Insn::AddrSpaceCast { dst, src, cast: Cast::ToUser };
    let value = Insn::LdImm64 { dst, imm: Imm64::MapValue { fd: 3, off: 8 } };
    let no_value = MapInfo { map_type: MapType::Arena, value_addr: None, ..array() };
    let rows: &[(&[Insn], InsnAux, &str)] = &[
        (&[load], arena, "arena access"),
        (&[store], arena, "arena access"),
        (&[add], arena, "arena access"),
        (&[cast], InsnAux::default(), "addr_space_cast"),
        (&[value, Insn::LdImm64Hi], InsnAux::default(), "address of the value of a Arena map"),
    ];
    for (insns, aux, want) in rows {
        let got = try_run(insns, Endian::Little, &[], *aux, std::slice::from_ref(&no_value));
        let kind = got.map(|r| text(&r)).map_err(|r| r.kind);
        let named = matches!(&kind, Err(RejectKind::Unsupported { what, .. }) if what == want);
        assert!(named, "{insns:?}: {kind:?}");
    }
}

#[test]
fn arena_accesses_and_casts_to_user_are_left_to_the_jit() {
    let arena = InsnAux { ptr: PtrClass::Arena, ..InsnAux::default() };
    let (size, dst, src) = (Size::W, Reg(2), Reg(3));
    let load = Insn::Load { size, sext: false, dst, src, off: 0 };
    let cast = |cast| Insn::AddrSpaceCast { dst, src, cast };
    let map = MapInfo { map_type: MapType::Arena, map_extra: 0x7f00_0000_0000, ..array() };
    let run =
        |insn, aux| try_run(&[insn], Endian::Little, &[], aux, std::slice::from_ref(&map)).unwrap();
    let r = run(load, arena);
    assert_eq!((r.insns[0], r.facts[0].mem), (load, MemClass::Arena));
    assert_eq!(r.arena.map(|a| a.user_vm_start), Some(map.map_extra));
    assert_eq!(run(cast(Cast::ToUser), InsnAux::default()).insns[0], cast(Cast::ToUser));
    let w32 = InsnAux { arena_w32: true, ..InsnAux::default() };
    assert_eq!(text(&run(cast(Cast::ToKernel), w32)), "bc 2 3 0 0");
}
