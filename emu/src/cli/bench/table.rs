//! Rows as text, and as the table of the README.

use std::path::Path;

use super::super::out;
use super::Row;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Three digits that matter, with a unit prefix.
fn number(v: f64, unit: &str) -> String {
    let (scaled, prefix) = match v {
        _ if unit == "ms" || unit == "ns" => (v, ""),
        _ if unit.ends_with("/s") && v >= 1e9 => (v / 1e9, "G"),
        _ if unit.ends_with("/s") && v >= 1e6 => (v / 1e6, "M"),
        _ if unit.ends_with("/s") && v >= 1e3 => (v / 1e3, "k"),
        _ => (v, ""),
    };
    let digits = if unit == "bytes" || unit == "instructions" || scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}

fn cells(row: &Row) -> [String; 5] {
    let peer =
        row.peer.map_or(String::new(), |p| format!("{} ({})", number(p, row.unit), row.peer_name));
    let ratio = row.ratio().map_or(String::new(), |r| format!("{r:.2}x"));
    [row.what.clone(), row.on.clone(), number(row.ours, row.unit), peer, ratio]
}

const HEAD: [&str; 5] = ["what", "on", "Orrery", "compared with", "better by"];

/// Aligned columns.
pub(super) fn text(rows: &[Row]) -> String {
    let head = HEAD.map(str::to_owned).to_vec();
    let lines = std::iter::once(head).chain(rows.iter().map(|r| cells(r).to_vec()));
    out::columns(&lines.collect::<Vec<_>>())
}

fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|---|---|---|---|---|\n", HEAD.join(" | "));
    for row in rows {
        text.push_str(&format!("| {} |\n", cells(row).join(" | ")));
    }
    text
}

/// Replaces what is between the markers.
pub(super) fn into_readme(path: &Path, rows: &[Row]) -> Result<(), String> {
    let old = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let new = replaced(&old, &markdown(rows))?;
    std::fs::write(path, new).map_err(|e| e.to_string())
}

fn replaced(old: &str, table: &str) -> Result<String, String> {
    let parts = old.split_once(BEGIN).and_then(|(head, rest)| {
        let (_, tail) = rest.split_once(END)?;
        Some(format!("{head}{BEGIN}\n{table}{END}{tail}"))
    });
    parts.ok_or_else(|| format!("it has no {BEGIN} and {END}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&old, "| x |\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| x |\n{END}\nb\n"));
        assert_eq!(replaced(&new, "| x |\n").unwrap(), new);
        assert!(replaced("a\n", "").is_err());
    }

    #[test]
    fn numbers_keep_three_digits() {
        let rows = [
            (1_850_000_000.0, "insn/s", "1.85 Ginsn/s"),
            (43_000_000.0, "insn/s", "43.0 Minsn/s"),
            (215.2, "ns", "215 ns"),
            (68.0, "ms", "68.0 ms"),
            (3_802_287.0, "bytes", "3802287 bytes"),
        ];
        for (v, unit, want) in rows {
            assert_eq!(number(v, unit), want);
        }
    }
}
