//! The measured tables, and the list of rows that differ.

use std::collections::BTreeMap;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    tests::root().join("tests/corpus/kernel-tables").join(name)
}

/// Rows of a table: lines of fields, without the header.
pub(crate) fn rows(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path(name)).expect("the table is in the corpus");
    let fields = |l: &str| l.split('\t').map(str::to_owned).collect();
    text.lines().skip(1).filter(|l| !l.is_empty()).map(fields).collect()
}

/// A row that came out otherwise: its number in the table from 1, what is expected, what was said.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) row: usize,
    pub(crate) text: String,
    pub(crate) said: String,
}

/// Compares findings with the list `NAME`: every finding is listed, every entry is a finding.
/// An entry is a row number or a range of them, what the model says (`*` for any), and why.
pub(crate) fn check(table: &str, list: &str, found: &[Finding]) -> Result<(), String> {
    let mut listed = BTreeMap::new();
    for entry in rows(list).into_iter().filter(|r| r[0] == table) {
        let number = |s: &str| s.parse::<usize>().expect("a row number");
        let (from, to) = match entry[1].split_once('-') {
            Some((from, to)) => (number(from), number(to)),
            None => (number(&entry[1]), number(&entry[1])),
        };
        assert!(!entry[3].is_empty(), "a difference has a reason");
        for row in from..=to {
            listed.insert(row, entry[2].clone());
        }
    }
    let mut wrong = Vec::new();
    for f in found {
        match listed.remove(&f.row) {
            Some(said) if said == "*" || said == f.said => {}
            _ => wrong.push(format!("row {}: {}: said {}", f.row, f.text, f.said)),
        }
    }
    // Rows that vary from run to run may agree by chance.
    for (row, said) in listed.into_iter().filter(|(_, said)| said != "*") {
        wrong.push(format!("row {row}: listed as {said}, but it agrees"));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("{} of {table}:\n{}", wrong.len(), wrong.join("\n"))),
    }
}
