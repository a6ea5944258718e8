//! Instructions to text, in the form the verifier log prints them (`print_bpf_insn`).
//!
//! Two forms have no counterpart in the kernel, whose verifier has replaced map references by
//! addresses before it prints: `map[..]` and `map_value[..]+off` are what the assembler reads.
use std::fmt::{self, Write as _};

use super::helper_names::helper_name;
use super::{AluOp, AtomicOp, Call, Cast, EndianOp, Imm64, JmpOp};
use super::{Insn, Reg, Size, Src, Width, encode};

/// Names that are not in the instruction. Every method may decline.
pub trait Names {
    /// Name of a helper; by default those of the UAPI.
    fn helper(&self, id: i32) -> Option<String> {
        helper_name(id).map(str::to_string)
    }
    /// Name of a kernel function by BTF id.
    fn kfunc(&self, _btf_id: i32, _off: i16) -> Option<String> {
        None
    }
    /// Text of a 16-byte load's operand, e.g. an address in hex.
    fn imm64(&self, _imm: &Imm64) -> Option<String> {
        None
    }
}

/// Only what the UAPI names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {}

/// Text of `insn` without its opcode, e.g. `r1 = 5`. Empty for the second half of a load.
///
/// A 16-byte load of a constant gets an `ll`, without which nothing would tell it from a move.
#[must_use]
pub fn disasm(insn: &Insn, names: &dyn Names) -> String {
    let mut out = kernel_text(insn, names);
    if matches!(insn, Insn::LdImm64 { imm: Imm64::Const(_), .. }) {
        out.push_str(" ll");
    }
    out
}

fn kernel_text(insn: &Insn, names: &dyn Names) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_insn(&mut out, insn, names);
    out
}

/// Text of `insn` as a log line has it, e.g. `(b7) r1 = 5`.
#[must_use]
pub fn disasm_op(insn: &Insn, names: &dyn Names) -> String {
    format!("({:02x}) {}", encode(insn).code, kernel_text(insn, names))
}

/// A program, one `INDEX: (op) text` line per instruction; halves of loads have no line.
#[must_use]
pub fn disasm_all(insns: &[Insn], names: &dyn Names) -> String {
    let mut out = String::new();
    for (i, insn) in insns.iter().enumerate() {
        if *insn != Insn::LdImm64Hi {
            let _ = writeln!(out, "{i}: {}", disasm_op(insn, names));
        }
    }
    out
}

/// `rN`, or `wN` where only the low half takes part.
struct R(Width, Reg);

impl fmt::Display for R {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 == Reg::AX {
            return f.write_str(if self.0 == Width::W32 { "wax" } else { "ax" });
        }
        write!(f, "{}{}", if self.0 == Width::W32 { 'w' } else { 'r' }, self.1.0)
    }
}

const fn r(reg: Reg) -> R {
    R(Width::W64, reg)
}

/// `*(u32 *)(r1 +0)`, and the same without its star inside an atomic operation.
struct Mem(&'static str, Reg, i16);

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Reg::PARAMS => write!(f, "({} *)(r11 {:+})", self.0, self.2),
            base => write!(f, "({} *)({} {:+})", self.0, r(base), self.2),
        }
    }
}

/// Unsigned type of a size.
const fn utype(size: Size) -> &'static str {
    match size {
        Size::B => "u8",
        Size::H => "u16",
        Size::W => "u32",
        Size::DW => "u64",
    }
}

const fn stype(size: Size) -> &'static str {
    match size {
        Size::B => "s8",
        Size::H => "s16",
        Size::W => "s32",
        Size::DW => "s64",
    }
}

/// The operator of a two-operand operation.
pub(super) const fn alu_text(op: AluOp) -> &'static str {
    match op {
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        AluOp::Div => "/=",
        AluOp::SDiv => "s/=",
        AluOp::Mod => "%=",
        AluOp::SMod => "s%=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Xor => "^=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Arsh => "s>>=",
        AluOp::Mov => "=",
    }
}

/// The operator of a condition.
pub(super) const fn jmp_text(op: JmpOp) -> &'static str {
    match op {
        JmpOp::Eq => "==",
        JmpOp::Ne => "!=",
        JmpOp::Gt => ">",
        JmpOp::Ge => ">=",
        JmpOp::Lt => "<",
        JmpOp::Le => "<=",
        JmpOp::Set => "&",
        JmpOp::Sgt => "s>",
        JmpOp::Sge => "s>=",
        JmpOp::Slt => "s<",
        JmpOp::Sle => "s<=",
    }
}

/// The name of a byte-order operation without its width.
pub(super) const fn end_text(op: EndianOp) -> &'static str {
    match op {
        EndianOp::ToLe => "le",
        EndianOp::ToBe => "be",
        EndianOp::Swap => "bswap",
    }
}

fn write_atomic(
    f: &mut String,
    size: Size,
    op: AtomicOp,
    dst: Reg,
    off: i16,
    src: Reg,
) -> fmt::Result {
    let (mem, src) = (Mem(utype(size), dst, off), r(src));
    let wide = if size == Size::DW { "64" } else { "" };
    let fetch = |f: &mut String, name| write!(f, "{src} = atomic{wide}_{name}({mem}, {src})");
    match op {
        AtomicOp::Add => write!(f, "lock *{mem} += {src}"),
        AtomicOp::Or => write!(f, "lock *{mem} |= {src}"),
        AtomicOp::And => write!(f, "lock *{mem} &= {src}"),
        AtomicOp::Xor => write!(f, "lock *{mem} ^= {src}"),
        AtomicOp::FetchAdd => fetch(f, "fetch_add"),
        AtomicOp::FetchOr => fetch(f, "fetch_or"),
        AtomicOp::FetchAnd => fetch(f, "fetch_and"),
        AtomicOp::FetchXor => fetch(f, "fetch_xor"),
        AtomicOp::Xchg => fetch(f, "xchg"),
        AtomicOp::Cmpxchg => write!(f, "r0 = atomic{wide}_cmpxchg({mem}, r0, {src})"),
    }
}

fn write_imm64(f: &mut String, dst: Reg, imm: &Imm64, names: &dyn Names) -> fmt::Result {
    write!(f, "{} = ", r(dst))?;
    if let Some(text) = names.imm64(imm) {
        return f.write_str(&text);
    }
    match *imm {
        Imm64::Const(c) => write!(f, "{c:#x}"),
        Imm64::MapFd(fd) => write!(f, "map_fd[{fd}] ll"),
        Imm64::MapValue { fd, off } => write!(f, "map_fd_value[{fd}]+{off} ll"),
        Imm64::BtfId { id, btf_fd: 0 } => write!(f, "btf_id[{id}] ll"),
        Imm64::BtfId { id, btf_fd } => write!(f, "btf_id[{id}, {btf_fd}] ll"),
        Imm64::Func(off) => write!(f, "func pc{off:+} ll"),
        Imm64::MapIdx(idx) => write!(f, "map[{idx}] ll"),
        Imm64::MapIdxValue { idx, off } => write!(f, "map_value[{idx}]+{off} ll"),
    }
}

fn write_call(f: &mut String, call: Call, names: &dyn Names) -> fmt::Result {
    match call {
        Call::Local(off) => write!(f, "call pc{off:+}"),
        Call::Helper(id) => {
            let name = names.helper(id);
            write!(f, "call {}#{id}", name.as_deref().unwrap_or("unknown"))
        }
        Call::Kfunc { btf_id, off } => {
            let name = names.kfunc(btf_id, off);
            write!(f, "call {}#{btf_id}", name.as_deref().unwrap_or("kernel-function"))
        }
    }
}

fn write_cond(f: &mut String, w: Width, op: JmpOp, dst: Reg, src: Src, off: i16) -> fmt::Result {
    let (dst, op) = (R(w, dst), jmp_text(op));
    match src {
        Src::Reg(src) => write!(f, "if {dst} {op} {} goto pc{off:+}", R(w, src)),
        Src::Imm(imm) => write!(f, "if {dst} {op} {imm:#x} goto pc{off:+}"),
    }
}

fn write_alu(f: &mut String, w: Width, op: AluOp, dst: Reg, src: Src) -> fmt::Result {
    let (dst, op) = (R(w, dst), alu_text(op));
    match src {
        Src::Reg(src) => write!(f, "{dst} {op} {}", R(w, src)),
        Src::Imm(imm) => write!(f, "{dst} {op} {imm}"),
    }
}

fn write_store(f: &mut String, size: Size, dst: Reg, off: i16, src: Src) -> fmt::Result {
    let mem = Mem(utype(size), dst, off);
    match src {
        Src::Reg(src) => write!(f, "*{mem} = {}", r(src)),
        Src::Imm(imm) => write!(f, "*{mem} = {imm}"),
    }
}

// tidy: flat match
fn write_insn(f: &mut String, insn: &Insn, names: &dyn Names) -> fmt::Result {
    match *insn {
        Insn::Alu { width, op, dst, src } => write_alu(f, width, op, dst, src),
        Insn::Neg { width, dst } => write!(f, "{} = -{}", R(width, dst), R(width, dst)),
        Insn::MovSx { width, dst, src, bits } => {
            write!(f, "{} = (s{bits}){}", R(width, dst), R(width, src))
        }
        Insn::End { op, dst, bits } => write!(f, "{} = {}{bits} {}", r(dst), end_text(op), r(dst)),
        Insn::AddrSpaceCast { dst, src, cast } => {
            let (to, from) = if cast == Cast::ToKernel { (0, 1) } else { (1, 0) };
            write!(f, "{} = addr_space_cast({}, {to}, {from})", r(dst), r(src))
        }
        Insn::MovPercpu { dst, src } => {
            write!(f, "{} = &(void __percpu *)({})", r(dst), r(src))
        }
        Insn::LdImm64 { dst, ref imm } => write_imm64(f, dst, imm, names),
        Insn::LdImm64Hi => Ok(()),
        Insn::LdAbs { size, imm } => write!(f, "r0 = *({} *)skb[{imm}]", utype(size)),
        Insn::LdInd { size, src, imm } => {
            write!(f, "r0 = *({} *)skb[{} + {imm}]", utype(size), r(src))
        }
        Insn::Load { size, sext, dst, src, off } => {
            let ty = if sext { stype(size) } else { utype(size) };
            write!(f, "{} = *{}", r(dst), Mem(ty, src, off))
        }
        Insn::Store { size, dst, off, src } => write_store(f, size, dst, off, src),
        Insn::Atomic { size, op, dst, off, src } => write_atomic(f, size, op, dst, off, src),
        Insn::LoadAcquire { size, dst, src, off } => {
            write!(f, "{} = load_acquire({})", r(dst), Mem(utype(size), src, off))
        }
        Insn::StoreRelease { size, dst, off, src } => {
            write!(f, "store_release({}, {})", Mem(utype(size), dst, off), r(src))
        }
        Insn::Jmp { width, op, dst, src, off } => write_cond(f, width, op, dst, src, off),
        Insn::Ja { off, long } => write!(f, "{} pc{off:+}", if long { "gotol" } else { "goto" }),
        Insn::MayGoto { off } => write!(f, "may_goto pc{off:+}"),
        Insn::Gotox { dst } => write!(f, "gotox {}", r(dst)),
        Insn::Call(call) => write_call(f, call, names),
        Insn::Callx { dst } => write!(f, "callx {}", r(dst)),
        Insn::Exit => write!(f, "exit"),
    }
}
