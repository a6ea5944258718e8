//! A hash of kernel state: what two runs have to agree on, or two ways of one search.
//!
//! The state is hashed as its `Debug` text, so that nothing that is added to it can be forgotten.
//! What is large and never changes shows itself there by a name only ([`crate::Prog`],
//! [`crate::syscall::BtfObject`]). Memory has a hash of its own
//! ([`crate::mem::GuestMemory::hash`]), and the trace is no state.

use std::fmt::{self, Debug, Write};

use crate::Kernel;
use crate::mem::GuestMemory;

/// Whether the hash takes in what counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// All of it.
    Kept,
    /// Fields that count time are left out (`.._ns`, and what was retired): two orders of the same
    /// steps end in states that differ in nothing else.
    LeftOut,
}

/// Fields that count instructions, which are time, and times with another name.
const COUNTS: [&str; 4] = ["retired", "charged", "run_start", "until"];

/// FNV-1a, 64 bits: the same number on every machine and with every toolchain.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// More bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A hash over what is written, piece by piece as derived `Debug` writes it: a field's name,
/// `": "`, its value, then `", "` or `" }"`.
struct Text {
    hash: Fnv,
    times: Times,
    /// In the value of a field that is left out.
    skipping: bool,
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.skipping && !matches!(piece, ", " | " }") {
            return Ok(());
        }
        self.skipping =
            self.times == Times::LeftOut && (piece.ends_with("_ns") || COUNTS.contains(&piece));
        self.hash.add(piece.as_bytes());
        Ok(())
    }
}

/// Hash of a value's `Debug` text. Comparable within one build of this program only.
#[must_use]
pub fn of(value: &dyn Debug, times: Times) -> u64 {
    let mut text = Text { hash: Fnv::default(), times, skipping: false };
    write!(text, "{value:?}").expect("hashing does not fail");
    text.hash.0
}

impl Kernel {
    /// Hash of all state but memory and the trace.
    #[must_use]
    pub fn state_hash(&mut self, times: Times) -> u64 {
        let endian = self.mem.endian();
        let mem = std::mem::replace(&mut self.mem, GuestMemory::empty(endian));
        let events = std::mem::take(&mut self.events);
        let hash = of(&*self, times);
        (self.mem, self.events) = (mem, events);
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, CpuId, EventKind};
    use rand_core::Rng as _;

    #[test]
    fn all_state_counts_but_time_only_when_asked() {
        let mut k = Kernel::new(Config::default());
        let hashes = |k: &mut Kernel| [Times::Kept, Times::LeftOut].map(|t| k.state_hash(t));
        let [kept, left_out] = hashes(&mut k);
        assert_eq!(hashes(&mut k), [kept, left_out]);
        k.emit(CpuId(0), EventKind::Print { text: "the trace is no state".into() });
        assert_eq!(hashes(&mut k), [kept, left_out]);
        k.charge(CpuId(1), 3);
        assert_ne!(k.state_hash(Times::Kept), kept);
        assert_eq!(k.state_hash(Times::LeftOut), left_out);
        k.rng.helper.next_u32();
        assert_ne!(k.state_hash(Times::LeftOut), left_out);
    }

    #[test]
    fn a_time_is_left_out_whatever_form_it_has() {
        #[derive(Debug)]
        #[allow(dead_code, reason = "read through Debug")]
        struct Timer {
            due_ns: Option<u64>,
            name: &'static str,
        }
        let hash = |due_ns, name| of(&Timer { due_ns, name }, Times::LeftOut);
        assert_eq!(hash(Some(1), "a"), hash(None, "a"));
        assert_ne!(hash(Some(1), "a"), hash(Some(1), "b"));
    }
}
