//! Sessions damaged at random: they end, or go on, but never panic, hang or grow.

use bpf::Arch;
use bpf::insn::generate::Rng;

use super::Said;
use super::mock::{COUNTER, Mock, TEXT};
use crate::hostile::{Places, damage, usual};
use crate::session::{Files, serve};

/// Answers of a whole session are no longer than this for each word said.
const ANSWER_BYTES_MAX: usize = 0x8_0000;
const CASES: u64 = 2000;

#[test]
fn damaged_packets_neither_panic_nor_hang_nor_grow() {
    let places = Places { code: vec![TEXT + 4, TEXT + 8], data: vec![COUNTER] };
    for seed in 0..CASES {
        let mut rng = Rng(seed);
        let arch = rng.pick(&Arch::ALL);
        let mut words: Vec<_> = (0..1 + rng.below(23)).map(|_| usual(&places, &mut rng)).collect();
        for _ in 0..rng.below(12) {
            damage(&mut words, &places, &mut rng);
        }
        let lines: Vec<String> = words.iter().map(|w| w.line()).collect();
        let mut said = Said::bytes(words.iter().flat_map(|w| w.bytes()).collect());
        // An error ends the session, which is an answer too.
        let _ = serve(&mut said, &mut Mock::new(arch), &mut Files::new());
        let bytes = said.output.len();
        assert!(bytes < ANSWER_BYTES_MAX * (words.len() + 1), "{bytes} bytes:\n{lines:#?}");
    }
}
