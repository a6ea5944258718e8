//! The columns of veristat, filters and orders.

use std::cmp::Ordering;

use crate::cli::judge::{Row, Verdict};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stat {
    File,
    Prog,
    Verdict,
    Duration,
    Insns,
    States,
    PeakStates,
    MaxStates,
    MarkRead,
    Size,
    JitedSize,
    Stack,
    ProgType,
    AttachType,
}

/// Column, title, names; the first name is that of the CSV header.
const TABLE: &[(Stat, &str, &[&str])] = &[
    (Stat::File, "File", &["file_name", "filename", "file"]),
    (Stat::Prog, "Program", &["prog_name", "progname", "prog"]),
    (Stat::Verdict, "Verdict", &["verdict"]),
    (Stat::Duration, "Duration (us)", &["duration", "dur"]),
    (Stat::Insns, "Insns", &["total_insns", "insns"]),
    (Stat::States, "States", &["total_states", "states"]),
    (Stat::PeakStates, "Peak states", &["peak_states"]),
    (Stat::MaxStates, "Max states per insn", &["max_states_per_insn"]),
    (Stat::MarkRead, "Max mark read length", &["max_mark_read_len", "mark_read"]),
    (Stat::Size, "Program size", &["prog_size"]),
    (Stat::JitedSize, "Jited size", &["prog_size_jited"]),
    (Stat::Stack, "Stack depth", &["stack_depth", "stack"]),
    (Stat::ProgType, "Program type", &["prog_type"]),
    (Stat::AttachType, "Attach type", &["attach_type"]),
];

/// For an error about a name.
pub(super) const KNOWN: &str = "the columns are file_name, prog_name, verdict, duration, \
    total_insns, total_states, peak_states, max_states_per_insn, max_mark_read_len, prog_size, \
    prog_size_jited, stack_depth, prog_type, attach_type";

impl Stat {
    fn row(self) -> &'static (Stat, &'static str, &'static [&'static str]) {
        TABLE.iter().find(|r| r.0 == self).expect("every column is in the table")
    }

    pub(super) fn name(self) -> &'static str {
        self.row().2[0]
    }

    pub(super) fn title(self) -> &'static str {
        self.row().1
    }

    /// By any of its names.
    pub(super) fn named(name: &str) -> Option<Stat> {
        TABLE.iter().find(|r| r.2.contains(&name)).map(|r| r.0)
    }

    pub(super) fn is_text(self) -> bool {
        matches!(self, Stat::File | Stat::Prog | Stat::ProgType | Stat::AttachType)
    }
}

/// The nine columns of veristat's CSV, or those that are named.
pub(super) fn columns(names: &[String]) -> Result<Vec<Stat>, String> {
    if names.is_empty() {
        return Ok(TABLE[..9].iter().map(|r| r.0).collect());
    }
    let find = |n: &String| Stat::named(n.trim()).ok_or_else(|| format!("no column '{n}'"));
    names.iter().map(find).collect()
}

/// One program, as in a line of CSV: a cell for each column, empty when not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    cells: Vec<(u8, String)>,
}

impl Record {
    /// A record of cells.
    pub(super) fn new(cells: impl IntoIterator<Item = (Stat, String)>) -> Record {
        Record { cells: cells.into_iter().map(|(s, v)| (s as u8, v)).collect() }
    }

    /// What was found out about a program, and the bytes of its native code where that is known.
    pub(super) fn of(file: &str, row: &Row, native: Option<usize>) -> Record {
        let verdict = if row.verdict == Verdict::Accepted { "success" } else { "failure" };
        let stack: u32 = row.stack_depth.split('+').filter_map(|d| d.parse::<u32>().ok()).sum();
        let native = native.map(|n| (Stat::JitedSize, n.to_string()));
        let known = [
            (Stat::File, file.to_owned()),
            (Stat::Prog, row.program.clone()),
            (Stat::Verdict, verdict.to_owned()),
            (Stat::Duration, row.time_us.to_string()),
            (Stat::Insns, row.insns_processed.to_string()),
            (Stat::States, row.total_states.to_string()),
            (Stat::PeakStates, row.peak_states.to_string()),
            (Stat::MaxStates, row.max_states_per_insn.to_string()),
            (Stat::MarkRead, "0".to_owned()),
            (Stat::Size, row.insns.to_string()),
            (Stat::Stack, stack.to_string()),
            (Stat::ProgType, row.prog_type.to_owned()),
            (Stat::AttachType, row.attach_type.to_owned()),
        ];
        Record::new(known.into_iter().chain(native))
    }

    /// A cell; `N/A` when the record has none.
    pub(super) fn cell(&self, s: Stat) -> String {
        self.get(s).unwrap_or("N/A").to_owned()
    }

    pub(super) fn get(&self, s: Stat) -> Option<&str> {
        self.cells.iter().find(|c| c.0 == s as u8).map(|c| c.1.as_str())
    }

    /// A number; verdicts are 1 and 0.
    pub(super) fn number(&self, s: Stat) -> Option<i64> {
        match (s, self.get(s)?) {
            (Stat::Verdict, v) => Some(i64::from(v == "success")),
            (_, v) => v.parse().ok(),
        }
    }

    /// What tells programs apart.
    pub(super) fn key(&self) -> (String, String) {
        (self.cell(Stat::File), self.cell(Stat::Prog))
    }
}

/// Orders records, by file and program unless told otherwise.
pub(super) fn sort(records: &mut [Record], by: &[String]) -> Result<(), String> {
    let mut keys = Vec::new();
    for name in by {
        let (down, name) = match name.strip_prefix('!').or_else(|| name.strip_prefix('v')) {
            Some(rest) if Stat::named(name).is_none() => (true, rest),
            _ => (false, name.strip_prefix('^').unwrap_or(name)),
        };
        keys.push((Stat::named(name).ok_or_else(|| format!("no column '{name}'"))?, down));
    }
    if keys.is_empty() {
        keys = vec![(Stat::File, false), (Stat::Prog, false)];
    }
    records.sort_by(|a, b| {
        let compared = keys.iter().map(|(s, down)| {
            let order = match s.is_text() {
                true => a.cell(*s).cmp(&b.cell(*s)),
                false => a.number(*s).cmp(&b.number(*s)),
            };
            if *down { order.reverse() } else { order }
        });
        compared.into_iter().find(|o| *o != Ordering::Equal).unwrap_or(Ordering::Equal)
    });
    Ok(())
}

/// A filter of names, or a condition on a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Name { deny: bool, file: String, prog: Option<String> },
    Stat { stat: Stat, op: &'static str, value: i64 },
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Filter, String> {
        for op in ["==", "!=", "<>", "<=", ">=", "<", ">", "="] {
            let Some((name, value)) = text.split_once(op) else { continue };
            let Some(stat) = Stat::named(name.trim()) else { continue };
            let value = match value.trim() {
                "success" | "true" => 1,
                "failure" | "false" => 0,
                n => n.parse().map_err(|_| format!("'{n}' is not a number"))?,
            };
            return Ok(Filter::Stat { stat, op, value });
        }
        let (deny, text) = text.strip_prefix('!').map_or((false, text), |t| (true, t));
        let (file, prog) = match text.split_once('/') {
            Some((f, p)) => (f, Some(p.to_owned())),
            None => (text, None),
        };
        Ok(Filter::Name { deny, file: file.to_owned(), prog })
    }

    /// A condition on numbers holds; filters of names take everything here.
    pub(super) fn takes_stats(&self, r: &Record) -> bool {
        let Filter::Stat { stat, op, value } = self else { return true };
        let Some(n) = r.number(*stat) else { return false };
        match *op {
            "==" | "=" => n == *value,
            "!=" | "<>" => n != *value,
            "<=" => n <= *value,
            ">=" => n >= *value,
            "<" => n < *value,
            _ => n > *value,
        }
    }

    fn matches(&self, file: &str, name: &str) -> Option<bool> {
        let Filter::Name { deny, file: f, prog } = self else { return None };
        let found = match prog {
            Some(p) => glob(f, file) && glob(p, name),
            None => glob(f, file) || glob(f, name),
        };
        found.then_some(!deny)
    }
}

/// Whether filters of names take a program: no filter that denies, and one that allows, if any.
pub(super) fn takes_name(filters: &[Filter], file: &str, name: &str) -> bool {
    let said: Vec<bool> = filters.iter().filter_map(|f| f.matches(file, name)).collect();
    let allows = |f: &Filter| matches!(f, Filter::Name { deny: false, .. });
    !said.contains(&false) && (said.contains(&true) || !filters.iter().any(allows))
}

/// `*` and `?`.
pub(in crate::cli) fn glob(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        if i < p.len() && (p[i] == '?' || p[i] == t[j]) && p[i] != '*' {
            (i, j) = (i + 1, j + 1);
        } else if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if let Some((si, sj)) = star {
            star = Some((si, sj + 1));
            (i, j) = (si + 1, sj + 1);
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(prog: &str, insns: &str) -> Record {
        let file = (Stat::File, "a.bpf.o".to_owned());
        Record::new([file, (Stat::Prog, prog.to_owned()), (Stat::Insns, insns.to_owned())])
    }

    #[test]
    fn names_are_globs() {
        assert!(glob("xdp_*", "xdp_drop") && glob("*", "") && glob("a?c*", "abcd"));
        assert!(!glob("xdp", "xdp_drop") && !glob("a?c", "ac"));
        let f = |t: &str| Filter::parse(t).unwrap();
        assert!(takes_name(&[f("a*/x*")], "a.bpf.o", "xdp"));
        assert!(!takes_name(&[f("a*/x*")], "a.bpf.o", "tc"));
        assert!(!takes_name(&[f("!tc")], "a.bpf.o", "tc"));
    }

    #[test]
    fn conditions_and_orders() {
        let big = Filter::parse("insns>=100").unwrap();
        assert!(big.takes_stats(&record("p", "100")) && !big.takes_stats(&record("p", "99")));
        let mut rows = [record("p", "9"), record("q", "10")];
        sort(&mut rows, &["!insns".to_owned()]).unwrap();
        assert_eq!(rows[0].get(Stat::Prog), Some("q"));
        assert!(sort(&mut rows, &["what".to_owned()]).is_err());
        assert_eq!(columns(&[]).unwrap().len(), 9);
    }
}
