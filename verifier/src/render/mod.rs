//! Text people and tools read: the kernel's log.

pub(crate) mod log;
