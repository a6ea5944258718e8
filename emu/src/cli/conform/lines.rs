//! What is said as cases end: text, JSON lines, TAP 14, annotations of GitHub.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Args, Done};
use crate::cli::out;
use crate::conform::{Case, Engine, Kind, Outcome, Record};

/// The format that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Tap,
}

/// A run's report, case by case.
#[derive(Debug)]
pub(super) struct Lines {
    format: Format,
    github: bool,
    verbose: bool,
    cases: usize,
    said: usize,
    unsupported: usize,
    /// Cases whose expectation holds for one byte order only.
    assume: usize,
}

/// Cases of a kind that are told one by one though none fails.
const UNSUPPORTED_MAX: usize = 20;

impl Lines {
    pub(super) fn new(args: &Args, cases: usize) -> Lines {
        let format = match (args.json, args.tap) {
            (true, _) => Format::Json,
            (_, true) => Format::Tap,
            _ => Format::Text,
        };
        let (github, verbose) = (args.github, args.verbose);
        Lines { format, github, verbose, cases, said: 0, unsupported: 0, assume: 0 }
    }

    /// What is said of a case.
    pub(super) fn case(&mut self, case: &Case, records: &[Record]) -> String {
        let mut text = match self.format {
            Format::Json => records.iter().map(|r| json(case, r)).collect(),
            Format::Tap => self.tap(case, records),
            Format::Text => self.text(case, records),
        };
        if self.github {
            text += &annotations(case, records);
        }
        self.said += 1;
        text
    }

    /// What is said at the end.
    pub(super) fn end(&self, done: &[Done<'_>], engines: &[Engine], took: Duration) -> String {
        match self.format {
            Format::Json => String::new(),
            Format::Tap if self.said < self.cases => "Bail out! after the first failure\n".into(),
            Format::Tap => String::new(),
            Format::Text => {
                let more = self.unsupported.saturating_sub(UNSUPPORTED_MAX);
                let more = match more {
                    0 => String::new(),
                    n => format!("{n} more unsupported: --verbose or --json shows them\n"),
                };
                more + &summary(done, engines, took)
            }
        }
    }

    fn text(&mut self, case: &Case, records: &[Record]) -> String {
        let mut text = String::new();
        let worst = records.iter().map(|r| r.outcome).max().unwrap_or(Outcome::Skip);
        if worst == Outcome::Unsupported {
            self.unsupported += 1;
            if self.unsupported > UNSUPPORTED_MAX && !self.verbose {
                return text;
            }
        }
        let assumes = records.iter().any(|r| r.kind == Kind::LittleEndian);
        self.assume += usize::from(assumes);
        let told = assumes && self.assume <= UNSUPPORTED_MAX;
        let quiet = matches!(worst, Outcome::Pass | Outcome::Skip) && !self.verbose && !told;
        if quiet {
            return text;
        }
        let _ = writeln!(text, "{} {}", painted(worst), case.name);
        for (engines, r) in grouped(records) {
            if r.outcome != worst && r.note.is_empty() {
                continue;
            }
            let _ = writeln!(text, "  {engines}: {}", said(r));
            r.details.lines().for_each(|l| text += &format!("    {l}\n"));
        }
        if worst == Outcome::Fail {
            let failed = records.iter().find(|r| r.outcome == worst);
            let _ = writeln!(text, "  at {}", failed.map(|r| place(case, r)).unwrap_or_default());
        }
        text
    }

    fn tap(&self, case: &Case, records: &[Record]) -> String {
        let mut text = String::new();
        if self.said == 0 {
            let _ = writeln!(text, "TAP version 14\n1..{}", self.cases);
        }
        let outcomes = || records.iter().map(|r| r.outcome);
        let worst = match outcomes().max().unwrap_or(Outcome::Skip) {
            // Another engine ran it.
            Outcome::Skip if outcomes().any(|o| o == Outcome::Pass) => Outcome::Pass,
            worst => worst,
        };
        let ok = if worst == Outcome::Fail { "not ok" } else { "ok" };
        let name = case.name.replace('\\', "\\\\").replace('#', "\\#");
        let first = records.iter().find(|r| r.outcome == worst);
        let why = first.map(|r| said(r).replace('\n', " ")).unwrap_or_default();
        let directive = match worst {
            Outcome::Skip => format!(" # SKIP {why}"),
            Outcome::Unsupported => format!(" # SKIP unsupported: {why}"),
            Outcome::Pass | Outcome::Fail => String::new(),
        };
        let _ = writeln!(text, "{ok} {} - {name}{directive}", self.said + 1);
        if worst == Outcome::Fail {
            text += "  ---\n";
            let at = first.map(|r| place(case, r)).unwrap_or_default();
            let _ = writeln!(text, "  at: {}", quoted(&at));
            text += "  failures:\n";
            for (engines, r) in grouped(records).iter().filter(|(_, r)| r.outcome == worst) {
                let _ = writeln!(text, "    - engine: {}", quoted(engines));
                let _ = writeln!(text, "      expected: {}", quoted(&r.expected));
                let _ = writeln!(text, "      got: {}", quoted(&r.got));
                let _ = writeln!(text, "      note: {}", quoted(&r.note));
            }
            text += "  ...\n";
        }
        text
    }
}

/// File and line of a record's source.
fn source<'a>(case: &'a Case, r: &'a Record) -> (&'a std::path::Path, u32) {
    r.at.as_ref().map_or((&case.path, case.line), |(file, line)| (file, *line))
}

/// The place of a record's source, for people.
pub(super) fn place(case: &Case, r: &Record) -> String {
    let (file, line) = source(case, r);
    format!("{}:{line}", file.display())
}

/// A string of YAML: that of JSON is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Records that say the same, with the engines that say it.
fn grouped(records: &[Record]) -> Vec<(String, &Record)> {
    let mut groups: Vec<(Vec<Engine>, &Record)> = Vec::new();
    for r in records {
        let same = |g: &&mut (Vec<Engine>, &Record)| {
            (g.1.outcome, &g.1.got, &g.1.note, &g.1.details)
                == (r.outcome, &r.got, &r.note, &r.details)
        };
        match groups.iter_mut().find(same) {
            Some((engines, _)) => engines.push(r.engine),
            None => groups.push((vec![r.engine], r)),
        }
    }
    let named = |engines: Vec<Engine>| {
        let names: Vec<String> = engines.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    groups.into_iter().map(|(engines, r)| (named(engines), r)).collect()
}

/// A record in words.
pub(super) fn said(r: &Record) -> String {
    let got = match r.outcome {
        Outcome::Skip => String::new(),
        // Without a result the note says what there is.
        Outcome::Fail if r.got.is_empty() => String::new(),
        Outcome::Fail => format!("expected {}, got {}", r.expected, r.got),
        Outcome::Pass | Outcome::Unsupported => r.got.clone(),
    };
    let between = if r.outcome == Outcome::Fail { ": " } else { "; " };
    let parts = [got.as_str(), r.note.as_str()].into_iter().filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join(between)
}

fn painted(outcome: Outcome) -> String {
    let colour = match outcome {
        Outcome::Pass => out::Colour::Green,
        Outcome::Fail => out::Colour::Red,
        Outcome::Skip | Outcome::Unsupported => out::Colour::Yellow,
    };
    let word = if outcome == Outcome::Fail { "FAIL" } else { outcome.word() };
    out::colour(colour, word)
}

fn json(case: &Case, r: &Record) -> String {
    let (file, line) = source(case, r);
    let value = serde_json::json!({
        "case": case.name,
        "engine": r.engine.kind(),
        "arch": r.engine.arch(),
        "outcome": r.outcome.word(),
        "kind": r.kind.word(),
        "expected": r.expected,
        "got": r.got,
        "note": r.note,
        "details": r.details,
        "file": file.display().to_string(),
        "line": line,
        "wall_us": r.wall_us,
    });
    format!("{value}\n")
}

/// `::error file=F,line=N::TEXT`, at the source line of what failed; a warning where an
/// expectation holds for one byte order only.
fn annotations(case: &Case, records: &[Record]) -> String {
    let data = |t: &str| t.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |t: &str| data(t).replace(':', "%3A").replace(',', "%2C");
    let one = |(engines, r): &(String, &Record)| {
        let text = format!("{engines}: {}", said(r));
        let ((file, line), title) = (source(case, r), &case.name);
        let kind = if r.outcome == Outcome::Fail { "error" } else { "warning" };
        format!(
            "::{kind} file={},line={line},title={}::{}\n",
            property(&file.display().to_string()),
            property(title),
            data(&text)
        )
    };
    let told = |r: &Record| r.outcome == Outcome::Fail || r.kind == Kind::LittleEndian;
    grouped(records).iter().filter(|(_, r)| told(r)).map(one).collect()
}

/// Counts by engine.
fn summary(done: &[Done<'_>], engines: &[Engine], took: Duration) -> String {
    let words = ["engine", "pass", "fail", "skip", "unsupported", "ms"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    let all = || done.iter().flat_map(|d| &d.records);
    let ran = |e: &&Engine| all().any(|r| r.engine == **e);
    for engine in engines.iter().filter(ran) {
        let of = |o: Outcome| all().filter(|r| r.engine == *engine && r.outcome == o).count();
        let us: u64 = all().filter(|r| r.engine == *engine).map(|r| r.wall_us).sum();
        let counts = [Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Unsupported].map(of);
        let mut row = vec![engine.to_string()];
        row.extend(counts.map(|n| n.to_string()));
        row.push(format!("{}.{:03}", us / 1000, us % 1000));
        rows.push(row);
    }
    let mut text = out::columns(&rows);
    let assumes = |d: &&Done<'_>| d.records.iter().any(|r| r.kind == Kind::LittleEndian);
    let assumed = done.iter().filter(assumes).count();
    if assumed > 0 {
        let verb = if assumed == 1 { "expectation assumes" } else { "expectations assume" };
        let _ = writeln!(
            text,
            "{assumed} {verb} little endian: in big endian both engines come to the same other \
             result, which --write-corrected DIR writes"
        );
    }
    let failed = done.iter().filter(|d| d.records.iter().any(|r| r.outcome == Outcome::Fail));
    let (n, failed) = (done.len(), failed.count());
    let s = if n == 1 { "" } else { "s" };
    let _ = writeln!(text, "{n} case{s}, {failed} failed, in {:.3} s", took.as_secs_f64());
    text
}
