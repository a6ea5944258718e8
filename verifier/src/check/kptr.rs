//! Kernel pointers kept in maps and objects: loads, stores, `bpf_kptr_xchg`.
//!
//! | field | load gives | store | `bpf_kptr_xchg` |
//! |---|---|---|---|
//! | `kptr_untrusted` | untrusted | pointer of the type, or 0 | no |
//! | `kptr` | RCU pointer where that is safe, else untrusted | no | yes |
//! | `percpu_kptr` | RCU pointer in an RCU section, else untrusted | no | yes |
//! | `uptr` | memory of the user's | no | no |

use bpf::insn::{Insn, Reg};

use super::mem::Access;
use super::stack::Value;
use crate::btf::BtfSrc;
use crate::btf::record::{Field, FieldKind as K};
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::EACCES;
use crate::render::log::{type_of, type_str};

/// `rcu_protected_types`: kernel objects that outlive an RCU section.
const RCU_PROTECTED: &[&str] =
    &["prog_test_ref_kfunc", "cgroup", "bpf_cpumask", "task_struct", "bpf_crypto_ctx"];

impl Ver<'_> {
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
