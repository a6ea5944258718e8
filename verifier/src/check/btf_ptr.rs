//! Accesses through pointers to kernel structures and allocated objects.
//!
//! | pointer | a pointer member is |
//! |---|---|
//! | trusted or RCU, the member is on a safe list | trusted, or RCU inside an RCU section |
//! | the same, tagged `__rcu` | RCU and maybe NULL inside an RCU section |
//! | the same, not on a list | plain inside an RCU section, untrusted outside |
//! | plain | plain |
//! | untrusted | untrusted |

use bpf::btf::Kind;
use bpf::uapi::MapType;

use super::kfunc::args::is_trusted;
use super::mem::Access;
use crate::btf::BtfSrc;
use crate::btf::walk::{Walk, Walker};
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL, ENOTSUPP, EPERM};

/// `BPF_REG_TRUSTED_MODIFIERS` and `MEM_RCU`: what `clear_trusted_flags` clears.
const TRUST: Flags =
    Flags::MEM_ALLOC.or(Flags::PTR_TRUSTED).or(Flags::NON_OWN_REF).or(Flags::MEM_RCU);

/// `map_btf_id`: the kernel's structure of a type of map.
const MAP_STRUCTS: &[(&str, &[MapType])] = &[
    (
        "bpf_array",
        &[
            MapType::Array,
            MapType::PercpuArray,
            MapType::ProgArray,
            MapType::PerfEventArray,
            MapType::CgroupArray,
            MapType::ArrayOfMaps,
        ],
    ),
    (
        "bpf_htab",
        &[
            MapType::Hash,
            MapType::LruHash,
            MapType::PercpuHash,
            MapType::LruPercpuHash,
            MapType::HashOfMaps,
        ],
    ),
    ("lpm_trie", &[MapType::LpmTrie]),
    ("bpf_stack_map", &[MapType::StackTrace]),
    ("reuseport_array", &[MapType::ReuseportSockarray]),
    ("bpf_dtab", &[MapType::Devmap, MapType::DevmapHash]),
    ("bpf_ringbuf_map", &[MapType::Ringbuf, MapType::UserRingbuf]),
    ("bpf_bloom_filter", &[MapType::BloomFilter]),
    ("bpf_cgroup_storage_map", &[MapType::CgroupStorage, MapType::PercpuCgroupStorage]),
    ("bpf_queue_stack", &[MapType::Queue, MapType::Stack]),
    ("bpf_cpu_map", &[MapType::Cpumap]),
    ("bpf_arena", &[MapType::Arena]),
    ("bpf_struct_ops_map", &[MapType::StructOps]),
    ("bpf_stab", &[MapType::Sockmap]),
    ("bpf_shtab", &[MapType::Sockhash]),
    ("xsk_map", &[MapType::Xskmap]),
    ("bpf_insn_array", &[MapType::InsnArray]),
    (
        "bpf_local_storage_map",
        &[MapType::SkStorage, MapType::InodeStorage, MapType::TaskStorage, MapType::CgrpStorage],
    ),
];

/// What `btf_struct_access` found: the loaded value before trust is considered.
struct Loaded<'a> {
    reg: RegState,
    /// Name of the pointer member.
    field: &'a str,
}

impl<'a> Ver<'a> {
    /// KERNEL v6.18 verifier.c:check_ptr_to_btf_access
    pub(crate) fn mem_btf(&mut self, a: Access, p: &RegState) -> R {
        let name = self.btf_name(p.btf, p.btf_id);
        self.btf_access_allowed(p, name)?;
        self.btf_access_place(&a, p, name)?;
        let allocated = p.ty == RegType::BtfId && p.flags.has(Flags::MEM_ALLOC);
        if a.write.is_some() && !allocated && self.write_hook(p, a.off, a.size)? {
            return Ok(());
        }
        if a.write.is_some() && !allocated {
            return no(EACCES, "only read is supported");
        }
        let mut loaded = self.struct_access(p, a.off, a.size)?;
        if loaded.reg.ty == RegType::BtfId {
            loaded.reg.flags = self.walked_flags(p, &loaded);
        }
        if a.write.is_none()
            && let Some(d) = a.dst
        {
            if loaded.reg.may_be_null() {
                loaded.reg.id = self.new_id();
            }
            self.set(d, loaded.reg);
        }
        Ok(())
    }

    fn btf_access_allowed(&self, p: &RegState, name: &str) -> R {
        if !self.leaks_ok() {
            let m = "access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN";
            return no(EPERM, format!("'struct {name}' {m}"));
        }
        let gpl = crate::verify::is_gpl_compatible(&self.input.program.license);
        if !gpl && p.btf == BtfSrc::Vmlinux {
            let m = "from non-GPL compatible program";
            return no(EINVAL, format!("Cannot access kernel 'struct {name}' {m}"));
        }
        Ok(())
    }

    fn btf_access_place(&self, a: &Access, p: &RegState, name: &str) -> R {
        let (n, off) = (a.base.0, a.off);
        let m = if off < 0 {
            format!("invalid negative access: off={off}")
        } else if p.b.as_const() != Some(0) {
            format!("invalid variable offset: off={off}, var_off={}", p.b.var_off)
        } else if p.flags.has(Flags::MEM_USER) {
            format!("access user memory: off={off}")
        } else if p.flags.has(Flags::MEM_PERCPU) {
            format!("access percpu memory: off={off}")
        } else {
            return Ok(());
        };
        no(EACCES, format!("R{n} is ptr_{name} {m}"))
    }

    /// KERNEL v6.18 btf.c:btf_struct_access
    fn struct_access(&self, p: &RegState, off: i32, size: u32) -> R<Loaded<'a>> {
        let Some(btf) = self.btf_of(p.btf) else {
            return unsupported("BTF pointer without BTF", "btf.c:btf_struct_access");
        };
        let off = off.cast_unsigned();
        let allocated = p.flags.has(Flags::MEM_ALLOC);
        if let Some(rec) = self.struct_meta(p.btf, p.btf_id).filter(|_| allocated) {
            let hit = rec.fields.iter().find(|f| off < f.off + f.size && f.off < off + size);
            if let Some(f) = hit {
                return no(EACCES, format!("direct access to {} is disallowed", f.kind.name()));
            }
        }
        let mut walker = Walker::new(btf, off, size, true);
        let mut ty = p.btf_id;
        let scalar = |v: &Ver<'_>| Loaded { reg: v.unknown(), field: "" };
        Ok(loop {
            match walker.walk(ty)? {
                Walk::Struct(t) => ty = t,
                Walk::Scalar => break scalar(self),
                Walk::Ptr(..) if allocated => break scalar(self),
                Walk::Ptr(id, field) => {
                    let mut reg = RegState::pointer(RegType::BtfId, walker.flags);
                    (reg.btf, reg.btf_id) = (p.btf, id);
                    break Loaded { reg, field };
                }
                Walk::OtherPtr => {
                    let flags = Flags::MEM_RDONLY.or(Flags::PTR_UNTRUSTED);
                    break Loaded { reg: RegState::pointer(RegType::Mem, flags), field: "" };
                }
            }
        })
    }

    /// How much a pointer that was loaded through another may be trusted.
    fn walked_flags(&self, p: &RegState, l: &Loaded<'_>) -> Flags {
        let flags = l.reg.flags;
        let safe = |suffix| self.is_safe_field(p, l, suffix);
        if p.flags.has(Flags::PTR_UNTRUSTED) {
            return Flags::PTR_UNTRUSTED;
        }
        if !(is_trusted(p) || p.flags.has(Flags::MEM_RCU)) {
            return flags.without(TRUST);
        }
        if safe("__safe_trusted") {
            return flags.or(Flags::PTR_TRUSTED);
        }
        if safe("__safe_trusted_or_null") {
            return flags.or(Flags::PTR_TRUSTED).or(Flags::PTR_MAYBE_NULL);
        }
        if !self.in_rcu_cs() || p.may_be_null() {
            return Flags::PTR_UNTRUSTED;
        }
        if safe("__safe_rcu") {
            return flags.or(Flags::MEM_RCU);
        }
        let listed = safe("__safe_rcu_or_null");
        if flags.has(Flags::MEM_RCU) || listed {
            let kept = if listed { flags.without(Flags::PTR_UNTRUSTED) } else { flags };
            return kept.or(Flags::MEM_RCU).or(Flags::PTR_MAYBE_NULL);
        }
        if flags.any(Flags::MEM_PERCPU.or(Flags::MEM_USER)) {
            return flags;
        }
        flags.without(TRUST)
    }

    /// `btf_nested_type_is_trusted`: a structure named after the type and the list has the
    /// member, with the same type.
    fn is_safe_field(&self, p: &RegState, l: &Loaded<'_>, suffix: &str) -> bool {
        let Some(btf) = self.btf_of(p.btf) else { return false };
        let list = format!("{}{suffix}", btf.name(p.btf_id));
        let Some(id) = btf.find(&list, btf.kind(p.btf_id)) else { return false };
        btf.members(id).any(|m| m.name == l.field && btf.pointee(m.ty) == Some(l.reg.btf_id))
    }

    /// KERNEL v6.18 verifier.c:check_ptr_to_map_access
    pub(crate) fn mem_map_ptr(&mut self, a: Access, p: &RegState) -> R {
        let ty = self.maps[p.map as usize].map_type;
        let Some(name) = MAP_STRUCTS.iter().find(|r| r.1.contains(&ty)).map(|r| r.0) else {
            let m = format!("map_ptr access not supported for map type {}", ty as u32);
            return no(ENOTSUPP, m);
        };
        let n = a.base.0;
        if !self.leaks_ok() {
            let m = "access is allowed only to CAP_PERFMON and CAP_SYS_ADMIN";
            return no(EPERM, format!("'struct {name}' {m}"));
        }
        if a.off < 0 {
            let m = format!("R{n} is {name} invalid negative access: off={}", a.off);
            return no(EACCES, m);
        }
        if a.write.is_some() {
            return no(EACCES, format!("only read from {name} is supported"));
        }
        let mut map = RegState::pointer(RegType::BtfId, Flags::NONE);
        map.btf_id = match self.input.env.btf().and_then(|b| b.find(name, Kind::Struct)) {
            Some(id) => id,
            None => {
                return unsupported(
                    format!("struct {name} in BTF"),
                    "verifier.c:check_ptr_to_map_access",
                );
            }
        };
        let mut loaded = self.struct_access(&map, a.off, a.size)?.reg;
        if let Some(d) = a.dst {
            if loaded.may_be_null() {
                loaded.id = self.new_id();
            }
            self.set(d, loaded);
        }
        Ok(())
    }
}
