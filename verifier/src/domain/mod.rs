//! Abstract values: what is known about registers, stack slots and references.

pub mod refs;
pub mod reg;
pub mod scalar;
pub mod stack;
pub mod state;
pub mod tnum;
