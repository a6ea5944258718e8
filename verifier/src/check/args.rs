//! Helper arguments: `check_func_arg` and `check_reg_type`.

use bpf::insn::Reg;
use bpf::uapi::MapType;

use super::helper_mem::MemUse;
use super::lock::LockOp;
use crate::btf::BtfSrc;
use crate::btf::record::FieldKind;
use crate::domain::refs::RefType;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::{ArgBase, ArgType, Flags, FuncProto};
use crate::reject::{EACCES, EINVAL};
use crate::render::log::{type_of, type_str};
use crate::tables;

/// `struct bpf_call_arg_meta`: what the arguments say together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) map: Option<u32>,
    pub(crate) map_uid: u32,
    pub(crate) subprog: Option<u32>,
    pub(crate) mem_size: u64,
    pub(crate) ref_obj_id: u32,
    /// The dynptr a slice is taken from.
    pub(crate) dynptr_id: u32,
    pub(crate) release: Option<Reg>,
    /// Stack bytes the helper initialises: register and size.
    pub(crate) fills: Option<(Reg, i64)>,
    /// BTF id a `PTR_TO_BTF_ID` argument had.
    pub(crate) msize_max: i64,
}

const BPF_FUNC_SPIN_LOCK: i32 = 93;

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
const PERCPU_TYPES: Types =
    &[(RegType::BtfId, Flags::MEM_PERCPU), (RegType::BtfId, Flags::MEM_PERCPU.or(TRUSTED))];

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
        A::PtrToSpinLock => &[(RegType::MapValue, NONE), (RegType::BtfId, Flags::MEM_ALLOC)],
        A::PtrToRingbufMem => &[(RegType::Mem, Flags::MEM_RINGBUF)],
        A::PtrToFunc => &[(RegType::Func, NONE)],
        A::PtrToStack => &[(RegType::Stack, NONE)],
        A::PtrToConstStr | A::PtrToTimer => &[(RegType::MapValue, NONE)],
        A::PtrToDynptr => &[(RegType::Stack, NONE), (RegType::ConstDynptr, NONE)],
        A::DontCare | A::Anything | A::PtrToArena | A::KptrXchgDest => {
            return None;
        }
    })
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:check_func_arg
    pub(crate) fn check_arg(&mut self, p: &FuncProto, i: usize, meta: &mut Meta) -> R {
        let arg = self.resolve_map_arg(p.args[i], meta);
        if arg.base == ArgBase::DontCare {
            return Ok(());
        }
        let n = Reg(i as u8 + 1);
        let r = self.read(n)?;
        if arg.base == ArgBase::Anything {
            if self.is_pointer_value(n) {
                return no(EACCES, format!("R{} leaks addr into helper function", n.0));
            }
            return Ok(());
        }
        if r.is_pkt_pointer() {
            let ok = p.pkt_access && tables::packet_access(self.input.program, false);
            if !ok {
                return no(EACCES, "helper access to the packet is not allowed");
            }
        }
        if !(r.is_null() && arg.flags.has(Flags::PTR_MAYBE_NULL)) {
            self.reg_type(n, &r, &arg)?;
            let dynptr = arg.base == ArgBase::PtrToDynptr;
            self.arg_reg_off(n, &r, arg.flags.has(Flags::OBJ_RELEASE), dynptr)?;
        }
        self.arg_refs(n, &r, &arg, meta)?;
        self.arg_value(p, i, n, &r, &arg, meta)
    }

    /// `resolve_map_arg_type`.
    fn resolve_map_arg(&self, arg: ArgType, meta: &Meta) -> ArgType {
        let ty = meta.map.map(|m| self.maps[m as usize].map_type);
        let sock = matches!(ty, Some(MapType::Sockmap | MapType::Sockhash));
        if arg.base == ArgBase::PtrToMapValue && sock {
            return ArgType { base: ArgBase::PtrToBtfIdSockCommon, ..arg };
        }
        arg
    }

    /// KERNEL v6.18 verifier.c:check_reg_type
    fn reg_type(&mut self, n: Reg, r: &RegState, arg: &ArgType) -> R {
        let Some(types) = compatible(arg.base) else {
            let what = match arg.base {
                ArgBase::KptrXchgDest => "bpf_kptr_xchg",
                _ => "arena argument",
            };
            return unsupported(what, "verifier.c:check_func_arg");
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
        if !types.contains(&(r.ty, flags)) {
            let all: Vec<String> = types.iter().map(|t| type_str(t.0, t.1)).collect();
            let m = format!("R{} type={} expected={}", n.0, type_of(r), all.join(", "));
            return no(EACCES, m);
        }
        let wants = arg.base == ArgBase::PtrToBtfId && !arg.btf.is_empty();
        if r.ty == RegType::BtfId && wants {
            let id = self.btf_struct(arg.btf)?;
            if !self.struct_ids_match((r.btf, r.btf_id), r.off, (BtfSrc::Vmlinux, id), false) {
                let b = self.btf_name(r.btf, r.btf_id);
                let m = format!("R{} is of type {b} but {} is expected", n.0, arg.btf);
                return no(EACCES, m);
            }
        }
        Ok(())
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

    fn arg_refs(&mut self, n: Reg, r: &RegState, arg: &ArgType, meta: &mut Meta) -> R {
        if arg.flags.has(Flags::OBJ_RELEASE) {
            if arg.base == ArgBase::PtrToDynptr {
                self.dynptr_release_arg(n, r)?;
            } else if r.ref_obj_id == 0 && !r.is_null() {
                let m = format!("R{} must be referenced when passed to release function", n.0);
                return no(EINVAL, m);
            }
            meta.release = Some(n);
        }
        if r.ref_obj_id != 0 {
            if meta.ref_obj_id != 0 {
                let (a, b) = (r.ref_obj_id, meta.ref_obj_id);
                return no(EACCES, format!("more than one arg with ref_obj_id R{} {a} {b}", n.0));
            }
            meta.ref_obj_id = r.ref_obj_id;
        }
        Ok(())
    }

    /// What each kind of argument demands beyond its type.
    fn arg_value(
        &mut self,
        p: &FuncProto,
        i: usize,
        n: Reg,
        r: &RegState,
        arg: &ArgType,
        meta: &mut Meta,
    ) -> R {
        use ArgBase as A;
        let write = |f: Flags| f.any(Flags::MEM_WRITE.or(Flags::MEM_UNINIT));
        match arg.base {
            A::ConstMapPtr => {
                (meta.map, meta.map_uid) = (Some(r.map), r.map_uid);
            }
            A::PtrToMapKey => {
                let Some(m) = meta.map else {
                    return no(EACCES, "invalid map_ptr to access map->key");
                };
                let size = self.maps[m as usize].key_size.into();
                self.helper_mem(n, size, MemUse { write: false, raw: false, zero_ok: false })?;
            }
            A::PtrToMapValue => {
                if arg.flags.has(Flags::PTR_MAYBE_NULL) && r.is_null() {
                    return Ok(());
                }
                let Some(m) = meta.map else {
                    return no(EACCES, "invalid map_ptr to access map->value");
                };
                let size = self.maps[m as usize].value_size.into();
                let raw = arg.flags.has(Flags::MEM_UNINIT);
                let u = MemUse { write: write(arg.flags), raw, zero_ok: false };
                if self.helper_mem(n, size, u)? {
                    meta.fills = Some((n, size));
                }
            }
            A::PtrToMem if arg.flags.has(Flags::MEM_FIXED_SIZE) && !r.is_null() => {
                self.fixed_mem(n, r, arg, meta)?;
            }
            A::ConstSize | A::ConstSizeOrZero => {
                let f = p.args[i.saturating_sub(1)].flags;
                let zero_ok = arg.base == A::ConstSizeOrZero;
                let raw = f.has(Flags::MEM_UNINIT);
                let u = MemUse { write: write(f), raw, zero_ok };
                if let Some(size) = self.mem_size(n, u)? {
                    meta.fills = Some((Reg(n.0 - 1), size));
                }
                meta.msize_max = self.r(n).b.umax as i64;
            }
            A::ConstAllocSizeOrZero => {
                let Some(v) = r.as_const() else {
                    return no(EACCES, format!("R{} is not a known constant'", n.0));
                };
                meta.mem_size = v;
                self.mark_precise(n)?;
            }
            A::PtrToFunc => meta.subprog = Some(r.btf_id),
            A::PtrToSpinLock => {
                let take = p.id == BPF_FUNC_SPIN_LOCK;
                self.spin_lock(n, LockOp { take, ty: RefType::Lock })?;
            }
            A::PtrToDynptr => self.helper_dynptr(n, arg)?,
            A::PtrToConstStr => self.const_str(n, r)?,
            A::PtrToTimer => {
                self.map_field_pointer(n, r, FieldKind::Timer)?;
                (meta.map, meta.map_uid) = (Some(r.map), r.map_uid);
            }
            _ => {}
        }
        Ok(())
    }

    /// Memory whose size the prototype gives (`MEM_FIXED_SIZE`).
    fn fixed_mem(&mut self, n: Reg, r: &RegState, arg: &ArgType, meta: &mut Meta) -> R {
        let write = arg.flags.any(Flags::MEM_WRITE.or(Flags::MEM_UNINIT));
        let u = MemUse { write, raw: arg.flags.has(Flags::MEM_UNINIT), zero_ok: false };
        if self.helper_mem(n, arg.size.into(), u)? {
            meta.fills = Some((n, arg.size.into()));
        }
        if arg.flags.has(Flags::MEM_ALIGNED) {
            self.check_alignment(r, 0, arg.size, true)?;
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_map_field_pointer
    pub(crate) fn map_field_pointer(&self, n: Reg, r: &RegState, kind: FieldKind) -> R {
        let (name, map) = (kind.name(), &self.maps[r.map as usize]);
        let Some(v) = r.b.as_const() else {
            let m = format!("{name} has to be at the constant offset");
            return no(EINVAL, format!("R{} doesn't have constant offset. {m}", n.0));
        };
        let Some(f) = self.map_records[r.map as usize].find(kind) else {
            return no(EINVAL, format!("map '{}' has no valid {name}", map.name));
        };
        let off = (v as i64).wrapping_add(r.off.into());
        if off != i64::from(f.off) {
            let m = format!("off {off} doesn't point to 'struct {name}' that is at {}", f.off);
            return no(EINVAL, m);
        }
        Ok(())
    }

    /// `check_reg_const_str`.
    pub(crate) fn const_str(&mut self, n: Reg, r: &RegState) -> R {
        let m = &self.maps[r.map as usize];
        let Some(bytes) = m.frozen_value.as_ref() else {
            return no(EACCES, format!("R{} does not point to a readonly map'", n.0));
        };
        let Some(v) = r.b.as_const() else {
            return no(EACCES, format!("R{} is not a constant address'", n.0));
        };
        let from = (v as i64 + i64::from(r.off)) as usize;
        if bytes.get(from..).is_none_or(|b| !b.contains(&0)) {
            return no(EINVAL, "string is not zero-terminated");
        }
        Ok(())
    }
}
