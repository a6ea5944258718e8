//! One register: `struct bpf_reg_state`.

use super::scalar::Bounds;
use super::tnum::Tnum;
use crate::btf::BtfSrc;
use crate::proto::Flags;

/// `enum bpf_reg_type`, base part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kernel's, without PTR_TO_")]
pub enum RegType {
    NotInit,
    Scalar,
    Ctx,
    ConstMapPtr,
    MapValue,
    MapKey,
    Stack,
    PacketMeta,
    Packet,
    PacketEnd,
    FlowKeys,
    Socket,
    SockCommon,
    TcpSock,
    TpBuffer,
    XdpSock,
    BtfId,
    Mem,
    Arena,
    Buf,
    Func,
    Insn,
    ConstDynptr,
}

/// `BPF_ADD_CONST64`: the register's id is shared with a register that differs by `off`.
pub const ADD_CONST64: u32 = 1 << 31;
/// `BPF_ADD_CONST32`: their low halves differ by `off`, and the upper ones are zero.
pub const ADD_CONST32: u32 = 1 << 30;
/// `BPF_ADD_CONST`: either.
pub const ADD_CONST: u32 = ADD_CONST64 | ADD_CONST32;
/// `AT_PKT_END`.
pub const AT_PKT_END: i32 = -1;
/// `BEYOND_PKT_END`.
pub const BEYOND_PKT_END: i32 = -2;

/// `enum bpf_dynptr_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kernel's, without BPF_DYNPTR_TYPE_")]
pub enum DynptrType {
    Local,
    Ringbuf,
    Skb,
    Xdp,
    SkbMeta,
    File,
}

/// `enum bpf_iter_state`, without the invalid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IterState {
    /// May have elements left.
    Active,
    /// Has none.
    Drained,
}

/// What stack slots that hold a kernel object remember, and pointers to constant dynptrs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Obj {
    /// No such object.
    #[default]
    None,
    /// A dynptr: `bpf_reg_state::dynptr`.
    Dynptr {
        /// Kind of memory.
        ty: DynptrType,
        /// The slot with the lower address.
        first: bool,
    },
    /// An iterator: `bpf_reg_state::iter`; the type is in `btf_id`.
    Iter {
        /// Where it stands.
        state: IterState,
        /// How often it was advanced on this path.
        depth: u32,
    },
    /// Saved interrupt flags: `bpf_reg_state::irq`.
    Irq {
        /// By a resilient lock, not by `bpf_local_irq_save`.
        lock: bool,
    },
}

/// What is known about a register. The kernel keeps `range`, map, size and BTF id in a union;
/// here they are fields that hold their neutral value when the type does not use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegState {
    /// Type.
    pub ty: RegType,
    /// Type flags.
    pub flags: Flags,
    /// Fixed part of a pointer's offset; of a linked scalar the difference to the base.
    pub off: i32,
    /// Bytes known to be readable (packet pointers).
    pub range: i32,
    /// Index into `Input::maps` (map pointers, values and keys).
    pub map: u32,
    /// `map_uid`: which lookup of an inner map it came from.
    pub map_uid: u32,
    /// Size of `Mem` and `Buf`.
    pub mem_size: u32,
    /// BTF that `btf_id` is an id of.
    pub btf: BtfSrc,
    /// BTF id of the structure (`BtfId`), subprogram (`Func`).
    pub btf_id: u32,
    /// The dynptr a slice came from.
    pub dynptr_id: u32,
    /// The kernel object a stack slot holds or a dynptr pointer points to.
    pub obj: Obj,
    /// Variable part of the offset, or the scalar's value.
    pub b: Bounds,
    /// Identity for null checks, packet ranges and linked scalars.
    pub id: u32,
    /// The acquired reference this came from.
    pub ref_obj_id: u32,
    /// Frame a stack pointer points into.
    pub frameno: u32,
    /// The instruction that wrote the low half only, plus 1; 0: all 64 bits (`DEF_NOT_SUBREG`).
    pub subreg_def: u32,
    /// The scalar's exact value matters.
    pub precise: bool,
}

impl RegState {
    /// `__mark_reg_not_init`.
    pub const NOT_INIT: RegState = RegState::plain(RegType::NotInit);

    const fn plain(ty: RegType) -> RegState {
        RegState {
            ty,
            flags: Flags::NONE,
            off: 0,
            range: 0,
            map: 0,
            map_uid: 0,
            mem_size: 0,
            btf: BtfSrc::Vmlinux,
            btf_id: 0,
            dynptr_id: 0,
            obj: Obj::None,
            b: Bounds::UNKNOWN,
            id: 0,
            ref_obj_id: 0,
            frameno: 0,
            subreg_def: 0,
            precise: false,
        }
    }

    /// A pointer at offset 0.
    #[must_use]
    pub const fn pointer(ty: RegType, flags: Flags) -> RegState {
        let mut r = RegState::plain(ty);
        r.flags = flags;
        r.b = Bounds::known(0);
        r
    }

    /// `__mark_reg_unknown_imprecise`.
    #[must_use]
    pub const fn unknown() -> RegState {
        RegState::plain(RegType::Scalar)
    }

    /// `__mark_reg_known`.
    #[must_use]
    pub const fn known(imm: u64) -> RegState {
        let mut r = RegState::plain(RegType::Scalar);
        r.b = Bounds::known(imm);
        r
    }

    /// Type and flags together, as messages and comparisons need them.
    #[must_use]
    pub fn is(&self, ty: RegType) -> bool {
        self.ty == ty && self.flags == Flags::NONE
    }

    /// `type_may_be_null`.
    #[must_use]
    pub fn may_be_null(&self) -> bool {
        self.flags.has(Flags::PTR_MAYBE_NULL)
    }

    /// A scalar.
    #[must_use]
    pub fn is_scalar(&self) -> bool {
        self.ty == RegType::Scalar
    }

    /// `__is_pointer_value` for programs that may not leak addresses.
    #[must_use]
    pub fn is_pointer(&self) -> bool {
        !matches!(self.ty, RegType::Scalar | RegType::NotInit)
    }

    /// `is_spillable_regtype`, scalars apart.
    #[must_use]
    pub fn is_spillable(&self) -> bool {
        self.is_pointer()
            && !matches!(self.ty, RegType::ConstDynptr | RegType::TpBuffer | RegType::Insn)
    }

    /// Scalar constant.
    #[must_use]
    pub fn as_const(&self) -> Option<u64> {
        if self.is_scalar() { self.b.as_const() } else { None }
    }

    /// `register_is_null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_const() == Some(0)
    }

    /// `reg_is_pkt_pointer`.
    #[must_use]
    pub fn is_pkt_pointer(&self) -> bool {
        self.flags == Flags::NONE && matches!(self.ty, RegType::Packet | RegType::PacketMeta)
    }

    /// `reg_is_pkt_pointer_any`.
    #[must_use]
    pub fn is_pkt_pointer_any(&self) -> bool {
        self.is_pkt_pointer() || self.is(RegType::PacketEnd)
    }

    /// `reg_is_init_pkt_pointer`: exactly `which`, unmoved.
    #[must_use]
    pub fn is_init_pkt_pointer(&self, which: RegType) -> bool {
        self.is(which) && self.id == 0 && self.off == 0 && self.b.var_off == Tnum::constant(0)
    }

    /// `type_is_sk_pointer`.
    #[must_use]
    pub fn is_sk_pointer(&self) -> bool {
        use RegType::{SockCommon, Socket, TcpSock, XdpSock};
        matches!(self.ty, Socket | SockCommon | TcpSock | XdpSock) && self.flags == Flags::NONE
    }

    /// `reg_not_null`.
    #[must_use]
    pub fn is_not_null(&self) -> bool {
        use RegType as T;
        if self.flags.has(Flags::PTR_MAYBE_NULL) {
            return false;
        }
        match self.ty {
            T::Socket | T::TcpSock | T::MapValue | T::MapKey | T::SockCommon => true,
            T::BtfId => {
                let trust = Flags::PTR_TRUSTED.or(Flags::MEM_ALLOC).or(Flags::NON_OWN_REF);
                let safe = self.flags.without(trust) == Flags::NONE;
                self.ref_obj_id != 0 || (safe && self.flags.any(trust))
            }
            T::Mem => !self.flags.has(Flags::PTR_UNTRUSTED),
            T::ConstMapPtr => true,
            _ => false,
        }
    }

    /// Equality of everything but ids: `memcmp` up to `offsetof(id)`.
    #[must_use]
    pub fn same_but_ids(&self, o: &RegState) -> bool {
        self.same_head(o) && self.b == o.b
    }

    /// `memcmp` up to `offsetof(var_off)`: type, offset and the union.
    #[must_use]
    pub fn same_head(&self, o: &RegState) -> bool {
        self.ty == o.ty
            && self.flags == o.flags
            && self.off == o.off
            && self.range == o.range
            && self.map == o.map
            && self.map_uid == o.map_uid
            && self.mem_size == o.mem_size
            && self.btf == o.btf
            && self.btf_id == o.btf_id
            && self.dynptr_id == o.dynptr_id
            && self.obj == o.obj
    }
}
