//! Sessions of a debugger over a machine: each packet is answered, within limits, and whoever only
//! looked has changed nothing.
//!
//! A file is a session: `# SCENARIO ARCH`, then a line for each packet ([`gdb::hostile::Word`]).

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpf::Arch;
use bpf::insn::generate::Rng;
use gdb::Debuggee as _;
use gdb::hostile::{Places, Word, damage, usual};
use gdb::session::{Files, SessionError, Stream, serve};
use scenarios::Scenario;

use super::{Input, Subject, shape};
use crate::debug::Target;
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, RunOptions};

/// Answers of a session are no longer than this for each packet.
const ANSWER_BYTES_MAX: usize = 0x8_0000;
/// Packets of a session at first.
const PACKETS: u32 = 24;
/// Instructions of one program run.
const RUN_MAX: u64 = 1 << 16;
/// Places of each kind that packets name.
const PLACES: usize = 16;

/// Sessions to damage.
#[derive(Debug)]
pub struct Sessions {
    good: Vec<Input>,
    places: Places,
}

impl Sessions {
    /// Over scenarios: usual packets for each, on each of its architectures.
    #[must_use]
    pub fn new(scenarios: &[Input]) -> Sessions {
        let (mut good, mut places) = (Vec::new(), Places::default());
        for (seed, input) in (1..).zip(scenarios) {
            let Some(scenario) = read(&input.dir.join(file(input))).ok().flatten() else {
                continue;
            };
            for arch in cells::archs(&scenario) {
                let Ok(target) = Target::new(&scenario, arch, &options(&input.dir)) else {
                    continue;
                };
                let here = places_of(&target);
                good.push(session(input, arch, &here, seed));
                places.code.extend(here.code);
                places.data.extend(here.data);
            }
        }
        Sessions { good, places }
    }

    /// Adds sessions that were written before.
    pub fn add(&mut self, sessions: impl IntoIterator<Item = Input>) {
        self.good.extend(sessions);
    }
}

/// Its name in its folder.
fn file(input: &Input) -> String {
    let name = Path::new(&input.name).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A scenario without errors.
fn read(path: &Path) -> io::Result<Option<Scenario>> {
    let text = std::fs::read_to_string(path)?;
    let parsed = cells::read(path, &text, &Cell::default());
    let wrong = parsed.findings.iter().any(cells::is_error);
    Ok(parsed.scenario.filter(|_| !wrong))
}

fn options(dir: &Path) -> RunOptions {
    RunOptions { dir: dir.to_path_buf(), run_insns_max: Some(RUN_MAX), ..RunOptions::default() }
}

/// Addresses in programs, and in memory that can be written.
fn places_of(target: &Target<'_>) -> Places {
    let code = |i: &Arc<gdb::Image>| {
        let starts = i.debug.insns.iter().map(|r| i.base + u64::from(r.start.0));
        starts.take(PLACES).collect::<Vec<u64>>()
    };
    let code = target.images().iter().flat_map(code).collect();
    let map = target.memory_map();
    let data = map.iter().filter(|m| m.1).map(|m| m.0.start).take(PLACES).collect();
    Places { code, data }
}

/// A session of usual packets.
fn session(scenario: &Input, arch: Arch, places: &Places, seed: u64) -> Input {
    let mut rng = Rng(seed << 8 | arch as u64);
    let words: Vec<Word> = (0..PACKETS).map(|_| usual(places, &mut rng)).collect();
    let name = format!("{} {arch}", file(scenario));
    let bytes = written(&format!("# {name}"), &words);
    Input { name, bytes, dir: scenario.dir.clone() }
}

fn written(head: &str, words: &[Word]) -> Vec<u8> {
    let lines = words.iter().map(|w| w.line() + "\n");
    format!("{head}\n{}", lines.collect::<String>()).into_bytes()
}

/// The first line, and what is said.
fn parsed(text: &str) -> (&str, Vec<Word>) {
    let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
    (head, rest.lines().filter_map(Word::parse).collect())
}

impl Subject for Sessions {
    fn good(&self) -> &[Input] {
        &self.good
    }

    fn damage(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, mut words) = parsed(&text);
        damage(&mut words, &self.places, rng);
        *bytes = written(head, &words);
    }

    /// Lines.
    fn pieces(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
        let ends: Vec<usize> = ends.collect();
        ends.windows(2).map(|w| w[0]..w[1]).collect()
    }

    fn ending(&self, _: &[u8]) -> &'static str {
        "gdb.txt"
    }

    fn check(&self, input: &Input, stop: &Arc<AtomicBool>) -> Result<Vec<String>, String> {
        let text = input.text();
        let (head, words) = parsed(&text);
        let named = head.strip_prefix("# ").and_then(|h| h.rsplit_once(' '));
        let Some((file, arch)) = named.and_then(|(f, a)| Some((f, Arch::from_name(a)?))) else {
            return Ok(vec!["no session".to_owned()]);
        };
        let path = input.dir.join(file);
        let scenario = read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let Some(scenario) = scenario else { return Ok(vec!["no scenario".to_owned()]) };
        let mut options = options(path.parent().unwrap_or(&input.dir));
        options.stop = Some(stop.clone());
        let failed = |e: RunError| e.to_string();
        let mut target = Target::new(&scenario, arch, &options).map_err(failed)?;
        let mut client = Client::new(&words, stop);
        let ended = serve(&mut client, &mut target, &mut Files::new());
        if stop.load(Ordering::Relaxed) {
            return Ok(vec!["long".to_owned()]);
        }
        let mut answers = client.answers();
        match ended {
            Err(SessionError::Debuggee(e)) => return Err(format!("the machine failed: {e}")),
            Err(e) => answers.push(shape(&e.to_string())),
            Ok(e) => answers.push(format!("{e:?}")),
        }
        let (bytes, limit) = (client.output.len(), ANSWER_BYTES_MAX * (words.len() + 1));
        if bytes > limit {
            return Err(format!("answers of {bytes} bytes"));
        }
        if !target.is_forked() {
            undisturbed(&mut target, &scenario, arch, &options)?;
        }
        Ok(answers)
    }
}

/// Nobody changed anything: the state is that of a run without a debugger.
fn undisturbed(
    target: &mut Target<'_>,
    scenario: &Scenario,
    arch: Arch,
    options: &RunOptions,
) -> Result<(), String> {
    // Before anything has happened two states have one position.
    let there = target.seek(target.position().at).map_err(|e| e.to_string())?;
    let mut fresh = Target::new(scenario, arch, options).map_err(|e| e.to_string())?;
    let here = fresh.seek(there.at).map_err(|e| e.to_string())?;
    if options.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed)) {
        return Ok(());
    }
    if here != there {
        return Err(format!("it stands at {there:?}, a run without a debugger at {here:?}"));
    }
    match target.state_hash() == fresh.state_hash() {
        true => Ok(()),
        false => Err(format!("looking changed the state at {there:?}")),
    }
}

/// A client that says what it says, whatever the answers.
struct Client<'a> {
    words: std::slice::Iter<'a, Word>,
    /// What is left of the last one.
    left: Vec<u8>,
    stop: &'a AtomicBool,
    output: Vec<u8>,
}

impl<'a> Client<'a> {
    fn new(words: &'a [Word], stop: &'a AtomicBool) -> Client<'a> {
        Client { words: words.iter(), left: Vec::new(), stop, output: Vec::new() }
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let n = self.left.len().min(into.len());
        into[..n].copy_from_slice(&self.left[..n]);
        self.left.drain(..n);
        n
    }

    /// The beginnings of the answers.
    fn answers(&self) -> Vec<String> {
        let text: String = self.output.iter().map(|b| char::from(*b)).collect();
        let hex = |c: char| c.is_ascii_hexdigit();
        let short = |a: &str| {
            let head: String = a.split('#').next().unwrap_or_default().chars().take(12).collect();
            head.replace(hex, "")
        };
        let mut answers: Vec<String> = text.split('$').skip(1).map(short).collect();
        answers.sort();
        answers.dedup();
        answers
    }
}

impl Stream for Client<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.words.next() {
                Some(word) => self.left = word.bytes(),
                None => return Ok(0),
            }
        }
        Ok(self.take(into))
    }

    fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Some(0));
        }
        // While the machine runs a client says nothing but this.
        if self.left.is_empty() && self.words.as_slice().first() == Some(&Word::Interrupt) {
            self.left = Word::Interrupt.bytes();
            self.words.next();
            return Ok(Some(self.take(into)));
        }
        Ok(None)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.extend_from_slice(bytes);
        Ok(())
    }
}
