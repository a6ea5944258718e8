//! Slots to instructions.
//!
//! The kernel finds a malformed slot in one of two places: `resolve_pseudo_ldimm64` walks the
//! whole program (mode of LDX, shape of `ld_imm64`, known opcode) before `do_check` looks at the
//! reserved fields of the instructions it reaches. [`decode_all`] keeps that order, so the first
//! error it reports is the one the kernel reports. What an [`Insn`] can express is not refused
//! here even if it is wrong in every state (`r1 /= 0`): see [`operand_error`].
use super::{AluOp, AtomicOp, Call, Cast, EndianOp, Imm64, JmpOp};
use super::{Insn, InsnIdx, Reg, Size, Slot, Src, Width};

/// Why a slot is not an instruction; the text is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// Slot index.
    pub at: InsnIdx,
    /// Kernel message, e.g. `unknown opcode 0f`.
    pub message: String,
}

const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const ALU: u8 = 4;
const JMP: u8 = 5;
const JMP32: u8 = 6;
const ALU64: u8 = 7;

const MODE_IMM: u8 = 0x00;
const MODE_ABS: u8 = 0x20;
const MODE_IND: u8 = 0x40;
const MODE_MEM: u8 = 0x60;
const MODE_MEMSX: u8 = 0x80;
const MODE_ATOMIC: u8 = 0xc0;

/// Opcode of `ld_imm64`.
pub(super) const LD_IMM64: u8 = 0x18;
/// `imm` of a load-acquire.
pub(super) const LOAD_ACQ: i32 = 0x100;
/// `imm` of a store-release.
pub(super) const STORE_REL: i32 = 0x110;

/// Fields of a slot, taken apart.
impl Slot {
    const fn class(self) -> u8 {
        self.code & 7
    }
    const fn mode(self) -> u8 {
        self.code & 0xe0
    }
    /// Operation nibble of ALU and JMP classes.
    const fn op(self) -> u8 {
        self.code >> 4
    }
    const fn is_x(self) -> bool {
        self.code & 8 != 0
    }
    const fn size(self) -> Size {
        match self.code & 0x18 {
            0x00 => Size::W,
            0x08 => Size::H,
            0x10 => Size::B,
            _ => Size::DW,
        }
    }
    const fn width(self) -> Width {
        if matches!(self.class(), ALU | JMP32) { Width::W32 } else { Width::W64 }
    }
    fn dst_reg(self) -> Result<Reg, String> {
        reg(self.dst)
    }
    fn src_reg(self) -> Result<Reg, String> {
        reg(self.src)
    }
    fn src_operand(self) -> Result<Src, String> {
        Ok(if self.is_x() { Src::Reg(self.src_reg()?) } else { Src::Imm(self.imm) })
    }
}

/// `check_reg_arg`: only the eleven registers of the program.
fn reg(n: u8) -> Result<Reg, String> {
    if n <= Reg::FP.0 { Ok(Reg(n)) } else { Err(format!("R{n} is invalid")) }
}

/// A base register: also [`Reg::PARAMS`], which only loads and stores may name.
fn base_reg(n: u8) -> Result<Reg, String> {
    if n == Reg::PARAMS.0 { Ok(Reg::PARAMS) } else { reg(n) }
}

fn need(ok: bool, message: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(message.to_string()) }
}

/// Two-operand ALU operations by opcode nibble; NEG and END have their own shapes.
pub(super) const ALU_OPS: [(u8, AluOp); 12] = [
    (0x0, AluOp::Add),
    (0x1, AluOp::Sub),
    (0x2, AluOp::Mul),
    (0x3, AluOp::Div),
    (0x4, AluOp::Or),
    (0x5, AluOp::And),
    (0x6, AluOp::Lsh),
    (0x7, AluOp::Rsh),
    (0x9, AluOp::Mod),
    (0xa, AluOp::Xor),
    (0xb, AluOp::Mov),
    (0xc, AluOp::Arsh),
];

/// Conditions by opcode nibble.
pub(super) const JMP_OPS: [(u8, JmpOp); 11] = [
    (0x1, JmpOp::Eq),
    (0x2, JmpOp::Gt),
    (0x3, JmpOp::Ge),
    (0x4, JmpOp::Set),
    (0x5, JmpOp::Ne),
    (0x6, JmpOp::Sgt),
    (0x7, JmpOp::Sge),
    (0xa, JmpOp::Lt),
    (0xb, JmpOp::Le),
    (0xc, JmpOp::Slt),
    (0xd, JmpOp::Sle),
];

/// Read-modify-write operations by `imm`.
pub(super) const ATOMIC_OPS: [(i32, AtomicOp); 10] = [
    (0x00, AtomicOp::Add),
    (0x40, AtomicOp::Or),
    (0x50, AtomicOp::And),
    (0xa0, AtomicOp::Xor),
    (0x01, AtomicOp::FetchAdd),
    (0x41, AtomicOp::FetchOr),
    (0x51, AtomicOp::FetchAnd),
    (0xa1, AtomicOp::FetchXor),
    (0xe1, AtomicOp::Xchg),
    (0xf1, AtomicOp::Cmpxchg),
];

fn lookup<K: PartialEq, V: Copy>(table: &[(K, V)], key: &K) -> Option<V> {
    table.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
}

/// `bpf_opcode_in_insntable`, plus `gotox` (6.19) and `callx`, whose support the verifier judges.
fn known_opcode(code: u8) -> bool {
    let s = Slot { code, ..Slot::default() };
    let dw = s.size() == Size::DW;
    match s.class() {
        LD => code == LD_IMM64 || (matches!(s.mode(), MODE_ABS | MODE_IND) && !dw),
        LDX => s.mode() == MODE_MEM || (s.mode() == MODE_MEMSX && !dw),
        ST => s.mode() == MODE_MEM,
        STX => matches!(s.mode(), MODE_MEM | MODE_ATOMIC),
        ALU => s.op() <= 0xd && code != 0x8c,
        ALU64 => s.op() <= 0xd && code != 0x8f && code != 0xdf,
        JMP32 => code == 0x06 || lookup(&JMP_OPS, &s.op()).is_some(),
        // exhaustive: a class has three bits
        _ => {
            matches!(code, 0x05 | 0x0d | 0x85 | 0x8d | 0x95 | 0xe5)
                || lookup(&JMP_OPS, &s.op()).is_some()
        }
    }
}

/// What `resolve_pseudo_ldimm64` refuses about the slot at the front of `slots`.
fn check_shape(slots: &[Slot]) -> Result<(), String> {
    let s = slots[0];
    if s.class() == LDX && (!matches!(s.mode(), MODE_MEM | MODE_MEMSX) || s.imm != 0) {
        return Err("BPF_LDX uses reserved fields".into());
    }
    if s.code == LD_IMM64 {
        let hi = slots.get(1).filter(|h| (h.code, h.dst, h.src, h.off) == (0, 0, 0, 0));
        let hi = hi.ok_or("invalid bpf_ld_imm64 insn")?;
        let ok = matches!(s.src, 0 | 2 | 3 | 4 | 6) || (matches!(s.src, 1 | 5) && hi.imm == 0);
        return need(ok, "unrecognized bpf_ld_imm64 insn");
    }
    if known_opcode(s.code) { Ok(()) } else { Err(format!("unknown opcode {:02x}", s.code)) }
}

fn ld_imm64(s: Slot, hi: i32) -> Result<Insn, String> {
    need(s.off == 0, "BPF_LD_IMM64 uses reserved fields")?;
    // The two halves are unsigned 32-bit quantities that happen to be stored in `imm`.
    let (lo, off) = (s.imm.cast_unsigned(), hi.cast_unsigned());
    let imm = match s.src {
        0 => Imm64::Const(u64::from(off) << 32 | u64::from(lo)),
        1 => Imm64::MapFd(s.imm),
        2 => Imm64::MapValue { fd: s.imm, off },
        3 => Imm64::BtfId { id: s.imm, btf_fd: hi },
        4 => Imm64::Func(s.imm),
        5 => Imm64::MapIdx(s.imm),
        _ => Imm64::MapIdxValue { idx: s.imm, off },
    };
    Ok(Insn::LdImm64 { dst: s.dst_reg()?, imm })
}

fn ld_legacy(s: Slot) -> Result<Insn, String> {
    let abs = s.mode() == MODE_ABS;
    let ok = s.dst == 0 && s.off == 0 && (!abs || s.src == 0);
    need(ok, "BPF_LD_[ABS|IND] uses reserved fields")?;
    Ok(if abs {
        Insn::LdAbs { size: s.size(), imm: s.imm }
    } else {
        Insn::LdInd { size: s.size(), src: s.src_reg()?, imm: s.imm }
    })
}

fn load(s: Slot) -> Result<Insn, String> {
    let sext = s.mode() == MODE_MEMSX;
    let (src, dst) = (base_reg(s.src)?, s.dst_reg()?);
    Ok(Insn::Load { size: s.size(), sext, dst, src, off: s.off })
}

fn store(s: Slot) -> Result<Insn, String> {
    let src = if s.class() == ST {
        need(s.src == 0, "BPF_ST uses reserved fields")?;
        Src::Imm(s.imm)
    } else {
        need(s.imm == 0, "BPF_STX uses reserved fields")?;
        Src::Reg(s.src_reg()?)
    };
    Ok(Insn::Store { size: s.size(), dst: base_reg(s.dst)?, off: s.off, src })
}

/// `check_atomic`.
fn atomic(s: Slot) -> Result<Insn, String> {
    let (size, off) = (s.size(), s.off);
    if let Some(op) = lookup(&ATOMIC_OPS, &s.imm) {
        need(matches!(size, Size::W | Size::DW), "invalid atomic operand size")?;
        let (src, dst) = (s.src_reg()?, s.dst_reg()?);
        return Ok(Insn::Atomic { size, op, dst, off, src });
    }
    match s.imm {
        LOAD_ACQ => {
            let (src, dst) = (s.src_reg()?, s.dst_reg()?);
            Ok(Insn::LoadAcquire { size, dst, src, off })
        }
        STORE_REL => {
            let (src, dst) = (s.src_reg()?, s.dst_reg()?);
            Ok(Insn::StoreRelease { size, dst, off, src })
        }
        imm => Err(format!("BPF_ATOMIC uses invalid atomic opcode {imm:02x}")),
    }
}

/// `check_alu_op`, the part that looks at the fields.
fn alu(s: Slot) -> Result<Insn, String> {
    match s.op() {
        0x8 => {
            let ok = !s.is_x() && s.src == 0 && s.off == 0 && s.imm == 0;
            need(ok, "BPF_NEG uses reserved fields")?;
            Ok(Insn::Neg { width: s.width(), dst: s.dst_reg()? })
        }
        0xb => mov(s),
        0xd => end(s),
        op => {
            // Only opcodes of the table reach this point.
            let op =
                lookup(&ALU_OPS, &op).ok_or_else(|| format!("unknown opcode {:02x}", s.code))?;
            let unused = if s.is_x() { s.imm == 0 } else { s.src == 0 };
            let signed = s.off == 1 && matches!(op, AluOp::Div | AluOp::Mod);
            need(unused && (s.off == 0 || signed), "BPF_ALU uses reserved fields")?;
            let op = match op {
                AluOp::Div if signed => AluOp::SDiv,
                AluOp::Mod if signed => AluOp::SMod,
                op => op,
            };
            let (src, dst) = (s.src_operand()?, s.dst_reg()?);
            Ok(Insn::Alu { width: s.width(), op, dst, src })
        }
    }
}

fn mov(s: Slot) -> Result<Insn, String> {
    const RESERVED: &str = "BPF_MOV uses reserved fields";
    let width = s.width();
    if !s.is_x() {
        need(s.src == 0 && s.off == 0, RESERVED)?;
        return Ok(Insn::Alu { width, op: AluOp::Mov, dst: s.dst_reg()?, src: Src::Imm(s.imm) });
    }
    if width == Width::W64 && s.off == 1 {
        let cast = match s.imm {
            1 => Cast::ToKernel,
            0x10000 => Cast::ToUser,
            _ => {
                let m = "addr_space_cast insn can only convert between address space 1 and 0";
                return Err(m.into());
            }
        };
        let (src, dst) = (s.src_reg()?, s.dst_reg()?);
        return Ok(Insn::AddrSpaceCast { dst, src, cast });
    }
    let bits = match s.off {
        0 => 0,
        8 => 8,
        16 => 16,
        32 if width == Width::W64 => 32,
        _ => return Err(RESERVED.into()),
    };
    need(s.imm == 0, RESERVED)?;
    let (src, dst) = (s.src_reg()?, s.dst_reg()?);
    Ok(if bits == 0 {
        Insn::Alu { width, op: AluOp::Mov, dst, src: Src::Reg(src) }
    } else {
        Insn::MovSx { width, dst, src, bits }
    })
}

fn end(s: Slot) -> Result<Insn, String> {
    const RESERVED: &str = "BPF_END uses reserved fields";
    need(s.src == 0 && s.off == 0, RESERVED)?;
    let bits = match s.imm {
        16 => 16,
        32 => 32,
        64 => 64,
        _ => return Err(RESERVED.into()),
    };
    let op = match (s.class(), s.is_x()) {
        (ALU64, _) => EndianOp::Swap,
        (_, false) => EndianOp::ToLe,
        (_, true) => EndianOp::ToBe,
    };
    Ok(Insn::End { op, dst: s.dst_reg()?, bits })
}

fn jmp(s: Slot) -> Result<Insn, String> {
    match s.code {
        0x05 | 0x06 => {
            let long = s.class() == JMP32;
            let ok = s.src == 0 && s.dst == 0 && if long { s.off == 0 } else { s.imm == 0 };
            need(ok, "BPF_JA uses reserved fields")?;
            Ok(Insn::Ja { off: if long { s.imm } else { i32::from(s.off) }, long })
        }
        0x0d => {
            let ok = s.src == 0 && s.imm == 0 && s.off == 0;
            need(ok, "BPF_JA|BPF_X uses reserved fields")?;
            Ok(Insn::Gotox { dst: s.dst_reg()? })
        }
        0x85 => call(s),
        0x8d => {
            let ok = s.src == 0 && s.imm == 0 && s.off == 0;
            need(ok, "BPF_CALL uses reserved fields")?;
            Ok(Insn::Callx { dst: s.dst_reg()? })
        }
        0x95 => {
            // The kernel does not look at `off` here.
            need(s.src == 0 && s.dst == 0 && s.imm == 0, "BPF_EXIT uses reserved fields")?;
            Ok(Insn::Exit)
        }
        0xe5 => {
            let ok = s.src == 0 && s.dst == 0 && s.imm == 0;
            need(ok, &format!("invalid may_goto imm {}", s.imm))?;
            Ok(Insn::MayGoto { off: s.off })
        }
        _ => {
            let op = lookup(&JMP_OPS, &s.op());
            let op = op.ok_or_else(|| format!("unknown opcode {:02x}", s.code))?;
            let unused = if s.is_x() { s.imm == 0 } else { s.src == 0 };
            need(unused, "BPF_JMP/JMP32 uses reserved fields")?;
            let (src, dst) = (s.src_operand()?, s.dst_reg()?);
            Ok(Insn::Jmp { width: s.width(), op, dst, src, off: s.off })
        }
    }
}

fn call(s: Slot) -> Result<Insn, String> {
    let ok = s.dst == 0 && s.src <= 2 && (s.off == 0 || s.src == 2);
    need(ok, "BPF_CALL uses reserved fields")?;
    Ok(Insn::Call(match s.src {
        0 => Call::Helper(s.imm),
        1 => Call::Local(s.imm),
        _ => Call::Kfunc { btf_id: s.imm, off: s.off },
    }))
}

/// What `do_check` refuses about the fields of a well-shaped slot.
fn check_fields(s: Slot, hi: i32) -> Result<Insn, String> {
    match (s.class(), s.mode()) {
        (LD, MODE_IMM) => ld_imm64(s, hi),
        (LD, _) => ld_legacy(s),
        (LDX, _) => load(s),
        (STX, MODE_ATOMIC) => atomic(s),
        (ST | STX, _) => store(s),
        (ALU | ALU64, _) => alu(s),
        (JMP | JMP32, _) => jmp(s),
        // exhaustive: a class has three bits
        _ => Err(format!("unknown opcode {:02x}", s.code)),
    }
}

/// Decodes the slot at the front of `slots` (the second half of `ld_imm64` needs its successor).
///
/// # Errors
/// What the kernel would refuse, in its words; an empty slice is one of those.
pub fn decode(slots: &[Slot]) -> Result<Insn, DecodeError> {
    let at = InsnIdx(0);
    let first = *slots
        .first()
        .ok_or_else(|| DecodeError { at, message: "last insn is not an exit or jmp".into() })?;
    check_shape(slots)
        .and_then(|()| check_fields(first, slots.get(1).map_or(0, |h| h.imm)))
        .map_err(|message| DecodeError { at, message })
}

/// Decodes a whole program, one [`Insn`] per slot.
///
/// # Errors
/// The first bad slot in the kernel's order: shapes of the whole program, then fields.
pub fn decode_all(slots: &[Slot]) -> Result<Vec<Insn>, DecodeError> {
    let err = |i: usize| {
        let at = InsnIdx(u32::try_from(i).unwrap_or(u32::MAX));
        move |message| DecodeError { at, message }
    };
    let mut i = 0;
    while i < slots.len() {
        check_shape(&slots[i..]).map_err(err(i))?;
        i += if slots[i].code == LD_IMM64 { 2 } else { 1 };
    }
    let mut out = Vec::with_capacity(slots.len());
    while out.len() < slots.len() {
        let i = out.len();
        let hi = slots.get(i + 1).map_or(0, |h| h.imm);
        out.push(check_fields(slots[i], hi).map_err(err(i))?);
        if slots[i].code == LD_IMM64 {
            out.push(Insn::LdImm64Hi);
        }
    }
    Ok(out)
}

/// What the verifier says about an immediate operand that is wrong in every state.
///
/// `check_alu_op` looks at these after it has read the operands' registers, so they are the
/// verifier's to report, at the moment it reaches the instruction.
#[must_use]
pub fn operand_error(insn: &Insn) -> Option<String> {
    let Insn::Alu { width, op, src: Src::Imm(imm), .. } = *insn else { return None };
    match op {
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod if imm == 0 => {
            Some("div by zero".into())
        }
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => {
            let bits = if width == Width::W64 { 64 } else { 32 };
            (imm < 0 || imm >= bits).then(|| format!("invalid shift {imm}"))
        }
        _ => None,
    }
}
