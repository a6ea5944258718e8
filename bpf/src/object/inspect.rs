//! A full view of an object as plain data, and as text.

use std::fmt;

use super::{CoreKind, ExternKind, InitialSlot, MapDef, Object};
use crate::btf::Kind;
use crate::insn::Slot;

/// Everything an object contains, for printing and serialising.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// `little` or `big`.
    pub byte_order: &'static str,
    /// License.
    pub license: String,
    /// `version` section.
    pub version: Option<u32>,
    /// Records of .BTF.ext: functions with their types, lines of source.
    pub records: [usize; 2],
    /// (name, section, program type, attach type, target, instructions).
    pub programs: Vec<[String; 6]>,
    /// (name, type, key bytes, value bytes, entries, flags, extras).
    pub maps: Vec<[String; 7]>,
    /// (map, name, type, offset, size).
    pub globals: Vec<[String; 5]>,
    /// (name, section, first slot, slots, linkage).
    pub functions: Vec<[String; 5]>,
    /// (name, kind, weak).
    pub externs: Vec<[String; 3]>,
    /// (section, slot, kind, type, access).
    pub core: Vec<[String; 5]>,
    /// (type, component, tag).
    pub decl_tags: Vec<[String; 3]>,
    /// Number of BTF types, void included.
    pub btf_types: usize,
    /// Section with its slots.
    pub code: Vec<(String, Vec<Slot>)>,
}

fn extras(m: &MapDef) -> String {
    let mut out = Vec::new();
    if let Some(node) = m.numa_node {
        out.push(format!("numa_node={node}"));
    }
    if m.map_extra != 0 {
        out.push(format!("map_extra={:#x}", m.map_extra));
    }
    if m.pin_by_name {
        out.push("pinned by name".to_owned());
    }
    if let Some(inner) = &m.inner {
        let (k, v, n) = (inner.key_size, inner.value_size, inner.max_entries);
        out.push(format!("inner={} {k}/{v} x{n}", inner.map_type.name()));
    }
    for (i, slot) in &m.slots {
        out.push(match slot {
            InitialSlot::Map(n) => format!("[{i}]=map {n}"),
            InitialSlot::Prog(name) => format!("[{i}]={name}"),
        });
    }
    out.join(" ")
}

/// Describes an object.
#[must_use]
pub fn inspect(obj: &Object) -> Inspection {
    let type_name = |id| obj.btf().map_or(String::new(), |b| b.type_name(id));
    let programs = obj.programs.iter().map(|p| {
        let sec = p.sec.as_ref();
        [
            p.name.clone(),
            p.section.clone(),
            sec.map_or("?", |s| s.prog_type.name()).to_owned(),
            sec.and_then(|s| s.attach_type).map_or("-", |a| a.name()).to_owned(),
            sec.and_then(|s| s.target.clone()).unwrap_or_else(|| "-".to_owned()),
            obj.functions[p.func].len.to_string(),
        ]
    });
    let maps = obj.maps.iter().map(|m| {
        [
            m.name.clone(),
            m.map_type.name().to_owned(),
            m.key_size.to_string(),
            m.value_size.to_string(),
            m.max_entries.to_string(),
            format!("{:#x}", m.flags),
            extras(m),
        ]
    });
    let globals = obj.maps.iter().flat_map(|m| {
        m.vars.iter().map(|v| {
            let place = [v.offset.to_string(), v.size.to_string()];
            [m.name.clone(), v.name.clone(), type_name(v.ty), place[0].clone(), place[1].clone()]
        })
    });
    let functions = obj.functions.iter().map(|f| {
        let linkage = if f.global { "global" } else { "static" };
        [
            f.name.clone(),
            f.section.clone(),
            f.start.to_string(),
            f.len.to_string(),
            linkage.to_owned(),
        ]
    });
    let externs = obj.externs.iter().map(|e| {
        let kind = match e.kind {
            ExternKind::Kconfig { .. } => "kconfig",
            ExternKind::Variable { ty: 0 } => "ksym",
            ExternKind::Variable { .. } => "typed ksym",
            ExternKind::Function { .. } => "kfunc",
        };
        [e.name.clone(), kind.to_owned(), if e.weak { "weak" } else { "strong" }.to_owned()]
    });
    Inspection {
        byte_order: match obj.endian {
            crate::Endian::Little => "little",
            crate::Endian::Big => "big",
        },
        license: obj.license.clone(),
        version: obj.version,
        records: records(obj),
        programs: programs.collect(),
        maps: maps.collect(),
        globals: globals.collect(),
        functions: functions.collect(),
        externs: externs.collect(),
        core: core_records(obj),
        decl_tags: decl_tags(obj),
        btf_types: obj.btf().map_or(0, |b| b.types.len()),
        code: obj.texts.iter().map(|t| (t.name.clone(), t.slots.clone())).collect(),
    }
}

fn records(obj: &Object) -> [usize; 2] {
    let sum = |count: fn(&super::Text) -> usize| obj.texts.iter().map(count).sum();
    [sum(|t| t.records.funcs.len()), sum(|t| t.records.lines.len())]
}

fn core_records(obj: &Object) -> Vec<[String; 5]> {
    let Some(btf) = obj.btf() else { return Vec::new() };
    let records = obj.texts.iter().flat_map(|t| t.records.core.iter().map(move |r| (t, r)));
    records
        .map(|(t, r)| {
            let kind = CoreKind::from_raw(r.kind).map_or("?", CoreKind::name);
            let ty = btf.type_name(r.type_id);
            [t.name.clone(), r.slot.to_string(), kind.to_owned(), ty, r.access.clone()]
        })
        .collect()
}

fn decl_tags(obj: &Object) -> Vec<[String; 3]> {
    let Some(btf) = obj.btf() else { return Vec::new() };
    let tags = btf.ids().filter(|id| btf.kind(*id) == Kind::DeclTag);
    tags.filter_map(|id| match btf.body(id) {
        crate::btf::Body::DeclTag { ty, component, .. } => {
            Some([btf.name(*ty).to_owned(), component.to_string(), btf.name(id).to_owned()])
        }
        _ => None,
    })
    .collect()
}

/// Rows as aligned columns under a heading; nothing when there are none.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    head: [&str; N],
    rows: &[[String; N]],
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let mut width = head.map(str::len);
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    writeln!(f, "\n{title}")?;
    let line = |f: &mut fmt::Formatter<'_>, cells: &[&str]| {
        let text: Vec<String> = cells.iter().zip(width).map(|(c, w)| format!("{c:<w$}")).collect();
        writeln!(f, "  {}", text.join("  ").trim_end())
    };
    line(f, &head)?;
    rows.iter().try_for_each(|row| {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        line(f, &cells)
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "BPF object, {} endian, license {:?}, {} BTF types",
            self.byte_order, self.license, self.btf_types
        )?;
        if let Some(v) = self.version {
            writeln!(f, "version {}.{}.{}", v >> 16, v >> 8 & 0xff, v & 0xff)?;
        }
        let [funcs, lines] = self.records;
        writeln!(f, "{funcs} functions with types, {lines} lines of source")?;
        let head = ["name", "section", "type", "attach type", "target", "insns"];
        table(f, "programs", head, &self.programs)?;
        let head = ["name", "type", "key", "value", "entries", "flags", ""];
        table(f, "maps", head, &self.maps)?;
        table(f, "globals", ["map", "name", "type", "offset", "size"], &self.globals)?;
        let head = ["name", "section", "slot", "insns", "linkage"];
        table(f, "functions", head, &self.functions)?;
        table(f, "externs", ["name", "kind", "binding"], &self.externs)?;
        let head = ["section", "slot", "kind", "type", "access"];
        table(f, "CO-RE", head, &self.core)?;
        table(f, "declaration tags", ["of", "component", "tag"], &self.decl_tags)
    }
}
