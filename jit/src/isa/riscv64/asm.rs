//! RV64IMAC encoders: one pure function per instruction form, `fn(fields) -> u32`, and `u16` for
//! the compressed forms, which answer `None` when the operands do not fit them.
//!
//! Source: The RISC-V Instruction Set Manual, Volume I (20240411), chapters "RV32/64G Instruction
//! Set Listings" and "C" extension. Every form is checked against llvm-mc in `asm/tests.rs`.
//!
//! Fields of full-size forms are asserted, not masked: a displacement that does not fit is a
//! fault of the caller, who chooses the form with [`fits`].

pub(crate) mod short;

use crate::buffer::word;
use bpf::insn::{Size, Width};

/// A general register, `x0`..`x31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gpr(pub(crate) u8);

/// Always zero.
pub(crate) const ZERO: Gpr = Gpr(0);
/// Return address.
pub(crate) const RA: Gpr = Gpr(1);
/// Stack pointer.
pub(crate) const SP: Gpr = Gpr(2);
/// Thread pointer: the per-CPU base here.
pub(crate) const TP: Gpr = Gpr(4);
/// `t1`
pub(crate) const T1: Gpr = Gpr(6);
/// `t2`
pub(crate) const T2: Gpr = Gpr(7);
/// `s0`, the frame pointer of the C ABI.
pub(crate) const S0: Gpr = Gpr(8);
/// `a0`
pub(crate) const A0: Gpr = Gpr(10);
/// `a5`
pub(crate) const A5: Gpr = Gpr(15);
/// `a6`
pub(crate) const A6: Gpr = Gpr(16);
/// `s5`
pub(crate) const S5: Gpr = Gpr(21);
/// `t3`
pub(crate) const T3: Gpr = Gpr(28);

/// Register-register operations: `funct7 << 25 | funct3 << 12 | opcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    /// `add`
    Add = 0x0000_0033,
    /// `sub`
    Sub = 0x4000_0033,
    /// `sll`
    Sll = 0x0000_1033,
    /// `xor`
    Xor = 0x0000_4033,
    /// `srl`
    Srl = 0x0000_5033,
    /// `sra`
    Sra = 0x4000_5033,
    /// `or`
    Or = 0x0000_6033,
    /// `and`
    And = 0x0000_7033,
    /// `mul`
    Mul = 0x0200_0033,
    /// `div`
    Div = 0x0200_4033,
    /// `divu`
    Divu = 0x0200_5033,
    /// `rem`
    Rem = 0x0200_6033,
    /// `remu`
    Remu = 0x0200_7033,
    /// `addw`
    Addw = 0x0000_003b,
    /// `subw`
    Subw = 0x4000_003b,
    /// `sllw`
    Sllw = 0x0000_103b,
    /// `srlw`
    Srlw = 0x0000_503b,
    /// `sraw`
    Sraw = 0x4000_503b,
    /// `mulw`
    Mulw = 0x0200_003b,
    /// `divw`
    Divw = 0x0200_403b,
    /// `divuw`
    Divuw = 0x0200_503b,
    /// `remw`
    Remw = 0x0200_603b,
    /// `remuw`
    Remuw = 0x0200_703b,
}

/// Operations with a signed 12-bit immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum OpI {
    /// `addi`
    Addi = 0x0000_0013,
    /// `sltiu`
    Sltiu = 0x0000_3013,
    /// `xori`
    Xori = 0x0000_4013,
    /// `ori`
    Ori = 0x0000_6013,
    /// `andi`
    Andi = 0x0000_7013,
    /// `addiw`
    Addiw = 0x0000_001b,
    /// `jalr`
    Jalr = 0x0000_0067,
}

/// Shifts by an immediate count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Shift {
    /// `slli`
    Slli = 0x0000_1013,
    /// `srli`
    Srli = 0x0000_5013,
    /// `srai`
    Srai = 0x4000_5013,
    /// `slliw`
    Slliw = 0x0000_101b,
    /// `srliw`
    Srliw = 0x0000_501b,
    /// `sraiw`
    Sraiw = 0x4000_501b,
}

/// Conditions of a branch; `a > b` is `b < a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cond {
    /// `beq`
    Eq = 0,
    /// `bne`
    Ne = 1,
    /// `blt`
    Lt = 4,
    /// `bge`
    Ge = 5,
    /// `bltu`
    Ltu = 6,
    /// `bgeu`
    Geu = 7,
}

/// Atomic memory operations: `funct5 << 27`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Amo {
    /// `amoadd`
    Add = 0x00 << 27,
    /// `amoswap`
    Swap = 0x01 << 27,
    /// `lr`
    Lr = 0x02 << 27,
    /// `sc`
    Sc = 0x03 << 27,
    /// `amoxor`
    Xor = 0x04 << 27,
    /// `amoor`
    Or = 0x08 << 27,
    /// `amoand`
    And = 0x0c << 27,
}

/// Memory ordering bits of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Order {
    /// None.
    Relaxed = 0,
    /// `.rl`
    Release = 1 << 25,
    /// `.aqrl`
    AcqRel = 3 << 25,
}

const fn r(at: u32, r: Gpr) -> u32 {
    assert!(r.0 < 32, "a register number has five bits");
    (r.0 as u32) << at
}

/// Whether `value` fits a signed field.
pub(crate) const fn fits(value: i64, bits: u32) -> bool {
    let half = 1i64 << (bits - 1);
    -half <= value && value < half
}

/// Two's complement field of `bits` bits.
const fn field(value: i64, bits: u32) -> u32 {
    assert!(fits(value, bits), "the caller has checked the range");
    (value as u32) & (u32::MAX >> (32 - bits))
}

/// Bits `hi..=lo` of `v`, moved to `at`.
const fn part(v: u32, hi: u32, lo: u32, at: u32) -> u32 {
    (v >> lo & ((1 << (hi - lo + 1)) - 1)) << at
}

/// `op rd, rs1, rs2`
pub(crate) const fn op(op: Op, rd: Gpr, rs1: Gpr, rs2: Gpr) -> u32 {
    op as u32 | r(20, rs2) | r(15, rs1) | r(7, rd)
}

/// `op rd, rs1, imm`
pub(crate) const fn op_i(op: OpI, rd: Gpr, rs1: Gpr, imm: i64) -> u32 {
    op as u32 | field(imm, 12) << 20 | r(15, rs1) | r(7, rd)
}

/// `shift rd, rs1, n`
pub(crate) const fn shift(s: Shift, rd: Gpr, rs1: Gpr, n: u32) -> u32 {
    let bits = if s as u32 & 8 == 0 { 64 } else { 32 };
    assert!(n < bits, "the count is below the width");
    s as u32 | n << 20 | r(15, rs1) | r(7, rd)
}

/// `lui rd, imm` where `imm` is the upper 20 bits, signed
pub(crate) const fn lui(rd: Gpr, imm: i64) -> u32 {
    0x37 | field(imm, 20) << 12 | r(7, rd)
}

/// `auipc rd, imm` where `imm` is the upper 20 bits, signed
pub(crate) const fn auipc(rd: Gpr, imm: i64) -> u32 {
    0x17 | field(imm, 20) << 12 | r(7, rd)
}

/// `l{b,h,w,d} rd, off(rs1)`, or the zero-extending forms when not `sext`
pub(crate) const fn load(s: Size, sext: bool, rd: Gpr, rs1: Gpr, off: i64) -> u32 {
    let funct3 = match (s, sext) {
        (Size::B, true) => 0,
        (Size::H, true) => 1,
        (Size::W, true) => 2,
        (Size::DW, _) => 3,
        (Size::B, false) => 4,
        (Size::H, false) => 5,
        (Size::W, false) => 6,
    };
    0x03 | field(off, 12) << 20 | r(15, rs1) | funct3 << 12 | r(7, rd)
}

const fn log2(s: Size) -> u32 {
    s.bytes().trailing_zeros()
}

/// `s{b,h,w,d} rs2, off(rs1)`
pub(crate) const fn store(s: Size, rs2: Gpr, rs1: Gpr, off: i64) -> u32 {
    let imm = field(off, 12);
    let imm = part(imm, 11, 5, 25) | part(imm, 4, 0, 7);
    0x23 | imm | r(20, rs2) | r(15, rs1) | log2(s) << 12
}

/// `b<cond> rs1, rs2, disp`
pub(crate) const fn branch(c: Cond, rs1: Gpr, rs2: Gpr, disp: i64) -> u32 {
    assert!(disp % 2 == 0, "instructions are half-words");
    let imm = field(disp, 13);
    let imm =
        part(imm, 12, 12, 31) | part(imm, 10, 5, 25) | part(imm, 4, 1, 8) | part(imm, 11, 11, 7);
    0x63 | imm | r(20, rs2) | r(15, rs1) | (c as u32) << 12
}

/// `jal rd, disp`
pub(crate) const fn jal(rd: Gpr, disp: i64) -> u32 {
    assert!(disp % 2 == 0, "instructions are half-words");
    let imm = field(disp, 21);
    let imm = part(imm, 20, 20, 31)
        | part(imm, 10, 1, 21)
        | part(imm, 11, 11, 20)
        | part(imm, 19, 12, 12);
    0x6f | imm | r(7, rd)
}

/// `<amo>.{w,d}<order> rd, rs2, (rs1)`; `lr` has `rs2` = `x0`
pub(crate) const fn amo(a: Amo, s: Size, order: Order, rd: Gpr, rs2: Gpr, rs1: Gpr) -> u32 {
    assert!(matches!(s, Size::W | Size::DW), "the A extension has words and double words");
    a as u32 | order as u32 | r(20, rs2) | r(15, rs1) | log2(s) << 12 | r(7, rd) | 0x2f
}

/// `fence pred, succ`, sets of i=8, o=4, r=2, w=1
pub(crate) const fn fence(pred: u32, succ: u32) -> u32 {
    assert!(pred < 16 && succ < 16, "four bits each");
    0x0f | pred << 24 | succ << 20
}

/// Splits a pc-relative or absolute 32-bit value into the `lui`/`auipc` part and the signed low
/// 12 bits that follow it; `None` when out of reach.
pub(crate) const fn hi_lo(value: i64) -> Option<(i64, i64)> {
    let lo = (value << 52) >> 52;
    let hi = (value - lo) >> 12;
    if fits(hi, 20) { Some((hi, lo)) } else { None }
}

/// Register number in the three-bit fields, `x8`..`x15`.
const fn c3(g: Gpr) -> Option<u32> {
    if g.0 >= 8 && g.0 < 16 { Some(g.0 as u32 - 8) } else { None }
}

/// CI-type: five register bits, imm[5] in bit 12 and imm[4:0] in bits 6:2.
const fn ci(base: u32, rd: Gpr, imm: u32) -> u16 {
    (base | part(imm, 5, 5, 12) | r(7, rd) | part(imm, 4, 0, 2)) as u16
}

/// `c.addi rd, imm`
pub(crate) const fn c_addi(rd: Gpr, imm: i64) -> Option<u16> {
    if rd.0 == 0 || imm == 0 || !fits(imm, 6) {
        return None;
    }
    Some(ci(0x0001, rd, field(imm, 6)))
}

/// `c.addiw rd, imm`
pub(crate) const fn c_addiw(rd: Gpr, imm: i64) -> Option<u16> {
    if rd.0 == 0 || !fits(imm, 6) {
        return None;
    }
    Some(ci(0x2001, rd, field(imm, 6)))
}

/// `c.li rd, imm`
pub(crate) const fn c_li(rd: Gpr, imm: i64) -> Option<u16> {
    if rd.0 == 0 || !fits(imm, 6) {
        return None;
    }
    Some(ci(0x4001, rd, field(imm, 6)))
}

/// `c.lui rd, imm`
pub(crate) const fn c_lui(rd: Gpr, imm: i64) -> Option<u16> {
    if rd.0 == 0 || rd.0 == 2 || imm == 0 || !fits(imm, 6) {
        return None;
    }
    Some(ci(0x6001, rd, field(imm, 6)))
}

/// `c.addi16sp imm`
pub(crate) const fn c_addi16sp(imm: i64) -> Option<u16> {
    if imm == 0 || imm % 16 != 0 || !fits(imm, 10) {
        return None;
    }
    let v = field(imm, 10);
    let bits = part(v, 9, 9, 12)
        | part(v, 4, 4, 6)
        | part(v, 6, 6, 5)
        | part(v, 8, 7, 3)
        | part(v, 5, 5, 2);
    Some((0x6101 | bits) as u16)
}

/// `c.addi4spn rd, imm`
pub(crate) const fn c_addi4spn(rd: Gpr, imm: i64) -> Option<u16> {
    let Some(rd) = c3(rd) else { return None };
    if imm <= 0 || imm % 4 != 0 || imm >= 1024 {
        return None;
    }
    let v = imm as u32;
    let bits = part(v, 5, 4, 11) | part(v, 9, 6, 7) | part(v, 2, 2, 6) | part(v, 3, 3, 5) | rd << 2;
    Some(bits as u16)
}

/// `c.slli rd, n`
pub(crate) const fn c_slli(rd: Gpr, n: u32) -> Option<u16> {
    if rd.0 == 0 || n == 0 || n > 63 {
        return None;
    }
    Some(ci(0x0002, rd, n))
}

/// `c.srli rd, n`, or `c.srai`
pub(crate) const fn c_srxi(arith: bool, rd: Gpr, n: u32) -> Option<u16> {
    let Some(rd) = c3(rd) else { return None };
    if n == 0 || n > 63 {
        return None;
    }
    let base = if arith { 0x8401 } else { 0x8001 };
    Some((base | part(n, 5, 5, 12) | rd << 7 | part(n, 4, 0, 2)) as u16)
}

/// `c.andi rd, imm`
pub(crate) const fn c_andi(rd: Gpr, imm: i64) -> Option<u16> {
    let Some(rd) = c3(rd) else { return None };
    if !fits(imm, 6) {
        return None;
    }
    let v = field(imm, 6);
    Some((0x8801 | part(v, 5, 5, 12) | rd << 7 | part(v, 4, 0, 2)) as u16)
}

/// `c.mv rd, rs2`
pub(crate) const fn c_mv(rd: Gpr, rs2: Gpr) -> Option<u16> {
    if rd.0 == 0 || rs2.0 == 0 {
        return None;
    }
    Some((0x8002 | r(7, rd) | r(2, rs2)) as u16)
}

/// `c.add rd, rs2`
pub(crate) const fn c_add(rd: Gpr, rs2: Gpr) -> Option<u16> {
    if rd.0 == 0 || rs2.0 == 0 {
        return None;
    }
    Some((0x9002 | r(7, rd) | r(2, rs2)) as u16)
}

/// `c.{sub,xor,or,and,subw,addw} rd, rs2`
pub(crate) const fn c_op(o: Op, rd: Gpr, rs2: Gpr) -> Option<u16> {
    let base = match o {
        Op::Sub => 0x8c01,
        Op::Xor => 0x8c21,
        Op::Or => 0x8c41,
        Op::And => 0x8c61,
        Op::Subw => 0x9c01,
        Op::Addw => 0x9c21,
        _ => return None,
    };
    let (Some(rd), Some(rs2)) = (c3(rd), c3(rs2)) else { return None };
    Some((base | rd << 7 | rs2 << 2) as u16)
}

/// Displacement bits of `c.lw`/`c.ld` and the stores: scaled, unsigned, five bits.
const fn c_mem_off(s: Size, off: i64) -> Option<u32> {
    let v = off as u32;
    match s {
        Size::W if off >= 0 && off < 128 && off % 4 == 0 => {
            Some(0x4000 | part(v, 5, 3, 10) | part(v, 2, 2, 6) | part(v, 6, 6, 5))
        }
        Size::DW if off >= 0 && off < 256 && off % 8 == 0 => {
            Some(0x6000 | part(v, 5, 3, 10) | part(v, 7, 6, 5))
        }
        _ => None,
    }
}

/// `c.lw rd, off(rs1)` (sign-extends) and `c.ld`
pub(crate) const fn c_load(s: Size, rd: Gpr, rs1: Gpr, off: i64) -> Option<u16> {
    let (Some(rd), Some(rs1), Some(bits)) = (c3(rd), c3(rs1), c_mem_off(s, off)) else {
        return None;
    };
    Some((bits | rs1 << 7 | rd << 2) as u16)
}

/// `c.sw rs2, off(rs1)` and `c.sd`
pub(crate) const fn c_store(s: Size, rs2: Gpr, rs1: Gpr, off: i64) -> Option<u16> {
    let (Some(rs2), Some(rs1), Some(bits)) = (c3(rs2), c3(rs1), c_mem_off(s, off)) else {
        return None;
    };
    Some((0x8000 | bits | rs1 << 7 | rs2 << 2) as u16)
}

/// `c.ldsp rd, off(sp)`
pub(crate) const fn c_ldsp(rd: Gpr, off: i64) -> Option<u16> {
    if rd.0 == 0 || off < 0 || off >= 512 || off % 8 != 0 {
        return None;
    }
    let v = off as u32;
    let bits = part(v, 5, 5, 12) | part(v, 4, 3, 5) | part(v, 8, 6, 2);
    Some((0x6002 | bits | r(7, rd)) as u16)
}

/// `c.sdsp rs2, off(sp)`
pub(crate) const fn c_sdsp(rs2: Gpr, off: i64) -> Option<u16> {
    if off < 0 || off >= 512 || off % 8 != 0 {
        return None;
    }
    let v = off as u32;
    Some((0xe002 | part(v, 5, 3, 10) | part(v, 8, 6, 7) | r(2, rs2)) as u16)
}

/// `c.j disp`
pub(crate) const fn c_j(disp: i64) -> Option<u16> {
    if disp % 2 != 0 || !fits(disp, 12) {
        return None;
    }
    let v = field(disp, 12);
    let bits = part(v, 11, 11, 12)
        | part(v, 4, 4, 11)
        | part(v, 9, 8, 9)
        | part(v, 10, 10, 8)
        | part(v, 6, 6, 7)
        | part(v, 7, 7, 6)
        | part(v, 3, 1, 3)
        | part(v, 5, 5, 2);
    Some((0xa001 | bits) as u16)
}

/// `c.beqz rs1, disp` and `c.bnez`
pub(crate) const fn c_branch(c: Cond, rs1: Gpr, disp: i64) -> Option<u16> {
    let base = match c {
        Cond::Eq => 0xc001,
        Cond::Ne => 0xe001,
        _ => return None,
    };
    let Some(rs1) = c3(rs1) else { return None };
    if disp % 2 != 0 || !fits(disp, 9) {
        return None;
    }
    let v = field(disp, 9);
    let bits = part(v, 8, 8, 12)
        | part(v, 4, 3, 10)
        | part(v, 7, 6, 5)
        | part(v, 2, 1, 3)
        | part(v, 5, 5, 2);
    Some((base | bits | rs1 << 7) as u16)
}

/// `c.jr rs1`
pub(crate) const fn c_jr(rs1: Gpr) -> Option<u16> {
    if rs1.0 == 0 { None } else { Some((0x8002 | r(7, rs1)) as u16) }
}

/// `c.jalr rs1`
pub(crate) const fn c_jalr(rs1: Gpr) -> Option<u16> {
    if rs1.0 == 0 { None } else { Some((0x9002 | r(7, rs1)) as u16) }
}

/// One of two forms by width.
pub(crate) const fn by_width<T: Copy>(w: Width, w32: T, w64: T) -> T {
    match w {
        Width::W32 => w32,
        Width::W64 => w64,
    }
}

/// `c.nop`
pub(crate) const C_NOP: u16 = 0x0001;

/// Replaces the bits of the word at the start of `code` that are not in `keep` by those of `new`.
fn patch(code: &mut [u8], keep: u32, new: u32) {
    let word = word(code);
    code[..4].copy_from_slice(&(word & keep | new & !keep).to_le_bytes());
}

/// Branches: +-4 KiB.
pub(crate) fn patch_branch(code: &mut [u8], disp: i64) -> bool {
    if !fits(disp, 13) {
        return false;
    }
    patch(code, 0x01ff_f07f, branch(Cond::Eq, ZERO, ZERO, disp));
    true
}

/// `jal`: +-1 MiB.
pub(crate) fn patch_jal(code: &mut [u8], disp: i64) -> bool {
    if !fits(disp, 21) {
        return false;
    }
    patch(code, 0xfff, jal(ZERO, disp));
    true
}

/// `auipc` and the I-type instruction after it: +-2 GiB.
pub(crate) fn patch_pair(code: &mut [u8], disp: i64) -> bool {
    let Some((hi, lo)) = hi_lo(disp) else { return false };
    patch(code, 0xfff, auipc(ZERO, hi));
    patch(&mut code[4..], 0xf_ffff, op_i(OpI::Addi, ZERO, ZERO, lo));
    true
}

fn patch_half(code: &mut [u8], keep: u16, new: Option<u16>) -> bool {
    let Some(new) = new else { return false };
    let half = u16::from_le_bytes([code[0], code[1]]);
    code[..2].copy_from_slice(&(half & keep | new & !keep).to_le_bytes());
    true
}

/// `c.j`: +-2 KiB.
pub(crate) fn patch_c_j(code: &mut [u8], disp: i64) -> bool {
    patch_half(code, 0xe003, c_j(disp))
}

/// `c.beqz`, `c.bnez`: +-256 bytes.
pub(crate) fn patch_c_branch(code: &mut [u8], disp: i64) -> bool {
    patch_half(code, 0xe383, c_branch(Cond::Eq, S0, disp))
}

#[cfg(test)]
mod tests;
