//! Tables measured on Linux 6.18 (`tests/corpus/kernel-tables`): each row asks the verifier.
//!
//! ```text
//!  *.tsv ─► a small program for each cell ─► check ─► Answer ─► Diff where it is not the kernel's
//!  differences.tsv ◄─ must be exactly what differs, each row with a reason
//! ```

mod cases;
mod ctx;
mod kernel;
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use kernel::Kernel;

/// A row whose answer is not the kernel's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diff {
    /// File.
    pub table: &'static str,
    /// Row and column.
    pub row: String,
    /// What the kernel says.
    pub kernel: String,
    /// What the verifier says.
    pub ours: String,
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Questions asked, by table.
    pub asked: BTreeMap<&'static str, usize>,
    /// Questions that need a kernel's BTF, which is not at hand.
    pub skipped: usize,
    /// Questions about what is not modelled.
    pub unsupported: usize,
    /// Answers that differ.
    pub diffs: BTreeSet<Diff>,
}

fn without_numbers(text: &str) -> String {
    let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let text: Vec<char> = text.chars().map(digit).collect();
    let repeated = |w: &[char]| w[0] == '0' && w[1] == '0';
    let keep = |i: &usize| *i == 0 || !repeated(&text[i - 1..=*i]);
    (0..text.len()).filter(keep).map(|i| if text[i] == '0' { 'N' } else { text[i] }).collect()
}

impl Found {
    /// Counts a question, and notes a difference. What is not modelled is one row for a table and
    /// a feature.
    fn judge(&mut self, table: &'static str, row: String, kernel: &str, ours: &str) {
        *self.asked.entry(table).or_default() += 1;
        if kernel == ours {
            return;
        }
        let unsupported = ours.find("unsupported: ").map(|at| without_numbers(&ours[at..]));
        let diff = match unsupported {
            Some(what) => {
                self.unsupported += 1;
                Diff { table, row: what, kernel: "-".to_owned(), ours: "unsupported".to_owned() }
            }
            None => Diff { table, row, kernel: kernel.to_owned(), ours: ours.to_owned() },
        };
        self.diffs.insert(diff);
    }
}

/// The folder of the tables.
#[must_use]
pub fn dir() -> PathBuf {
    crate::root().join("tests/corpus/kernel-tables")
}

/// Rows of a table by column name.
fn table(name: &str) -> Vec<BTreeMap<String, String>> {
    let path = dir().join(name);
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let row = |line: &str| {
        let cells = line.split('\t').chain(std::iter::repeat(""));
        head.iter().zip(cells).map(|(k, v)| ((*k).to_owned(), v.to_owned())).collect()
    };
    lines.map(row).collect()
}

/// Asks everything.
#[must_use]
pub fn run(kernel: &Kernel) -> Found {
    let mut found = Found::default();
    cases::helpers(kernel, &mut found);
    cases::first_arguments(kernel, &mut found);
    cases::packets(kernel, &mut found);
    cases::returns(kernel, &mut found);
    cases::kfuncs(kernel, &mut found);
    ctx::fields(kernel, &mut found);
    ctx::edges(kernel, &mut found);
    ctx::pointers(kernel, &mut found);
    programs::malformed(kernel, &mut found);
    programs::mutated(kernel, &mut found);
    found
}

/// The listed differences: (table, row) with the reason.
#[must_use]
pub fn listed() -> BTreeMap<(String, String), String> {
    let row =
        |r: BTreeMap<String, String>| ((r["table"].clone(), r["row"].clone()), r["reason"].clone());
    table("differences.tsv").into_iter().map(row).collect()
}

/// What is wrong with the list: differences that are not listed, rows that no longer differ.
///
/// With `UPDATE_EXPECT=1` the list is written anew; reasons of rows that stay are kept.
#[must_use]
pub fn compare(found: &Found) -> Vec<String> {
    let listed = listed();
    let key = |d: &Diff| (d.table.to_owned(), d.row.clone());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        write(found, &listed);
        return Vec::new();
    }
    let real: BTreeMap<_, _> = found.diffs.iter().map(|d| (key(d), d)).collect();
    let new = real.iter().filter(|(k, _)| !listed.contains_key(*k));
    let new = new.map(|((t, r), d)| format!("{t} {r}: kernel {}, ours {}", d.kernel, d.ours));
    // A feature that has come to be modelled leaves the list with the next update.
    // Without a kernel's BTF some rows are not asked.
    let all = found.skipped == 0;
    let stale =
        |k: &&(String, String)| all && !real.contains_key(*k) && !k.1.starts_with("unsupported");
    let gone = listed.keys().filter(stale);
    let gone = gone.map(|(t, r)| format!("{t} {r}: listed, but as the kernel's"));
    let blank = listed.iter().filter(|(_, reason)| reason.is_empty());
    let blank = blank.map(|((t, r), _)| format!("{t} {r}: listed without a reason"));
    new.chain(gone).chain(blank).collect()
}

fn write(found: &Found, listed: &BTreeMap<(String, String), String>) {
    let mut text = "table\trow\tkernel\tours\treason\n".to_owned();
    for d in &found.diffs {
        let key = (d.table.to_owned(), d.row.clone());
        let default = if d.ours == "unsupported" { "not modelled" } else { "" };
        let reason = listed.get(&key).map_or(default, String::as_str);
        text += &format!("{}\t{}\t{}\t{}\t{reason}\n", d.table, d.row, d.kernel, d.ours);
    }
    std::fs::write(dir().join("differences.tsv"), text).expect("the corpus can be written");
}
