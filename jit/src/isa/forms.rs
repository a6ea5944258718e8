//! Forms that a branch takes by distance, forwards and backwards, as llvm-mc reads them.

use super::{Isa, aarch64, mc, riscv64, s390x, x86_64};
use crate::NativeOff;
use crate::buffer::{Buffer, Label};
use bpf::insn::{JmpOp, Reg, Src, Width};
use expect_test::{Expect, expect};

/// Puts one branch.
type Branch = fn(&mut Buffer, Label);

const SHORT: Width = Width::W32;
const WIDE: Width = Width::W64;

/// A branch over so many bytes; without the bytes.
fn over<I: Isa>(branch: Branch, bytes: usize, backwards: bool) -> Vec<u8> {
    let mut nop = Buffer::new(0, 0);
    I::emit_nop(&mut nop);
    let nop = nop.finish().0.code;
    let mut b = Buffer::new(0, bytes);
    let label = b.label();
    let fill = |b: &mut Buffer| b.put(&nop.repeat(bytes / nop.len()));
    if backwards {
        b.bind(label);
        fill(&mut b);
    }
    let at = b.here();
    branch(&mut b, label);
    let put = b.here();
    if !backwards {
        fill(&mut b);
        b.bind(label);
    }
    let (done, mut moves) = b.finish();
    let behind = moves.to(NativeOff(put.0));
    assert_eq!(moves.to(at), at, "a branch stays where it begins");
    done.code[at.0 as usize..behind.0 as usize].to_vec()
}

/// Each branch over more and more bytes; a form once.
fn check<I: Isa>((triple, mattr): (&str, &str), branches: &[Branch], expected: &Expect) {
    let mut text = String::new();
    for branch in branches {
        for backwards in [false, true] {
            let mut last = 0;
            for bytes in [64, 200, 3000, 40_000, 70_000, 1_200_000] {
                let code = over::<I>(*branch, bytes, backwards);
                if code.len() == last {
                    continue;
                }
                last = code.len();
                let lines = mc::disassemble(triple, mattr, &code);
                if lines.is_empty() {
                    return;
                }
                let dir = if backwards { '-' } else { '+' };
                // llvm-mc tells large constants again in a comment.
                let insns: Vec<&str> = lines.iter().map(|l| uncommented(l)).collect();
                text.push_str(&format!("{dir}{bytes}: {}\n", insns.join("; ")));
            }
        }
    }
    expected.assert_eq(&text);
}

fn uncommented(line: &str) -> &str {
    line.split("//").next().expect("a first part").trim()
}

fn jump_if<I: Isa, const IMM: i32>(b: &mut Buffer, width: Width, op: JmpOp, to: Label) {
    I::emit_jump_if(b, width, op, Reg::R1, Src::Imm(IMM), to);
}

fn reg<I: Isa>(b: &mut Buffer, width: Width, op: JmpOp, to: Label) {
    I::emit_jump_if(b, width, op, Reg::R1, Src::Reg(Reg::R2), to);
}

#[test]
fn x86_64() {
    type I = x86_64::X86_64;
    let branches: [Branch; 4] = [
        |b, to| reg::<I>(b, WIDE, JmpOp::Sgt, to),
        |b, to| jump_if::<I, 8>(b, SHORT, JmpOp::Set, to),
        I::emit_jump,
        |b, to| I::emit_func_addr(b, Reg::R3, to),
    ];
    check::<I>(
        ("x86_64", "+bmi2"),
        &branches,
        &expect![[r#"
        +64: cmpq %rsi, %rdi; jg 64
        +200: cmpq %rsi, %rdi; jg 200
        -64: cmpq %rsi, %rdi; jg -69
        -200: cmpq %rsi, %rdi; jg -209
        +64: testb $8, %dil; jne 64
        +200: testb $8, %dil; jne 200
        -64: testb $8, %dil; jne -70
        -200: testb $8, %dil; jne -210
        +64: jmp 64
        +200: jmp 200
        -64: jmp -66
        -200: jmp -205
        +64: leaq 64(%rip), %rdx
        -64: leaq -71(%rip), %rdx
    "#]],
    );
}

#[test]
fn arm64() {
    type I = aarch64::Aarch64;
    let branches: [Branch; 6] = [
        |b, to| reg::<I>(b, WIDE, JmpOp::Gt, to),
        |b, to| jump_if::<I, 0>(b, SHORT, JmpOp::Eq, to),
        |b, to| jump_if::<I, 0>(b, WIDE, JmpOp::Ne, to),
        |b, to| jump_if::<I, 0>(b, WIDE, JmpOp::Slt, to),
        I::emit_jump,
        |b, to| I::emit_func_addr(b, Reg::R3, to),
    ];
    check::<I>(
        ("aarch64", "+lse"),
        &branches,
        &expect![[r#"
            +64: cmp x0, x1; b.hi #68
            +1200000: cmp x0, x1; b.ls #8; b #1200004
            -64: cmp x0, x1; b.hi #-68
            -1200000: cmp x0, x1; b.ls #8; b #-1200008
            +64: cbz w0, #68
            +1200000: cbnz w0, #8; b #1200004
            -64: cbz w0, #-64
            -1200000: cbnz w0, #8; b #-1200004
            +64: cbnz x0, #68
            +1200000: cbz x0, #8; b #1200004
            -64: cbnz x0, #-64
            -1200000: cbz x0, #8; b #-1200004
            +64: tbnz x0, #63, #68
            +40000: tbz x0, #63, #8; b #40004
            -64: tbnz x0, #63, #-64
            -40000: tbz x0, #63, #8; b #-40004
            +64: b #68
            -64: b #-64
            +64: adr x2, #68
            +1200000: adr x2, #0; mov w10, #20368; movk w10, #18, lsl #16; add x2, x2, w10, sxtw
            -64: adr x2, #-64
            -1200000: adr x2, #0; mov w10, #45184; movk w10, #65517, lsl #16; add x2, x2, w10, sxtw
        "#]],
    );
}

#[test]
fn riscv64() {
    type I = riscv64::Riscv64;
    let branches: [Branch; 5] = [
        |b, to| reg::<I>(b, WIDE, JmpOp::Sle, to),
        |b, to| jump_if::<I, 0>(b, WIDE, JmpOp::Eq, to),
        |b, to| jump_if::<I, 0>(b, WIDE, JmpOp::Ne, to),
        I::emit_jump,
        |b, to| I::emit_func_addr(b, Reg::R3, to),
    ];
    check::<I>(
        ("riscv64", "+m,+a,+c"),
        &branches,
        &expect![[r#"
        +64: bge a1, a0, 68
        +40000: blt a1, a0, 8; j 40004
        +1200000: blt a1, a0, 12; auipc t3, 293; jr -120(t3)
        -64: bge a1, a0, -64
        -40000: blt a1, a0, 8; j -40004
        -1200000: blt a1, a0, 12; auipc t3, 1048283; jr 124(t3)
        +64: beqz a0, 66
        +3000: beqz a0, 3004
        +40000: bnez a0, 8; j 40004
        +1200000: bnez a0, 12; auipc t3, 293; jr -120(t3)
        -64: beqz a0, -64
        -3000: beqz a0, -3000
        -40000: bnez a0, 8; j -40004
        -1200000: bnez a0, 12; auipc t3, 1048283; jr 124(t3)
        +64: bnez a0, 66
        +3000: bnez a0, 3004
        +40000: beqz a0, 8; j 40004
        +1200000: beqz a0, 12; auipc t3, 293; jr -120(t3)
        -64: bnez a0, -64
        -3000: bnez a0, -3000
        -40000: beqz a0, 8; j -40004
        -1200000: beqz a0, 12; auipc t3, 1048283; jr 124(t3)
        +64: j 66
        +3000: j 3004
        +1200000: auipc t3, 293; jr -120(t3)
        -64: j -64
        -3000: j -3000
        -1200000: auipc t3, 1048283; jr 128(t3)
        +64: auipc a2, 0; addi a2, a2, 72
        -64: auipc a2, 0; addi a2, a2, -64
    "#]],
    );
}

#[test]
fn s390x() {
    type I = s390x::S390x;
    let branches: [Branch; 11] = [
        |b, to| reg::<I>(b, WIDE, JmpOp::Sgt, to),
        |b, to| reg::<I>(b, WIDE, JmpOp::Gt, to),
        |b, to| reg::<I>(b, SHORT, JmpOp::Sle, to),
        |b, to| reg::<I>(b, SHORT, JmpOp::Le, to),
        |b, to| jump_if::<I, -7>(b, WIDE, JmpOp::Sge, to),
        |b, to| jump_if::<I, 200>(b, WIDE, JmpOp::Ge, to),
        |b, to| jump_if::<I, -7>(b, SHORT, JmpOp::Eq, to),
        |b, to| jump_if::<I, 200>(b, SHORT, JmpOp::Lt, to),
        |b, to| jump_if::<I, 70_000>(b, WIDE, JmpOp::Lt, to),
        I::emit_jump,
        |b, to| I::emit_func_addr(b, Reg::R3, to),
    ];
    check::<I>(
        ("systemz", "+distinct-ops,+interlocked-access1"),
        &branches,
        &expect![[r#"
        +64: cgrjh %r2, %r3, 0x46
        +70000: cgr %r2, %r3; jgh 0x1117a
        -64: cgrjh %r2, %r3, 0xffffffffffffffc0
        -70000: cgr %r2, %r3; jgh 0xfffffffffffeee90
        +64: clgrjh %r2, %r3, 0x46
        +70000: clgr %r2, %r3; jgh 0x1117a
        -64: clgrjh %r2, %r3, 0xffffffffffffffc0
        -70000: clgr %r2, %r3; jgh 0xfffffffffffeee90
        +64: crjle %r2, %r3, 0x46
        +70000: cr %r2, %r3; jgle 0x11178
        -64: crjle %r2, %r3, 0xffffffffffffffc0
        -70000: cr %r2, %r3; jgle 0xfffffffffffeee90
        +64: clrjle %r2, %r3, 0x46
        +70000: clr %r2, %r3; jgle 0x11178
        -64: clrjle %r2, %r3, 0xffffffffffffffc0
        -70000: clr %r2, %r3; jgle 0xfffffffffffeee90
        +64: cgijhe %r2, -7, 0x46
        +70000: cghi %r2, -7; jghe 0x1117a
        -64: cgijhe %r2, -7, 0xffffffffffffffc0
        -70000: cghi %r2, -7; jghe 0xfffffffffffeee90
        +64: clgijhe %r2, 200, 0x46
        +70000: clgfi %r2, 200; jghe 0x1117c
        -64: clgijhe %r2, 200, 0xffffffffffffffc0
        -70000: clgfi %r2, 200; jghe 0xfffffffffffeee90
        +64: cije %r2, -7, 0x46
        +70000: chi %r2, -7; jge 0x1117a
        -64: cije %r2, -7, 0xffffffffffffffc0
        -70000: chi %r2, -7; jge 0xfffffffffffeee90
        +64: clijl %r2, 200, 0x46
        +70000: clfi %r2, 200; jgl 0x1117c
        -64: clijl %r2, 200, 0xffffffffffffffc0
        -70000: clfi %r2, 200; jgl 0xfffffffffffeee90
        +64: clgfi %r2, 70000; jl 0x4a
        +70000: clgfi %r2, 70000; jgl 0x1117c
        -64: clgfi %r2, 70000; jl 0xffffffffffffffc0
        -70000: clgfi %r2, 70000; jgl 0xfffffffffffeee90
        +64: j 0x44
        +70000: jg 0x11176
        -64: j 0xffffffffffffffc0
        -70000: jg 0xfffffffffffeee90
        +64: larl %r4, 0x46
        -64: larl %r4, 0xffffffffffffffc0
    "#]],
    );
}
