//! Figures and causes of a comparison.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{Args, Pair};
use crate::cli::judge::Verdict;
use crate::cli::out;

/// How two answers part, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// The kernel rejects, we accept.
    Unsound,
    /// A fault of ours, or the object could not be linked.
    Error,
    /// We say that it is not modelled.
    Unsupported,
    /// The kernel accepts, we reject.
    TooStrict,
    /// Both reject, with other words.
    Line,
    /// Both agree, processed instructions differ by more than 10 %.
    Insns,
    /// Processed instructions are about the same, peak states differ by more than 10 %.
    Peak,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Kind::Unsound => "UNSOUND: the kernel rejects, we accept",
            Kind::Error => "error: not linked, or a fault of ours",
            Kind::Unsupported => "unsupported",
            Kind::TooStrict => "too strict: the kernel accepts, we reject",
            Kind::Line => "both reject, other words",
            Kind::Insns => "same verdict, processed insns off by more than 10 %",
            Kind::Peak => "same verdict, peak states off by more than 10 %",
        }
    }
}

fn within_tenth(theirs: i64, ours: i64) -> bool {
    (ours - theirs).abs() * 10 <= theirs
}

impl Pair {
    fn equal_verdict(&self) -> bool {
        match self.ours.verdict {
            Verdict::Accepted => self.said.accepted(),
            Verdict::Rejected => !self.said.accepted(),
            Verdict::Unsupported | Verdict::Error => false,
        }
    }

    fn equal_line(&self) -> bool {
        self.ours.verdict == Verdict::Rejected && self.said.error_line == self.ours.error_line
    }

    fn kind(&self) -> Option<Kind> {
        let (said, ours) = (&self.said, &self.ours);
        let kind = match ours.verdict {
            Verdict::Error => Kind::Error,
            Verdict::Unsupported => Kind::Unsupported,
            Verdict::Accepted if !said.accepted() => Kind::Unsound,
            Verdict::Rejected if said.accepted() => Kind::TooStrict,
            Verdict::Rejected if !self.equal_line() => Kind::Line,
            _ if !within_tenth(said.insns_processed, ours.insns_processed.into()) => Kind::Insns,
            _ if !within_tenth(said.peak_states, ours.peak_states.into()) => Kind::Peak,
            _ => return None,
        };
        Some(kind)
    }

    /// The words a group of disagreements shares: numbers are left out.
    fn cause(&self, kind: Kind) -> String {
        let theirs = || shape(self.said.error_line.as_deref().unwrap_or("?"));
        let ours = || shape(self.ours.error_line.as_deref().unwrap_or("?"));
        match kind {
            Kind::Unsound => format!("kernel: {}", theirs()),
            Kind::Error | Kind::Unsupported | Kind::TooStrict => ours(),
            Kind::Line => format!("kernel: {} | ours: {}", theirs(), ours()),
            Kind::Insns | Kind::Peak => self.said.object.clone(),
        }
    }

    fn name(&self) -> String {
        let caps = if self.said.corpus.ends_with("-capdrop") { " (capdrop)" } else { "" };
        format!("{} {}{caps}", self.said.object, self.said.program)
    }
}

/// A message without its numbers; digits inside a name stay, but for registers.
fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let named = out.ends_with(|p: char| p.is_ascii_alphanumeric() || p == '_');
        if !c.is_ascii_digit() || (named && out != "R" && !out.ends_with(" R")) {
            out.push(c);
            continue;
        }
        while chars.peek().is_some_and(|c| c.is_ascii_hexdigit() || *c == 'x') {
            chars.next();
        }
        out.push('N');
    }
    out
}

/// The figures of a comparison.
#[derive(Debug, Default, Serialize)]
struct Figures {
    programs: usize,
    accepted_by_kernel: usize,
    rejected_by_kernel: usize,
    equal_verdicts: usize,
    unsound: usize,
    too_strict: usize,
    unsupported: usize,
    errors: usize,
    equal_lines: usize,
    insns_equal: usize,
    insns_within_tenth: usize,
    peak_equal: usize,
    peak_within_tenth: usize,
    total_states_equal: usize,
    max_states_equal: usize,
    stack_depth_equal: usize,
    /// Over programs that both accept: processed instructions and microseconds.
    insns: u64,
    time_us: u64,
    kernel_time_us: u64,
    /// Peak resident memory, of all jobs together.
    memory_kib: Option<u64>,
}

/// `VmHWM` of this process.
fn peak_memory_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn figures(pairs: &[Pair]) -> Figures {
    let mut f =
        Figures { programs: pairs.len(), memory_kib: peak_memory_kib(), ..Figures::default() };
    for p in pairs {
        let (said, ours) = (&p.said, &p.ours);
        let mut add =
            |to: fn(&mut Figures) -> &mut usize, when: bool| *to(&mut f) += usize::from(when);
        let kind = p.kind();
        let same = p.equal_verdict();
        add(|f| &mut f.accepted_by_kernel, said.accepted());
        add(|f| &mut f.rejected_by_kernel, !said.accepted());
        add(|f| &mut f.equal_verdicts, same);
        add(|f| &mut f.unsound, kind == Some(Kind::Unsound));
        add(|f| &mut f.too_strict, kind == Some(Kind::TooStrict));
        add(|f| &mut f.unsupported, kind == Some(Kind::Unsupported));
        add(|f| &mut f.errors, kind == Some(Kind::Error));
        add(|f| &mut f.equal_lines, p.equal_line());
        let (insns, peak) = (ours.insns_processed.into(), ours.peak_states.into());
        add(|f| &mut f.insns_equal, same && said.insns_processed == insns);
        add(|f| &mut f.insns_within_tenth, same && within_tenth(said.insns_processed, insns));
        add(|f| &mut f.peak_equal, same && said.peak_states == peak);
        add(|f| &mut f.peak_within_tenth, same && within_tenth(said.peak_states, peak));
        let total = i64::from(ours.total_states);
        add(|f| &mut f.total_states_equal, same && said.total_states == total);
        let most = i64::from(ours.max_states_per_insn);
        add(|f| &mut f.max_states_equal, same && said.max_states_per_insn == most);
        let depth = said.stack_depth.as_deref() == Some(ours.stack_depth.as_str());
        add(|f| &mut f.stack_depth_equal, same && said.accepted() && depth);
        if same && said.accepted() {
            f.insns += u64::from(ours.insns_processed);
            f.time_us += ours.time_us;
            f.kernel_time_us += u64::try_from(said.verification_time_usec).unwrap_or(0);
        }
    }
    f
}

fn share(part: usize, whole: usize) -> String {
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    format!("{part} of {whole} ({percent:.1} %)")
}

fn figures_text(f: &Figures) -> String {
    let rate = |us: u64| f.insns as f64 / us.max(1) as f64;
    let rows = [
        ("equal verdicts", share(f.equal_verdicts, f.programs)),
        ("  kernel rejects, we accept", f.unsound.to_string()),
        ("  kernel accepts, we reject", f.too_strict.to_string()),
        ("  unsupported", f.unsupported.to_string()),
        ("  errors", f.errors.to_string()),
        ("error line word for word", share(f.equal_lines, f.rejected_by_kernel)),
        ("processed insns within 10 %", share(f.insns_within_tenth, f.programs)),
        ("processed insns equal", share(f.insns_equal, f.programs)),
        ("peak states within 10 %", share(f.peak_within_tenth, f.programs)),
        ("peak states equal", share(f.peak_equal, f.programs)),
        ("total states equal", share(f.total_states_equal, f.programs)),
        ("max states per insn equal", share(f.max_states_equal, f.programs)),
        ("stack depth equal", share(f.stack_depth_equal, f.accepted_by_kernel)),
        (
            "insns per us, where both accept",
            format!("{:.2}, the kernel {:.2}", rate(f.time_us), rate(f.kernel_time_us)),
        ),
        (
            "memory of this process at most",
            f.memory_kib.map_or("unknown".to_owned(), |kib| format!("{} MiB", kib >> 10)),
        ),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(a, b)| vec![a.to_owned(), b]).collect();
    out::columns(&rows)
}

/// One pair as a JSON line.
#[derive(Serialize)]
struct Line<'a> {
    corpus: &'a str,
    object: &'a str,
    program: &'a str,
    kind: Option<Kind>,
    kernel: &'a str,
    kernel_line: Option<&'a str>,
    kernel_insns: i64,
    kernel_total: i64,
    kernel_peak: i64,
    kernel_max: i64,
    kernel_us: i64,
    ours: Verdict,
    our_line: Option<&'a str>,
    our_insns: u32,
    our_total: u32,
    our_peak: u32,
    our_max: u32,
    our_us: u64,
}

fn line(p: &Pair) -> Line<'_> {
    let (said, ours) = (&p.said, &p.ours);
    Line {
        corpus: &said.corpus,
        object: &said.object,
        program: &said.program,
        kind: p.kind(),
        kernel: &said.verdict,
        kernel_line: said.error_line.as_deref(),
        kernel_insns: said.insns_processed,
        kernel_total: said.total_states,
        kernel_peak: said.peak_states,
        kernel_max: said.max_states_per_insn,
        kernel_us: said.verification_time_usec,
        ours: ours.verdict,
        our_line: ours.error_line.as_deref(),
        our_insns: ours.insns_processed,
        our_total: ours.total_states,
        our_peak: ours.peak_states,
        our_max: ours.max_states_per_insn,
        our_us: ours.time_us,
    }
}

pub(super) fn show(args: &Args, pairs: &[Pair]) {
    let f = figures(pairs);
    if args.json {
        for p in pairs {
            json(&line(p));
        }
        json(&f);
        return;
    }
    let mut causes: BTreeMap<(Kind, String), Vec<&Pair>> = BTreeMap::new();
    for p in pairs {
        if let Some(kind) = p.kind() {
            causes.entry((kind, p.cause(kind))).or_default().push(p);
        }
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|((kind, _), found)| (*kind, std::cmp::Reverse(found.len())));
    match &args.cause {
        Some(text) => every_program(text, &causes),
        None => overview(args.top, &causes),
    }
    let (n, a, r) = (f.programs, f.accepted_by_kernel, f.rejected_by_kernel);
    out::line(&format!("\n{n} programs, the kernel accepts {a} and rejects {r}"));
    out::print(&figures_text(&f));
}

fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => out::line(&text),
        Err(e) => out::error(&e.to_string(), ""),
    }
}

type Cause<'a> = ((Kind, String), Vec<&'a Pair>);

fn overview(top: usize, causes: &[Cause<'_>]) {
    let mut text = String::new();
    for of_kind in causes.chunk_by(|a, b| a.0.0 == b.0.0) {
        let kind = of_kind[0].0.0;
        let all: usize = of_kind.iter().map(|c| c.1.len()).sum();
        let _ = writeln!(text, "\n{} ({all}):", kind.title());
        let shown = if kind == Kind::Unsound { usize::MAX } else { top };
        for ((_, cause), found) in of_kind.iter().take(shown) {
            let examples: Vec<String> = found.iter().take(2).map(|p| p.name()).collect();
            let _ = writeln!(text, "{:5}  {cause}\n         {}", found.len(), examples.join(", "));
        }
        if of_kind.len() > shown {
            let rest: usize = of_kind[shown..].iter().map(|c| c.1.len()).sum();
            let _ = writeln!(text, "{rest:5}  in {} more causes", of_kind.len() - shown);
        }
    }
    out::print(&text);
}

fn every_program(text: &str, causes: &[Cause<'_>]) {
    let matches = |kind: Kind, cause: &str| kind.title().contains(text) || cause.contains(text);
    for ((kind, cause), found) in causes.iter().filter(|((k, c), _)| matches(*k, c)) {
        out::line(&format!("\n{}: {cause} ({})", kind.title(), found.len()));
        for p in found {
            out::line(&format!("  {}", p.name()));
            let (said, ours) = (&p.said, &p.ours);
            let theirs = said.error_line.as_deref().unwrap_or("");
            let (insns, total, peak) = (said.insns_processed, said.total_states, said.peak_states);
            let most = said.max_states_per_insn;
            out::line(&format!(
                "    kernel: {} {theirs} [{insns} insns, {total} states, {peak} peak, {most} max]",
                said.verdict
            ));
            let (insns, total) = (ours.insns_processed, ours.total_states);
            let (peak, most) = (ours.peak_states, ours.max_states_per_insn);
            out::line(&format!(
                "    ours:   {} {} [{insns} insns, {total} states, {peak} peak, {most} max]",
                format!("{:?}", ours.verdict).to_lowercase(),
                ours.error_line.as_deref().unwrap_or("")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_no_numbers() {
        assert_eq!(shape("invalid access off=-12 size=8"), "invalid access off=-N size=N");
        assert_eq!(shape("R1 min value"), "RN min value");
        assert_eq!(shape("helper xdp2_load64"), "helper xdp2_load64");
        assert!(within_tenth(100, 110) && !within_tenth(100, 111) && within_tenth(0, 0));
    }
}
