//! Files that a replay writes: traces, captures, Perfetto, JUnit.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::report::word;
use super::{Args, Exit, Ran, out};
use crate::cover::Sum;
use crate::runner::spool::Spool;
use crate::runner::trace::Keep;

/// What is written to files at the end.
#[derive(Default)]
pub(super) struct Collected {
    trace: Spool,
    perfetto: Spool,
    slices: u64,
    cases: String,
    counts: [u64; 3],
    /// What programs did.
    pub(super) cover: Sum,
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// What runs have to keep for the files that are asked for.
pub(super) fn keep(args: &Args) -> Keep {
    let files = [&args.trace, &args.perfetto].into_iter().flatten().map(|f| folder_of(f));
    Keep {
        trace: args.trace.is_some(),
        compared: false,
        frames: args.pcap.is_some(),
        slices: args.perfetto.is_some(),
        folder: files.chain(args.pcap.clone()).next().unwrap_or_default(),
    }
}

/// Finds out before the first run what cannot be written after the last.
pub(super) fn check(args: &Args) -> Result<(), Exit> {
    let fail = |path: &Path, e: io::Error, hint: &str| {
        out::error(&format!("{}: {e}", path.display()), hint);
        Exit::BadInput
    };
    let files = [&args.trace, &args.perfetto, &args.junit].into_iter().flatten();
    for file in files.chain(args.cover.files()) {
        let folder = folder_of(file);
        let there = fs::metadata(&folder).map_err(|e| fail(&folder, e, "make the folder first"))?;
        if !there.is_dir() || file.is_dir() {
            let e = io::Error::from(io::ErrorKind::NotADirectory);
            let e = if file.is_dir() { io::ErrorKind::IsADirectory.into() } else { e };
            return Err(fail(file, e, "name a file"));
        }
    }
    if let Some(dir) = &args.pcap {
        fs::create_dir_all(dir).map_err(|e| fail(dir, e, "name another folder with --pcap"))?;
    }
    Ok(())
}

/// Writes a file as a whole or not at all: what is interrupted leaves the one that was there.
fn write_whole(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // A pipe or a terminal is no file to be replaced.
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return fill(&mut fs::OpenOptions::new().write(true).open(path)?);
    }
    let leaf = path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let part = path.with_file_name(format!(".{leaf}.{}", std::process::id()));
    let written = fs::File::create(&part).and_then(|file| {
        let mut file = io::BufWriter::new(file);
        fill(&mut file)?;
        file.flush()
    });
    let done = written.and_then(|()| fs::rename(&part, path));
    if done.is_err() {
        let _gone = fs::remove_file(&part);
    }
    done
}

/// As [`write_whole`], with an error told.
pub(in crate::cli) fn write_to(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Exit {
    match write_whole(path, fill) {
        Ok(()) => Exit::Ok,
        Err(e) => {
            out::error(&format!("{}: {e}", path.display()), "name another place");
            Exit::BadInput
        }
    }
}

impl Collected {
    pub(super) fn new(args: &Args) -> Collected {
        let spool = |file: &Option<PathBuf>| {
            file.as_ref().map_or(Spool::default(), |f| Spool::new(&folder_of(f)))
        };
        Collected {
            trace: spool(&args.trace),
            perfetto: spool(&args.perfetto),
            ..Collected::default()
        }
    }

    /// Keeps what was asked for of a run.
    pub(super) fn keep(&mut self, name: &str, ran: &mut Ran, args: &Args) -> Exit {
        if args.junit.is_some() {
            self.case(name, ran);
        }
        match self.keep_files(name, ran, args) {
            Ok(exit) => exit,
            Err(e) => {
                out::error(&format!("keeping what {name} came to: {e}"), "is the disk full?");
                Exit::BadInput
            }
        }
    }

    fn keep_files(&mut self, name: &str, ran: &mut Ran, args: &Args) -> io::Result<Exit> {
        let Ok(o) = &mut ran.result else { return Ok(Exit::Ok) };
        if let Some(trace) = o.trace.take() {
            writeln!(self.trace, "# {name} {}", o.arch)?;
            io::copy(&mut trace.read()?, &mut self.trace)?;
        }
        let process = format!("{name} {}", o.arch);
        for slice in std::mem::take(&mut o.perfetto) {
            let comma = if self.slices == 0 { "" } else { ",\n" };
            self.slices += 1;
            write!(self.perfetto, "{comma}{}", slice.json(&process))?;
        }
        let Some(dir) = &args.pcap else { return Ok(Exit::Ok) };
        let mut exits = vec![Exit::Ok];
        for (nic, capture) in std::mem::take(&mut o.out) {
            let leaf = format!("{name}.{}.{nic}.pcap", o.arch).replace('/', "_");
            let path = dir.join(leaf);
            let mut bytes = capture.read()?;
            exits.push(write_to(&path, &mut |to| io::copy(&mut bytes, to).map(drop)));
        }
        Ok(super::gravest(exits))
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
    pub(super) fn write(self, args: &Args) -> Exit {
        let [tests, failures, errors] = self.counts;
        let head = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"orrery\" \
             tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">\n"
        );
        let junit = [&head, self.cases.as_str(), "</testsuite>\n"].concat();
        let (mut exits, mut trace) = (vec![Exit::Ok], Some(self.trace));
        let mut slices = Some(self.perfetto);
        if let Some(path) = &args.trace {
            exits.push(write_to(path, &mut |to| copy(trace.take(), to)));
        }
        if let Some(path) = &args.perfetto {
            exits.push(write_to(path, &mut |to| {
                to.write_all(b"{\"traceEvents\":[\n")?;
                copy(slices.take(), to)?;
                to.write_all(b"\n]}\n")
            }));
        }
        if let Some(path) = &args.junit {
            exits.push(write_to(path, &mut |to| to.write_all(junit.as_bytes())));
        }
        for (path, text) in args.cover.written(&self.cover) {
            exits.push(write_to(path, &mut |to| to.write_all(text.as_bytes())));
        }
        super::gravest(exits)
    }
}

/// Text in XML; control characters, which XML 1.0 has no form for, become blanks.
pub(in crate::cli) fn escaped(text: &str) -> String {
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

fn copy(from: Option<Spool>, to: &mut dyn Write) -> io::Result<()> {
    let Some(mut from) = from.map(Spool::read).transpose()? else { return Ok(()) };
    let from: &mut dyn Read = &mut from;
    io::copy(from, to).map(drop)
}
