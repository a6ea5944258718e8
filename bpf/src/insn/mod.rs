//! The instruction set as a fully decoded enum, one entry per 8-byte slot.
//!
//! A program is a `Vec<Insn>` indexed exactly as the kernel indexes it: the second half of a
//! 16-byte `ld_imm64` is an entry of its own, [`Insn::LdImm64Hi`], so jump offsets, line records
//! and log messages need no translation.
//!
//! Decoding keeps only legal instructions; what the kernel would refuse is a [`DecodeError`]
//! that carries the kernel's words. Sources: RFC 9669; `bpf-facts.md` section 1.

pub mod asm;
mod decode;
pub mod disasm;
mod encode;
pub mod generate;
mod helper_names;

pub use decode::{DecodeError, decode, decode_all, operand_error};
pub use disasm::{Names, NoNames, disasm};
pub use encode::{encode, encode_all};
pub use helper_names::{HELPER_NAMES, helper_id, helper_name};

use crate::Endian;

/// A BPF register. `r0`..`r10` are the program's; [`Reg::AX`] exists only in rewritten programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u8);

impl Reg {
    /// Return value.
    pub const R0: Reg = Reg(0);
    /// First argument; the context at entry.
    pub const R1: Reg = Reg(1);
    /// Second argument.
    pub const R2: Reg = Reg(2);
    /// Third argument.
    pub const R3: Reg = Reg(3);
    /// Fourth argument.
    pub const R4: Reg = Reg(4);
    /// Fifth argument.
    pub const R5: Reg = Reg(5);
    /// Callee-saved.
    pub const R6: Reg = Reg(6);
    /// Callee-saved.
    pub const R7: Reg = Reg(7);
    /// Callee-saved.
    pub const R8: Reg = Reg(8);
    /// Callee-saved.
    pub const R9: Reg = Reg(9);
    /// Read-only frame pointer.
    pub const FP: Reg = Reg(10);
    /// Hidden register of rewritten programs (the kernel's `BPF_REG_AX`).
    pub const AX: Reg = Reg(11);
    /// Base of the arguments beyond the fifth, of loads and stores of a program that is not
    /// rewritten (the kernel's `BPF_REG_PARAMS`, the same number).
    pub const PARAMS: Reg = Reg::AX;

    /// As an index into an array of 11 (or 12 with AX) registers.
    #[must_use]
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Debug for Reg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Reg::AX { f.write_str("ax") } else { write!(f, "r{}", self.0) }
    }
}

/// Index of a slot in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InsnIdx(pub u32);

impl InsnIdx {
    /// As a slice index.
    #[must_use]
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}

/// Width of an ALU operation or a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 32 bits; an ALU result is zero-extended to 64.
    W32,
    /// 64 bits.
    W64,
}

/// Size of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// One byte.
    B,
    /// Two bytes.
    H,
    /// Four bytes.
    W,
    /// Eight bytes.
    DW,
}

impl Size {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Size::B => 1,
            Size::H => 2,
            Size::W => 4,
            Size::DW => 8,
        }
    }
}

/// Second operand: a register, or an immediate that is sign-extended to the operation's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Src {
    /// Register.
    Reg(Reg),
    /// Immediate.
    Imm(i32),
}

/// Two-operand ALU operations. `Mov` ignores the old value of dst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AluOp {
    /// dst += src
    Add,
    /// dst -= src
    Sub,
    /// dst *= src
    Mul,
    /// dst /= src, unsigned; by zero gives 0
    Div,
    /// dst /= src, signed; by zero gives 0, MIN / -1 wraps
    SDiv,
    /// dst %= src, unsigned; by zero leaves dst
    Mod,
    /// dst %= src, signed; by zero leaves dst, % -1 gives 0
    SMod,
    /// dst |= src
    Or,
    /// dst &= src
    And,
    /// dst ^= src
    Xor,
    /// dst <<= src, count masked to the width
    Lsh,
    /// dst >>= src, logical
    Rsh,
    /// dst >>= src, arithmetic
    Arsh,
    /// dst = src
    Mov,
}

/// Byte-order operations on the low `bits` of a register; the rest is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndianOp {
    /// Convert between host order and little-endian (`le16 r1`).
    ToLe,
    /// Convert between host order and big-endian (`be16 r1`).
    ToBe,
    /// Swap unconditionally (`bswap16 r1`).
    Swap,
}

/// Conditions of a conditional jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JmpOp {
    /// ==
    Eq,
    /// unsigned >
    Gt,
    /// unsigned >=
    Ge,
    /// dst & src
    Set,
    /// !=
    Ne,
    /// signed >
    Sgt,
    /// signed >=
    Sge,
    /// unsigned <
    Lt,
    /// unsigned <=
    Le,
    /// signed <
    Slt,
    /// signed <=
    Sle,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtomicOp {
    /// *p += src
    Add,
    /// *p |= src
    Or,
    /// *p &= src
    And,
    /// *p ^= src
    Xor,
    /// src = fetch_add(p, src)
    FetchAdd,
    /// src = fetch_or(p, src)
    FetchOr,
    /// src = fetch_and(p, src)
    FetchAnd,
    /// src = fetch_xor(p, src)
    FetchXor,
    /// src = xchg(p, src)
    Xchg,
    /// r0 = cmpxchg(p, r0, src)
    Cmpxchg,
}

impl AtomicOp {
    /// The register that gets the old value: R0 of a comparison, else that of the operand.
    #[must_use]
    pub const fn fetched(self, src: Reg) -> Option<Reg> {
        match self {
            AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => None,
            AtomicOp::FetchAdd | AtomicOp::FetchOr | AtomicOp::FetchAnd => Some(src),
            AtomicOp::FetchXor | AtomicOp::Xchg => Some(src),
            AtomicOp::Cmpxchg => Some(Reg::R0),
        }
    }
}

/// What a 16-byte load materialises (`src_reg` of `ld_imm64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Imm64 {
    /// A constant (src 0). After verification every form has become this one or `Func`.
    Const(u64),
    /// A map by file descriptor (src 1).
    MapFd(i32),
    /// An address inside a map's only value, by file descriptor (src 2).
    MapValue {
        /// Map file descriptor.
        fd: i32,
        /// Byte offset into the value.
        off: u32,
    },
    /// A kernel variable or per-CPU variable by BTF id (src 3).
    BtfId {
        /// Id of a `BTF_KIND_VAR` (or FUNC).
        id: i32,
        /// Module BTF file descriptor, 0 for vmlinux.
        btf_fd: i32,
    },
    /// Address of a subprogram, pc-relative like a call (src 4).
    Func(i32),
    /// A map by index into `fd_array` (src 5).
    MapIdx(i32),
    /// An address inside a map's value, by index into `fd_array` (src 6).
    MapIdxValue {
        /// Index.
        idx: i32,
        /// Byte offset into the value.
        off: u32,
    },
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Helper by id.
    Helper(i32),
    /// Subprogram at `index of this insn + 1 + offset`.
    Local(i32),
    /// kfunc by BTF id; `off` 0 is vmlinux, else an index into `fd_array`.
    Kfunc {
        /// BTF id of the function.
        btf_id: i32,
        /// Index of the BTF object.
        off: i16,
    },
}

/// Direction of an address-space cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cast {
    /// as(1) to as(0): `imm = 1`.
    ToKernel,
    /// as(0) to as(1): `imm = 0x10000`.
    ToUser,
}

/// One decoded slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Insn {
    /// Two-operand ALU, including `Mov`.
    Alu {
        /// Width.
        width: Width,
        /// Operation.
        op: AluOp,
        /// Destination and first operand.
        dst: Reg,
        /// Second operand.
        src: Src,
    },
    /// dst = -dst.
    Neg {
        /// Width.
        width: Width,
        /// Operand.
        dst: Reg,
    },
    /// dst = sign-extend(low `bits` of src) (`r1 = (s8)r2`).
    MovSx {
        /// Width of the result.
        width: Width,
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
        /// 8, 16 or (64-bit width only) 32.
        bits: u8,
    },
    /// Byte order.
    End {
        /// Operation.
        op: EndianOp,
        /// Operand.
        dst: Reg,
        /// 16, 32 or 64.
        bits: u8,
    },
    /// Arena cast.
    AddrSpaceCast {
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
        /// Direction.
        cast: Cast,
    },
    /// Internal (never decoded): dst = address of this CPU's copy of the per-CPU offset in src.
    MovPercpu {
        /// Destination.
        dst: Reg,
        /// Source.
        src: Reg,
    },
    /// First half of a 16-byte load; the next entry is [`Insn::LdImm64Hi`].
    LdImm64 {
        /// Destination.
        dst: Reg,
        /// What is loaded.
        imm: Imm64,
    },
    /// Second half; never a jump target.
    LdImm64Hi,
    /// Legacy packet load at a constant offset: r0 = ntoh(*(size *)(skb + imm)).
    LdAbs {
        /// B, H or W.
        size: Size,
        /// Offset.
        imm: i32,
    },
    /// Legacy packet load at src + imm.
    LdInd {
        /// B, H or W.
        size: Size,
        /// Index register.
        src: Reg,
        /// Offset.
        imm: i32,
    },
    /// dst = *(size *)(src + off); zero-extended, or sign-extended when `sext`.
    Load {
        /// Size.
        size: Size,
        /// Sign-extend (never with DW).
        sext: bool,
        /// Destination.
        dst: Reg,
        /// Base.
        src: Reg,
        /// Offset.
        off: i16,
    },
    /// *(size *)(dst + off) = src.
    Store {
        /// Size.
        size: Size,
        /// Base.
        dst: Reg,
        /// Offset.
        off: i16,
        /// Value; immediates are sign-extended and truncated to the size.
        src: Src,
    },
    /// Atomic read-modify-write; W or DW.
    Atomic {
        /// W or DW.
        size: Size,
        /// Operation.
        op: AtomicOp,
        /// Base.
        dst: Reg,
        /// Offset.
        off: i16,
        /// Operand (and result of fetching forms).
        src: Reg,
    },
    /// dst = load_acquire((size *)(src + off)), zero-extended.
    LoadAcquire {
        /// Size.
        size: Size,
        /// Destination.
        dst: Reg,
        /// Base.
        src: Reg,
        /// Offset.
        off: i16,
    },
    /// store_release((size *)(dst + off), src).
    StoreRelease {
        /// Size.
        size: Size,
        /// Base.
        dst: Reg,
        /// Offset.
        off: i16,
        /// Value.
        src: Reg,
    },
    /// if dst OP src goto +off.
    Jmp {
        /// Width of the comparison.
        width: Width,
        /// Condition.
        op: JmpOp,
        /// Left side.
        dst: Reg,
        /// Right side.
        src: Src,
        /// Offset from the next slot.
        off: i16,
    },
    /// goto +off (`goto` with a 16-bit, `gotol` with a 32-bit field).
    Ja {
        /// Offset from the next slot.
        off: i32,
        /// Encoded as `gotol`.
        long: bool,
    },
    /// may_goto +off: leave the loop when the hidden budget is used up.
    MayGoto {
        /// Offset from the next slot.
        off: i16,
    },
    /// Indirect jump through a jump table (6.19).
    Gotox {
        /// Register that holds the native address.
        dst: Reg,
    },
    /// Direct call.
    Call(Call),
    /// Indirect call (proposal).
    Callx {
        /// Register that holds the function pointer.
        dst: Reg,
    },
    /// Return from the (sub)program.
    Exit,
}

impl Insn {
    /// Offset of the jump this instruction may take, relative to the next slot.
    #[must_use]
    pub const fn jump_off(&self) -> Option<i32> {
        match *self {
            Insn::Jmp { off, .. } | Insn::MayGoto { off } => Some(off as i32),
            Insn::Ja { off, .. } => Some(off),
            _ => None,
        }
    }

    /// The register that gets the result; R0 of a call and of a legacy packet access, which leave
    /// others undefined too.
    #[must_use]
    pub const fn result(&self) -> Option<Reg> {
        match *self {
            Insn::Alu { dst, .. }
            | Insn::Neg { dst, .. }
            | Insn::MovSx { dst, .. }
            | Insn::End { dst, .. }
            | Insn::AddrSpaceCast { dst, .. }
            | Insn::MovPercpu { dst, .. }
            | Insn::LdImm64 { dst, .. }
            | Insn::Load { dst, .. }
            | Insn::LoadAcquire { dst, .. } => Some(dst),
            Insn::Atomic { op, src, .. } => op.fetched(src),
            Insn::Call(_) | Insn::Callx { .. } | Insn::LdAbs { .. } | Insn::LdInd { .. } => {
                Some(Reg::R0)
            }
            Insn::LdImm64Hi
            | Insn::Store { .. }
            | Insn::StoreRelease { .. }
            | Insn::Jmp { .. }
            | Insn::Ja { .. }
            | Insn::MayGoto { .. }
            | Insn::Gotox { .. }
            | Insn::Exit => None,
        }
    }

    /// True when control never reaches the next slot by falling through.
    #[must_use]
    pub const fn ends_block(&self) -> bool {
        matches!(self, Insn::Ja { .. } | Insn::Gotox { .. } | Insn::Exit)
    }
}

/// One 8-byte slot as stored, fields in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Slot {
    /// Opcode.
    pub code: u8,
    /// Destination nibble.
    pub dst: u8,
    /// Source nibble.
    pub src: u8,
    /// Offset.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

impl Slot {
    /// Reads a slot; the register nibbles swap with the byte order (RFC 9669, section 3.1).
    #[must_use]
    pub fn from_bytes(b: [u8; 8], endian: Endian) -> Slot {
        let (lo, hi) = (b[1] & 15, b[1] >> 4);
        let (off, imm) = ([b[2], b[3]], [b[4], b[5], b[6], b[7]]);
        match endian {
            Endian::Little => Slot {
                code: b[0],
                dst: lo,
                src: hi,
                off: i16::from_le_bytes(off),
                imm: i32::from_le_bytes(imm),
            },
            Endian::Big => Slot {
                code: b[0],
                dst: hi,
                src: lo,
                off: i16::from_be_bytes(off),
                imm: i32::from_be_bytes(imm),
            },
        }
    }

    /// Inverse of [`Slot::from_bytes`].
    #[must_use]
    pub fn to_bytes(self, endian: Endian) -> [u8; 8] {
        let (regs, off, imm) = match endian {
            Endian::Little => {
                (self.src << 4 | self.dst, self.off.to_le_bytes(), self.imm.to_le_bytes())
            }
            Endian::Big => {
                (self.dst << 4 | self.src, self.off.to_be_bytes(), self.imm.to_be_bytes())
            }
        };
        [self.code, regs, off[0], off[1], imm[0], imm[1], imm[2], imm[3]]
    }
}
