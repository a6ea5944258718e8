//! What must be true before an instruction: accesses, arguments, references, returns.

pub(crate) mod args;
pub(crate) mod call;
pub(crate) mod callback;
pub(crate) mod ctx;
pub(crate) mod helper_mem;
pub(crate) mod lock;
pub(crate) mod mem;
pub(crate) mod refs;
pub(crate) mod ret;
pub(crate) mod stack;
