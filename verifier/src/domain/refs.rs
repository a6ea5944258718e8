//! Acquired references and locks: `struct bpf_reference_state`.

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefType {
    /// An object that must be released.
    Ptr,
    /// `bpf_spin_lock`; `ptr` identifies the map value it is in.
    Lock {
        /// Index of the map.
        map: u32,
    },
}

/// One held thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefState {
    /// Kind.
    pub ty: RefType,
    /// Identity.
    pub id: u32,
    /// Where it was acquired.
    pub insn_idx: u32,
}
