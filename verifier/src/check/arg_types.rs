//! Types of registers that arguments take: `check_reg_type`, `check_func_arg_reg_off`.

use bpf::insn::Reg;

use super::args::Meta;
use crate::btf::BtfSrc;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::{ArgBase, ArgType, Flags, FuncProto};
use crate::reject::{EACCES, EFAULT, EINVAL};
use crate::render::log::{type_of, type_str};

const BPF_FUNC_SK_RELEASE: i32 = 86;
const BPF_FUNC_KPTR_XCHG: i32 = 194;
/// Helpers that take allocated objects: the locks and `bpf_kptr_xchg`.
const TAKES_OBJECTS: [i32; 3] = [93, 94, BPF_FUNC_KPTR_XCHG];

const NONE: Flags = Flags::NONE;
const TRUSTED: Flags = Flags::PTR_TRUSTED;

type Types = &'static [(RegType, Flags)];

const MEM_TYPES: Types = &[
    (RegType::Stack, NONE),
    (RegType::Packet, NONE),
    (RegType::PacketMeta, NONE),
    (RegType::MapKey, NONE),
    (RegType::MapValue, NONE),
    (RegType::Mem, NONE),
    (RegType::Mem, Flags::MEM_RINGBUF),
    (RegType::Buf, NONE),
    (RegType::BtfId, TRUSTED),
];
const SCALAR: Types = &[(RegType::Scalar, NONE)];
const SK_TYPES: Types = &[
    (RegType::SockCommon, NONE),
    (RegType::Socket, NONE),
    (RegType::TcpSock, NONE),
    (RegType::XdpSock, NONE),
];
const BTF_SK_TYPES: Types = &[
    (RegType::SockCommon, NONE),
    (RegType::Socket, NONE),
    (RegType::TcpSock, NONE),
    (RegType::XdpSock, NONE),
    (RegType::BtfId, NONE),
    (RegType::BtfId, TRUSTED),
];
const BTF_TYPES: Types =
    &[(RegType::BtfId, NONE), (RegType::BtfId, TRUSTED), (RegType::BtfId, Flags::MEM_RCU)];
const PERCPU_TYPES: Types = &[
    (RegType::BtfId, Flags::MEM_PERCPU),
    (RegType::BtfId, Flags::MEM_PERCPU.or(Flags::MEM_RCU)),
    (RegType::BtfId, Flags::MEM_PERCPU.or(TRUSTED)),
];
const VALUE_OR_OBJECT: Types = &[(RegType::MapValue, NONE), (RegType::BtfId, Flags::MEM_ALLOC)];

/// Types whose offset may be anything.
const FREE_OFFSETS: Types = &[
    (RegType::Stack, NONE),
    (RegType::Packet, NONE),
    (RegType::PacketMeta, NONE),
    (RegType::MapKey, NONE),
    (RegType::MapValue, NONE),
    (RegType::Mem, NONE),
    (RegType::Mem, Flags::MEM_RDONLY),
    (RegType::Mem, Flags::MEM_RINGBUF),
    (RegType::Buf, NONE),
    (RegType::Buf, Flags::MEM_RDONLY),
    (RegType::Arena, NONE),
    (RegType::Scalar, NONE),
];
const OWNED: Flags = Flags::MEM_ALLOC.or(Flags::NON_OWN_REF);
/// Types that may point into the object, at a constant offset.
const FIXED_OFFSETS: Types = &[
    (RegType::BtfId, NONE),
    (RegType::BtfId, Flags::MEM_ALLOC),
    (RegType::BtfId, TRUSTED),
    (RegType::BtfId, Flags::MEM_RCU),
    (RegType::BtfId, OWNED),
    (RegType::BtfId, OWNED.or(Flags::MEM_RCU)),
];

/// `compatible_reg_types`.
fn compatible(base: ArgBase) -> Option<Types> {
    use ArgBase as A;
    Some(match base {
        A::PtrToMapKey | A::PtrToMapValue | A::PtrToMem => MEM_TYPES,
        A::ConstSize | A::ConstSizeOrZero | A::ConstAllocSizeOrZero => SCALAR,
        A::ConstMapPtr => &[(RegType::ConstMapPtr, NONE)],
        A::PtrToCtx => &[(RegType::Ctx, NONE)],
        A::PtrToSockCommon => SK_TYPES,
        A::PtrToBtfIdSockCommon => BTF_SK_TYPES,
        A::PtrToSocket => &[(RegType::Socket, NONE)],
        A::PtrToBtfId => BTF_TYPES,
        A::PtrToPercpuBtfId => PERCPU_TYPES,
        A::PtrToSpinLock | A::KptrXchgDest => VALUE_OR_OBJECT,
        A::PtrToRingbufMem => &[(RegType::Mem, Flags::MEM_RINGBUF)],
        A::PtrToFunc => &[(RegType::Func, NONE)],
        A::PtrToStack => &[(RegType::Stack, NONE)],
        A::PtrToConstStr | A::PtrToTimer => &[(RegType::MapValue, NONE)],
        A::PtrToDynptr => &[(RegType::Stack, NONE), (RegType::ConstDynptr, NONE)],
        A::DontCare | A::Anything | A::PtrToArena => return None,
    })
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:check_reg_type
    pub(super) fn reg_type(
        &mut self,
        p: &FuncProto,
        n: Reg,
        r: &RegState,
        arg: &ArgType,
        meta: &Meta,
    ) -> R {
        let Some(types) = compatible(arg.base) else {
            return unsupported("arena argument", "verifier.c:check_func_arg");
        };
        let mut flags = r.flags;
        if arg.base == ArgBase::PtrToMem {
            flags = flags.without(Flags::DYNPTR_TYPES);
        }
        if arg.flags.has(Flags::MEM_RDONLY) {
            flags = flags.without(Flags::MEM_RDONLY);
        }
        if arg.flags.has(Flags::PTR_MAYBE_NULL) {
            flags = flags.without(Flags::PTR_MAYBE_NULL);
        }
        if p.id == BPF_FUNC_KPTR_XCHG && n == Reg::R2 && flags.has(Flags::MEM_ALLOC) {
            // Objects of the program's own may be stored, too.
            flags = flags.without(Flags::MEM_ALLOC.or(Flags::MEM_PERCPU));
        }
        if !types.contains(&(r.ty, flags)) {
            return not_of(n, r, types);
        }
        if r.ty != RegType::BtfId {
            return Ok(());
        }
        if matches!(arg.base, ArgBase::PtrToMapKey | ArgBase::PtrToMapValue | ArgBase::PtrToMem) {
            if arg.flags.has(Flags::MEM_RDONLY) {
                return Ok(());
            }
            let m = format!("may write into memory pointed by R{} type={}", n.0, type_of(r));
            return no(EACCES, format!("{}() {m}", p.name));
        }
        self.btf_arg(p, n, r, arg, meta)
    }

    /// The structure a BTF pointer points to is the one that is wanted.
    fn btf_arg(&self, p: &FuncProto, n: Reg, r: &RegState, arg: &ArgType, meta: &Meta) -> R {
        let own = r.flags.without(Flags::PTR_MAYBE_NULL);
        let special = own.any(Flags::MEM_ALLOC.or(Flags::MEM_PERCPU));
        if special && r.may_be_null() {
            return no(EFAULT, "verifier bug: invalid PTR_TO_BTF_ID register for type match");
        }
        if own.has(Flags::MEM_ALLOC) {
            if !TAKES_OBJECTS.contains(&p.id) {
                return no(EFAULT, "verifier bug: unimplemented handling of MEM_ALLOC");
            }
            return match meta.kptr {
                Some(f) if n == Reg::R2 => self.kptr_match(&f, n, r),
                _ => Ok(()),
            };
        }
        if own.has(Flags::MEM_PERCPU) {
            return Ok(());
        }
        let release = arg.flags.has(Flags::OBJ_RELEASE);
        if r.may_be_null() && (!arg.flags.has(Flags::PTR_MAYBE_NULL) || release) {
            return no(EACCES, format!("Possibly NULL pointer passed to helper arg{}", n.0));
        }
        if let Some(f) = meta.kptr {
            return self.kptr_match(&f, n, r);
        }
        let want = match arg.base {
            ArgBase::PtrToBtfIdSockCommon => "sock_common",
            _ if arg.btf.is_empty() => {
                let what = format!("argument {} of {}", n.0, p.name);
                return unsupported(what, "verifier.c:check_reg_type");
            }
            _ => arg.btf,
        };
        let id = self.btf_struct(want)?;
        let strict = release && p.id != BPF_FUNC_SK_RELEASE;
        self.btf_type_is(n, r, (BtfSrc::Vmlinux, id), strict)
    }

    fn btf_type_is(&self, n: Reg, r: &RegState, want: (BtfSrc, u32), strict: bool) -> R {
        if self.struct_ids_match((r.btf, r.btf_id), r.off, want, strict) {
            return Ok(());
        }
        let (has, want) = (self.btf_name(r.btf, r.btf_id), self.btf_name(want.0, want.1));
        no(EACCES, format!("R{} is of type {has} but {want} is expected", n.0))
    }

    /// The same for a parameter of a global function, whose type its BTF says.
    pub(crate) fn btf_func_arg(
        &self,
        n: Reg,
        r: &RegState,
        arg: &ArgType,
        want: (BtfSrc, u32),
    ) -> R {
        let null = if arg.flags.has(Flags::PTR_MAYBE_NULL) { Flags::PTR_MAYBE_NULL } else { NONE };
        if !BTF_TYPES.contains(&(r.ty, r.flags.without(null))) {
            return not_of(n, r, BTF_TYPES);
        }
        self.btf_type_is(n, r, want, false)
    }

    /// KERNEL v6.18 verifier.c:check_func_arg_reg_off
    pub(crate) fn arg_reg_off(&self, n: Reg, r: &RegState, release: bool, dynptr: bool) -> R {
        use RegType as T;
        if release {
            if dynptr && r.is(T::Stack) {
                return Ok(());
            }
            if r.off != 0 {
                let m = "must have zero offset when passed to release func or trusted arg to kfunc";
                return no(EINVAL, format!("R{} {m}", n.0));
            }
            return self.ptr_off(n, r, false);
        }
        if FREE_OFFSETS.contains(&(r.ty, r.flags)) {
            return Ok(());
        }
        self.ptr_off(n, r, FIXED_OFFSETS.contains(&(r.ty, r.flags)))
    }
}

fn not_of(n: Reg, r: &RegState, types: Types) -> R {
    let all: Vec<String> = types.iter().map(|t| type_str(t.0, t.1)).collect();
    no(EACCES, format!("R{} type={} expected={}", n.0, type_of(r), all.join(", ")))
}
