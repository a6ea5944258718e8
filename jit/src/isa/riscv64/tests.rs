//! What the back end makes of small programs, as llvm-mc disassembles it.

use crate::isa::mc;
use bpf::Arch;
use bpf::insn::{AluOp, AtomicOp, Call, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::uapi::ProgType;
use expect_test::{Expect, expect};
use verifier::testing::{TEST_LAYOUT, assume_verified, bare_program};

fn check(insns: &[Insn], expected: &Expect) {
    let program = bare_program("t", ProgType::Xdp, insns.to_vec());
    let v = assume_verified(program, insns.to_vec(), TEST_LAYOUT);
    let c = crate::compile(&v, Arch::Riscv64);
    let lines = mc::disassemble("riscv64", "+m,+a,+c", &c.code);
    if !lines.is_empty() {
        assert_eq!(lines.len(), c.native_insns as usize);
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }
}

const fn alu(width: Width, op: AluOp, dst: Reg, src: Src) -> Insn {
    Insn::Alu { width, op, dst, src }
}

const fn jmp(width: Width, op: JmpOp, dst: Reg, src: Src, off: i16) -> Insn {
    Insn::Jmp { width, op, dst, src, off }
}

use AluOp::{Add, And, Mod, Mov, Mul, Or, SMod, Sub, Xor};
use Reg as R;
use Width::{W32, W64};

#[test]
fn leaf() {
    check(
        &[alu(W32, Mov, R::R0, Src::Imm(2)), Insn::Exit],
        &expect![[r#"
        nop
        li a5, 2
        mv a0, a5
        ret
    "#]],
    );
}

#[rustfmt::skip]
const IMMEDIATES: &[(Width, AluOp, i32)] = &[
    (W64, Add, 1),
    (W64, Add, -0x123_456),
    (W64, Add, 0x1234_5678),
    (W32, Add, 0),
    (W64, Add, 0),
    (W32, Sub, i32::MIN),
    (W64, And, 0xff),
    (W64, And, -16),
    (W64, And, 0x1234),
    (W64, Or, -1),
    (W64, Xor, -1),
    (W64, Mul, 8),
    (W64, Mul, 10),
    (W32, Mod, 16),
    (W32, SMod, 3),
    (W64, Mov, -2),
    (W32, Mov, -2),
    (W64, Mov, 0x00ff_00ff),
    (W64, Mov, 0x1234_5678),
];

#[test]
fn alu_immediates() {
    let mut insns: Vec<_> =
        IMMEDIATES.iter().map(|&(w, op, imm)| alu(w, op, R::R6, Src::Imm(imm))).collect();
    insns.push(Insn::Exit);
    check(
        &insns,
        &expect![[r#"
        nop
        addi sp, sp, -16
        sd s1, 0(sp)
        addi s1, s1, 1
        lui t1, 1048285
        addiw t1, t1, -1110
        add s1, s1, t1
        lui t1, 74565
        addiw t1, t1, 1656
        add s1, s1, t1
        slli s1, s1, 32
        srli s1, s1, 32
        li t1, 1
        slli t1, t1, 31
        addw s1, s1, t1
        slli s1, s1, 32
        srli s1, s1, 32
        andi s1, s1, 255
        andi s1, s1, -16
        lui t1, 1
        addiw t1, t1, 564
        and s1, s1, t1
        ori s1, s1, -1
        not s1, s1
        slli s1, s1, 3
        li t1, 10
        mul s1, s1, t1
        andi s1, s1, 15
        li t1, 3
        remw s1, s1, t1
        slli s1, s1, 32
        srli s1, s1, 32
        li s1, -2
        li s1, -2
        slli s1, s1, 32
        srli s1, s1, 32
        lui s1, 4080
        addiw s1, s1, 255
        lui s1, 74565
        addiw s1, s1, 1656
        ld s1, 0(sp)
        addi sp, sp, 16
        mv a0, a5
        ret
    "#]],
    );
}

#[test]
fn memory_forms() {
    let load = |size, sext, off| Insn::Load { size, sext, dst: R::R0, src: R::R1, off };
    let store = |size, off, src| Insn::Store { size, dst: R::FP, off, src };
    check(
        &[
            load(Size::W, false, 4),
            load(Size::H, true, -2),
            load(Size::DW, false, 32760),
            load(Size::DW, false, -300),
            load(Size::B, false, 32767),
            store(Size::DW, -8, Src::Imm(0)),
            store(Size::W, -16, Src::Imm(-1)),
            store(Size::B, -512, Src::Reg(R::R1)),
            Insn::Exit,
        ],
        &expect![[r#"
            nop
            addi sp, sp, -528
            sd s5, 0(sp)
            addi s5, sp, 528
            lwu a5, 4(a0)
            lh a5, -2(a0)
            lui t2, 8
            add t2, t2, a0
            ld a5, -8(t2)
            ld a5, -300(a0)
            lui t2, 8
            add t2, t2, a0
            lbu a5, -1(t2)
            sd zero, -8(s5)
            li t1, -1
            sw t1, -16(s5)
            sb a0, -512(s5)
            ld s5, 0(sp)
            addi sp, sp, 528
            mv a0, a5
            ret
        "#]],
    );
}

#[test]
fn comparisons() {
    check(
        &[
            jmp(W64, JmpOp::Eq, R::R1, Src::Imm(0), 9),
            jmp(W32, JmpOp::Gt, R::R1, Src::Imm(0), 8),
            jmp(W64, JmpOp::Slt, R::R1, Src::Imm(0), 7),
            jmp(W32, JmpOp::Set, R::R1, Src::Imm(8), 6),
            jmp(W64, JmpOp::Set, R::R1, Src::Imm(-256), 5),
            jmp(W64, JmpOp::Gt, R::R1, Src::Imm(-5), 4),
            jmp(W64, JmpOp::Sle, R::R1, Src::Imm(0x12345), 3),
            jmp(W64, JmpOp::Ne, R::R1, Src::Reg(R::R2), 2),
            jmp(W64, JmpOp::Set, R::R1, Src::Reg(R::R2), 1),
            Insn::Ja { off: -10, long: false },
            Insn::Exit,
        ],
        &expect![[r#"
            nop
            beqz a0, 60
            sext.w t1, a0
            bnez t1, 54
            bltz a0, 50
            andi t1, a0, 8
            bnez t1, 42
            andi t1, a0, -256
            bnez t1, 34
            li t2, -5
            bltu t2, a0, 28
            lui t2, 18
            addiw t2, t2, 837
            bge t2, a0, 18
            bne a0, a1, 14
            and t1, a0, a1
            bnez t1, 6
            j -58
            mv a0, a5
            ret
        "#]],
    );
}

#[test]
fn atomics() {
    let rmw = |size, op, off| Insn::Atomic { size, op, dst: R::R1, off, src: R::R2 };
    check(
        &[
            rmw(Size::DW, AtomicOp::Add, 0),
            rmw(Size::W, AtomicOp::And, 8),
            rmw(Size::DW, AtomicOp::FetchXor, -8),
            rmw(Size::W, AtomicOp::FetchAnd, 0),
            rmw(Size::DW, AtomicOp::Xchg, 0),
            rmw(Size::W, AtomicOp::Cmpxchg, 0),
            Insn::LoadAcquire { size: Size::H, dst: R::R3, src: R::R1, off: 2 },
            Insn::StoreRelease { size: Size::DW, dst: R::R1, off: 0, src: R::R3 },
            Insn::Exit,
        ],
        &expect![[r#"
            nop
            amoadd.d zero, a1, (a0)
            addi t1, a0, 8
            amoand.w zero, a1, (t1)
            addi t1, a0, -8
            amoxor.d.aqrl a1, a1, (t1)
            amoand.w.aqrl a1, a1, (a0)
            slli a1, a1, 32
            srli a1, a1, 32
            amoswap.d.aqrl a1, a1, (a0)
            sext.w t2, a5
            lr.w a5, (a0)
            bne a5, t2, 16
            sc.w.rl t3, a1, (a0)
            bnez t3, -12
            fence rw, rw
            slli a5, a5, 32
            srli a5, a5, 32
            lhu a2, 2(a0)
            fence r, rw
            fence rw, w
            sd a2, 0(a0)
            mv a0, a5
            ret
        "#]],
    );
}

#[test]
fn calls_and_frames() {
    check(
        &[
            alu(W64, Mov, R::R6, Src::Reg(R::R1)),
            Insn::LdImm64 { dst: R::R1, imm: Imm64::Const(0xffff_8880_0123_4000) },
            Insn::LdImm64Hi,
            Insn::Store { size: Size::DW, dst: R::FP, off: -8, src: Src::Reg(R::R6) },
            Insn::Call(Call::Helper(1)),
            Insn::Call(Call::Local(1)),
            Insn::Exit,
            alu(W64, Add, R::R0, Src::Imm(1)),
            Insn::Exit,
        ],
        &expect![[r#"
            nop
            addi sp, sp, -48
            sd s1, 0(sp)
            sd s5, 8(sp)
            sd s0, 16(sp)
            sd ra, 24(sp)
            addi s0, sp, 32
            addi s5, sp, 48
            mv s1, a0
            li a0, -239
            slli a0, a0, 25
            addi a0, a0, 1165
            slli a0, a0, 14
            sd s1, -8(s5)
            auipc ra, 0
            jalr ra
            mv a5, a0
            jal 18
            ld s1, 0(sp)
            ld s5, 8(sp)
            ld s0, 16(sp)
            ld ra, 24(sp)
            addi sp, sp, 48
            mv a0, a5
            ret
            addi a5, a5, 1
            mv a0, a5
            ret
        "#]],
    );
}

#[test]
fn tail_call() {
    check(
        &[Insn::Call(Call::Local(1)), Insn::Exit, Insn::Call(Call::Helper(12)), Insn::Exit],
        &expect![[r#"
            li a6, 0
            addi sp, sp, -32
            sd s0, 16(sp)
            sd ra, 24(sp)
            addi s0, sp, 32
            sd a6, 0(sp)
            sltiu t1, a6, 34
            beqz t1, 6
            mv a6, sp
            sd a6, 8(sp)
            ld a6, 8(sp)
            jal 14
            ld s0, 16(sp)
            ld ra, 24(sp)
            addi sp, sp, 32
            mv a0, a5
            ret
            addi sp, sp, -16
            sd a6, 0(sp)
            lwu t1, 36(a1)
            slli t3, a2, 32
            srli t2, t3, 32
            bgeu t2, t1, 48
            ld a6, 0(sp)
            ld t1, 0(a6)
            sltiu t2, t1, 33
            beqz t2, 34
            srli t3, t3, 29
            add t3, t3, a1
            ld t3, 272(t3)
            beqz t3, 20
            addi t1, t1, 1
            sd t1, 0(a6)
            ld t3, 48(t3)
            addi sp, sp, 16
            jr 2(t3)
            addi sp, sp, 16
            mv a0, a5
            ret
        "#]],
    );
}

/// Where an unwinder finds the caller's registers.
#[test]
fn saved_registers() {
    let insns = vec![
        alu(W64, Mov, R::R6, Src::Imm(0)),
        alu(W64, Mov, R::R9, Src::Imm(0)),
        Insn::Store { size: Size::DW, dst: R::FP, off: -24, src: Src::Imm(0) },
        Insn::Call(Call::Helper(1)),
        Insn::Call(Call::Helper(12)),
        Insn::Exit,
    ];
    let program = bare_program("t", ProgType::Xdp, insns.clone());
    let c = crate::compile(&assume_verified(program, insns, TEST_LAYOUT), Arch::Riscv64);
    let f = &c.debug.funcs[0];
    let show = |s: &crate::SavedReg| (s.reg.map_or("return", |r| r.name), s.cfa_off);
    let saved: Vec<_> = f.saved.iter().map(show).collect();
    expect![[r#"80 [("s1", -64), ("s4", -56), ("s5", -48), ("s0", -40), ("return", -32)]"#]]
        .assert_eq(&format!("{} {saved:?}", f.frame_bytes));
}

/// Programs longer than a branch reaches.
#[test]
fn far_branches() {
    const FAR: usize = 300_000;
    let mut insns = vec![
        jmp(W32, JmpOp::Set, R::R1, Src::Imm(8), i16::MAX),
        Insn::LdImm64 { dst: R::R2, imm: Imm64::Func(FAR as i32) },
        Insn::LdImm64Hi,
    ];
    insns.resize(FAR, alu(W64, Add, R::R0, Src::Imm(1)));
    insns.extend([Insn::Exit, Insn::Exit, alu(W64, Mov, R::R0, Src::Imm(0)), Insn::Exit]);
    let program = bare_program("t", ProgType::Xdp, insns.clone());
    let c = crate::compile(&assume_verified(program, insns, TEST_LAYOUT), Arch::Riscv64);
    let lines = mc::disassemble("riscv64", "+m,+a,+c", &c.code[..46]);
    if !lines.is_empty() {
        let expected = expect![[r#"
            nop
            andi t1, a0, 8
            beqz t1, 8
            j 65542
            auipc a1, 146
            addi a1, a1, 1992
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
            addi a5, a5, 1
        "#]];
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }
}
