//! Pure encoders of the x86-64 instructions used, each the shortest encoding of its operation.
//! Checked against llvm-mc (`asm/tests.rs`). Source: Intel SDM volume 2, opcode maps.

#[cfg(test)]
mod tests;

use super::regs::{R, RAX, RBP, RSP};
use crate::buffer::Code;
use bpf::insn::{Size, Width};

/// Operations of the `op r/m, r` group; the value is the opcode extension of the immediate form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts; the value is the opcode extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand group of opcode F7; the value is the opcode extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Neg = 3,
    Div = 6,
    Idiv = 7,
}

/// Bit operations with an immediate index (0F BA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bit {
    Test = 4,
    Set = 5,
    Reset = 6,
    Complement = 7,
}

/// Condition codes, as in the low nibble of Jcc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cc {
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

/// `[base + disp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) base: R,
    pub(crate) disp: i32,
}

fn w(width: Width) -> u8 {
    u8::from(width == Width::W64)
}

/// REX prefix, or nothing when no bit is set and no byte register asks for it.
fn rex(w: u8, reg: R, rm: R, byte_reg: bool) -> Code {
    let bits = w << 3 | (reg >> 3) << 2 | rm >> 3;
    if bits == 0 && !byte_reg { Code::new() } else { Code::of(&[0x40 | bits]) }
}

/// `spl`, `bpl`, `sil`, `dil` exist only with a REX prefix.
fn byte_needs_rex(r: R) -> bool {
    (4..8).contains(&r)
}

fn modrm_rr(reg: R, rm: R) -> u8 {
    0xc0 | (reg & 7) << 3 | rm & 7
}

fn imm8(imm: i32) -> Option<[u8; 1]> {
    i8::try_from(imm).ok().map(i8::to_le_bytes)
}

/// ModRM, SIB and displacement of a memory operand.
fn mem(code: Code, reg: u8, at: At) -> Code {
    let (reg, base) = ((reg & 7) << 3, at.base & 7);
    // rsp and r12 as base are spelt by a SIB byte; rbp and r13 have no form without displacement.
    let sib: &[u8] = if base == RSP { &[0x24] } else { &[] };
    if at.disp == 0 && base != 5 {
        return code.with(&[reg | base]).with(sib);
    }
    match imm8(at.disp) {
        Some(d) => code.with(&[0x40 | reg | base]).with(sib).with(&d),
        None => code.with(&[0x80 | reg | base]).with(sib).with(&at.disp.to_le_bytes()),
    }
}

/// `op dst, src`.
pub(crate) fn alu_rr(width: Width, op: Op, dst: R, src: R) -> Code {
    rex(w(width), src, dst, false).with(&[(op as u8) << 3 | 1, modrm_rr(src, dst)])
}

/// `op dst, imm` (sign-extended).
pub(crate) fn alu_ri(width: Width, op: Op, dst: R, imm: i32) -> Code {
    let code = rex(w(width), 0, dst, false);
    let modrm = modrm_rr(op as u8, dst);
    match imm8(imm) {
        Some(i) => code.with(&[0x83, modrm]).with(&i),
        None if dst == RAX => code.with(&[(op as u8) << 3 | 5]).with(&imm.to_le_bytes()),
        None => code.with(&[0x81, modrm]).with(&imm.to_le_bytes()),
    }
}

/// `mov dst, src`.
pub(crate) fn mov_rr(width: Width, dst: R, src: R) -> Code {
    rex(w(width), src, dst, false).with(&[0x89, modrm_rr(src, dst)])
}

/// `mov dst32, imm32`: zero-extends.
pub(crate) fn mov_ri32(dst: R, imm: u32) -> Code {
    rex(0, 0, dst, false).with(&[0xb8 | dst & 7]).with(&imm.to_le_bytes())
}

/// `mov dst64, imm32` sign-extended.
pub(crate) fn mov_ri32s(dst: R, imm: i32) -> Code {
    rex(1, 0, dst, false).with(&[0xc7, modrm_rr(0, dst)]).with(&imm.to_le_bytes())
}

/// `movabs dst, imm64`.
pub(crate) fn mov_ri64(dst: R, imm: u64) -> Code {
    rex(1, 0, dst, false).with(&[0xb8 | dst & 7]).with(&imm.to_le_bytes())
}

/// `test a, b`.
pub(crate) fn test_rr(width: Width, a: R, b: R) -> Code {
    rex(w(width), b, a, false).with(&[0x85, modrm_rr(b, a)])
}

/// `test r, imm32` (sign-extended).
pub(crate) fn test_ri(width: Width, r: R, imm: i32) -> Code {
    let code = rex(w(width), 0, r, false);
    if r == RAX { code.with(&[0xa9]) } else { code.with(&[0xf7, modrm_rr(0, r)]) }
        .with(&imm.to_le_bytes())
}

/// `test r8, imm8`.
pub(crate) fn test_ri8(r: R, imm: u8) -> Code {
    if r == RAX {
        return Code::of(&[0xa8, imm]);
    }
    rex(0, 0, r, byte_needs_rex(r)).with(&[0xf6, modrm_rr(0, r), imm])
}

/// `bt/bts/btr/btc r, index`.
pub(crate) fn bit(width: Width, op: Bit, r: R, index: u8) -> Code {
    rex(w(width), 0, r, false).with(&[0x0f, 0xba, modrm_rr(op as u8, r), index])
}

/// `inc r` / `dec r`.
pub(crate) fn inc_dec(width: Width, dec: bool, r: R) -> Code {
    rex(w(width), 0, r, false).with(&[0xff, modrm_rr(u8::from(dec), r)])
}

/// `neg/div/idiv r`.
pub(crate) fn unary(width: Width, op: Unary, r: R) -> Code {
    rex(w(width), 0, r, false).with(&[0xf7, modrm_rr(op as u8, r)])
}

/// `cdq` / `cqo`.
pub(crate) fn sign_into_rdx(width: Width) -> Code {
    rex(w(width), 0, 0, false).with(&[0x99])
}

/// `imul dst, src`.
pub(crate) fn imul_rr(width: Width, dst: R, src: R) -> Code {
    rex(w(width), dst, src, false).with(&[0x0f, 0xaf, modrm_rr(dst, src)])
}

/// `imul dst, src, imm`.
pub(crate) fn imul_rri(width: Width, dst: R, src: R, imm: i32) -> Code {
    let code = rex(w(width), dst, src, false);
    match imm8(imm) {
        Some(i) => code.with(&[0x6b, modrm_rr(dst, src)]).with(&i),
        None => code.with(&[0x69, modrm_rr(dst, src)]).with(&imm.to_le_bytes()),
    }
}

/// `shl/shr/sar r, imm`.
pub(crate) fn shift_ri(width: Width, op: Shift, r: R, count: u8) -> Code {
    let code = rex(w(width), 0, r, false);
    let modrm = modrm_rr(op as u8, r);
    if count == 1 { code.with(&[0xd1, modrm]) } else { code.with(&[0xc1, modrm, count]) }
}

/// `shl/shr/sar r, cl`.
pub(crate) fn shift_cl(width: Width, op: Shift, r: R) -> Code {
    rex(w(width), 0, r, false).with(&[0xd3, modrm_rr(op as u8, r)])
}

/// `shlx/shrx/sarx dst, src, count` (BMI2, VEX.LZ.pp.0F38.W F7 /r).
pub(crate) fn shiftx(width: Width, op: Shift, dst: R, src: R, count: R) -> Code {
    let pp = match op {
        Shift::Shl => 1,
        Shift::Shr => 3,
        Shift::Sar => 2,
    };
    let rxb = 0xe2 & !((dst >> 3) << 7 | (src >> 3) << 5);
    Code::of(&[0xc4, rxb, w(width) << 7 | (!count & 15) << 3 | pp, 0xf7, modrm_rr(dst, src)])
}

/// `bswap r`.
pub(crate) fn bswap(width: Width, r: R) -> Code {
    rex(w(width), 0, r, false).with(&[0x0f, 0xc8 | r & 7])
}

/// `movzx dst32, src8/16`.
pub(crate) fn movzx_rr(dst: R, src: R, size: Size) -> Code {
    let byte = size == Size::B;
    rex(0, dst, src, byte && byte_needs_rex(src)).with(&[
        0x0f,
        if byte { 0xb6 } else { 0xb7 },
        modrm_rr(dst, src),
    ])
}

/// `movsx/movsxd dst, src8/16/32`.
pub(crate) fn movsx_rr(width: Width, dst: R, src: R, size: Size) -> Code {
    let code = rex(w(width), dst, src, size == Size::B && byte_needs_rex(src));
    match size {
        Size::B => code.with(&[0x0f, 0xbe]),
        Size::H => code.with(&[0x0f, 0xbf]),
        Size::W | Size::DW => code.with(&[0x63]),
    }
    .with(&[modrm_rr(dst, src)])
}

/// Loads, zero-extending to 64 bits.
pub(crate) fn load(dst: R, size: Size, at: At) -> Code {
    let code = rex(u8::from(size == Size::DW), dst, at.base, false);
    let code = match size {
        Size::B => code.with(&[0x0f, 0xb6]),
        Size::H => code.with(&[0x0f, 0xb7]),
        Size::W | Size::DW => code.with(&[0x8b]),
    };
    mem(code, dst, at)
}

/// Loads, sign-extending to 64 bits.
pub(crate) fn load_sx(dst: R, size: Size, at: At) -> Code {
    let code = rex(1, dst, at.base, false);
    let code = match size {
        Size::B => code.with(&[0x0f, 0xbe]),
        Size::H => code.with(&[0x0f, 0xbf]),
        Size::W => code.with(&[0x63]),
        Size::DW => code.with(&[0x8b]),
    };
    mem(code, dst, at)
}

/// Operand-size prefix and REX of a store.
fn store_prefix(size: Size, src: R, base: R, byte_reg: bool) -> Code {
    let p = if size == Size::H { Code::of(&[0x66]) } else { Code::new() };
    p.with(&rex(u8::from(size == Size::DW), src, base, byte_reg))
}

/// `mov [at], src`.
pub(crate) fn store(size: Size, at: At, src: R) -> Code {
    let code = store_prefix(size, src, at.base, size == Size::B && byte_needs_rex(src));
    mem(code.with(&[if size == Size::B { 0x88 } else { 0x89 }]), src, at)
}

/// `mov [at], imm` (truncated to the size; sign-extended for 8 bytes).
pub(crate) fn store_imm(size: Size, at: At, imm: i32) -> Code {
    let code = store_prefix(size, 0, at.base, false);
    let code = mem(code.with(&[if size == Size::B { 0xc6 } else { 0xc7 }]), 0, at);
    let bytes = imm.to_le_bytes();
    code.with(&bytes[..(size.bytes() as usize).min(4)])
}

/// `lock op [at], src`.
pub(crate) fn lock_op(size: Size, op: Op, at: At, src: R) -> Code {
    let code = Code::of(&[0xf0]).with(&rex(u8::from(size == Size::DW), src, at.base, false));
    mem(code.with(&[(op as u8) << 3 | 1]), src, at)
}

/// `lock xadd [at], src`.
pub(crate) fn lock_xadd(size: Size, at: At, src: R) -> Code {
    let code = Code::of(&[0xf0]).with(&rex(u8::from(size == Size::DW), src, at.base, false));
    mem(code.with(&[0x0f, 0xc1]), src, at)
}

/// `lock cmpxchg [at], src`: compares with rax.
pub(crate) fn lock_cmpxchg(size: Size, at: At, src: R) -> Code {
    let code = Code::of(&[0xf0]).with(&rex(u8::from(size == Size::DW), src, at.base, false));
    mem(code.with(&[0x0f, 0xb1]), src, at)
}

/// `xchg [at], src`: locked by itself.
pub(crate) fn xchg_mem(size: Size, at: At, src: R) -> Code {
    mem(rex(u8::from(size == Size::DW), src, at.base, false).with(&[0x87]), src, at)
}

/// `inc dword [at]`.
pub(crate) fn inc_mem32(at: At) -> Code {
    mem(rex(0, 0, at.base, false).with(&[0xff]), 0, at)
}

/// `cmp dword [at], imm8`.
pub(crate) fn cmp_mem32_imm8(at: At, imm: i8) -> Code {
    mem(rex(0, 0, at.base, false).with(&[0x83]), 7, at).with(&imm.to_le_bytes())
}

/// `cmp dword [at], r`.
pub(crate) fn cmp_mem32_r(at: At, r: R) -> Code {
    mem(rex(0, r, at.base, false).with(&[0x39]), r, at)
}

/// `mov dst, [base + index*8 + disp32]`, base not rbp/r13.
pub(crate) fn load_indexed8(dst: R, base: R, index: R, disp: i32) -> Code {
    let rex = 0x48 | (dst >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    let sib = 0xc0 | (index & 7) << 3 | base & 7;
    let code = Code::of(&[rex, 0x8b]);
    match imm8(disp) {
        Some(d) => code.with(&[0x44 | (dst & 7) << 3, sib]).with(&d),
        None => code.with(&[0x84 | (dst & 7) << 3, sib]).with(&disp.to_le_bytes()),
    }
}

/// `lea dst, [at]`.
pub(crate) fn lea(width: Width, dst: R, at: At) -> Code {
    mem(rex(w(width), dst, at.base, false).with(&[0x8d]), dst, at)
}

/// `lea dst, [a + b]`, neither of them rsp.
pub(crate) fn lea_rr(width: Width, dst: R, a: R, b: R) -> Code {
    // rbp and r13 have no form without displacement, as a base.
    let (base, index) = if a & 7 == RBP { (b, a) } else { (a, b) };
    let bits = w(width) << 3 | (dst >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    let prefix = if bits == 0 { Code::new() } else { Code::of(&[0x40 | bits]) };
    let sib = (index & 7) << 3 | base & 7;
    let modrm = (dst & 7) << 3 | 4;
    if base & 7 == RBP {
        return prefix.with(&[0x8d, 0x40 | modrm, sib, 0]);
    }
    prefix.with(&[0x8d, modrm, sib])
}

/// `add dst, gs:[disp32]`.
pub(crate) fn add_gs(dst: R, disp: i32) -> Code {
    Code::of(&[0x65, 0x48 | (dst >> 3) << 2, 0x03, 0x04 | (dst & 7) << 3, 0x25])
        .with(&disp.to_le_bytes())
}

/// `cmovbe dst64, src64`.
pub(crate) fn cmovbe(dst: R, src: R) -> Code {
    rex(1, dst, src, false).with(&[0x0f, 0x46, modrm_rr(dst, src)])
}

/// `push r`.
pub(crate) fn push(r: R) -> Code {
    rex(0, 0, r, false).with(&[0x50 | r & 7])
}

/// `pop r`.
pub(crate) fn pop(r: R) -> Code {
    rex(0, 0, r, false).with(&[0x58 | r & 7])
}

/// `leave`.
pub(crate) const LEAVE: [u8; 1] = [0xc9];
/// `ret`.
pub(crate) const RET: [u8; 1] = [0xc3];
/// `nop`.
pub(crate) const NOP: [u8; 1] = [0x90];
/// `jrcxz rel8`.
pub(crate) const JRCXZ: [u8; 2] = [0xe3, 0];
/// `jmp rel8`.
pub(crate) const JMP8: [u8; 2] = [0xeb, 0];
/// `jmp rel32`.
pub(crate) const JMP32: [u8; 5] = [0xe9, 0, 0, 0, 0];
/// `call rel32`.
pub(crate) const CALL: [u8; 5] = [0xe8, 0, 0, 0, 0];

/// `jcc rel8`.
pub(crate) fn jcc8(cc: Cc) -> [u8; 2] {
    [0x70 | cc as u8, 0]
}

/// `jcc rel32` of the condition in the lowest bits of `jcc rel8`.
pub(crate) fn jcc32(near: u8) -> [u8; 6] {
    [0x0f, 0x80 | near & 15, 0, 0, 0, 0]
}

/// `jmp r`.
pub(crate) fn jmp_r(r: R) -> Code {
    rex(0, 0, r, false).with(&[0xff, modrm_rr(4, r)])
}

/// `lea dst, [rip + rel32]`, 7 bytes.
pub(crate) fn lea_rip(dst: R) -> Code {
    rex(1, dst, 0, false).with(&[0x8d, (dst & 7) << 3 | 5, 0, 0, 0, 0])
}

/// Writes the rel8 of an instruction of two bytes.
pub(crate) fn patch_rel8(code: &mut [u8], disp: i64) -> bool {
    let Ok(rel) = i8::try_from(disp - 2) else { return false };
    code[1] = rel.to_le_bytes()[0];
    true
}

/// Writes the rel32 at the end of an instruction of `LEN` bytes.
pub(crate) fn patch_rel32<const LEN: usize>(code: &mut [u8], disp: i64) -> bool {
    let len = i64::try_from(LEN).expect("an instruction is short");
    let Ok(rel) = i32::try_from(disp - len) else { return false };
    code[LEN - 4..LEN].copy_from_slice(&rel.to_le_bytes());
    true
}
