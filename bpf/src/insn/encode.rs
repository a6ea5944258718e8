//! Instructions to slots.
use super::decode::{ALU_OPS, ATOMIC_OPS, JMP_OPS, LD_IMM64, LOAD_ACQ, STORE_REL};
use super::{AluOp, Call, Cast, EndianOp, Imm64, Insn, Reg, Size, Slot, Src, Width};

const fn size_bits(size: Size) -> u8 {
    match size {
        Size::W => 0x00,
        Size::H => 0x08,
        Size::B => 0x10,
        Size::DW => 0x18,
    }
}

fn key<K: Copy, V: PartialEq>(table: &[(K, V)], value: &V) -> K {
    let found = table.iter().find(|(_, v)| v == value);
    found.expect("the opcode tables list every operation of their enum").0
}

/// `code` with its source bit, and the two fields a second operand lives in.
const fn with_src(code: u8, src: Src) -> (u8, u8, i32) {
    match src {
        Src::Reg(r) => (code | 8, r.0, 0),
        Src::Imm(imm) => (code, 0, imm),
    }
}

const fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => 4,
        Width::W64 => 7,
    }
}

fn alu(width: Width, op: AluOp, dst: Reg, src: Src) -> Slot {
    let (op, off) = match op {
        AluOp::SDiv => (AluOp::Div, 1),
        AluOp::SMod => (AluOp::Mod, 1),
        op => (op, 0),
    };
    let (code, src, imm) = with_src(key(&ALU_OPS, &op) << 4 | alu_class(width), src);
    Slot { code, dst: dst.0, src, off, imm }
}

/// `src_reg` and the two immediates of a 16-byte load.
const fn imm64(imm: Imm64) -> (u8, i32, i32) {
    match imm {
        Imm64::Const(c) => (0, (c as u32).cast_signed(), ((c >> 32) as u32).cast_signed()),
        Imm64::MapFd(fd) => (1, fd, 0),
        Imm64::MapValue { fd, off } => (2, fd, off.cast_signed()),
        Imm64::BtfId { id, btf_fd } => (3, id, btf_fd),
        Imm64::Func(off) => (4, off, 0),
        Imm64::MapIdx(idx) => (5, idx, 0),
        Imm64::MapIdxValue { idx, off } => (6, idx, off.cast_signed()),
    }
}

fn mem(code: u8, size: Size, dst: Reg, src: Reg, off: i16, imm: i32) -> Slot {
    Slot { code: code | size_bits(size), dst: dst.0, src: src.0, off, imm }
}

fn store(size: Size, dst: Reg, off: i16, src: Src) -> Slot {
    let (code, src, imm) = match src {
        Src::Reg(r) => (0x63, r.0, 0),
        Src::Imm(imm) => (0x62, 0, imm),
    };
    Slot { code: code | size_bits(size), dst: dst.0, src, off, imm }
}

fn ja(off: i32, long: bool) -> Slot {
    if long {
        Slot { code: 0x06, imm: off, ..Slot::default() }
    } else {
        // A short jump holds 16 bits; whoever builds one with more meant `long`.
        Slot { code: 0x05, off: off as i16, ..Slot::default() }
    }
}

fn call(call: Call) -> Slot {
    let (src, off, imm) = match call {
        Call::Helper(id) => (0, 0, id),
        Call::Local(off) => (1, 0, off),
        Call::Kfunc { btf_id, off } => (2, off, btf_id),
    };
    Slot { code: 0x85, dst: 0, src, off, imm }
}

fn end(op: EndianOp, dst: Reg, bits: u8) -> Slot {
    let code = match op {
        EndianOp::ToLe => 0xd4,
        EndianOp::ToBe => 0xdc,
        EndianOp::Swap => 0xd7,
    };
    Slot { code, dst: dst.0, src: 0, off: 0, imm: i32::from(bits) }
}

/// Encodes one entry.
///
/// The second half of a 16-byte load has its value in the first ([`Insn::LdImm64`]): alone it
/// encodes as an all-zero slot, and [`encode_all`] fills in the upper half.
#[must_use]
// tidy: flat match
pub fn encode(insn: &Insn) -> Slot {
    let mov_x = |w: Width| 0xb8 | alu_class(w);
    match *insn {
        Insn::Alu { width, op, dst, src } => alu(width, op, dst, src),
        Insn::Neg { width, dst } => {
            Slot { code: 0x80 | alu_class(width), dst: dst.0, ..Slot::default() }
        }
        Insn::MovSx { width, dst, src, bits } => {
            Slot { code: mov_x(width), dst: dst.0, src: src.0, off: i16::from(bits), imm: 0 }
        }
        Insn::End { op, dst, bits } => end(op, dst, bits),
        Insn::AddrSpaceCast { dst, src, cast } => {
            let imm = if cast == Cast::ToKernel { 1 } else { 0x10000 };
            Slot { code: 0xbf, dst: dst.0, src: src.0, off: 1, imm }
        }
        Insn::MovPercpu { dst, src } => {
            Slot { code: 0xbf, dst: dst.0, src: src.0, off: -1, imm: 0 }
        }
        Insn::LdImm64 { dst, imm } => {
            let (src, imm, _) = imm64(imm);
            Slot { code: LD_IMM64, dst: dst.0, src, off: 0, imm }
        }
        Insn::LdImm64Hi => Slot::default(),
        Insn::LdAbs { size, imm } => mem(0x20, size, Reg::R0, Reg::R0, 0, imm),
        Insn::LdInd { size, src, imm } => mem(0x40, size, Reg::R0, src, 0, imm),
        Insn::Load { size, sext, dst, src, off } => {
            mem(if sext { 0x81 } else { 0x61 }, size, dst, src, off, 0)
        }
        Insn::Store { size, dst, off, src } => store(size, dst, off, src),
        Insn::Atomic { size, op, dst, off, src } => {
            mem(0xc3, size, dst, src, off, key(&ATOMIC_OPS, &op))
        }
        Insn::LoadAcquire { size, dst, src, off } => mem(0xc3, size, dst, src, off, LOAD_ACQ),
        Insn::StoreRelease { size, dst, off, src } => mem(0xc3, size, dst, src, off, STORE_REL),
        Insn::Jmp { width, op, dst, src, off } => {
            let class = if width == Width::W32 { 6 } else { 5 };
            let (code, src, imm) = with_src(key(&JMP_OPS, &op) << 4 | class, src);
            Slot { code, dst: dst.0, src, off, imm }
        }
        Insn::Ja { off, long } => ja(off, long),
        Insn::MayGoto { off } => Slot { code: 0xe5, off, ..Slot::default() },
        Insn::Gotox { dst } => Slot { code: 0x0d, dst: dst.0, ..Slot::default() },
        Insn::Call(c) => call(c),
        Insn::Callx { dst } => Slot { code: 0x8d, dst: dst.0, ..Slot::default() },
        Insn::Exit => Slot { code: 0x95, ..Slot::default() },
    }
}

/// Encodes a program.
#[must_use]
pub fn encode_all(insns: &[Insn]) -> Vec<Slot> {
    let mut hi = 0;
    let slot = |insn: &Insn| {
        let mut slot = encode(insn);
        match *insn {
            Insn::LdImm64 { imm, .. } => hi = imm64(imm).2,
            Insn::LdImm64Hi => slot.imm = std::mem::take(&mut hi),
            _ => {}
        }
        slot
    };
    insns.iter().map(slot).collect()
}
