//! What becomes true after an instruction: transfer functions over the domain.

pub mod alu;
pub mod jump;
pub(crate) mod pointer;
