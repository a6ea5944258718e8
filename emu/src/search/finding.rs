//! What is wrong with a run, and when two runs have the same wrong with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::runner::FailureKind as Kind;
use crate::runner::{Failure, Outcome};

/// What names a finding, whatever the numbers in its words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// Kind.
    pub kind: Kind,
    /// The expectation as the file has it, or the words without numbers.
    pub what: String,
}

/// That the traces of the architectures differ.
#[must_use]
pub fn divergence() -> Signature {
    let what = "the traces of the architectures".to_owned();
    Signature { kind: Kind::Divergence, what }
}

/// The words of a message that do not depend on when and where.
fn shape(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let digit = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_lowercase();
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    let kept = words.filter(|w| !w.is_empty() && !w.starts_with("0x") && !w.chars().all(digit));
    kept.collect::<Vec<_>>().join(" ")
}

/// Signatures of a run's failures, each with its message. `text` is the scenario.
#[must_use]
pub fn signatures(outcome: &Outcome, text: &str, injected: bool) -> BTreeMap<Signature, String> {
    // A fault of the search that did not come about is nobody's.
    let counts = |f: &&Failure| !(injected && f.kind == Kind::NotInjected);
    let of = |f: &Failure| {
        let own = (f.span.file == 0).then_some(f.span.start as usize);
        let what = own.and_then(|from| in_file(text, from));
        let what = what.unwrap_or_else(|| shape(&f.message));
        (Signature { kind: f.kind, what }, f.message.clone())
    };
    outcome.failures.iter().filter(counts).map(of).collect()
}

/// The expectation around a place; what stands there alone may stand elsewhere, too.
fn in_file(text: &str, from: usize) -> Option<String> {
    let parts = scenarios::edit::parts(text).unwrap_or_default();
    let around = parts.iter().filter(|p| {
        let inside = (p.span.start as usize..p.span.end as usize).contains(&from);
        inside && p.path.starts_with("expect.") && p.path.matches('.').count() == 1
    });
    let mut around = around.map(|p| &text[p.span.start as usize..p.span.end as usize]);
    around.next().map(|words| words.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_messages() {
        let leak = "event 12: leak: Ref 0xffff888000123450 acquired by bpf_sk_lookup at 1200 ns";
        let other = "event 7: leak: Ref 0xffff8880001ff450 acquired by bpf_sk_lookup at 99 ns";
        assert_eq!(shape(leak), shape(other));
        assert_eq!(shape(leak), "event leak Ref acquired by bpf_sk_lookup at ns");
    }
}
