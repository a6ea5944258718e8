//! Kernel pointers kept in maps and objects: loads, stores, `bpf_kptr_xchg`.
//!
//! | field | load gives | store | `bpf_kptr_xchg` |
//! |---|---|---|---|
//! | `kptr_untrusted` | untrusted | pointer of the type, or 0 | no |
//! | `kptr` | RCU pointer where that is safe, else untrusted | no | yes |
//! | `percpu_kptr` | RCU pointer in an RCU section, else untrusted | no | yes |
//! | `uptr` | memory of the user's | no | no |

use bpf::btf::Kind;
use bpf::insn::{Insn, Reg};

use super::args::Meta;
use super::mem::Access;
use super::stack::Value;
use crate::btf::BtfSrc;
use crate::btf::record::{Field, FieldKind as K};
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EFAULT, EINVAL};
use crate::render::log::{type_of, type_str};

/// `rcu_protected_types`: kernel objects that outlive an RCU section.
const RCU_PROTECTED: &[&str] =
    &["prog_test_ref_kfunc", "cgroup", "bpf_cpumask", "task_struct", "bpf_crypto_ctx"];

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:process_kptr_func
    pub(super) fn kptr_dest(&mut self, n: Reg, r: &RegState, meta: &mut Meta) -> R {
        if r.ty == RegType::MapValue {
            self.map_has_btf(r.map, "bpf_kptr_xchg")?;
            meta.map = Some(r.map);
        }
        let Some(v) = r.b.as_const() else {
            let m = "doesn't have constant offset. kptr has to be at the constant offset";
            return no(EINVAL, format!("R{} {m}", n.0));
        };
        let rec = self.reg_record(r).filter(|rec| rec.fields.iter().any(|f| f.kind.is_kptr()));
        let Some(rec) = rec else {
            return no(EINVAL, format!("R{} has no valid kptr", n.0));
        };
        let off = (r.off).wrapping_add(v as i32);
        let field = rec.at(off.cast_unsigned()).filter(|f| f.kind.is_kptr()).copied();
        let Some(f) = field else {
            return no(EACCES, format!("off={off} doesn't point to kptr"));
        };
        if f.kind == K::KptrUnref {
            return no(EACCES, format!("off={off} kptr isn't referenced kptr"));
        }
        meta.kptr = Some(f);
        Ok(())
    }

    /// What `bpf_kptr_xchg` returns: the pointer that was there.
    pub(super) fn kptr_xchg_result(&self, f: &Field, flags: Flags) -> RegState {
        let mut r = RegState::pointer(RegType::BtfId, flags);
        (r.btf, r.btf_id) = f.target;
        if r.btf == BtfSrc::Program {
            r.flags = r.flags.or(Flags::MEM_ALLOC);
            if f.kind == K::KptrPercpu {
                r.flags = r.flags.or(Flags::MEM_PERCPU);
            }
        }
        r
    }

    /// The reference that `bpf_kptr_xchg` stores: a per-CPU object stays valid in its RCU
    /// section.
    pub(super) fn kptr_xchg_release(&mut self, ref_obj_id: u32) -> bool {
        if self.cur.held.release_ptr(ref_obj_id).is_err() {
            return false;
        }
        let (rcu, dead) = (self.in_rcu_cs(), self.dead());
        let percpu = Flags::MEM_ALLOC.or(Flags::MEM_PERCPU);
        for r in self.cur.all_regs_mut().filter(|r| r.ref_obj_id == ref_obj_id) {
            if rcu && r.flags.has(percpu) {
                r.ref_obj_id = 0;
                r.flags = r.flags.without(Flags::MEM_ALLOC).or(Flags::MEM_RCU);
            } else {
                *r = dead;
            }
        }
        true
    }

    /// `bpf_per_cpu_ptr` and `bpf_this_cpu_ptr`: the variable or object on one CPU.
    pub(super) fn percpu_result(&mut self, meta: &Meta, flags: Flags) -> R<RegState> {
        let (src, id) = meta.percpu.unwrap_or_default();
        let Some(btf) = self.btf_of(src) else {
            return no(EFAULT, "Helper has invalid btf/btf_id in R1");
        };
        let id = btf.resolve(id);
        if matches!(btf.kind(id), Kind::Struct | Kind::Union) {
            let alloc = self.r(Reg::R1).flags.has(Flags::MEM_RCU);
            let flags = if alloc {
                Flags::MEM_ALLOC.or(Flags::MEM_RCU)
            } else {
                flags.without(Flags::MEM_RDONLY)
            };
            let mut r = RegState::pointer(RegType::BtfId, flags);
            (r.btf, r.btf_id) = (src, id);
            return Ok(r);
        }
        let Some(size) = btf.size_of(id) else {
            let name = btf.name(id);
            let m = format!("unable to resolve the size of type '{name}': -22");
            return no(EINVAL, m);
        };
        let mut r = RegState::pointer(RegType::Mem, flags);
        r.mem_size = size;
        Ok(r)
    }

    /// A map whose values' fields are used must say what they are.
    pub(crate) fn map_has_btf(&self, map: u32, user: &str) -> R {
        let m = &self.maps[map as usize];
        if m.value_type_id != 0 || !self.map_records[map as usize].is_empty() {
            return Ok(());
        }
        no(EINVAL, format!("map '{}' has to have BTF in order to use {user}", m.name))
    }

    /// The pointer field at a constant offset of a map value.
    pub(crate) fn kptr_at(&self, p: &RegState, off: i32) -> Option<Field> {
        let at = i64::from(off).wrapping_add(p.b.as_const()? as i64);
        let f = self.map_records[p.map as usize].at(u32::try_from(at).ok()?)?;
        (f.kind.is_kptr() || f.kind == K::Uptr).then_some(*f)
    }

    /// KERNEL v6.18 verifier.c:check_map_kptr_access
    pub(crate) fn kptr_load_store(&mut self, a: Access, f: &Field) -> R {
        let insn = *self.insn(self.insn_idx);
        if !matches!(insn, Insn::Load { sext: false, .. } | Insn::Store { .. }) {
            let m = "kptr in map can only be accessed using BPF_MEM instruction mode";
            return no(EACCES, m);
        }
        let Some(written) = a.write else {
            if let Some(d) = a.dst {
                let r = self.kptr_loaded(f);
                self.set(d, r);
            }
            return Ok(());
        };
        match f.kind {
            K::KptrRef | K::KptrPercpu => {
                return no(EACCES, "store to referenced kptr disallowed");
            }
            K::Uptr => return no(EACCES, "store to uptr disallowed"),
            _ => {}
        }
        match written {
            Value::Reg(r) if self.r(r).is_null() => Ok(()),
            Value::Reg(r) => {
                let v = *self.r(r);
                self.kptr_match(f, r, &v)
            }
            Value::Imm(0) => Ok(()),
            Value::Imm(_) | Value::Misc => {
                let m = "BPF_ST imm must be 0 when storing to kptr";
                no(EACCES, format!("{m} at off={}", f.off))
            }
        }
    }

    /// What a load of the field gives.
    fn kptr_loaded(&mut self, f: &Field) -> RegState {
        if f.kind == K::Uptr {
            let mut r = RegState::pointer(RegType::Mem, Flags::PTR_MAYBE_NULL);
            let size = self.btf_of(f.target.0).and_then(|b| b.size_of(f.target.1));
            (r.mem_size, r.id) = (size.unwrap_or(0), self.new_id());
            return r;
        }
        let mut r = RegState::pointer(RegType::BtfId, self.kptr_flags(f));
        ((r.btf, r.btf_id), r.id) = (f.target, self.new_id());
        r
    }

    /// `btf_ld_kptr_type`.
    fn kptr_flags(&self, f: &Field) -> Flags {
        let (src, id) = f.target;
        let name = self.btf_name(src, id);
        let protected = src == BtfSrc::Program || RCU_PROTECTED.contains(&name);
        let safe = f.kind == K::KptrPercpu || (f.kind == K::KptrRef && protected);
        if !(safe && self.in_rcu_cs()) {
            return Flags::PTR_MAYBE_NULL.or(Flags::PTR_UNTRUSTED);
        }
        let mut flags = Flags::PTR_MAYBE_NULL.or(Flags::MEM_RCU);
        if f.kind == K::KptrPercpu {
            flags = flags.or(Flags::MEM_PERCPU);
        } else if src == BtfSrc::Program {
            flags = flags.or(Flags::MEM_ALLOC);
        }
        let rec = self.struct_meta(src, id);
        if rec.is_some_and(|r| r.has(K::ListNode) || r.has(K::RbNode)) {
            flags = flags.or(Flags::NON_OWN_REF);
        }
        flags
    }

    /// KERNEL v6.18 verifier.c:map_kptr_match_type
    pub(crate) fn kptr_match(&self, f: &Field, n: Reg, r: &RegState) -> R {
        let mut allowed = Flags::PTR_MAYBE_NULL;
        if r.btf == BtfSrc::Vmlinux {
            allowed = allowed.or(Flags::PTR_TRUSTED).or(Flags::MEM_RCU);
            if f.kind == K::KptrUnref {
                allowed = allowed.or(Flags::PTR_UNTRUSTED);
            }
        } else {
            allowed = allowed.or(Flags::MEM_ALLOC);
            if f.kind == K::KptrPercpu {
                allowed = allowed.or(Flags::MEM_PERCPU);
            }
        }
        if r.ty != RegType::BtfId || r.flags.without(allowed) != Flags::NONE {
            return self.bad_kptr(f, n, r, "");
        }
        self.ptr_off(n, r, true)?;
        let strict = f.kind != K::KptrUnref;
        if self.struct_ids_match((r.btf, r.btf_id), r.off, f.target, strict) {
            return Ok(());
        }
        self.bad_kptr(f, n, r, self.btf_name(r.btf, r.btf_id))
    }

    fn bad_kptr(&self, f: &Field, n: Reg, r: &RegState, name: &str) -> R {
        let want = self.btf_name(f.target.0, f.target.1);
        let ptr = |flags| type_str(RegType::BtfId, flags);
        let or = if f.kind == K::KptrUnref {
            format!(" or {}{want}", ptr(Flags::PTR_UNTRUSTED))
        } else {
            String::new()
        };
        let has = type_of(r);
        let m = format!("invalid kptr access, R{} type={has}{name} ", n.0);
        no(EACCES, format!("{m}expected={}{want}{or}", ptr(Flags::NONE)))
    }
}
