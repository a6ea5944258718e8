//! Stack slots of 8 bytes with a type per byte.

use super::reg::{RegState, RegType};

/// `enum bpf_stack_slot_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotType {
    /// Never written.
    Invalid,
    /// Part of a spilled register.
    Spill,
    /// Written with something.
    Misc,
    /// Known zero.
    Zero,
    /// Part of a dynptr.
    Dynptr,
    /// Part of an iterator.
    Iter,
    /// Saved interrupt flags.
    IrqFlag,
}

impl SlotType {
    /// `slot_type_char`.
    #[must_use]
    pub const fn char(self) -> char {
        match self {
            SlotType::Invalid => '?',
            SlotType::Spill => 'r',
            SlotType::Misc => 'm',
            SlotType::Zero => '0',
            SlotType::Dynptr => 'd',
            SlotType::Iter => 'i',
            SlotType::IrqFlag => 'f',
        }
    }
}

/// `struct bpf_stack_state`. `types[0]` is the byte at the lowest address... of the kernel's
/// numbering: index `i` is the byte at `fp - 8*spi - 1 - i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackSlot {
    /// The spilled register.
    pub reg: RegState,
    /// Type per byte; `types[7]` is the lowest address.
    pub types: [SlotType; 8],
}

impl StackSlot {
    /// Nothing written.
    pub const INVALID: StackSlot =
        StackSlot { reg: RegState::NOT_INIT, types: [SlotType::Invalid; 8] };

    /// `is_spilled_reg`.
    #[must_use]
    pub fn is_spill(&self) -> bool {
        self.types[7] == SlotType::Spill
    }

    /// `is_stack_slot_special`: a spilled register or a kernel object.
    #[must_use]
    pub const fn is_special(&self) -> bool {
        match self.types[7] {
            SlotType::Spill | SlotType::Dynptr | SlotType::Iter | SlotType::IrqFlag => true,
            SlotType::Invalid | SlotType::Misc | SlotType::Zero => false,
        }
    }

    /// All 8 bytes spill one register.
    #[must_use]
    pub fn is_full_spill(&self) -> bool {
        self.types[0] == SlotType::Spill
    }

    /// `is_spilled_scalar_reg`.
    #[must_use]
    pub fn is_scalar_spill(&self) -> bool {
        self.is_spill() && self.reg.ty == RegType::Scalar
    }

    /// `is_spilled_scalar_reg64`.
    #[must_use]
    pub fn is_scalar_spill64(&self) -> bool {
        self.is_full_spill() && self.reg.ty == RegType::Scalar
    }
}
