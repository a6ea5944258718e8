//! What must be true before an instruction: accesses, arguments, references, returns.

pub(crate) mod arena;
pub(crate) mod arg_types;
pub(crate) mod args;
pub(crate) mod btf_ptr;
pub(crate) mod btf_write;
pub(crate) mod call;
pub(crate) mod callback;
pub(crate) mod ctx;
pub(crate) mod ctx_btf;
pub(crate) mod dynptr;
pub(crate) mod exception;
pub(crate) mod func_args;
pub(crate) mod graph;
pub(crate) mod helper_mem;
pub(crate) mod irq;
pub(crate) mod iter;
pub(crate) mod kfunc;
pub(crate) mod kptr;
pub(crate) mod lock;
pub(crate) mod mem;
pub(crate) mod obj;
pub(crate) mod refs;
pub(crate) mod region;
pub(crate) mod ret;
pub(crate) mod slots;
pub(crate) mod stack;
