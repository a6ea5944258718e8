//! A file's runs: the cells of its matrix times its architectures.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;
use scenarios::parse::{Files, Parsed, parse};
use scenarios::schema::play::Values;
use scenarios::tree::{Kind, Node};
use scenarios::validate::{NoObjects, validate_cell};
use scenarios::{Finding, Scenario, Severity, Span};

use super::RunOptions;

/// Cells beyond which a run has to be asked for.
pub const CELLS_MAX: usize = 10_000;

/// Includes from disk, relative to the including file.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        if path.starts_with('/') || path.split('/').filter(|p| *p == "..").count() > 4 {
            return Err(format!("{path}: paths are relative to the including file"));
        }
        let full = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
        let text = fs::read_to_string(&full).map_err(|e| format!("{path}: {e}"))?;
        Ok((full.display().to_string(), text))
    }
}

/// One combination of axis values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Seed of all streams.
    pub seed: u64,
    /// CPUs, when the matrix varies them.
    pub cpus: Option<u32>,
    /// Variables as RON text.
    pub vars: Vec<(String, String)>,
    /// `[seed=2,n=3]`, empty without a matrix.
    pub name: String,
}

/// How a cell of a file runs.
#[must_use]
pub fn options(path: &Path, cell: &Cell) -> RunOptions {
    let (dir, seed, cpus) = (folder(path), cell.seed, cell.cpus);
    RunOptions { dir, seed, cpus, ..RunOptions::default() }
}

/// Reads a file for a cell, semantic findings included.
#[must_use]
pub fn read(path: &Path, text: &str, cell: &Cell) -> Parsed {
    let mut parsed = parse(&path.display().to_string(), text, &cell.vars, &Disk);
    if let Some(s) = &parsed.scenario {
        parsed.findings.extend(validate_cell(s, &NoObjects, cell.cpus));
        parsed.findings.extend(variables(s, &parsed.used));
        parsed.findings.extend(exceptions(s));
    }
    parsed
}

/// Variables that the matrix does not define, and those that nothing uses.
fn variables(s: &Scenario, used: &[(String, Span)]) -> Vec<Finding> {
    let names: Vec<&str> = s.matrix.iter().flat_map(|m| m.vars.names()).collect();
    let mut found: Vec<Finding> = used
        .iter()
        .filter(|(n, _)| !names.contains(&n.as_str()))
        .map(|(n, span)| Finding::error(*span, format!("the variable \"${n}\" is not defined")))
        .collect();
    for (name, _) in s.matrix.iter().flat_map(|m| m.vars.iter()) {
        if !used.iter().any(|(n, _)| *n == name.v) {
            let message = format!("the variable \"{}\" is not used", name.v);
            found.push(Finding::error(name.span, message));
        }
    }
    found
}

/// Whether a finding stops a run.
#[must_use]
pub fn is_error(f: &Finding) -> bool {
    f.severity == Severity::Error
}

/// The architectures a scenario asks for: its matrix, else its machine.
#[must_use]
pub fn archs(s: &Scenario) -> Vec<Arch> {
    let axis = s.matrix.as_ref().map(|m| &m.archs).filter(|a| !a.is_empty());
    let list = axis.unwrap_or(&s.machine.archs);
    list.iter().filter_map(|a| Arch::from_name(a.v.name())).collect()
}

/// All cells of a scenario; one without a name when it has no matrix.
#[must_use]
pub fn cells(s: &Scenario, seed: u64) -> Vec<Cell> {
    let first = Cell { seed, ..Cell::default() };
    let Some(m) = &s.matrix else { return vec![first] };
    let mut out = vec![first];
    if let Some(seeds) = &m.seed {
        out = axis(out, &seeds.v, "seed", |c, v| c.seed = v.parse().unwrap_or(0));
    }
    if let Some(cpus) = &m.cpus {
        out = axis(out, &cpus.v, "cpus", |c, v| c.cpus = v.parse().ok());
    }
    for (name, values) in m.vars.iter() {
        out = axis(out, &values.v, &name.v, |c, v| c.vars.push((name.v.clone(), v.to_string())));
    }
    out
}

/// The architectures of a cell: those asked for, without what `except` leaves out.
#[must_use]
pub fn archs_of(s: &Scenario, cell: &Cell, archs: &[Arch]) -> Vec<Arch> {
    let except = s.matrix.iter().flat_map(|m| &m.except);
    let except: Vec<&Node> = except.map(|d| &d.node).collect();
    archs.iter().copied().filter(|a| !except.iter().any(|e| is_cell(e, cell, *a))).collect()
}

/// The cells that are asked for: all, or the one of a name.
///
/// # Errors
/// What is wrong, and what to do: there is no such cell, or there are more than [`CELLS_MAX`] and
/// they were not asked for as `big`.
pub fn chosen(
    s: &Scenario,
    seed: u64,
    name: Option<&str>,
    big: bool,
) -> Result<Vec<Cell>, (String, &'static str)> {
    let mut all = cells(s, seed);
    if let Some(name) = name {
        all.retain(|c| c.name == name);
        if all.is_empty() {
            let next = "names are printed with each run, such as [seed=2,n=3]";
            return Err((format!("no cell {name}"), next));
        }
    }
    if all.len() > CELLS_MAX && !big {
        return Err((format!("the matrix has {} cells", all.len()), "add --big"));
    }
    Ok(all)
}

/// Whether a scenario says that the trace on an architecture need not be that of the others.
#[must_use]
pub fn may_differ(s: &Scenario, arch: Arch) -> bool {
    s.expect.iter().any(|e| match e {
        scenarios::schema::Expect::Differs { archs, .. } => {
            archs.iter().any(|a| a.v.name() == arch.name())
        }
        _ => false,
    })
}

/// Whether a record of axis values, `(n: 1, arch: s390x)`, means a cell on an architecture.
fn is_cell(record: &Node, cell: &Cell, arch: Arch) -> bool {
    let Kind::Record(None, members) = &record.kind else { return false };
    members.iter().all(|m| {
        let value = match &m.value.kind {
            Kind::Int { negative, value } => format!("{}{value}", if *negative { "-" } else { "" }),
            Kind::Name(n) => n.clone(),
            Kind::Str(s) => format!("{s:?}"),
            _ => return false,
        };
        match m.name.as_str() {
            "arch" => value == arch.name(),
            "seed" => value == cell.seed.to_string(),
            "cpus" => cell.cpus.is_some_and(|c| value == c.to_string()),
            name => cell.vars.iter().any(|(n, v)| n == name && *v == value),
        }
    })
}

/// Records of `except` that name no axis.
fn exceptions(s: &Scenario) -> Vec<Finding> {
    let Some(m) = &s.matrix else { return Vec::new() };
    let known: Vec<&str> = ["arch", "seed", "cpus"].into_iter().chain(m.vars.names()).collect();
    let mut found = Vec::new();
    for data in &m.except {
        let Kind::Record(None, members) = &data.node.kind else {
            let message = "axis values were expected, as in (n: 1, arch: s390x)";
            found.push(Finding::error(data.span(), message));
            continue;
        };
        for m in members.iter().filter(|m| !known.contains(&m.name.as_str())) {
            let message = format!("`{}` is no axis of the matrix", m.name);
            let hint = format!("known: {}", known.join(", "));
            found.push(Finding::error(m.name_span, message).hint(hint));
        }
    }
    found
}

fn axis(cells: Vec<Cell>, values: &Values, name: &str, set: impl Fn(&mut Cell, &str)) -> Vec<Cell> {
    let mut out = Vec::new();
    for cell in cells {
        for value in values.0.iter().take(CELLS_MAX) {
            let mut next = cell.clone();
            set(&mut next, value);
            let inner = next.name.trim_start_matches('[').trim_end_matches(']').to_string();
            let comma = if inner.is_empty() { "" } else { "," };
            let value = value.trim_matches('"');
            next.name = format!("[{inner}{comma}{name}={value}]");
            out.push(next);
        }
    }
    out
}

/// Folder of a file.
#[must_use]
pub fn folder(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
