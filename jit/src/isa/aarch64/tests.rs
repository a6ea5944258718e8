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
    let c = crate::compile(&v, Arch::Arm64);
    assert_eq!(c.code.len(), 4 * c.native_insns as usize);
    let lines = mc::disassemble("aarch64", "+lse", &c.code);
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
        mov w8, #2                          // =0x2
        mov x0, x8
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
    (W32, Mul, 9),
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
            str x19, [sp, #-16]!
            add x19, x19, #1
            sub x19, x19, #291, lsl #12         // =1191936
            sub x19, x19, #1110
            mov w10, #22136                     // =0x5678
            movk w10, #4660, lsl #16
            add x19, x19, x10
            mov w19, w19
            mov w10, #-2147483648               // =0x80000000
            add w19, w19, w10
            and x19, x19, #0xff
            and x19, x19, #0xfffffffffffffff0
            mov w10, #4660                      // =0x1234
            and x19, x19, x10
            mov x19, #-1                        // =0xffffffffffffffff
            mvn x19, x19
            lsl x19, x19, #3
            mov w10, #10                        // =0xa
            mul x19, x19, x10
            add w19, w19, w19, lsl #3
            and w19, w19, #0xf
            mov w10, #3                         // =0x3
            sdiv w11, w19, w10
            msub w19, w11, w10, w19
            mov x19, #-2                        // =0xfffffffffffffffe
            mov w19, #-2                        // =0xfffffffe
            mov w19, #16711935                  // =0xff00ff
            mov w19, #22136                     // =0x5678
            movk w19, #4660, lsl #16
            ldr x19, [sp], #16
            mov x0, x8
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
            sub sp, sp, #528
            str x25, [sp]
            add x25, sp, #528
            ldr w8, [x0, #4]
            ldursh x8, [x0, #-2]
            ldr x8, [x0, #32760]
            mov x11, #-300                      // =0xfffffffffffffed4
            ldr x8, [x0, x11]
            mov w11, #32767                     // =0x7fff
            ldrb w8, [x0, x11]
            stur xzr, [x25, #-8]
            mov w10, #-1                        // =0xffffffff
            stur w10, [x25, #-16]
            strb w0, [sp, #16]
            ldr x25, [sp]
            add sp, sp, #528
            mov x0, x8
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
            cbz x0, #68
            cbnz w0, #64
            tbnz x0, #63, #60
            tbnz w0, #3, #56
            and x10, x0, #0xffffffffffffff00
            cbnz x10, #48
            cmn x0, #5
            b.hi #40
            mov w10, #9029                      // =0x2345
            movk w10, #1, lsl #16
            cmp x0, x10
            b.le #24
            sub x10, x0, x1
            cbnz x10, #16
            and x10, x0, x1
            cbnz x10, #8
            b #-64
            mov x0, x8
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
            stadd x1, [x0]
            add x10, x0, #8
            mvn w11, w1
            stclr w11, [x10]
            sub x10, x0, #8
            ldeoral x1, x1, [x10]
            mvn w11, w1
            ldclral w11, w1, [x0]
            swpal x1, x1, [x0]
            casal w8, w1, [x0]
            add x10, x0, #2
            ldarh w2, [x10]
            stlr x2, [x0]
            mov x0, x8
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
            stp x29, x30, [sp, #-48]!
            stp x25, x19, [sp, #16]
            mov x29, sp
            add x25, sp, #48
            mov x19, x0
            mov x0, #-49152                     // =0xffffffffffff4000
            movk x0, #291, lsl #16
            movk x0, #34944, lsl #32
            stur x19, [x25, #-8]
            bl #0
            mov x8, x0
            bl #20
            ldp x25, x19, [sp, #16]
            ldp x29, x30, [sp], #48
            mov x0, x8
            ret
            add x8, x8, #1
            mov x0, x8
            ret
        "#]],
    );
}

#[test]
fn tail_call() {
    check(
        &[Insn::Call(Call::Local(1)), Insn::Exit, Insn::Call(Call::Helper(12)), Insn::Exit],
        &expect![[r#"
            mov x13, #0                         // =0x0
            stp x29, x30, [sp, #-32]!
            mov x29, sp
            add x10, sp, #16
            cmp x13, #33
            csel x10, x10, x13, ls
            stp x13, x10, [sp, #16]
            ldr x13, [sp, #24]
            bl #16
            ldp x29, x30, [sp], #32
            mov x0, x8
            ret
            sub sp, sp, #16
            str x13, [sp]
            ldr w10, [x1, #36]
            cmp w2, w10
            b.hs #56
            ldr x13, [sp]
            ldr x12, [x13]
            cmp x12, #33
            b.hs #40
            add x10, x1, w2, uxtw #3
            ldr x10, [x10, #272]
            cbz x10, #28
            add x12, x12, #1
            str x12, [x13]
            ldr x11, [x10, #48]
            add sp, sp, #16
            add x11, x11, #4
            br x11
            add sp, sp, #16
            mov x0, x8
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
    let c = crate::compile(&assume_verified(program, insns, TEST_LAYOUT), Arch::Arm64);
    let f = &c.debug.funcs[0];
    let show = |s: &crate::SavedReg| (s.reg.map_or("return", |r| r.name), s.cfa_off);
    let saved: Vec<_> = f.saved.iter().map(show).collect();
    expect![[r#"80 [("x29", -80), ("return", -72), ("x25", -64), ("x19", -56), ("x22", -48)]"#]]
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
    let c = crate::compile(&assume_verified(program, insns, TEST_LAYOUT), Arch::Arm64);
    let lines = mc::disassemble("aarch64", "+lse", &c.code[..36]);
    if !lines.is_empty() {
        let expected = expect![[r#"
            nop
            tbz w0, #3, #8
            b #131080
            adr x1, #0
            mov w10, #20368                     // =0x4f90
            movk w10, #18, lsl #16
            add x1, x1, w10, sxtw
            add x8, x8, #1
            add x8, x8, #1
        "#]];
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }
}
