//! Helper arguments: `check_func_arg` and `check_reg_type`.

use bpf::insn::Reg;
use bpf::uapi::MapType;

use super::helper_mem::MemUse;
use super::lock::LockOp;
use crate::btf::BtfSrc;
use crate::btf::record::{Field, FieldKind};
use crate::domain::refs::RefType;
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no};
use crate::proto::{ArgBase, ArgType, Flags, FuncProto};
use crate::reject::{EACCES, EINVAL};
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
    /// The key of a map helper when it is known (`const_map_key`).
    pub(crate) const_key: Option<u64>,
    /// Largest size of a memory argument.
    pub(crate) msize_max: i64,
    /// Field that `bpf_kptr_xchg` exchanges.
    pub(crate) kptr: Option<Field>,
    /// Type of a per-CPU argument.
    pub(crate) percpu: Option<(BtfSrc, u32)>,
}

/// `can_elide_value_nullness`: every element of these is there.
fn can_elide_nullness(ty: MapType) -> bool {
    matches!(ty, MapType::Array | MapType::PercpuArray)
}

const BPF_FUNC_SPIN_LOCK: i32 = 93;

/// How a helper uses memory, by the flags of the argument that points to it.
fn mem_use(flags: Flags, zero_ok: bool) -> MemUse {
    let write = flags.any(Flags::MEM_WRITE.or(Flags::MEM_UNINIT));
    MemUse { write, raw: flags.has(Flags::MEM_UNINIT), zero_ok }
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
            self.reg_type(p, n, &r, &arg, meta)?;
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
        if r.ref_obj_id != 0 && arg.base != ArgBase::KptrXchgDest {
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
        match arg.base {
            A::ConstMapPtr => {
                if meta.map.is_some_and(|m| (m, meta.map_uid) != (r.map, r.map_uid)) {
                    let m = format!("doesn't match map pointer in R2 map_uid={}", r.map_uid);
                    return no(EINVAL, format!("timer pointer in R1 map_uid={} {m}", meta.map_uid));
                }
                (meta.map, meta.map_uid) = (Some(r.map), r.map_uid);
            }
            A::PtrToMapKey => self.map_key_arg(n, r, meta)?,
            A::PtrToMapValue => self.map_value_arg(n, r, arg, meta)?,
            A::PtrToMem if arg.flags.has(Flags::MEM_FIXED_SIZE) && !r.is_null() => {
                self.fixed_mem(n, r, arg, meta)?;
            }
            A::ConstSize | A::ConstSizeOrZero => {
                let zero_ok = arg.base == A::ConstSizeOrZero;
                self.size_arg(n, p.args[i.saturating_sub(1)].flags, zero_ok, meta)?;
            }
            A::ConstAllocSizeOrZero => {
                let Some(v) = r.as_const() else {
                    return no(EACCES, format!("R{} is not a known constant'", n.0));
                };
                meta.mem_size = v;
                self.mark_precise(n)?;
            }
            A::PtrToFunc => meta.subprog = Some(r.btf_id),
            A::KptrXchgDest => self.kptr_dest(n, r, meta)?,
            A::PtrToPercpuBtfId => meta.percpu = Some((r.btf, r.btf_id)),
            A::PtrToSpinLock => {
                if self.in_rbtree_callback() {
                    return no(EACCES, "can't spin_{lock,unlock} in rbtree cb");
                }
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

    fn map_key_arg(&mut self, n: Reg, r: &RegState, meta: &mut Meta) -> R {
        let Some(m) = meta.map else {
            return no(EACCES, "invalid map_ptr to access map->key");
        };
        let size = self.maps[m as usize].key_size.into();
        self.helper_mem(n, size, MemUse { write: false, raw: false, zero_ok: false })?;
        if can_elide_nullness(self.maps[m as usize].map_type) {
            meta.const_key = self.constant_map_key(r, size as usize);
        }
        Ok(())
    }

    fn map_value_arg(&mut self, n: Reg, r: &RegState, arg: &ArgType, meta: &mut Meta) -> R {
        if arg.flags.has(Flags::PTR_MAYBE_NULL) && r.is_null() {
            return Ok(());
        }
        let Some(m) = meta.map else {
            return no(EACCES, "invalid map_ptr to access map->value");
        };
        let size = self.maps[m as usize].value_size.into();
        if self.helper_mem(n, size, mem_use(arg.flags, false))? {
            meta.fills = Some((n, size));
        }
        Ok(())
    }

    /// The size of the memory that the argument before points to.
    fn size_arg(&mut self, n: Reg, memory: Flags, zero_ok: bool, meta: &mut Meta) -> R {
        if let Some(size) = self.mem_size(n, mem_use(memory, zero_ok))? {
            meta.fills = Some((Reg(n.0 - 1), size));
        }
        meta.msize_max = self.r(n).b.umax as i64;
        Ok(())
    }

    /// Memory whose size the prototype gives (`MEM_FIXED_SIZE`).
    fn fixed_mem(&mut self, n: Reg, r: &RegState, arg: &ArgType, meta: &mut Meta) -> R {
        if self.helper_mem(n, arg.size.into(), mem_use(arg.flags, false))? {
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
        self.map_has_btf(r.map, name)?;
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
