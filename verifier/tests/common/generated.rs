//! Programs with loops, made from a seed, verified with a limit that sends them beyond it.
//!
//! They are made of what makes loops hard: counters of both widths and directions, bounds that
//! are constants or masked random numbers, comparisons that may step over their bound, variables
//! that change on some paths only, and indices into a map value that are or are not in range.

use super::common::case::Case;
use super::common::run::{Ran, run};
use std::fmt::Write as _;
use verifier::explore::Opts;

const PROGRAMS: u64 = 1000;
/// A loop that ends has at most 40 trips around another one, and 30 instructions.
const FUEL: u64 = 4_000_000;

struct Make {
    random: u64,
    text: String,
    labels: u32,
}

impl Make {
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick(&mut self, all: &[&str]) -> String {
        let i = self.below(all.len() as u64) as usize;
        all[i].to_owned()
    }

    fn line(&mut self, l: &str) {
        let _ = writeln!(self.text, "    {l}");
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("l{}", self.labels)
    }

    fn put(&mut self, label: &str) {
        let _ = writeln!(self.text, "{label}:");
    }

    /// A variable: r8, r9 or a slot that is loaded into r3 first.
    fn change(&mut self) {
        let v = self.pick(&["r8", "r9"]);
        let k = self.below(9);
        match self.below(9) {
            0 => self.line(&format!("{v} += {k}")),
            1 => self.line(&format!("{v} -= {k}")),
            2 => self.line(&format!("{v} &= {}", (1 << k) - 1)),
            3 => self.line(&format!("{v} |= {k}")),
            4 => self.line(&format!("{v} = {k}")),
            5 => self.line(&format!("{v} <<= 1")),
            6 => self.line(&format!("{v} >>= {}", 1 + k % 3)),
            7 => self.line(if v == "r8" { "r8 ^= r9" } else { "r9 = r8" }),
            _ => {
                self.line("r3 = *(u64 *)(r10 -8)");
                self.line(&format!("r3 += {k}"));
                self.line("*(u64 *)(r10 -8) = r3");
            }
        }
    }

    /// An access to the map value at an index that is sometimes in range.
    fn access(&mut self) {
        let v = self.pick(&["r8", "r9", "r6", "r7"]);
        self.line(&format!("r2 = {v}"));
        let skip = self.label();
        match self.below(4) {
            0 => self.line("r2 &= 63"),
            1 => self.line(&format!("if r2 > 63 goto {skip}")),
            2 => self.line("r2 >>= 1"),
            _ => {}
        }
        self.line("r1 = map_value[mem] ll");
        self.line("r1 += r2");
        self.line(&self.access_kind());
        self.put(&skip);
    }

    fn access_kind(&self) -> String {
        let kinds = ["r3 = *(u8 *)(r1 +0)", "*(u8 *)(r1 +0) = 7"];
        kinds[(self.random >> 7) as usize % 2].to_owned()
    }

    fn branch(&mut self, depth: u32) {
        let (other, end) = (self.label(), self.label());
        if self.below(2) == 0 {
            self.line("call 7");
            self.line(&format!("if r0 & 1 goto {other}"));
        } else {
            let v = self.pick(&["r8", "r9", "r6"]);
            let op = self.pick(&["==", "!=", ">", "s<"]);
            let k = self.below(20);
            self.line(&format!("if {v} {op} {k} goto {other}"));
        }
        self.block(depth);
        self.line(&format!("goto {end}"));
        self.put(&other);
        self.block(depth);
        self.put(&end);
    }

    /// A loop with r6 or r7 as its counter.
    fn counted(&mut self, depth: u32) {
        let r = if depth == 0 { "6" } else { "7" };
        let w = self.pick(&["r", "w"]);
        let n = 1 + self.below(20);
        let step = 1 + self.below(3);
        let (top, end) = (self.label(), self.label());
        let down = self.below(3) == 0;
        let c = format!("{w}{r}");
        let bound = match self.below(3) {
            0 => {
                self.line("call 7");
                self.line("r0 &= 31");
                self.line(&format!("*(u64 *)(r10 -{}) = r0", 16 + 8 * depth));
                None
            }
            _ => Some(n),
        };
        let start = if down { 20 } else { self.below(4) };
        self.line(&format!("{c} = {start}"));
        self.put(&top);
        let early = self.below(2) == 0;
        let op = match down {
            true => self.pick(&[">", "s>", "!="]),
            false => self.pick(&["<", "s<", "!=", "<="]),
        };
        let target = if down { 0 } else { n };
        if early {
            self.block(depth + 1);
        }
        self.line(&format!("{c} {}= {step}", if down { "-" } else { "+" }));
        if !early {
            self.block(depth + 1);
        }
        if self.below(8) == 0 {
            self.line(&format!("if r8 > {} goto {end}", self.random % 40));
        }
        match bound.filter(|_| !down).or(down.then_some(target)) {
            Some(t) => self.line(&format!("if {c} {op} {t} goto {top}")),
            None => {
                self.line(&format!("r4 = *(u64 *)(r10 -{})", 16 + 8 * depth));
                self.line(&format!("if {c} {op} {w}4 goto {top}"));
            }
        }
        self.put(&end);
    }

    fn block(&mut self, depth: u32) {
        for _ in 0..1 + self.below(2) {
            match self.below(8) {
                0 if depth < 2 => self.counted(depth),
                1 | 2 if depth < 3 => self.branch(depth + 1),
                3 => self.access(),
                _ => self.change(),
            }
        }
    }

    fn program(seed: u64) -> String {
        let head = "; map mem array 4 64 1\n; prog socket_filter p\n".to_owned();
        let mut m = Make { random: seed, text: head, labels: 0 };
        for start in ["r6 = 0", "r7 = 0", "r8 = 0", "call 7", "r9 = r0"] {
            m.line(start);
        }
        m.line("*(u64 *)(r10 -8) = 0");
        m.counted(0);
        m.block(0);
        m.access();
        m.line("r0 = 0");
        m.line("exit");
        m.text
    }
}

#[test]
fn accepted_programs_stay_inside_and_end() {
    let (mut accepted, mut abstracted, mut ends) = (0, 0, 0);
    for seed in 0..PROGRAMS {
        let text = Make::program(seed);
        let case = Case::new(&text);
        // A limit that short loops reach, and memory that does not last long.
        let (insns_max, state_memory_max) = (40, 4 << 20);
        let opts =
            Opts { insns_max, state_memory_max, beyond: true, log_level: 0, ..Opts::default() };
        let r = case.check(opts);
        if r.result.is_err() {
            continue;
        }
        accepted += 1;
        let report = r.beyond.clone().unwrap_or_default();
        abstracted += u32::from(!report.widened.is_empty());
        ends += report.loops.len();
        for run_seed in 0..4 {
            let ran = run(&case, run_seed, FUEL);
            let ok = matches!(ran, Ran::Returned(_));
            assert!(ok, "seed {seed}, run {run_seed}: {ran:?}\n{text}\n{report:?}");
        }
    }
    // The generator makes what it is for.
    assert!(accepted > 300 && abstracted > 100 && ends > 100, "{accepted} {abstracted} {ends}");
}
