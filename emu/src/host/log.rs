//! Reads the verifier's log: statistics at its end, and its last word.

/// Statistics of a load, as the last lines of the log at level 4 say them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Instructions processed.
    pub insns_processed: u32,
    /// States kept in all.
    pub total_states: u32,
    /// Most states alive at once.
    pub peak_states: u32,
    /// Most states at one instruction.
    pub max_states_per_insn: u32,
    /// `mark_read`: longest walk of liveness marks.
    pub mark_read: u32,
    /// Sum of the stack depths of the subprograms.
    pub stack_depth: u32,
    /// Time the verifier took.
    pub verification_time_us: u64,
}

/// The number that follows a word in a line.
fn after<T: std::str::FromStr>(line: &str, word: &str) -> Option<T> {
    let at = line.find(word)? + word.len();
    let rest = line[at..].trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Whether a line is one of the statistics.
fn is_statistics(line: &str) -> bool {
    ["processed ", "verification time ", "stack depth "].iter().any(|s| line.starts_with(s))
}

/// Collects the statistics of a log.
pub(super) fn statistics(log: &str) -> HostStats {
    let mut s = HostStats::default();
    for line in log.lines().rev().take(8).filter(|l| is_statistics(l)) {
        if line.starts_with("processed ") {
            s.insns_processed = after(line, "processed ").unwrap_or(0);
            s.total_states = after(line, "total_states ").unwrap_or(0);
            s.peak_states = after(line, "peak_states ").unwrap_or(0);
            s.max_states_per_insn = after(line, "max_states_per_insn ").unwrap_or(0);
            s.mark_read = after(line, "mark_read ").unwrap_or(0);
        } else if let Some(us) = after(line, "verification time ") {
            s.verification_time_us = us;
        } else if let Some(depths) = line.strip_prefix("stack depth ") {
            s.stack_depth = depths.split('+').filter_map(|d| d.trim().parse::<u32>().ok()).sum();
        }
    }
    s
}

/// The last line that is not one of the statistics: why the program was refused.
pub(super) fn last_word(log: &str) -> Option<&str> {
    log.lines().rev().map(str::trim_end).find(|l| !l.is_empty() && !is_statistics(l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_end() {
        let log = "R0 !read_ok\nverification time 123 usec\nstack depth 8+16\nprocessed 5 insns \
                   (limit 1000000) max_states_per_insn 1 total_states 3 \
                   peak_states 2 mark_read 0\n";
        let s = statistics(log);
        assert_eq!((s.insns_processed, s.total_states, s.peak_states), (5, 3, 2));
        assert_eq!((s.stack_depth, s.verification_time_us), (24, 123));
        assert_eq!(last_word(log), Some("R0 !read_ok"));
        assert_eq!(last_word("processed 5 insns\n"), None);
    }
}
