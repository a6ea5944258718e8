//! Reports that are files: JUnit XML, and the matrix as HTML.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::lines::{place, said};
use super::{Args, Done};
use crate::cli::replay::files::{escaped, write_to};
use crate::cli::{Exit, gravest};
use crate::conform::{Engine, Kind, Options, Outcome, Record};

pub(super) fn write(args: &Args, done: &[Done<'_>], options: &Options, took: Duration) -> Exit {
    let covered = || {
        let mut text = String::new();
        options.covers(|c| text = c.text());
        text
    };
    let put = |path: Option<&Path>, text: &dyn Fn() -> String| match path {
        Some(path) => write_to(path, &mut |f| f.write_all(text().as_bytes())),
        None => Exit::Ok,
    };
    gravest([
        put(args.junit.as_deref(), &|| junit(done, took)),
        put(args.html.as_deref(), &|| html(done, &options.engines, took)),
        put(args.coverage.as_deref(), &covered),
    ])
}

fn count(done: &[Done<'_>], outcome: Outcome) -> usize {
    done.iter().flat_map(|d| &d.records).filter(|r| r.outcome == outcome).count()
}

/// The case is the class, the engine the name; nothing but what the schema of Jenkins (`junit-10`)
/// has, so that the place of a failure is in its text.
fn junit(done: &[Done<'_>], took: Duration) -> String {
    let tests: usize = done.iter().map(|d| d.records.len()).sum();
    let internal = |r: &&Record| r.outcome == Outcome::Fail && r.kind == Kind::Internal;
    let errors = done.iter().flat_map(|d| &d.records).filter(internal).count();
    let failed = count(done, Outcome::Fail) - errors;
    let skipped = count(done, Outcome::Skip) + count(done, Outcome::Unsupported);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"orrery conform\" \
         tests=\"{tests}\" failures=\"{failed}\" errors=\"{errors}\" skipped=\"{skipped}\" \
         time=\"{:.6}\">\n",
        took.as_secs_f64()
    );
    for d in done {
        for r in &d.records {
            testcase(&mut text, d, r);
        }
    }
    text + "</testsuite>\n"
}

fn testcase(text: &mut String, d: &Done<'_>, r: &Record) {
    let _ = write!(
        text,
        "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.6}\"",
        escaped(&d.case.name),
        escaped(&r.engine.to_string()),
        r.wall_us as f64 / 1e6
    );
    let words = escaped(&said(r));
    let inner = match r.outcome {
        Outcome::Pass if r.note.is_empty() => {
            *text += "/>\n";
            return;
        }
        Outcome::Pass => format!("<system-out>{words}</system-out>"),
        Outcome::Fail => {
            let kind = if r.kind == Kind::Internal { "error" } else { "failure" };
            let (at, details) = (escaped(&place(d.case, r)), escaped(&r.details));
            format!("<{kind} message=\"{words}\">{words}\nat {at}\n{details}</{kind}>")
        }
        Outcome::Skip => format!("<skipped message=\"{words}\"/>"),
        Outcome::Unsupported => format!("<skipped message=\"unsupported: {words}\"/>"),
    };
    let _ = writeln!(text, ">{inner}</testcase>");
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}\
td,th{padding:2px 8px;text-align:left;border-bottom:1px solid #ddd}th{position:sticky;top:0;\
background:#fff}.pass{background:#e2f4e2}.fail{background:#f8d0d0}.skip{color:#888}\
.unsupported{background:#fbf3d0}pre{background:#f6f6f6;padding:8px}td span{color:#888}";

/// Cases by engines, with times; what failed in full below.
fn html(done: &[Done<'_>], engines: &[Engine], took: Duration) -> String {
    let [pass, fail, skip, unsupported] =
        [Outcome::Pass, Outcome::Fail, Outcome::Skip, Outcome::Unsupported].map(|o| count(done, o));
    let mut text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>orrery conform</title>\
         <style>{STYLE}</style>\n<h1>Conformance</h1>\n<p>{} cases on {} engines in {:.3} s: \
         {pass} pass, {fail} fail, {skip} skip, {unsupported} unsupported.</p>\n<table>\n<tr>\
         <th>case</th>",
        done.len(),
        engines.len(),
        took.as_secs_f64()
    );
    for e in engines {
        let _ = write!(text, "<th>{e}</th>");
    }
    text += "</tr>\n";
    for (n, d) in done.iter().enumerate() {
        let failed = d.records.iter().any(|r| r.outcome == Outcome::Fail);
        let name = escaped(&d.case.name);
        let name = if failed { format!("<a href=\"#c{n}\">{name}</a>") } else { name };
        let _ = write!(text, "<tr><td>{name}</td>");
        for e in engines {
            let Some(r) = d.records.iter().find(|r| r.engine == *e) else {
                text += "<td></td>";
                continue;
            };
            let word = r.outcome.word();
            let (title, us) = (escaped(&said(r)), r.wall_us);
            let _ = write!(
                text,
                "<td class=\"{word}\" title=\"{title}\">{word} <span>{us} us</span></td>"
            );
        }
        text += "</tr>\n";
    }
    text += "</table>\n";
    for (n, d) in done.iter().enumerate() {
        failure(&mut text, n, d);
    }
    text + "</html>\n"
}

fn failure(text: &mut String, n: usize, d: &Done<'_>) {
    let mut failed = d.records.iter().filter(|r| r.outcome == Outcome::Fail).peekable();
    if failed.peek().is_none() {
        return;
    }
    let (name, line) = (escaped(&d.case.name), d.case.line);
    let _ = writeln!(text, "<h2 id=\"c{n}\">{name}</h2>\n<p>line {line}</p>\n<pre>");
    for r in failed {
        let _ = writeln!(text, "{}: {}\n{}", r.engine, escaped(&said(r)), escaped(&r.details));
    }
    *text += "</pre>\n";
}
