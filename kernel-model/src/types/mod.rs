//! The model's kernel types: one table of C declarations gives layout, accessors and BTF.
//!
//! `*.types` hold declarations in a subset of C (`decl.rs`); a line `#arch` limits what follows
//! to an architecture or byte order. Structs have the kernel's names and member names, so CO-RE
//! programs relocate against them; offsets are ours where they are not ABI (design invariant 7).

mod decl;
mod layout;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bpf::Arch;
use bpf::btf::{Btf, Kind};

const TABLES: [&str; 6] = [
    include_str!("base.types"),
    include_str!("kernel.types"),
    include_str!("uapi.types"),
    include_str!("uapi_enum.types"),
    include_str!("trace.types"),
    include_str!("kfunc.types"),
];

/// A tracepoint of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// Subsystem, the folder in tracefs.
    pub group: String,
    /// Name.
    pub name: String,
    /// Names of its arguments.
    pub args: Vec<String>,
    /// Struct of its record.
    pub record: String,
}

/// A function of the model that programs attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Names of its arguments.
    pub args: Vec<String>,
    /// The struct that the first one points at.
    pub first: Option<String>,
}

static TRACEPOINTS: LazyLock<Vec<Tracepoint>> = LazyLock::new(|| {
    let decls = decl::parse(&TABLES.concat(), Arch::X86_64).into_iter();
    let rows = decls.filter_map(|d| match d {
        decl::Decl::Trace { group, name, params, record } => {
            let args = params.into_iter().map(|p| p.0).collect();
            Some(Tracepoint { group, name, args, record })
        }
        _ => None,
    });
    rows.collect()
});

static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let decls = decl::parse(&TABLES.concat(), Arch::X86_64).into_iter();
    let rows = decls.filter_map(|d| match d {
        decl::Decl::Func { name, params, kfunc: false, .. } => {
            let first = params.first().and_then(|p| match &p.1 {
                decl::Ty::Ptr(to) => match &**to {
                    decl::Ty::Struct(name) => Some(name.clone()),
                    _ => None,
                },
                _ => None,
            });
            Some(Function { name, args: params.into_iter().map(|p| p.0).collect(), first })
        }
        _ => None,
    });
    rows.collect()
});

/// What the functions of system calls begin with in the table.
const SYS: &str = "sys_";

/// The same in the kernel of an architecture (`arch/*/include/asm/syscall_wrapper.h`).
fn sys_prefix(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "__x64_sys_",
        Arch::Arm64 => "__arm64_sys_",
        Arch::Riscv64 => "__riscv_sys_",
        Arch::S390x => "__s390x_sys_",
    }
}

/// The name in the table of a function that a kernel of the architecture has by this name.
#[must_use]
pub fn function_name(arch: Arch, name: &str) -> Option<Cow<'_, str>> {
    match name.strip_prefix(sys_prefix(arch)) {
        Some(call) => Some(format!("{SYS}{call}").into()),
        None if name.starts_with(SYS) => None,
        None => Some(name.into()),
    }
}

/// What a kernel of the architecture calls a function, when that is the name of a system call's in
/// a kernel of another.
#[must_use]
pub fn own_name(arch: Arch, name: &str) -> Option<String> {
    let others = Arch::ALL.into_iter().filter(|a| *a != arch);
    let call = others.filter_map(|a| name.strip_prefix(sys_prefix(a))).next()?;
    Some(format!("{}{call}", sys_prefix(arch)))
}

/// All tracepoints.
#[must_use]
pub fn tracepoints() -> &'static [Tracepoint] {
    &TRACEPOINTS
}

/// All functions that programs attach to.
#[must_use]
pub fn functions() -> &'static [Function] {
    &FUNCTIONS
}

/// Types of one architecture.
#[derive(Clone, Debug)]
pub struct Types {
    btf: Arc<Btf>,
}

static BY_ARCH: LazyLock<[Types; 4]> = LazyLock::new(|| Arch::ALL.map(Types::build));

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Byte offset in the struct.
    pub off: u32,
    /// Size in bytes.
    pub size: u32,
}

impl Types {
    fn build(arch: Arch) -> Types {
        let mut decls = decl::parse(&TABLES.concat(), arch);
        for decl in &mut decls {
            if let decl::Decl::Func { name, .. } = decl
                && let Some(call) = name.strip_prefix(SYS)
            {
                *name = format!("{}{call}", sys_prefix(arch));
            }
        }
        let btf = layout::build(&decls).unwrap_or_else(|e| panic!("type table: {e}"));
        Types { btf: Arc::new(btf) }
    }

    /// The types of an architecture.
    #[must_use]
    pub fn of(arch: Arch) -> &'static Types {
        let n = Arch::ALL.iter().position(|a| *a == arch).expect("ALL has every architecture");
        &BY_ARCH[n]
    }

    /// As BTF.
    #[must_use]
    pub fn btf(&self) -> &Arc<Btf> {
        &self.btf
    }

    /// Size of a struct in bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u32> {
        let id = self.btf.find(name, Kind::Struct)?;
        self.btf.size_of(id)
    }

    /// A member, by a path such as `map.max_entries`.
    #[must_use]
    pub fn field(&self, name: &str, path: &str) -> Option<Field> {
        let mut id = self.btf.find(name, Kind::Struct)?;
        let mut field = Field { off: 0, size: self.btf.size_of(id)? };
        for part in path.split('.') {
            let m = self.btf.member(id, part)?;
            field = Field { off: field.off + m.byte_off(), size: self.btf.size_of(m.ty)? };
            id = self.btf.resolve(m.ty);
        }
        Some(field)
    }
}

/// A member of a struct that is laid out alike on every architecture.
///
/// # Panics
/// When the table has no such member: the name is a constant of our own code.
#[must_use]
pub fn field(name: &str, path: &str) -> Field {
    let found = Types::of(Arch::X86_64).field(name, path);
    found.unwrap_or_else(|| panic!("the type table has {name}.{path}"))
}

/// Size of a struct that is laid out alike on every architecture.
///
/// # Panics
/// When the table has no such struct.
#[must_use]
pub fn size(name: &str) -> u64 {
    let size = Types::of(Arch::X86_64).size(name);
    size.unwrap_or_else(|| panic!("the type table has {name}")).into()
}

/// `field!("xdp_buff", "data")`: a [`Field`], looked up once.
#[macro_export]
macro_rules! field {
    ($s:literal, $f:literal) => {{
        static FIELD: std::sync::LazyLock<$crate::types::Field> =
            std::sync::LazyLock::new(|| $crate::types::field($s, $f));
        *FIELD
    }};
}

/// `size!("sk_buff")`: the size of a struct, looked up once.
#[macro_export]
macro_rules! size {
    ($s:literal) => {{
        static SIZE: std::sync::LazyLock<u64> =
            std::sync::LazyLock::new(|| $crate::types::size($s));
        *SIZE
    }};
}

impl crate::Kernel {
    /// Reads a member of a kernel object; 1, 2, 4 or 8 bytes.
    #[must_use]
    pub fn get(&self, object: u64, f: Field) -> u64 {
        let at = object + u64::from(f.off);
        self.mem.read_uint(at, f.size).expect("kernel objects are mapped")
    }

    /// Writes a member of a kernel object.
    pub fn set(&mut self, object: u64, f: Field, value: u64) {
        let at = object + u64::from(f.off);
        self.mem.write_uint(at, f.size, value).expect("kernel objects are mapped");
    }

    /// Writes a member that is bytes: the rest is cleared.
    pub fn set_bytes(&mut self, object: u64, f: Field, value: &[u8]) {
        let mut all = vec![0; f.size as usize];
        let n = value.len().min(all.len());
        all[..n].copy_from_slice(&value[..n]);
        let at = object + u64::from(f.off);
        self.mem.write(at, &all).expect("kernel objects are mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::Endian;

    #[test]
    fn uapi_layouts_are_the_abi() {
        let f = |s, m| field(s, m).off;
        assert_eq!((size("xdp_md"), f("xdp_md", "egress_ifindex")), (24, 20));
        assert_eq!((size("__sk_buff"), f("__sk_buff", "flow_keys")), (192, 144));
        assert_eq!((f("__sk_buff", "cb"), f("__sk_buff", "tstamp_type")), (48, 180));
        assert_eq!((size("bpf_sock"), f("bpf_sock", "rx_queue_mapping")), (80, 76));
        assert_eq!((size("bpf_sock_ops"), f("bpf_sock_ops", "skb_hwtstamp")), (224, 216));
        assert_eq!((size("bpf_fib_lookup"), f("bpf_fib_lookup", "smac")), (64, 52));
        assert_eq!((size("iphdr"), size("tcphdr"), size("ipv6hdr")), (20, 20, 40));
        assert_eq!(f("bpf_prog", "bpf_func"), crate::layout::PROG_BPF_FUNC as u32);
        assert_eq!(f("bpf_skb_data_end", "data_end"), 40);
    }

    #[test]
    fn btf_round_trips_in_both_byte_orders_and_differs_only_in_registers() {
        for arch in Arch::ALL {
            let t = Types::of(arch);
            for e in [Endian::Little, Endian::Big] {
                let blob = t.btf().to_bytes(e);
                assert_eq!(Btf::parse(&blob).unwrap().ids().count(), t.btf().ids().count());
            }
            for name in ["sk_buff", "task_struct", "bpf_array", "net_device", "sock"] {
                assert_eq!(t.size(name), Types::of(Arch::S390x).size(name), "{name}");
            }
        }
        let regs = Arch::ALL.map(|a| Types::of(a).size("pt_regs").unwrap());
        assert_eq!(regs, [168, 288, 288, 176]);
    }

    #[test]
    fn system_calls_have_the_names_of_the_architecture() {
        let own = own_name(Arch::Arm64, "__x64_sys_openat");
        assert_eq!(own.as_deref(), Some("__arm64_sys_openat"));
        assert_eq!(own_name(Arch::Arm64, "__arm64_sys_openat"), None);
        assert_eq!(own_name(Arch::S390x, "do_sys_openat2"), None);
        let found = function_name(Arch::Arm64, "__arm64_sys_openat");
        assert_eq!(found.as_deref(), Some("sys_openat"));
    }
}
