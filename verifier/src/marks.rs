//! Coverage marks: each rule of pruning, widening, convergence and limits says that it was
//! reached, and a test fails when one of them never is.
//!
//! Marks are counted in test builds only (feature `testing`); elsewhere `hit!` is nothing. A name
//! that is not declared here does not compile.

#[cfg(any(test, feature = "testing"))]
use std::sync::atomic::{AtomicU32, Ordering};

/// All marks.
pub const ALL: &[&str] = &[
    // Pruning.
    "prune: imprecise scalars match",
    "prune: in a loop all scalars are in range",
    "prune: an iterator converges",
    "prune: may_goto converges",
    "prune: a callback converges",
    "prune: infinite loop",
    "prune: a state that misses is evicted",
    "prune: an evicted state is freed",
    "prune: what is dead is forgotten",
    "prune: nothing is kept so soon in a loop",
    // Precision.
    "precision: lost track",
    "precision: linked scalars",
    "precision: from a covering state",
    // Convergence.
    "loop: entered",
    "loop: back edge",
    "loop: left with back edges",
    "loop: precision over back edges changed",
    // Widening.
    "widen: imprecise scalar of an iteration",
    "widen: imprecise spill of an iteration",
    // Limits.
    "limit: instructions",
    "limit: states without CAP_BPF",
    "limit: pending jumps",
    "limit: state memory",
    "limit: call frames",
    "limit: bpf_loop trips",
    // Beyond the limits.
    "beyond: widened to unknown",
    "beyond: widened to thresholds",
    "beyond: grown by bits",
    "beyond: joined",
    "beyond: too many steps",
    "beyond: covered in a loop",
    "beyond: walked again with less",
    "beyond: refused for what is in the program",
    "beyond: walked exactly",
    "beyond: earned by a cover",
    "ends: may_goto",
    "ends: an iterator",
    "ends: a callback",
    "ends: a counter up",
    "ends: a counter down",
    "ends: through a function",
    "ends: through a slot",
    "ends: by a register",
    "ends: not known",
    "ends: too many trips",
];

#[cfg(any(test, feature = "testing"))]
static HITS: [AtomicU32; ALL.len()] = [const { AtomicU32::new(0) }; ALL.len()];

/// Place of a mark in the list.
///
/// # Panics
/// At compile time, when there is no such mark.
#[must_use]
pub const fn index(name: &str) -> usize {
    let mut i = 0;
    while i < ALL.len() {
        if same(ALL[i].as_bytes(), name.as_bytes()) {
            return i;
        }
        i += 1;
    }
    panic!("the mark is not declared")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Counts a mark.
#[cfg(any(test, feature = "testing"))]
pub fn reach(index: usize) {
    HITS[index].fetch_add(1, Ordering::Relaxed);
}

/// Marks that this process never reached.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn unreached() -> Vec<&'static str> {
    let never = |i: &usize| HITS[*i].load(Ordering::Relaxed) == 0;
    (0..ALL.len()).filter(never).map(|i| ALL[i]).collect()
}

/// Says that a rule is reached.
macro_rules! hit {
    ($name:literal) => {{
        const MARK: usize = $crate::marks::index($name);
        #[cfg(any(test, feature = "testing"))]
        $crate::marks::reach(MARK);
        let _ = MARK;
    }};
}
pub(crate) use hit;
