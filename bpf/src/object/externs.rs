//! Externs: `.kconfig` values, kernel symbols and kernel functions.
//!
//! Layout and rules are libbpf's: `.kconfig` variables are ordered by alignment, size and name and
//! packed into one read-only map; a weak symbol that is missing reads as 0.

use std::collections::BTreeMap;

use super::elf::Elf;
use super::error::ObjectError;
use super::maps::GlobalVar;
use crate::Endian;
use crate::btf::{Body, Btf, Kind, Linkage, TypeId};

/// What an extern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternKind {
    /// A configuration value at an offset of the `.kconfig` map.
    Kconfig {
        /// Type in the object's BTF.
        ty: TypeId,
        /// Offset in the map's value.
        offset: u32,
        /// Size in bytes.
        size: u32,
    },
    /// A kernel variable; type 0 when declared `const void` (its address only).
    Variable {
        /// Type in the object's BTF.
        ty: TypeId,
    },
    /// A kernel function.
    Function {
        /// `FUNC_PROTO` in the object's BTF.
        proto: TypeId,
    },
}

/// One extern of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extern {
    /// Name as declared, with any `___flavor`.
    pub name: String,
    /// What it stands for.
    pub kind: ExternKind,
    /// Missing is not an error.
    pub weak: bool,
    /// Index of its ELF symbol.
    pub(super) symbol: usize,
}

/// The name without a `___flavor` suffix.
#[must_use]
pub fn essential_name(name: &str) -> &str {
    // libbpf's bpf_core_essential_name_len: three underscores with something on both sides.
    let b = name.as_bytes();
    let at = (1..b.len().saturating_sub(3))
        .rev()
        .find(|&i| &b[i..i + 3] == b"___" && b[i - 1] != b'_' && b[i + 3] != b'_');
    at.map_or(name, |i| &name[..i])
}

/// The kernel's configuration as a program's externs see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kconfig {
    /// `LINUX_KERNEL_VERSION`, e.g. `0x06_12_00`.
    pub kernel_version: u32,
    /// `CONFIG_*` with the text after `=`: `y`, `m`, a number or a quoted string.
    pub values: BTreeMap<String, String>,
}

/// Addresses of kernel symbols without type.
pub trait Ksyms {
    /// Address of a symbol, None when there is none.
    fn address(&self, name: &str) -> Option<u64>;
}

impl Ksyms for BTreeMap<String, u64> {
    fn address(&self, name: &str) -> Option<u64> {
        self.get(name).copied()
    }
}

/// Finds the section and type an extern was declared with.
fn declaration<'a>(btf: &'a Btf, name: &str) -> Option<(&'a str, TypeId)> {
    let id = btf.named(name).iter().copied().find(|id| {
        matches!(
            btf.body(*id),
            Body::Var { linkage: Linkage::Extern, .. }
                | Body::Func { linkage: Linkage::Extern, .. }
        )
    })?;
    let section = [".kconfig", ".ksyms"].into_iter().find(|section| {
        let sec = btf.find(section, Kind::Datasec);
        sec.is_some_and(|s| match btf.body(s) {
            Body::Datasec { vars, .. } => vars.iter().any(|v| v.ty == id),
            _ => false,
        })
    })?;
    Some((section, id))
}

/// All undefined symbols that a program may refer to, `.kconfig` already laid out.
pub(super) fn collect(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Vec<Extern>, ObjectError> {
    let mut out = Vec::new();
    for (symbol, s) in elf.symbols.iter().enumerate() {
        if s.section.is_some() || s.local || s.name.is_empty() {
            continue;
        }
        let undefined = |what: &str| {
            ObjectError::new("extern", what)
                .symbol(s.name)
                .hint("declare it with __ksym or __kconfig, or define it in this object")
        };
        let btf = btf.ok_or_else(|| undefined("needs BTF"))?;
        let Some((section, id)) = declaration(btf, s.name) else {
            return Err(undefined("undefined, and not in .kconfig or .ksyms"));
        };
        let kind = match (section, btf.body(id)) {
            (".kconfig", Body::Var { ty, .. }) => {
                let size = btf.size_of(*ty);
                let size = size.ok_or_else(|| undefined("has no size"))?;
                ExternKind::Kconfig { ty: *ty, offset: 0, size }
            }
            (".ksyms", Body::Var { ty, .. }) => {
                let ty = if btf.resolve(*ty) == 0 { 0 } else { *ty };
                ExternKind::Variable { ty }
            }
            (".ksyms", Body::Func { proto, .. }) => ExternKind::Function { proto: *proto },
            _ => return Err(undefined("a function cannot be a configuration value")),
        };
        out.push(Extern { name: s.name.to_owned(), kind, weak: s.weak, symbol });
    }
    if let Some(btf) = btf {
        lay_out_kconfig(btf, &mut out)?;
    }
    Ok(out)
}

fn lay_out_kconfig(btf: &Btf, externs: &mut [Extern]) -> Result<(), ObjectError> {
    let mut order: Vec<(u32, u32, usize)> = Vec::new();
    for (i, e) in externs.iter().enumerate() {
        if let ExternKind::Kconfig { ty, size, .. } = e.kind {
            order.push((btf.align_of(ty).unwrap_or(1), size, i));
        }
    }
    order.sort_by(|a, b| {
        (b.0, b.1).cmp(&(a.0, a.1)).then_with(|| externs[a.2].name.cmp(&externs[b.2].name))
    });
    let mut at = 0u32;
    for (align, len, i) in order {
        let start = at.next_multiple_of(align.max(1));
        at = start
            .checked_add(len)
            .filter(|end| *end < 1 << 20)
            .ok_or_else(|| ObjectError::new(".kconfig", "too large").symbol(&externs[i].name))?;
        if let ExternKind::Kconfig { offset, .. } = &mut externs[i].kind {
            *offset = start;
        }
    }
    Ok(())
}

/// Size of the `.kconfig` map's value and its variables.
pub(super) fn kconfig_vars(externs: &[Extern]) -> Option<(u32, Vec<GlobalVar>)> {
    let vars: Vec<GlobalVar> = externs
        .iter()
        .filter_map(|e| match e.kind {
            ExternKind::Kconfig { ty, offset, size } => {
                Some(GlobalVar { name: e.name.clone(), ty, offset, size, global: true })
            }
            _ => None,
        })
        .collect();
    let end = vars.iter().map(|v| v.offset + v.size).max()?;
    Some((end, vars))
}

/// How a `.kconfig` variable may be filled (`find_kcfg_type`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Bool,
    Char { signed: bool },
    Int { signed: bool },
    Tristate,
    Chars,
    Other,
}

fn slot_of(btf: &Btf, ty: TypeId) -> Slot {
    let id = btf.resolve(ty);
    match btf.body(id) {
        Body::Int { enc, .. } if enc.bool => Slot::Bool,
        Body::Int { enc, size: 1, .. } => Slot::Char { signed: enc.signed },
        Body::Int { enc, size: 1..=8, .. } => Slot::Int { signed: enc.signed },
        Body::Enum { .. } if btf.name(id) == "libbpf_tristate" => Slot::Tristate,
        Body::Array { elem, .. } if matches!(slot_of(btf, *elem), Slot::Char { .. }) => Slot::Chars,
        _ => Slot::Other,
    }
}

fn number(text: &str) -> Option<i128> {
    let (neg, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let n = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<u64>().ok()?,
    };
    Some(if neg { -i128::from(n) } else { i128::from(n) })
}

/// The value's bytes before byte order, or why the text does not fit the type.
fn value(slot: Slot, text: &str, size: u32) -> Result<u64, String> {
    let tri = |t: &str| matches!(t, "y" | "n" | "m");
    match slot {
        Slot::Bool if text == "y" || text == "n" => Ok(u64::from(text == "y")),
        Slot::Tristate if tri(text) => {
            Ok(["n", "y", "m"].iter().position(|t| *t == text).map_or(0, |p| p as u64))
        }
        Slot::Char { .. } if tri(text) => Ok(u64::from(text.as_bytes()[0])),
        Slot::Int { signed } | Slot::Char { signed } => {
            let n = number(text).ok_or_else(|| format!("'{text}' is not a number"))?;
            let bits = size.min(8) * 8;
            let range =
                if signed { -(1i128 << (bits - 1))..1i128 << (bits - 1) } else { 0..1i128 << bits };
            if !range.contains(&n) {
                return Err(format!("{text} does not fit into {size} bytes"));
            }
            Ok(n as u64)
        }
        _ => Err(format!("'{text}' does not fit the variable's type")),
    }
}

fn text_of(e: &Extern, kconfig: &Kconfig) -> Option<String> {
    match e.name.as_str() {
        "LINUX_KERNEL_VERSION" => Some(kconfig.kernel_version.to_string()),
        // True of every kernel that is modelled (5.15 and 4.17).
        "LINUX_HAS_BPF_COOKIE" | "LINUX_HAS_SYSCALL_WRAPPER" => Some("y".to_owned()),
        name => kconfig.values.get(name).cloned(),
    }
}

/// Contents of the `.kconfig` map.
pub(super) fn contents(
    externs: &[Extern],
    btf: &Btf,
    endian: Endian,
    kconfig: &Kconfig,
) -> Result<Vec<u8>, ObjectError> {
    let len = kconfig_vars(externs).map_or(0, |v| v.0);
    let mut out = vec![0; len as usize];
    for e in externs {
        let ExternKind::Kconfig { ty, offset, size } = e.kind else { continue };
        let error = |what: String| ObjectError::new(".kconfig", what).symbol(&e.name);
        let Some(text) = text_of(e, kconfig) else {
            if e.weak {
                continue;
            }
            let hint = "declare it __weak, or give the configuration a value";
            return Err(error("not set in the kernel's configuration".into()).hint(hint));
        };
        let slot = slot_of(btf, ty);
        let dst = &mut out[offset as usize..(offset + size) as usize];
        if slot == Slot::Chars {
            let s = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
            let s = s.ok_or_else(|| error(format!("{text} is not a string")))?;
            let n = s.len().min(dst.len().saturating_sub(1));
            dst[..n].copy_from_slice(&s.as_bytes()[..n]);
            continue;
        }
        // The two feature flags may be declared as integers as well as bool.
        let text = match slot {
            Slot::Int { .. } if e.name.starts_with("LINUX_HAS_") => "1".to_owned(),
            _ => text,
        };
        let v = value(slot, &text, size).map_err(error)?;
        let n = dst.len().min(8);
        match endian {
            Endian::Little => dst[..n].copy_from_slice(&v.to_le_bytes()[..n]),
            Endian::Big => dst[..n].copy_from_slice(&v.to_be_bytes()[8 - n..]),
        }
    }
    Ok(out)
}
