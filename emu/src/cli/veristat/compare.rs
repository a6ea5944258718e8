//! Two CSV files, program by program, in veristat's format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::stat::{Filter, Record, Stat, takes_name};
use super::{Exit, bad};
use crate::cli::out;

/// Reads a CSV file of veristat, or of this program.
fn read(path: &Path) -> Result<Vec<Record>, Exit> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| bad(&format!("{name}: {e}"), ""))?;
    let mut lines = text.lines();
    let head: Vec<Option<Stat>> =
        lines.next().unwrap_or_default().split(',').map(Stat::named).collect();
    if !head.contains(&Some(Stat::Prog)) {
        return Err(bad(&format!("{name}: no column prog_name"), "it is not a CSV of veristat"));
    }
    let record = |line: &str| {
        let cells = head.iter().zip(line.split(',')).filter(|c| c.1 != "N/A");
        Record::new(cells.filter_map(|(s, v)| Some(((*s)?, v.to_owned()))))
    };
    Ok(lines.filter(|l| !l.is_empty()).map(record).collect())
}

/// The difference in one column.
fn difference(s: Stat, a: &Record, b: &Record) -> String {
    match (s, a.number(s), b.number(s)) {
        (Stat::Verdict, Some(a), Some(b)) => if a == b { "MATCH" } else { "MISMATCH" }.to_owned(),
        (_, Some(a), Some(b)) => {
            let percent = match (a, b) {
                (a, b) if a == b => 0.0,
                (0, _) => 100.0,
                _ => (b - a) as f64 * 100.0 / a as f64,
            };
            format!("{:+} ({percent:+.2}%)", b - a)
        }
        _ => "N/A".to_owned(),
    }
}

pub(super) fn run(
    files: &[PathBuf],
    columns: &[Stat],
    filters: &[Filter],
    csv: bool,
) -> Result<Exit, Exit> {
    let [base, comp] = files else {
        return Err(bad("--compare takes two CSV files", "give the older one first"));
    };
    let keyed =
        |v: Vec<Record>| -> BTreeMap<_, _> { v.into_iter().map(|r| (r.key(), r)).collect() };
    let (base, comp) = (keyed(read(base)?), keyed(read(comp)?));
    let keys: std::collections::BTreeSet<_> = base.keys().chain(comp.keys()).collect();
    let mut head: Vec<String> = vec![Stat::File.name().into(), Stat::Prog.name().into()];
    let stats: Vec<Stat> = columns.iter().copied().filter(|c| !c.is_text()).collect();
    for s in &stats {
        let title = if csv { s.name() } else { s.title() };
        let suffixes = if csv { ["_base", "_comp", "_diff"] } else { [" (A)", " (B)", " (DIFF)"] };
        head.extend(suffixes.map(|suffix| format!("{title}{suffix}")));
    }
    let mut rows = vec![head];
    let (none, mut exit) = (Record::default(), Exit::Ok);
    for key in keys.into_iter().filter(|k| takes_name(filters, &k.0, &k.1)) {
        let (a, b) = (base.get(key).unwrap_or(&none), comp.get(key).unwrap_or(&none));
        if !filters.iter().all(|f| f.takes_stats(a) || f.takes_stats(b)) {
            continue;
        }
        if a.get(Stat::Verdict) != b.get(Stat::Verdict) {
            exit = Exit::NotMet;
        }
        let mut row = vec![key.0.clone(), key.1.clone()];
        for s in &stats {
            row.extend([a.cell(*s), b.cell(*s), difference(*s, a, b)]);
        }
        rows.push(row);
    }
    if csv {
        rows.iter().for_each(|r| out::line(&r.join(",")));
    } else {
        out::print(&out::columns(&rows));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_in_numbers_and_verdicts() {
        let record = |verdict: &str, insns: &str| {
            let cells = [(Stat::Verdict, verdict.to_owned()), (Stat::Insns, insns.to_owned())];
            Record::new(cells)
        };
        let (a, b) = (record("success", "100"), record("failure", "150"));
        assert_eq!(difference(Stat::Insns, &a, &b), "+50 (+50.00%)");
        assert_eq!(difference(Stat::Verdict, &a, &b), "MISMATCH");
        assert_eq!(difference(Stat::Verdict, &a, &a), "MATCH");
        assert_eq!(difference(Stat::Insns, &a, &Record::default()), "N/A");
    }
}
