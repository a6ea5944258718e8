//! What is wrong with a run, and when two runs have the same wrong with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runner::{Failure, Outcome};

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An expectation does not hold.
    Expectation,
    /// A program or the kernel did what it must not.
    Fault,
    /// CPUs wait for each other.
    Deadlock,
    /// Two accesses without an order between them.
    Race,
    /// Something acquired was not released.
    Leak,
    /// Something does not go on.
    Stall,
    /// The architectures do not agree.
    Divergence,
}

impl Kind {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Expectation => "an expectation that does not hold",
            Kind::Fault => "a fault",
            Kind::Deadlock => "a deadlock",
            Kind::Race => "a race",
            Kind::Leak => "a leak",
            Kind::Stall => "a stall",
            Kind::Divergence => "architectures that differ",
        }
    }

    /// Of what is always checked; `None` for an expectation of the file.
    fn of(message: &str) -> Option<Kind> {
        if message.starts_with("CPU ") && message.contains(" spins for ") {
            return Some(Kind::Deadlock);
        }
        let rest = message.strip_prefix("event ")?;
        let (_, what) = rest.split_once(": ")?;
        let what = what.strip_prefix("fault: ").unwrap_or(what).to_lowercase();
        // The clause that says what it is; in the others anything may be named.
        let clause = what.split(':').next().unwrap_or_default();
        let says = |word: &str| clause.split(' ').any(|w| w == word);
        Some(match () {
            () if says("leak") => Kind::Leak,
            () if says("deadlock") => Kind::Deadlock,
            () if says("race") => Kind::Race,
            () if says("stall") => Kind::Stall,
            () => Kind::Fault,
        })
    }
}

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

/// A fault of the search that did not come about, which is nobody's.
const NEVER: &str = "the fault `";

/// Signatures of a run's failures, each with its message. `text` is the scenario.
#[must_use]
pub fn signatures(outcome: &Outcome, text: &str, injected: bool) -> BTreeMap<Signature, String> {
    let of = |f: &Failure| {
        if injected && f.message.starts_with(NEVER) {
            return None;
        }
        let own = (f.span.file == 0).then_some(f.span.start as usize);
        let signature = match Kind::of(&f.message) {
            Some(kind) => Signature { kind, what: shape(&f.message) },
            None => {
                let what = own.and_then(|from| in_file(text, from));
                let what = what.unwrap_or_else(|| shape(&f.message));
                let kind = match &f.message {
                    m if m.contains("deadlock ") => Kind::Deadlock,
                    m if m.contains("data race") => Kind::Race,
                    _ => Kind::Expectation,
                };
                Signature { kind, what }
            }
        };
        Some((signature, f.message.clone()))
    };
    outcome.failures.iter().filter_map(of).collect()
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
    fn kinds_and_shapes_of_messages() {
        let leak = "event 12: leak: Ref 0xffff888000123450 acquired by bpf_sk_lookup at 1200 ns";
        let other = "event 7: leak: Ref 0xffff8880001ff450 acquired by bpf_sk_lookup at 99 ns";
        assert_eq!(Kind::of(leak), Some(Kind::Leak));
        assert_eq!(shape(leak), shape(other));
        assert_eq!(shape(leak), "event leak Ref acquired by bpf_sk_lookup at ns");
        assert_eq!(Kind::of("event 3: fault: deadlock: AA"), Some(Kind::Deadlock));
        assert_eq!(Kind::of("hits: is 1, expected 2"), None);
        let grace =
            "event 8: fault: OutsideSection at 0x10 (its grace period held by CPU 0), found";
        assert_eq!(Kind::of(grace), Some(Kind::Fault));
        assert_eq!(Kind::of("event 2: data race: 8 bytes of hits"), Some(Kind::Race));
        assert_eq!(Kind::of("event 346: rcu stall: grace period 1"), Some(Kind::Stall));
    }
}
