//! BTF: types of programs and kernels.

/// A parsed BTF blob.
#[derive(Clone, Debug, Default)]
pub struct Btf {}
