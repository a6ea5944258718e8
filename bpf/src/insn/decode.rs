//! Slots to instructions.
use super::{Insn, Slot};

/// Why a slot is not an instruction; the text is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// Slot index.
    pub at: super::InsnIdx,
    /// Kernel message, e.g. `unknown opcode 0f`.
    pub message: String,
}

/// Decodes the slot at the front of `slots` (the second half of `ld_imm64` needs its successor).
///
/// # Errors
/// What the kernel would refuse, in its words.
pub fn decode(_slots: &[Slot]) -> Result<Insn, DecodeError> {
    Err(DecodeError { at: super::InsnIdx(0), message: String::new() })
}

/// Decodes a whole program, one [`Insn`] per slot.
///
/// # Errors
/// The first bad slot.
pub fn decode_all(_slots: &[Slot]) -> Result<Vec<Insn>, DecodeError> {
    Ok(Vec::new())
}
