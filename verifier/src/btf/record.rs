//! `struct btf_record`: the special fields of a map value or an allocated object.

use super::BtfSrc;

/// `enum btf_field_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the kernel's, without BPF_")]
pub enum FieldKind {
    SpinLock,
    ResSpinLock,
    Timer,
    Workqueue,
    TaskWork,
    KptrUnref,
    KptrRef,
    KptrPercpu,
    Uptr,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    Refcount,
}

/// One special field: `struct btf_field`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Kind.
    pub kind: FieldKind,
    /// Byte offset in the value.
    pub off: u32,
    /// Size in bytes.
    pub size: u32,
    /// What a kptr points to, or what a list or tree contains (`graph_root.value_btf_id`).
    pub target: (BtfSrc, u32),
    /// Offset of the node in what is contained (`graph_root.node_offset`).
    pub node_off: u32,
}

/// All special fields by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Fields ordered by offset.
    pub fields: Vec<Field>,
}

impl Record {
    /// The first field of a kind.
    #[must_use]
    pub fn find(&self, kind: FieldKind) -> Option<&Field> {
        self.fields.iter().find(|f| f.kind == kind)
    }

    /// `btf_record_find`: the field at an offset.
    #[must_use]
    pub fn at(&self, off: u32) -> Option<&Field> {
        self.fields.iter().find(|f| f.off == off)
    }
}

/// Fields a map's creator declared by offset.
pub(crate) fn of_map(m: &crate::env::MapInfo) -> Record {
    let known = [(m.spin_lock_off, FieldKind::SpinLock, 4), (m.timer_off, FieldKind::Timer, 16)];
    let field = |(off, kind, size): (Option<u32>, FieldKind, u32)| {
        off.map(|off| Field { kind, off, size, target: Default::default(), node_off: 0 })
    };
    Record { fields: known.into_iter().filter_map(field).collect() }
}
