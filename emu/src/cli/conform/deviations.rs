//! Deviations that are known: a list with a reason each, which fails when one no longer deviates.

use std::path::Path;

use crate::cli::{Exit, out};
use crate::conform::{Engine, Kind, Outcome, Record};

/// A line of the list.
#[derive(Debug)]
struct Row {
    /// End of the case's name.
    case: String,
    engine: String,
    reason: String,
    used: bool,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Deviations(Vec<Row>);

impl Deviations {
    /// Reads a list; an error has been reported.
    pub(super) fn read(path: &Path) -> Result<Deviations, Exit> {
        let failed = |what: String, next: &str| {
            out::error(&format!("{}: {what}", path.display()), next);
            Exit::BadInput
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string(), ""))?;
        Deviations::parse(&text)
            .map_err(|n| failed(format!("line {n}"), "CASE | ENGINE or * | REASON is expected"))
    }

    fn parse(text: &str) -> Result<Deviations, usize> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
        let row = |(n, line): (usize, &str)| {
            let parts: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
            match parts[..] {
                [case, engine, reason] if ![case, engine, reason].contains(&"") => Ok(Row {
                    case: case.to_owned(),
                    engine: engine.to_owned(),
                    reason: reason.to_owned(),
                    used: false,
                }),
                _ => Err(n),
            }
        };
        lines.map(row).collect::<Result<_, _>>().map(Deviations)
    }

    /// What fails and may is a pass; what passes and should not is a failure.
    pub(super) fn apply(&mut self, case: &str, records: &mut [Record]) {
        for row in self.0.iter_mut().filter(|r| names(case, &r.case)) {
            for r in records.iter_mut().filter(|r| names_engine(r.engine, &row.engine)) {
                row.used = true;
                match r.outcome {
                    // Our own faults are nobody's deviation.
                    Outcome::Fail if r.kind != Kind::Internal => {
                        (r.outcome, r.kind) = (Outcome::Pass, Kind::Deviates);
                        r.note = format!("known deviation: {}; {}", row.reason, r.note);
                    }
                    Outcome::Pass => {
                        (r.outcome, r.kind) = (Outcome::Fail, Kind::NoLongerDeviates);
                        r.note = format!("no longer deviates: {}", row.reason);
                    }
                    Outcome::Fail | Outcome::Skip | Outcome::Unsupported => {}
                }
            }
        }
    }

    /// Lines that no record was meant by.
    pub(super) fn unused(&self) -> Vec<String> {
        let unused = self.0.iter().filter(|r| !r.used);
        unused.map(|r| format!("{} | {} | {}", r.case, r.engine, r.reason)).collect()
    }
}

/// A case by its name, or by the end of it from a `/` on.
fn names(case: &str, by: &str) -> bool {
    case.strip_suffix(by).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

fn names_engine(engine: Engine, by: &str) -> bool {
    by == "*" || by == engine.kind() || by == engine.arch() || by == engine.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::Arch;

    fn record(outcome: Outcome) -> Record {
        Record::new(Engine::Jit(Arch::S390x), outcome)
    }

    #[test]
    fn a_deviation_passes_until_it_is_gone() {
        let mut d =
            Deviations::parse("# known\na.data | jit s390x | why\nb.data | * | no\n").unwrap();
        let mut records = [record(Outcome::Fail)];
        d.apply("dir/a.data", &mut records);
        assert_eq!(records[0].outcome, Outcome::Pass);
        d.apply("dir/a.data", &mut records);
        assert_eq!(records[0].outcome, Outcome::Fail);
        assert_eq!(records[0].note, "no longer deviates: why");
        d.apply("dir/ba.data", &mut records);
        assert_eq!(d.unused(), ["b.data | * | no"]);
    }

    #[test]
    fn a_line_without_reason_is_none() {
        assert_eq!(Deviations::parse("\na.data | *\n").unwrap_err(), 2);
    }
}
