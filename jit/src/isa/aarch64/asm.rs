//! A64 encoders: one pure function per instruction form, `fn(fields) -> u32`.
//!
//! Source: Arm Architecture Reference Manual (DDI 0487), section C4.1, "A64 instruction set
//! encoding". Every form is checked against llvm-mc in `asm/tests.rs`.
//!
//! Fields are asserted, not masked: a displacement that does not fit is a fault of the caller,
//! who chooses the form with the `fits_*` functions and [`bitmask`].

use crate::buffer::word;
use bpf::insn::{Size, Width};

/// A general register. Number 31 is `xzr` or `sp`, as the form says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gpr(pub(crate) u8);

/// Zero register, where the form reads 31 as `xzr`.
pub(crate) const ZR: Gpr = Gpr(31);
/// Stack pointer, where the form reads 31 as `sp`.
pub(crate) const SP: Gpr = Gpr(31);

/// Condition codes of `b.cond`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cond {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Ne = 1,
    /// Unsigned >=.
    Hs = 2,
    /// Unsigned <.
    Lo = 3,
    /// Unsigned >.
    Hi = 8,
    /// Unsigned <=.
    Ls = 9,
    /// Signed >=.
    Ge = 10,
    /// Signed <.
    Lt = 11,
    /// Signed >.
    Gt = 12,
    /// Signed <=.
    Le = 13,
}

/// Direction and extension of a single-register load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mem {
    /// Store.
    St = 0,
    /// Load, zero-extended.
    Ld = 1,
    /// Load, sign-extended to 64 bits (never with `DW`).
    LdSx = 2,
}

/// Two-operand instructions of the shifted-register and logical classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op3 {
    /// `add`
    Add = 0x0b00_0000,
    /// `sub`
    Sub = 0x4b00_0000,
    /// `subs`
    Subs = 0x6b00_0000,
    /// `and`
    And = 0x0a00_0000,
    /// `orr`
    Orr = 0x2a00_0000,
    /// `orn`
    Orn = 0x2a20_0000,
    /// `eor`
    Eor = 0x4a00_0000,
    /// `udiv`
    Udiv = 0x1ac0_0800,
    /// `sdiv`
    Sdiv = 0x1ac0_0c00,
    /// `lsl` by register
    Lslv = 0x1ac0_2000,
    /// `lsr` by register
    Lsrv = 0x1ac0_2400,
    /// `asr` by register
    Asrv = 0x1ac0_2800,
}

/// Arithmetic with a 12-bit immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum OpImm {
    /// `add`
    Add = 0x1100_0000,
    /// `adds` (`cmn`)
    Adds = 0x3100_0000,
    /// `sub`
    Sub = 0x5100_0000,
    /// `subs` (`cmp`)
    Subs = 0x7100_0000,
}

/// Logic with a bitmask immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum OpMask {
    /// `and`
    And = 0x1200_0000,
    /// `orr`
    Orr = 0x3200_0000,
    /// `eor`
    Eor = 0x5200_0000,
}

/// Wide moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Wide {
    /// `movn`
    N = 0x1280_0000,
    /// `movz`
    Z = 0x5280_0000,
    /// `movk`
    K = 0x7280_0000,
}

/// Atomic memory operations of FEAT_LSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Lse {
    /// `ldadd`, `stadd`
    Add = 0x3820_0000,
    /// `ldclr`, `stclr`: and with the complement
    Clr = 0x3820_1000,
    /// `ldeor`, `steor`
    Eor = 0x3820_2000,
    /// `ldset`, `stset`
    Set = 0x3820_3000,
    /// `swp`
    Swp = 0x3820_8000,
}

/// Addressing of a register pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Pair {
    /// `stp a, b, [n, #off]`
    St = 0xa900_0000,
    /// `stp a, b, [n, #off]!`
    StPre = 0xa980_0000,
    /// `ldp a, b, [n, #off]`
    Ld = 0xa940_0000,
    /// `ldp a, b, [n], #off`
    LdPost = 0xa8c0_0000,
}

const fn sf(w: Width) -> u32 {
    match w {
        Width::W32 => 0,
        Width::W64 => 1 << 31,
    }
}

const fn r(at: u32, r: Gpr) -> u32 {
    assert!(r.0 < 32, "a register number has five bits");
    (r.0 as u32) << at
}

/// Two's complement field of `bits` bits.
const fn field(value: i64, bits: u32) -> u32 {
    assert!(fits(value, bits), "the caller has checked the range");
    (value as u32) & (u32::MAX >> (32 - bits))
}

/// Unsigned field of `bits` bits.
const fn ufield(value: u32, bits: u32) -> u32 {
    assert!(value < 1 << bits, "the caller has checked the range");
    value
}

/// Whether `value` fits a signed field.
pub(crate) const fn fits(value: i64, bits: u32) -> bool {
    let half = 1i64 << (bits - 1);
    -half <= value && value < half
}

/// Whether `value` is an arithmetic immediate: 12 bits, or 12 bits shifted left by 12.
pub(crate) const fn fits_arith(value: u64) -> bool {
    value < 1 << 12 || (value & 0xfff == 0 && value < 1 << 24)
}

/// Whether `off` is a scaled, unsigned 12-bit displacement for an access of `size`.
pub(crate) const fn fits_scaled(off: i64, size: Size) -> bool {
    let bytes = size.bytes() as i64;
    off >= 0 && off % bytes == 0 && off / bytes < 1 << 12
}

/// `op rd, rn, rm`
pub(crate) const fn op3(op: Op3, w: Width, rd: Gpr, rn: Gpr, rm: Gpr) -> u32 {
    op as u32 | sf(w) | r(16, rm) | r(5, rn) | r(0, rd)
}

/// `add rd, rn, rm, lsl #shift`
pub(crate) const fn add_lsl(w: Width, rd: Gpr, rn: Gpr, rm: Gpr, shift: u32) -> u32 {
    assert!(shift < if matches!(w, Width::W64) { 64 } else { 32 }, "a shift within the width");
    op3(Op3::Add, w, rd, rn, rm) | shift << 10
}

/// `add rd, rn, wm, <uxtw|sxtw> #shift`; `rn` may be `sp`
pub(crate) const fn add_ext(rd: Gpr, rn: Gpr, rm: Gpr, signed: bool, shift: u32) -> u32 {
    let option = if signed { 6 << 13 } else { 2 << 13 };
    assert!(shift <= 4, "extended operands shift by up to 4");
    0x8b20_0000 | option | shift << 10 | r(16, rm) | r(5, rn) | r(0, rd)
}

/// `csel rd, rn, rm, cond`: cond ? rn : rm
pub(crate) const fn csel(rd: Gpr, rn: Gpr, rm: Gpr, c: Cond) -> u32 {
    0x9a80_0000 | (c as u32) << 12 | r(16, rm) | r(5, rn) | r(0, rd)
}

/// `op rd, rn, #value`; `sp` is allowed for `rd` (not in the flag-setting forms) and `rn`.
pub(crate) const fn op_imm(op: OpImm, w: Width, rd: Gpr, rn: Gpr, value: u64) -> u32 {
    assert!(fits_arith(value), "the caller has checked the range");
    let imm = if value < 1 << 12 { (value as u32) << 10 } else { 1 << 22 | (value as u32) >> 2 };
    op as u32 | sf(w) | imm | r(5, rn) | r(0, rd)
}

/// `op rd, rn, #mask`, with a mask from [`bitmask`].
pub(crate) const fn op_mask(op: OpMask, w: Width, rd: Gpr, rn: Gpr, mask: Bitmask) -> u32 {
    op as u32 | sf(w) | (mask.0 as u32) << 10 | r(5, rn) | r(0, rd)
}

/// `mov{z,n,k} rd, #imm, lsl #(16 * hw)`
pub(crate) const fn wide(op: Wide, w: Width, rd: Gpr, imm: u16, hw: u32) -> u32 {
    op as u32 | sf(w) | ufield(hw, 2) << 21 | (imm as u32) << 5 | r(0, rd)
}

/// `mov rd, rm` (`orr rd, zr, rm`)
pub(crate) const fn mov(w: Width, rd: Gpr, rm: Gpr) -> u32 {
    op3(Op3::Orr, w, rd, ZR, rm)
}

/// `madd rd, rn, rm, ra`; `mul` with `ra` = `xzr`
pub(crate) const fn madd(w: Width, rd: Gpr, rn: Gpr, rm: Gpr, ra: Gpr) -> u32 {
    0x1b00_0000 | sf(w) | r(16, rm) | r(10, ra) | r(5, rn) | r(0, rd)
}

/// `msub rd, rn, rm, ra`: ra - rn * rm
pub(crate) const fn msub(w: Width, rd: Gpr, rn: Gpr, rm: Gpr, ra: Gpr) -> u32 {
    0x1b00_8000 | sf(w) | r(16, rm) | r(10, ra) | r(5, rn) | r(0, rd)
}

const fn bitfield(base: u32, w: Width, rd: Gpr, rn: Gpr, immr: u32, imms: u32) -> u32 {
    let (n, bits) = match w {
        Width::W32 => (0, 5),
        Width::W64 => (1 << 22, 6),
    };
    base | sf(w) | n | ufield(immr, bits) << 16 | ufield(imms, bits) << 10 | r(5, rn) | r(0, rd)
}

/// `ubfm rd, rn, #immr, #imms`
pub(crate) const fn ubfm(w: Width, rd: Gpr, rn: Gpr, immr: u32, imms: u32) -> u32 {
    bitfield(0x5300_0000, w, rd, rn, immr, imms)
}

/// `sbfm rd, rn, #immr, #imms`
pub(crate) const fn sbfm(w: Width, rd: Gpr, rn: Gpr, immr: u32, imms: u32) -> u32 {
    bitfield(0x1300_0000, w, rd, rn, immr, imms)
}

const fn top(w: Width) -> u32 {
    match w {
        Width::W32 => 31,
        Width::W64 => 63,
    }
}

/// `lsl rd, rn, #n`
pub(crate) const fn lsl_imm(w: Width, rd: Gpr, rn: Gpr, n: u32) -> u32 {
    ubfm(w, rd, rn, n.wrapping_neg() & top(w), top(w) - n)
}

/// `lsr rd, rn, #n`
pub(crate) const fn lsr_imm(w: Width, rd: Gpr, rn: Gpr, n: u32) -> u32 {
    ubfm(w, rd, rn, n, top(w))
}

/// `asr rd, rn, #n`
pub(crate) const fn asr_imm(w: Width, rd: Gpr, rn: Gpr, n: u32) -> u32 {
    sbfm(w, rd, rn, n, top(w))
}

/// `rev16 rd, rn`: swaps the bytes of each half-word
pub(crate) const fn rev16(w: Width, rd: Gpr, rn: Gpr) -> u32 {
    0x5ac0_0400 | sf(w) | r(5, rn) | r(0, rd)
}

/// `rev rd, rn`: swaps the bytes of the whole register
pub(crate) const fn rev(w: Width, rd: Gpr, rn: Gpr) -> u32 {
    let opc = match w {
        Width::W32 => 0x800,
        Width::W64 => 0xc00,
    };
    0x5ac0_0000 | sf(w) | opc | r(5, rn) | r(0, rd)
}

const fn size(s: Size) -> u32 {
    match s {
        Size::B => 0,
        Size::H => 1 << 30,
        Size::W => 2 << 30,
        Size::DW => 3 << 30,
    }
}

const fn mem_op(m: Mem, s: Size) -> u32 {
    assert!(!matches!((m, s), (Mem::LdSx, Size::DW)), "nothing to extend");
    size(s) | (m as u32) << 22
}

/// `ldr/str rt, [rn, #off]`, scaled unsigned displacement
pub(crate) const fn mem_scaled(m: Mem, s: Size, rt: Gpr, rn: Gpr, off: i64) -> u32 {
    assert!(fits_scaled(off, s), "the caller has checked the range");
    let imm = off as u32 / s.bytes();
    0x3900_0000 | mem_op(m, s) | imm << 10 | r(5, rn) | r(0, rt)
}

/// `ldur/stur rt, [rn, #off]`, unscaled signed 9-bit displacement
pub(crate) const fn mem_unscaled(m: Mem, s: Size, rt: Gpr, rn: Gpr, off: i64) -> u32 {
    0x3800_0000 | mem_op(m, s) | field(off, 9) << 12 | r(5, rn) | r(0, rt)
}

/// `ldr/str rt, [rn, rm]`
pub(crate) const fn mem_reg(m: Mem, s: Size, rt: Gpr, rn: Gpr, rm: Gpr) -> u32 {
    0x3820_6800 | mem_op(m, s) | r(16, rm) | r(5, rn) | r(0, rt)
}

/// `ldp/stp` of two 64-bit registers
pub(crate) const fn pair(p: Pair, rt: Gpr, rt2: Gpr, rn: Gpr, off: i64) -> u32 {
    assert!(off % 8 == 0, "pairs are scaled by 8");
    p as u32 | field(off / 8, 7) << 15 | r(10, rt2) | r(5, rn) | r(0, rt)
}

/// `str rt, [rn, #off]!`
pub(crate) const fn str_pre(rt: Gpr, rn: Gpr, off: i64) -> u32 {
    0xf800_0c00 | field(off, 9) << 12 | r(5, rn) | r(0, rt)
}

/// `ldr rt, [rn], #off`
pub(crate) const fn ldr_post(rt: Gpr, rn: Gpr, off: i64) -> u32 {
    0xf840_0400 | field(off, 9) << 12 | r(5, rn) | r(0, rt)
}

/// `ld<op>[al] rs, rt, [rn]`; `st<op>` is the relaxed form with `rt` = `xzr`
pub(crate) const fn lse(op: Lse, s: Size, acq_rel: bool, rs: Gpr, rt: Gpr, rn: Gpr) -> u32 {
    let order = if acq_rel { 3 << 22 } else { 0 };
    op as u32 | size(s) | order | r(16, rs) | r(5, rn) | r(0, rt)
}

/// `casal rs, rt, [rn]`: if `[rn] == rs` then `[rn] = rt`; `rs` = the old value
pub(crate) const fn casal(s: Size, rs: Gpr, rt: Gpr, rn: Gpr) -> u32 {
    0x08e0_fc00 | size(s) | r(16, rs) | r(5, rn) | r(0, rt)
}

/// `ldar rt, [rn]`
pub(crate) const fn ldar(s: Size, rt: Gpr, rn: Gpr) -> u32 {
    0x08df_fc00 | size(s) | r(5, rn) | r(0, rt)
}

/// `stlr rt, [rn]`
pub(crate) const fn stlr(s: Size, rt: Gpr, rn: Gpr) -> u32 {
    0x089f_fc00 | size(s) | r(5, rn) | r(0, rt)
}

const fn words(disp: i64, bits: u32) -> u32 {
    assert!(disp % 4 == 0, "instructions are words");
    field(disp / 4, bits)
}

/// `b disp`
pub(crate) const fn b(disp: i64) -> u32 {
    0x1400_0000 | words(disp, 26)
}

/// `bl disp`
pub(crate) const fn bl(disp: i64) -> u32 {
    0x9400_0000 | words(disp, 26)
}

/// `b.cond disp`
pub(crate) const fn b_cond(c: Cond, disp: i64) -> u32 {
    0x5400_0000 | words(disp, 19) << 5 | c as u32
}

/// `cbz rt, disp`
pub(crate) const fn cbz(w: Width, rt: Gpr, disp: i64) -> u32 {
    0x3400_0000 | sf(w) | words(disp, 19) << 5 | r(0, rt)
}

/// `cbnz rt, disp`
pub(crate) const fn cbnz(w: Width, rt: Gpr, disp: i64) -> u32 {
    0x3500_0000 | sf(w) | words(disp, 19) << 5 | r(0, rt)
}

const fn test_bit(base: u32, rt: Gpr, bit: u32, disp: i64) -> u32 {
    let bit = ufield(bit, 6);
    base | (bit >> 5) << 31 | (bit & 31) << 19 | words(disp, 14) << 5 | r(0, rt)
}

/// `tbz rt, #bit, disp`
pub(crate) const fn tbz(rt: Gpr, bit: u32, disp: i64) -> u32 {
    test_bit(0x3600_0000, rt, bit, disp)
}

/// `tbnz rt, #bit, disp`
pub(crate) const fn tbnz(rt: Gpr, bit: u32, disp: i64) -> u32 {
    test_bit(0x3700_0000, rt, bit, disp)
}

/// `br rn`
pub(crate) const fn br(rn: Gpr) -> u32 {
    0xd61f_0000 | r(5, rn)
}

/// `ret`
pub(crate) const fn ret() -> u32 {
    0xd65f_03c0
}

/// `adr rd, disp`
pub(crate) const fn adr(rd: Gpr, disp: i64) -> u32 {
    let imm = field(disp, 21);
    0x1000_0000 | (imm & 3) << 29 | (imm >> 2) << 5 | r(0, rd)
}

/// `ldr rt, disp`: a doubleword at a distance of the instruction
pub(crate) const fn ldr_literal(rt: Gpr, disp: i64) -> u32 {
    0x5800_0000 | words(disp, 19) << 5 | r(0, rt)
}

/// `mrs rt, tpidr_el1`: where the arm64 kernel keeps its per-CPU offset
pub(crate) const fn mrs_tpidr_el1(rt: Gpr) -> u32 {
    0xd538_d080 | r(0, rt)
}

/// `nop`
pub(crate) const fn nop() -> u32 {
    0xd503_201f
}

/// The 13 bits `N:immr:imms` of a bitmask immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bitmask(u16);

/// Encodes `value` as a bitmask immediate (pseudocode `DecodeBitMasks`, read backwards): a run of
/// ones, rotated, repeated in elements of 2, 4, .. 64 bits. In 32-bit forms the upper half of
/// `value` is ignored.
pub(crate) const fn bitmask(w: Width, value: u64) -> Option<Bitmask> {
    let value = match w {
        Width::W32 => (value & 0xffff_ffff) | value << 32,
        Width::W64 => value,
    };
    if value == 0 || value == u64::MAX {
        return None;
    }
    let mut bits = 64;
    while bits > 2 {
        let half = bits / 2;
        let low = value & ((1 << half) - 1);
        if low != (value >> half) & ((1 << half) - 1) {
            break;
        }
        bits = half;
    }
    let ones_mask = u64::MAX >> (64 - bits);
    let elem = value & ones_mask;
    let ones = elem.count_ones();
    // The element is `(1 << ones) - 1` rotated right by `rotation`.
    let run = (1u64 << ones) - 1;
    let mut rotation = 0;
    while rotation < bits {
        let left = (bits - rotation) % bits;
        let rotated = if rotation == 0 { run } else { (run >> rotation | run << left) & ones_mask };
        if rotated == elem {
            let n = if bits == 64 { 1 << 12 } else { 0 };
            let imms = (!(bits * 2 - 1) & 0x3f) | (ones - 1);
            return Some(Bitmask(n | (rotation as u16) << 6 | imms as u16));
        }
        rotation += 1;
    }
    None
}

/// Replaces the field `mask` of the word at the start of `code`.
fn patch(code: &mut [u8], mask: u32, field: u32) {
    let word = word(code);
    code[..4].copy_from_slice(&(word & !mask | field).to_le_bytes());
}

fn patch_branch(code: &mut [u8], disp: i64, bits: u32, at: u32) -> bool {
    if !fits(disp, bits + 2) {
        return false;
    }
    let field = words(disp, bits) << at;
    patch(code, (u32::MAX >> (32 - bits)) << at, field);
    true
}

/// `b`, `bl`: +-128 MiB.
pub(crate) fn patch_branch26(code: &mut [u8], disp: i64) -> bool {
    patch_branch(code, disp, 26, 0)
}

/// `b.cond`, `cbz`, `cbnz`: +-1 MiB.
pub(crate) fn patch_branch19(code: &mut [u8], disp: i64) -> bool {
    patch_branch(code, disp, 19, 5)
}

/// `tbz`, `tbnz`: +-32 KiB.
pub(crate) fn patch_branch14(code: &mut [u8], disp: i64) -> bool {
    patch_branch(code, disp, 14, 5)
}

/// `adr`: +-1 MiB.
pub(crate) fn patch_adr(code: &mut [u8], disp: i64) -> bool {
    if !fits(disp, 21) {
        return false;
    }
    patch(code, 0x60ff_ffe0, adr(Gpr(0), disp) & 0x60ff_ffe0);
    true
}

/// `movz`, `movk lsl #16` that start `SKIP` bytes on: a signed 32-bit distance.
pub(crate) fn patch_wide32<const SKIP: usize>(code: &mut [u8], disp: i64) -> bool {
    if !fits(disp, 32) {
        return false;
    }
    let value = disp as u32;
    patch(&mut code[SKIP..], 0xffff << 5, (value & 0xffff) << 5);
    patch(&mut code[SKIP + 4..], 0xffff << 5, (value >> 16) << 5);
    true
}

#[cfg(test)]
mod tests;
