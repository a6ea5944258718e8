//! The conformance suite: every case of the tree on the interpreters of both byte orders and four
//! back ends, against what it expects and each other.

use std::path::PathBuf;

use emu::conform::{Body, Case, Engine, Kind, Options, Outcome, collect, data, run};

fn vectors() -> Vec<Case> {
    let case = |(name, text): (String, String)| {
        let body = match data::parse(&text) {
            Ok(data::Parsed::Vector(v)) => Body::Vector(v),
            Ok(data::Parsed::Skip(why)) => Body::Bad(why),
            Err((line, why)) => Body::Bad(format!("line {line}: {why}\n{text}")),
        };
        Case { path: PathBuf::from(&name), name, line: 1, body }
    };
    tests::vectors::all().into_iter().map(case).collect()
}

/// Runs cases on everything; the outcomes that are not passes, and how many cases there were.
fn outcomes(cases: &[Case]) -> Vec<String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options { jobs, ..Options::default() };
    let mut wrong = Vec::new();
    run(cases, &options, |case, records| {
        let running = Engine::ALL.iter().filter(|e| e.kind() != "verifier").count();
        assert_eq!(records.len(), running, "{}: an engine is missing", case.name);
        for r in records.iter().filter(|r| r.outcome != Outcome::Pass) {
            let (word, engine) = (r.outcome.word(), r.engine);
            wrong.push(format!("{word} {} on {engine}: {} {}", case.name, r.got, r.note));
        }
        for r in records.iter().filter(|r| r.kind == Kind::LittleEndian) {
            wrong.push(format!("{} on {}: {}", case.name, r.engine, r.note));
        }
        true
    });
    wrong
}

fn all_pass(cases: &[Case]) {
    let wrong = outcomes(cases);
    let shown = wrong.iter().take(30).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} cases:\n{shown}", wrong.len(), cases.len());
}

#[test]
fn vectors_of_the_rfc() {
    let cases = vectors();
    assert!(cases.len() > 1500, "{} vectors are made", cases.len());
    all_pass(&cases);
}

#[test]
fn vectors_of_the_corpus() {
    let folders = ["tests/corpus/vectors", "tests/corpus/conform"].map(|f| tests::root().join(f));
    let cases = collect::collect(&folders, &mut |_| Ok(None)).unwrap();
    assert!(cases.len() > 3000, "{} cases found", cases.len());
    all_pass(&cases);
}
