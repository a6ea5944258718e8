//! What becomes true after an instruction: transfer functions over the domain.

pub(crate) mod alu;
pub(crate) mod branch;
pub(crate) mod jump;
pub(crate) mod pointer;
#[cfg(test)]
mod proofs;
pub(crate) mod sanitize;
