//! Files that a replay writes: traces, captures, Perfetto, JUnit.

use std::fmt::Write as _;
use std::fs;

use super::report::word;
use super::{Args, Exit, Ran, out};
use crate::runner::captures;

/// Texts that are written to files at the end.
#[derive(Default)]
pub(super) struct Collected {
    trace: String,
    perfetto: Vec<serde_json::Value>,
    cases: String,
    counts: [u64; 3],
}

impl Collected {
    /// Keeps what was asked for of a run.
    pub(super) fn keep(&mut self, name: &str, ran: &Ran, args: &Args) -> Exit {
        if args.junit.is_some() {
            self.case(name, ran);
        }
        let Ok(o) = &ran.result else { return Exit::Ok };
        if args.trace.is_some() {
            let _ = writeln!(self.trace, "# {name} {}", o.arch);
            o.trace.iter().for_each(|line| self.trace.extend([line, "\n"]));
        }
        if args.perfetto.is_some() {
            let process = format!("{name} {}", o.arch);
            self.perfetto.extend(o.perfetto.iter().map(|e| e.json(&process)));
        }
        let Some(dir) = &args.pcap else { return Exit::Ok };
        for (nic, frames) in &o.out {
            let path = dir.join(format!("{name}.{}.{nic}.pcap", o.arch));
            let done = fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()));
            if let Err(e) = done.and_then(|()| captures::write(&path, frames)) {
                out::error(&e, "name another folder with --pcap");
                return Exit::BadInput;
            }
        }
        Exit::Ok
    }

    /// A run as a JUnit test case: the scenario is the class, the architecture the name.
    fn case(&mut self, name: &str, ran: &Ran) {
        let (word, exit) = word(ran);
        self.counts[0] += 1;
        let seconds = ran.wall_us as f64 / 1e6;
        let _ = write!(
            self.cases,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.6}\"",
            escaped(name),
            ran.arch
        );
        let text = match &ran.result {
            Ok(o) => o.failures.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n"),
            Err(e) => e.to_string(),
        };
        let text = escaped(&text);
        let _ = match exit {
            Exit::Ok => writeln!(self.cases, "/>"),
            Exit::Unsupported => {
                writeln!(self.cases, "><skipped message=\"{text}\"/></testcase>")
            }
            Exit::NotMet => {
                self.counts[1] += 1;
                writeln!(self.cases, "><failure message=\"{word}\">{text}</failure></testcase>")
            }
            Exit::BadInput | Exit::Internal => {
                self.counts[2] += 1;
                writeln!(self.cases, "><error message=\"{word}\">{text}</error></testcase>")
            }
        };
    }

    /// Writes the files.
    pub(super) fn write(&self, args: &Args) -> Exit {
        let perfetto = || serde_json::json!({ "traceEvents": self.perfetto }).to_string();
        let junit = || {
            let [tests, failures, errors] = self.counts;
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"orrery\" \
                 tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">\n{}</testsuite>\n",
                self.cases
            )
        };
        let files: [(_, &dyn Fn() -> String); 3] = [
            (&args.trace, &|| self.trace.clone()),
            (&args.perfetto, &perfetto),
            (&args.junit, &junit),
        ];
        for (path, text) in files {
            if let Some(path) = path
                && let Err(e) = fs::write(path, text())
            {
                out::error(&format!("{}: {e}", path.display()), "name another file");
                return Exit::BadInput;
            }
        }
        Exit::Ok
    }
}

/// Text in XML; control characters, which XML 1.0 has no form for, become blanks.
fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\n' => "&#10;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}
