//! The vocabulary of prototypes: `struct bpf_func_proto`, `enum bpf_arg_type`,
//! `enum bpf_return_type` and the type flags shared by registers and arguments.
//!
//! The rows live in `tables::helpers`; the checker (`check::call`) reads them.

/// `enum bpf_type_flag`: modifiers of register, argument and return types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Flags(pub u32);

#[allow(missing_docs, reason = "the names are the kernel's")]
impl Flags {
    pub const NONE: Flags = Flags(0);
    pub const PTR_MAYBE_NULL: Flags = Flags(1);
    pub const MEM_RDONLY: Flags = Flags(1 << 1);
    pub const MEM_RINGBUF: Flags = Flags(1 << 2);
    pub const MEM_USER: Flags = Flags(1 << 3);
    pub const MEM_PERCPU: Flags = Flags(1 << 4);
    pub const OBJ_RELEASE: Flags = Flags(1 << 5);
    pub const PTR_UNTRUSTED: Flags = Flags(1 << 6);
    pub const MEM_UNINIT: Flags = Flags(1 << 7);
    pub const DYNPTR_TYPE_LOCAL: Flags = Flags(1 << 8);
    pub const DYNPTR_TYPE_RINGBUF: Flags = Flags(1 << 9);
    pub const MEM_FIXED_SIZE: Flags = Flags(1 << 10);
    pub const MEM_ALLOC: Flags = Flags(1 << 11);
    pub const PTR_TRUSTED: Flags = Flags(1 << 12);
    pub const MEM_RCU: Flags = Flags(1 << 13);
    pub const NON_OWN_REF: Flags = Flags(1 << 14);
    pub const DYNPTR_TYPE_SKB: Flags = Flags(1 << 15);
    pub const DYNPTR_TYPE_XDP: Flags = Flags(1 << 16);
    pub const MEM_ALIGNED: Flags = Flags(1 << 17);
    pub const MEM_WRITE: Flags = Flags(1 << 18);
    pub const DYNPTR_TYPE_SKB_META: Flags = Flags(1 << 19);
    pub const DYNPTR_TYPE_FILE: Flags = Flags(1 << 20);
    /// `DYNPTR_TYPE_FLAG_MASK`.
    pub const DYNPTR_TYPES: Flags = Flags::DYNPTR_TYPE_LOCAL
        .or(Flags::DYNPTR_TYPE_RINGBUF)
        .or(Flags::DYNPTR_TYPE_SKB)
        .or(Flags::DYNPTR_TYPE_XDP)
        .or(Flags::DYNPTR_TYPE_SKB_META)
        .or(Flags::DYNPTR_TYPE_FILE);

    /// All of `other` are set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other` is set.
    #[must_use]
    pub const fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Union.
    #[must_use]
    pub const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Difference.
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

/// `enum bpf_arg_type`, base part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kernel's, without ARG_")]
pub enum ArgBase {
    DontCare,
    ConstMapPtr,
    PtrToMapKey,
    PtrToMapValue,
    PtrToMem,
    PtrToArena,
    ConstSize,
    ConstSizeOrZero,
    PtrToCtx,
    Anything,
    PtrToSpinLock,
    PtrToSockCommon,
    PtrToSocket,
    PtrToBtfId,
    PtrToRingbufMem,
    ConstAllocSizeOrZero,
    PtrToBtfIdSockCommon,
    PtrToPercpuBtfId,
    PtrToFunc,
    PtrToStack,
    PtrToConstStr,
    PtrToTimer,
    KptrXchgDest,
    PtrToDynptr,
}

/// `enum bpf_arg_type`: base and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArgType {
    /// Base.
    pub base: ArgBase,
    /// Flags: `PTR_MAYBE_NULL` is the kernel's `_OR_NULL`, `MEM_UNINIT` its `UNINIT_`.
    pub flags: Flags,
    /// `argN_size` of `MEM_FIXED_SIZE` arguments; 0 otherwise.
    pub size: u32,
    /// Name of the BTF structure of `PtrToBtfId` arguments; empty otherwise.
    pub btf: &'static str,
}

/// `enum bpf_return_type`, base part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the kernel's, without RET_")]
pub enum RetBase {
    Integer,
    Void,
    PtrToMapValue,
    PtrToSocket,
    PtrToTcpSock,
    PtrToSockCommon,
    PtrToMem,
    PtrToMemOrBtfId,
    PtrToBtfId,
}

/// `enum bpf_return_type`: base and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetType {
    /// Base.
    pub base: RetBase,
    /// Flags.
    pub flags: Flags,
    /// Name of the BTF structure of `PtrToBtfId`; empty otherwise.
    pub btf: &'static str,
}

/// `struct bpf_func_proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuncProto {
    /// Helper id.
    pub id: i32,
    /// Name with `bpf_`: messages print it without (`func_id_name` is `map_lookup_elem`).
    pub name: &'static str,
    /// Arguments; `DontCare` from the first unused one on.
    pub args: [ArgType; 5],
    /// Return value.
    pub ret: RetType,
    /// Needs a GPL-compatible program.
    pub gpl_only: bool,
    /// May read packet pointers.
    pub pkt_access: bool,
    /// May sleep.
    pub might_sleep: bool,
    /// May be called with `bpf_fastcall`.
    pub allow_fastcall: bool,
    /// `bpf_helper_changes_pkt_data`: packet pointers die.
    pub changes_pkt_data: bool,
}

/// What a context load gives: `struct bpf_insn_access_aux` after `is_valid_access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtxReg {
    /// A scalar of the access size.
    Scalar,
    /// `PTR_TO_PACKET`.
    Packet,
    /// `PTR_TO_PACKET_META`.
    PacketMeta,
    /// `PTR_TO_PACKET_END`.
    PacketEnd,
    /// `PTR_TO_SOCK_COMMON_OR_NULL`.
    SockCommonOrNull,
    /// `PTR_TO_SOCKET`.
    Socket,
    /// `PTR_TO_SOCKET_OR_NULL`.
    SocketOrNull,
    /// `PTR_TO_FLOW_KEYS`.
    FlowKeys,
    /// `PTR_TO_TP_BUFFER`.
    TpBuffer,
    /// `PTR_TO_BTF_ID` of a named structure of vmlinux BTF.
    BtfId {
        /// Structure.
        name: &'static str,
        /// Flags.
        flags: Flags,
    },
    /// `PTR_TO_BUF` (iterators).
    Buf {
        /// Flags.
        flags: Flags,
    },
}

/// Outcome of the context access table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtxVerdict {
    /// Allowed.
    Ok(CtxReg),
    /// "invalid bpf_context access".
    Invalid,
    /// The table does not know (tracing arguments and struct_ops need BTF).
    Unknown,
}

/// Accepted values of R0 at program exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetRange {
    /// Any initialised value.
    Any,
    /// `[min, max]`; the kernel compares the 32-bit signed range when `is32`.
    Range {
        /// Smallest.
        min: i32,
        /// Largest.
        max: i32,
        /// Compare the low half (`return_32bit`).
        is32: bool,
    },
}
