//! Locations: an expression over BPF registers becomes one over native ones.
//!
//! What is not understood gives nothing, so that the debugger says `<optimized out>`.

use super::listing::push_fp;
use super::native;
use super::stack::Stack;
use bpf::Arch;
use gimli::constants as dw;
use gimli::read::{Expression, Operation, Reader, UnitRef};
use gimli::write::{Address, Expression as Out, UnitEntryId};

/// An expression, understood.
pub(super) struct Parsed<R: Reader<Offset = usize>> {
    ops: Vec<Operation<R>>,
    /// BPF registers that it reads, by bit; not R10, which is told from the frame.
    pub(super) regs: u16,
    /// It is a register and nothing else.
    pub(super) plain: bool,
    /// It is in the function's frame.
    pub(super) framed: bool,
}

/// What an expression needs of the rest.
pub(super) struct Context<'a> {
    pub(super) arch: Arch,
    pub(super) stack: Option<&'a Stack>,
    /// Bytes of the variable.
    pub(super) bytes: Option<u64>,
    /// Guest address of a place in the object.
    pub(super) data: &'a dyn Fn(u64) -> Option<u64>,
    /// A base type.
    pub(super) base: &'a dyn Fn(gimli::UnitOffset) -> Option<UnitEntryId>,
}

impl<R: Reader<Offset = usize>> Parsed<R> {
    pub(super) fn new(e: Expression<R>, encoding: gimli::Encoding) -> Option<Parsed<R>> {
        let mut regs = 0u16;
        let mut ops = Vec::new();
        let mut it = e.operations(encoding);
        while let Some(op) = it.next().ok()? {
            match op {
                Operation::Register { register } | Operation::RegisterOffset { register, .. } => {
                    match register.0 {
                        10 => {}
                        n @ 0..10 => regs |= 1 << n,
                        _ => return None,
                    }
                }
                _ => {}
            }
            ops.push(op);
        }
        let plain = matches!(ops[..], [Operation::Register { .. }]);
        let framed = ops.iter().any(|op| matches!(op, Operation::FrameOffset { .. }));
        (!ops.is_empty()).then_some(Parsed { ops, regs, plain, framed })
    }

    /// The native expression, where of the registers in `low` only the lower half is held.
    pub(super) fn translate(
        &self,
        cx: &Context<'_>,
        unit: UnitRef<'_, R>,
        low: u16,
    ) -> Option<Out> {
        let mut out = Out::new();
        for op in &self.ops {
            one(&mut out, op, cx, unit, low)?;
        }
        Some(out)
    }
}

fn one<R: Reader<Offset = usize>>(
    out: &mut Out,
    op: &Operation<R>,
    cx: &Context<'_>,
    unit: UnitRef<'_, R>,
    low: u16,
) -> Option<()> {
    match *op {
        Operation::Register { register } => register_value(out, cx.arch, register.0, low),
        Operation::RegisterOffset { register, offset, base_type: gimli::UnitOffset(0) } => {
            // What is on the stack, of a piece or a value: with the same bug as the frame's base.
            let below = |offset| cx.stack.and_then(|s| s.offset(offset, None));
            let offset = if register.0 == 10 { below(offset)? } else { offset };
            register_offset(out, cx.arch, register.0, offset, low);
        }
        Operation::FrameOffset { offset } => out.op_fbreg(cx.stack?.offset(offset, cx.bytes)?),
        Operation::Address { address } => {
            out.op_addr(Address::Constant((cx.data)(address)?));
        }
        Operation::AddressIndex { index } => {
            let address = unit.address(index).ok()?;
            out.op_addr(Address::Constant((cx.data)(address)?));
        }
        Operation::UnsignedConstant { value } => out.op_constu(value),
        Operation::SignedConstant { value } => out.op_consts(value),
        Operation::ImplicitValue { ref data } => {
            out.op_implicit_value(data.to_slice().ok()?.into());
        }
        Operation::PlusConstant { value } => out.op_plus_uconst(value),
        Operation::Deref { base_type: gimli::UnitOffset(0), size, space: false } => match size {
            8 => out.op_deref(),
            size => out.op_deref_size(size),
        },
        Operation::Piece { size_in_bits, bit_offset: None } if size_in_bits % 8 == 0 => {
            out.op_piece(size_in_bits / 8);
        }
        Operation::Convert { base_type: gimli::UnitOffset(0) } => out.op_convert(None),
        Operation::Convert { base_type } => out.op_convert(Some((cx.base)(base_type)?)),
        Operation::Pick { index } => out.op_pick(index),
        Operation::Nop => {}
        _ => out.op(simple(op)?),
    }
    Some(())
}

/// Operations without operands.
fn simple<R: Reader<Offset = usize>>(op: &Operation<R>) -> Option<gimli::DwOp> {
    Some(match op {
        Operation::StackValue => dw::DW_OP_stack_value,
        Operation::And => dw::DW_OP_and,
        Operation::Or => dw::DW_OP_or,
        Operation::Xor => dw::DW_OP_xor,
        Operation::Not => dw::DW_OP_not,
        Operation::Neg => dw::DW_OP_neg,
        Operation::Abs => dw::DW_OP_abs,
        Operation::Plus => dw::DW_OP_plus,
        Operation::Minus => dw::DW_OP_minus,
        Operation::Mul => dw::DW_OP_mul,
        Operation::Div => dw::DW_OP_div,
        Operation::Mod => dw::DW_OP_mod,
        Operation::Shl => dw::DW_OP_shl,
        Operation::Shr => dw::DW_OP_shr,
        Operation::Shra => dw::DW_OP_shra,
        Operation::Eq => dw::DW_OP_eq,
        Operation::Ne => dw::DW_OP_ne,
        Operation::Lt => dw::DW_OP_lt,
        Operation::Le => dw::DW_OP_le,
        Operation::Gt => dw::DW_OP_gt,
        Operation::Ge => dw::DW_OP_ge,
        Operation::Drop => dw::DW_OP_drop,
        Operation::Swap => dw::DW_OP_swap,
        Operation::Rot => dw::DW_OP_rot,
        _ => return None,
    })
}

/// A variable that is in a register.
pub(super) fn register_value(out: &mut Out, arch: Arch, reg: u16, low: u16) {
    if reg == 10 || low & 1 << reg != 0 {
        register_offset(out, arch, reg, 0, low);
        out.op(dw::DW_OP_stack_value);
    } else {
        out.op_reg(native::bpf(arch, reg as u8));
    }
}

/// A register and an offset on the expression's stack.
fn register_offset(out: &mut Out, arch: Arch, reg: u16, offset: i64, low: u16) {
    if reg == 10 {
        push_fp(out, arch, offset);
        return;
    }
    let native = native::bpf(arch, reg as u8);
    if low & 1 << reg == 0 {
        out.op_breg(native, offset);
        return;
    }
    out.op_breg(native, 0);
    out.op_constu(u64::from(u32::MAX));
    out.op(dw::DW_OP_and);
    if offset != 0 {
        out.op_consts(offset);
        out.op(dw::DW_OP_plus);
    }
}
