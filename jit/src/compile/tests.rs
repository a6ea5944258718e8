//! Whole programs: what the driver promises about any back end, and x86-64 code as text.

use crate::isa::mc;
use crate::{Compiled, NativeOff, compile};
use bpf::Arch;
use bpf::insn::{
    AluOp, AtomicOp, Call, EndianOp, Imm64, Insn, InsnIdx, JmpOp, Reg, Size, Src, Width,
};
use bpf::uapi::ProgType;
use expect_test::{Expect, expect};
use verifier::testing::{Assume, bare_program};
use verifier::verified::{MemClass, Verified};

fn verified(insns: Vec<Insn>) -> Verified {
    // `MAX_BPF_STACK`: no proof has a deeper frame, whatever offsets a test makes up.
    Assume::new(bare_program("t", ProgType::Xdp, insns.clone()), insns)
        .subprog(0, |f| f.stack_depth = f.stack_depth.min(512))
        .build()
}

fn disassemble(c: &Compiled) -> Vec<String> {
    match c.arch {
        Arch::X86_64 => {
            // A lock prefix is printed on a line of its own.
            let lines = mc::disassemble("x86_64", "+bmi2", &c.code);
            lines.into_iter().filter(|l| l != "lock").collect()
        }
        Arch::Arm64 => mc::disassemble("aarch64", "+lse", &c.code),
        Arch::Riscv64 => mc::disassemble("riscv64", "+m,+a,+c", &c.code),
        Arch::S390x => mc::disassemble("systemz", "+distinct-ops,+interlocked-access1", &c.code),
    }
}

/// What must hold of any compiled program.
fn check(v: &Verified, arch: Arch) -> Compiled {
    let c = compile(v, arch);
    let text = disassemble(&c);
    if !text.is_empty() {
        let n = u32::try_from(text.len()).unwrap();
        assert_eq!(n, c.native_insns, "{arch}: every instruction is counted");
    }
    let mut at = NativeOff(0);
    for f in &c.debug.funcs {
        assert!(at == f.start && f.start < f.body && f.body < f.end, "{arch}");
        at = f.end;
    }
    assert_eq!(at.0 as usize, c.code.len(), "{arch}: functions cover the code");
    assert_eq!(c.debug.insns.len(), v.len(), "{arch}: a range for every slot");
    for pair in c.debug.insns.windows(2) {
        let same = !c.debug.funcs.iter().any(|f| f.start == pair[0].end);
        assert!(!same || pair[0].end == pair[1].start, "{arch}: ranges meet");
    }
    for target in (0..v.len()).filter(|&i| is_target(v, i) && i > 0) {
        let before = &c.debug.insns[target - 1];
        assert!(!before.first || before.retired_at < before.end, "{arch}: counted once");
    }
    let sorted = c.extable.windows(2).all(|w| w[0].fault < w[1].fault);
    assert!(sorted && c.extable.iter().all(|e| e.fault < e.resume), "{arch}");
    c
}

fn is_target(v: &Verified, slot: usize) -> bool {
    v.insns().any(|(at, insn, _)| {
        insn.jump_off()
            .is_some_and(|off| off != 0 && at.0 as i64 + 1 + i64::from(off) == slot as i64)
    })
}

fn x86(insns: Vec<Insn>, expected: Expect) {
    let c = check(&verified(insns), Arch::X86_64);
    let text = disassemble(&c);
    if !text.is_empty() {
        expected.assert_eq(&format!("{} bytes\n{}\n", c.code.len(), text.join("\n")));
    }
}

fn alu(width: Width, op: AluOp, dst: u8, src: Src) -> Insn {
    Insn::Alu { width, op, dst: Reg(dst), src }
}

fn mov(dst: u8, src: Src) -> Insn {
    alu(Width::W64, AluOp::Mov, dst, src)
}

const fn r(n: u8) -> Src {
    Src::Reg(Reg(n))
}

fn jump(op: JmpOp, dst: u8, src: Src, off: i16) -> Insn {
    Insn::Jmp { width: Width::W64, op, dst: Reg(dst), src, off }
}

fn tail_call() -> Insn {
    Insn::Call(Call::Helper(12))
}

#[test]
fn smallest() {
    x86(
        vec![mov(0, Src::Imm(2)), Insn::Exit],
        expect![[r#"
        8 bytes
        xorl %eax, %eax
        movl $2, %eax
        retq
    "#]],
    );
}

#[test]
fn frame_and_helper() {
    x86(
        vec![
            Insn::Store { size: Size::W, dst: Reg::FP, off: -4, src: Src::Imm(0) },
            mov(6, r(1)),
            mov(2, r(10)),
            alu(Width::W64, AluOp::Add, 2, Src::Imm(-4)),
            Insn::Call(Call::Helper(1)),
            jump(JmpOp::Eq, 0, Src::Imm(0), 2),
            Insn::Load { size: Size::DW, sext: false, dst: Reg::R0, src: Reg::R0, off: 8 },
            Insn::Exit,
            mov(0, r(6)),
            Insn::Exit,
        ],
        expect![[r#"
            50 bytes
            xorl %eax, %eax
            pushq %rbp
            movq %rsp, %rbp
            subq $512, %rsp                      # imm = 0x200
            pushq %rbx
            movl $0, -4(%rbp)
            movq %rdi, %rbx
            leaq -4(%rbp), %rsi
            callq 0
            testq %rax, %rax
            je 7
            movq 8(%rax), %rax
            popq %rbx
            leave
            retq
            movq %rbx, %rax
            jmp -8
        "#]],
    );
}

#[test]
fn tail_calls_from_main_and_subprogram() {
    x86(
        vec![
            Insn::Call(Call::Local(3)),
            tail_call(),
            mov(0, Src::Imm(1)),
            Insn::Exit,
            mov(6, r(1)),
            tail_call(),
            mov(0, r(6)),
            Insn::Exit,
        ],
        expect![[r#"
            131 bytes
            xorl %eax, %eax
            pushq %rbp
            movq %rsp, %rbp
            pushq %rax
            cmpq $33, %rax
            cmovbeq %rsp, %rax
            pushq %rax
            movq -16(%rbp), %rax
            callq 50
            movl %edx, %edx
            cmpl %edx, 36(%rsi)
            jbe 36
            movq 272(%rsi,%rdx,8), %rcx
            jrcxz 26
            movq -16(%rbp), %rdx
            cmpl $33, (%rdx)
            jae 17
            incl (%rdx)
            movq 48(%rcx), %rcx
            movq -8(%rbp), %rax
            leave
            addq $2, %rcx
            jmpq *%rcx
            movl $1, %eax
            leave
            retq
            pushq %rbp
            movq %rsp, %rbp
            pushq %rax
            pushq %rbx
            movq %rdi, %rbx
            movl %edx, %edx
            cmpl %edx, 36(%rsi)
            jbe 34
            movq 272(%rsi,%rdx,8), %rcx
            jrcxz 24
            movq -8(%rbp), %rdx
            cmpl $33, (%rdx)
            jae 15
            incl (%rdx)
            movq 48(%rcx), %rcx
            popq %rbx
            popq %rax
            leave
            addq $2, %rcx
            jmpq *%rcx
            movq %rbx, %rax
            popq %rbx
            leave
            retq
        "#]],
    );
}

#[test]
fn fetch_and_or() {
    let insn = |op, dst, src| Insn::Atomic { size: Size::DW, op, dst, off: -8, src };
    x86(
        vec![
            insn(AtomicOp::FetchOr, Reg::FP, Reg::R1),
            insn(AtomicOp::FetchAnd, Reg::R0, Reg::R0),
            insn(AtomicOp::Cmpxchg, Reg::R2, Reg::R3),
            insn(AtomicOp::Add, Reg::R2, Reg::R3),
            Insn::Exit,
        ],
        expect![[r#"
            71 bytes
            xorl %eax, %eax
            pushq %rbp
            movq %rsp, %rbp
            subq $8, %rsp
            movq %rax, %r10
            movq -8(%rbp), %rax
            movq %rax, %r11
            orq %rdi, %r11
            cmpxchgq %r11, -8(%rbp)
            jne -14
            movq %rax, %rdi
            movq %r10, %rax
            movq %rax, %r10
            movq -8(%r10), %rax
            movq %rax, %r11
            andq %r10, %r11
            cmpxchgq %r11, -8(%r10)
            jne -14
            cmpxchgq %rdx, -8(%rsi)
            addq %rdx, -8(%rsi)
            leave
            retq
        "#]],
    );
}

#[test]
fn constants_and_masks() {
    let w = |op, imm| alu(Width::W64, op, 6, Src::Imm(imm));
    x86(
        vec![
            w(AluOp::Mov, 0),
            w(AluOp::Mov, -1),
            w(AluOp::Mov, i32::MAX),
            w(AluOp::Mov, i32::MIN),
            w(AluOp::Add, 128),
            w(AluOp::And, 0xff),
            w(AluOp::And, 0x7fff_0000),
            w(AluOp::Or, 0x1000),
            w(AluOp::Mod, 8),
            w(AluOp::Div, 10),
            w(AluOp::Lsh, 0),
            alu(Width::W32, AluOp::Mod, 6, Src::Imm(i32::MIN)),
            alu(Width::W64, AluOp::SMod, 0, r(3)),
            alu(Width::W32, AluOp::Rsh, 1, r(4)),
            alu(Width::W32, AluOp::Rsh, 4, r(1)),
            Insn::End { op: EndianOp::ToBe, dst: Reg::R1, bits: 16 },
            Insn::Exit,
        ],
        expect![[r#"
            96 bytes
            xorl %eax, %eax
            pushq %rbx
            xorl %ebx, %ebx
            orq $-1, %rbx
            movl $2147483647, %ebx               # imm = 0x7FFFFFFF
            movq $-2147483648, %rbx              # imm = 0x80000000
            subq $-128, %rbx
            movzbl %bl, %ebx
            andl $2147418112, %ebx               # imm = 0x7FFF0000
            btsq $12, %rbx
            andl $7, %ebx
            movl $10, %r11d
            pushq %rax
            pushq %rdx
            movq %rbx, %rax
            xorl %edx, %edx
            divq %r11
            movq %rax, %rbx
            popq %rdx
            popq %rax
            andl $2147483647, %ebx               # imm = 0x7FFFFFFF
            movq %rdx, %r11
            pushq %rdx
            cqto
            idivq %r11
            movq %rdx, %rax
            popq %rdx
            shrl %cl, %edi
            shrxl %edi, %ecx, %ecx
            bswapl %edi
            shrl $16, %edi
            popq %rbx
            retq
        "#]],
    );
}

/// Every instruction form with operands that exercise special registers.
fn every_instruction() -> Vec<Insn> {
    use AluOp::*;
    let ops = [Add, Sub, Mul, Div, SDiv, Mod, SMod, Or, And, Xor, Lsh, Rsh, Arsh, Mov];
    let imms = [1, -1, 8, 31, 127, 128, 255, 0x1000, 0xffff, 0x12345, i32::MAX, i32::MIN];
    let mut v = Vec::new();
    for width in [Width::W32, Width::W64] {
        for op in ops {
            for (dst, src) in [(0, 1), (3, 0), (1, 3), (4, 4), (6, 4), (9, 8), (4, 9), (5, 11)] {
                v.push(alu(width, op, dst, r(src)));
            }
            for (i, dst) in imms.iter().zip([0u8, 3, 1, 4, 6, 9, 5, 2, 7, 8, 0, 6].iter().cycle()) {
                v.push(alu(width, op, *dst, Src::Imm(*i)));
            }
        }
        for dst in [Reg::R0, Reg::R1, Reg::R9] {
            v.push(Insn::Neg { width, dst });
            for bits in [8, 16, 32].into_iter().take(if width == Width::W64 { 3 } else { 2 }) {
                v.push(Insn::MovSx { width, dst, src: Reg::R2, bits });
            }
        }
    }
    for bits in [16, 32, 64] {
        for op in [EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap] {
            v.push(Insn::End { op, dst: Reg::R0, bits });
            v.push(Insn::End { op, dst: Reg::R9, bits });
        }
    }
    for n in [0, 1, 0xffff_ffff, 0x1_0000_0000, u64::MAX, 0xffff_8880_0000_1234, 0x8000, 1 << 63] {
        v.push(Insn::LdImm64 { dst: Reg::R7, imm: Imm64::Const(n) });
        v.push(Insn::LdImm64Hi);
    }
    v.push(Insn::MovPercpu { dst: Reg::R1, src: Reg::R2 });
    every_access(&mut v);
    for width in [Width::W32, Width::W64] {
        use JmpOp::*;
        for op in [Eq, Gt, Ge, Set, Ne, Sgt, Sge, Lt, Le, Slt, Sle] {
            for src in [r(1), r(9), Src::Imm(0), Src::Imm(1), Src::Imm(-1), Src::Imm(0x4000)] {
                v.push(Insn::Jmp { width, op, dst: Reg::R6, src, off: 0 });
                v.push(Insn::Jmp { width, op, dst: Reg::R0, src, off: 1 });
                v.push(mov(0, r(0)));
            }
        }
    }
    v.extend([Insn::Ja { off: 0, long: false }, Insn::Ja { off: 1, long: true }, mov(1, r(1))]);
    v.extend([Insn::Call(Call::Helper(5)), Insn::Call(Call::Kfunc { btf_id: 7, off: 0 })]);
    v.extend([tail_call(), Insn::Exit, Insn::Exit]);
    v
}

fn every_access(v: &mut Vec<Insn>) {
    use AtomicOp::*;
    for size in [Size::B, Size::H, Size::W, Size::DW] {
        for off in [0, 8, -8, 127, 2040, 2048, -2048, 4094, 4096, i16::MAX, i16::MIN] {
            for (a, b) in [(0, 1), (1, 1), (5, 10), (9, 0)] {
                let (dst, src) = (Reg(a), Reg(b));
                v.push(Insn::Load { size, sext: false, dst, src, off });
                if size != Size::DW {
                    v.push(Insn::Load { size, sext: true, dst, src, off });
                }
                v.push(Insn::Store { size, dst: src, off, src: Src::Reg(dst) });
                v.push(Insn::Store { size, dst: src, off, src: Src::Imm(-2) });
                v.push(Insn::Store { size, dst: src, off, src: Src::Imm(0x12345) });
                v.push(Insn::LoadAcquire { size, dst, src, off });
                v.push(Insn::StoreRelease { size, dst: src, off, src: dst });
            }
        }
    }
    for size in [Size::W, Size::DW] {
        for op in [Add, Or, And, Xor, FetchAdd, FetchOr, FetchAnd, FetchXor, Xchg, Cmpxchg] {
            for (dst, src) in [(0, 0), (0, 1), (1, 0), (10, 9), (2, 2)] {
                for off in [0, -8, 2048, i16::MIN] {
                    v.push(Insn::Atomic { size, op, dst: Reg(dst), off, src: Reg(src) });
                }
            }
        }
    }
}

#[test]
fn every_instruction_on_every_arch() {
    for arch in Arch::ALL {
        check(&verified(every_instruction()), arch);
    }
}

#[test]
fn branches_of_any_distance() {
    for distance in [1i16, 20, 30, 31, 32, 40, 900, 1100, 30000] {
        let mut insns = vec![mov(1, r(1)), jump(JmpOp::Eq, 1, r(2), distance), mov(6, r(7))];
        insns.extend((1..distance).map(|_| mov(2, r(3))));
        insns.push(jump(JmpOp::Set, 1, Src::Imm(64), -distance - 1));
        insns.push(Insn::Ja { off: -i32::from(distance) - 2, long: true });
        insns.push(Insn::Exit);
        for arch in Arch::ALL {
            check(&verified(insns.clone()), arch);
        }
    }
}

#[test]
fn probes_have_entries() {
    let load = |dst, src| Insn::Load { size: Size::W, sext: false, dst, src, off: -9 };
    let insns = vec![load(Reg::R1, Reg::R2), load(Reg::R0, Reg::R0), Insn::Exit];
    let v = Assume::new(bare_program("t", ProgType::Xdp, insns.clone()), insns)
        .fact(InsnIdx(0), |f| f.mem = MemClass::Probe)
        .fact(InsnIdx(1), |f| f.mem = MemClass::Probe)
        .build();
    for arch in Arch::ALL {
        let c = check(&v, arch);
        let e = c.extable[1];
        assert_eq!((e.clear, e.base, e.off), (Some(Reg::R0), Reg::R0, -9));
        assert_eq!(c.extable[0].resume, c.debug.insns[1].start);
        assert!(c.extable[0].fault < c.extable[0].resume);
    }
}

#[test]
fn an_empty_instruction_before_a_target_is_counted_once() {
    let insns = vec![
        jump(JmpOp::Eq, 1, Src::Imm(0), 2),
        mov(1, r(1)), // empty, falls through to 2 only
        mov(1, r(1)), // empty, but slot 3 is a target
        mov(0, Src::Imm(0)),
        Insn::Exit,
    ];
    for arch in Arch::ALL {
        let c = check(&verified(insns.clone()), arch);
        assert_eq!(c.debug.insns[1].start, c.debug.insns[2].start, "{arch}");
        assert!(c.debug.insns[2].start < c.debug.insns[2].end, "{arch}");
    }
}

#[test]
fn a_move_and_an_operation_share_code() {
    let insns = vec![
        jump(JmpOp::Eq, 1, Src::Imm(0), 2),
        mov(2, r(10)),
        alu(Width::W64, AluOp::Add, 2, Src::Imm(-8)), // computed by 1; slot 3 is a target
        mov(3, r(1)),
        jump(JmpOp::Eq, 1, Src::Imm(0), 0),
        jump(JmpOp::Eq, 1, Src::Imm(7), -2), // slot 4 is a target
        mov(0, Src::Imm(0)),
        mov(4, r(3)),
        alu(Width::W64, AluOp::Sub, 4, Src::Imm(8)),
        Insn::Exit,
    ];
    for arch in Arch::ALL {
        let c = check(&verified(insns.clone()), arch);
        let [one, two, three] = [1, 2, 3].map(|n| c.debug.insns[n]);
        assert!(one.start < one.end && one.end == two.start && two.end == three.start, "{arch}");
        assert_eq!((two.retired_at, two.start), (one.start, two.end), "{arch}");
        assert_eq!(three.retired_at, three.start, "{arch}");
        assert_eq!(c.debug.insns[8].retired_at, c.debug.insns[7].start, "{arch}");
    }
}

#[test]
fn callbacks_and_calls_are_linked() {
    let insns = vec![
        Insn::LdImm64 { dst: Reg::R2, imm: Imm64::Func(3) },
        Insn::LdImm64Hi,
        Insn::Call(Call::Helper(181)),
        Insn::Exit,
        mov(6, r(2)),
        mov(0, r(6)),
        Insn::Exit,
    ];
    for arch in Arch::ALL {
        let c = check(&verified(insns.clone()), arch);
        assert_eq!(c.relocs.len(), 1, "{arch}");
        let base = 0xffff_ffff_a020_0000;
        let code = crate::link(&c, base, |_| base - 0x10_0000);
        assert_eq!(code.len(), c.code.len(), "{arch}");
        assert_ne!(code, c.code, "{arch}");
    }
}
