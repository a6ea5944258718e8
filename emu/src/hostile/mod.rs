//! Input from strangers: good files and sessions, damaged at random, and what comes of them. It
//! is an error or a value: never a panic, a hang, memory without bound, or two engines that differ.
//!
//! ```text
//!  own, corpus ─► Input ─► damage (bytes, elf, items, words) ─► Subject::check ─► answers
//!                             ▲ steps of a seed                      └─► Finding ─► smaller
//! ```
//!
//! Reading order: this file (one input, tried), `pool` (many, with limits of time), [`own`], the
//! kinds of damage, then what is tried: [`objects`], [`scenarios`], [`sessions`].
//!
//! **Invariants.** A seed and the good inputs make the case, on every machine. What a case is can
//! be written to a file, and tried again from there.

pub mod bytes;
pub mod elf;
pub mod items;
pub mod objects;
pub mod own;
mod pool;
pub mod scenarios;
pub mod sessions;
pub mod words;

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use bpf::insn::generate::Rng;

pub use pool::{Limits, each};

use crate::panics;

/// Changes to one input at most.
const STEPS_MAX: u32 = 8;
/// Making a finding smaller ends after so long.
const SHRINK_MAX: Duration = Duration::from_secs(20);

/// Something to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is from.
    pub name: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// Folder that its relative paths are meant from.
    pub dir: PathBuf,
}

impl Input {
    /// A file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> std::io::Result<Input> {
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Input { name: path.display().to_string(), bytes: std::fs::read(path)?, dir })
    }

    /// Writes it, with the files beside it that it names: what begins as one of its words does.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        std::fs::create_dir_all(folder)?;
        std::fs::write(path, &self.bytes)?;
        match self.dir == folder || self.dir == Path::new("") {
            true => Ok(()),
            false => self.copy_named(folder),
        }
    }

    fn copy_named(&self, folder: &Path) -> std::io::Result<()> {
        let Ok(text) = std::str::from_utf8(&self.bytes) else { return Ok(()) };
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stem = name.split('.').next().unwrap_or_default();
            let copy = folder.join(&name);
            if text.contains(&format!("{stem}.")) && path.is_file() && !copy.exists() {
                std::fs::copy(&path, copy)?;
                Input::read(&path)?.copy_named(folder)?;
            }
        }
        Ok(())
    }

    /// As text, whatever its bytes.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A kind of input, and what is done with it.
pub trait Subject: Send + Sync {
    /// Inputs to begin with: at least one.
    fn good(&self) -> &[Input];

    /// One change.
    fn damage(&self, bytes: &mut Vec<u8>, rng: &mut Rng);

    /// What can be cut out of an input that it is smaller.
    fn pieces(&self, bytes: &[u8]) -> Vec<Range<usize>>;

    /// Ending of a file of this kind.
    fn ending(&self, bytes: &[u8]) -> &'static str;

    /// Tries an input: all that was answered, in words without numbers; or what is wrong. What
    /// takes long ends early when `stop` becomes true.
    ///
    /// # Errors
    /// What must not be, in words.
    fn check(&self, input: &Input, stop: &Arc<AtomicBool>) -> Result<Vec<String>, String>;
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What happened.
    pub words: String,
    /// The input it happens with, smaller where that was possible.
    pub input: Input,
}

/// What came of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The seed.
    pub seed: u64,
    /// What was tried.
    pub input: Input,
    /// Answers, or what is wrong.
    pub came: Result<Vec<String>, Finding>,
}

/// Words without what makes each another: digits, and names in quotes.
#[must_use]
pub fn shape(words: &str) -> String {
    let (mut out, mut quoted) = (String::new(), None);
    for c in words.lines().next().unwrap_or_default().chars() {
        match quoted {
            Some(q) if q == c => quoted = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'' | '`') => quoted = Some(c),
            None if c.is_ascii_digit() => {}
            None => out.push(c),
        }
    }
    out
}

/// A good input and the changes to it.
#[derive(Clone, Debug)]
struct Made {
    from: usize,
    steps: Vec<u64>,
}

impl Made {
    fn of(seed: u64, good: usize) -> Made {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let from = bytes::place(&mut rng, good);
        let steps = (0..=rng.below(STEPS_MAX)).map(|_| rng.next_u64()).collect();
        Made { from, steps }
    }

    fn input(&self, subject: &dyn Subject) -> Input {
        let mut input = subject.good()[self.from].clone();
        for step in &self.steps {
            subject.damage(&mut input.bytes, &mut Rng(*step));
        }
        input
    }
}

thread_local! {
    /// While a case is tried: where it panicked, and with which words.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic of a case says nothing by itself: it is a finding.
fn listen_for_panics() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if PANIC.with_borrow(Option::is_none) {
            return others(info);
        }
        let said = panics::words(info.payload());
        let at =
            info.location().map_or(String::new(), |l| format!(" at {}:{}", l.file(), l.line()));
        PANIC.set(Some(format!("panic{at}: {said}")));
    }));
}

/// Tries one input.
///
/// # Errors
/// What must not be, in words.
pub fn try_one(
    subject: &dyn Subject,
    input: &Input,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<String>, String> {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(listen_for_panics);
    PANIC.set(Some(String::new()));
    let came = catch_unwind(AssertUnwindSafe(|| subject.check(input, stop)));
    let said = PANIC.take().unwrap_or_default();
    came.unwrap_or(Err(said))
}

/// Makes the input of a seed and tries it; a finding is made smaller.
fn try_seed(subject: &dyn Subject, seed: u64, stop: &Arc<AtomicBool>) -> Tried {
    let mut made = Made::of(seed, subject.good().len());
    let mut input = made.input(subject);
    let came = try_one(subject, &input, stop).map_err(|words| {
        let began = Instant::now();
        let shows = |input: &Input| {
            let again = || try_one(subject, input, stop).err();
            began.elapsed() < SHRINK_MAX && again().is_some_and(|w| shape(&w) == shape(&words))
        };
        for at in (0..made.steps.len()).rev() {
            let mut fewer = made.clone();
            fewer.steps.remove(at);
            if shows(&fewer.input(subject)) {
                made = fewer;
            }
        }
        input = smaller(subject, made.input(subject), &shows);
        Finding { words, input: input.clone() }
    });
    Tried { seed, input, came }
}

/// An input without the pieces that are not needed.
fn smaller(subject: &dyn Subject, mut input: Input, shows: &dyn Fn(&Input) -> bool) -> Input {
    let mut at = 0;
    loop {
        let pieces = subject.pieces(&input.bytes);
        let Some(piece) = pieces.get(at) else { return input };
        let mut cut = input.clone();
        cut.bytes.drain(piece.clone());
        if shows(&cut) {
            input = cut;
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of letters; `x` and `y` together are wrong.
    struct Letters(Vec<Input>);

    impl Subject for Letters {
        fn good(&self) -> &[Input] {
            &self.0
        }

        fn damage(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
            bytes.insert(0, rng.pick(b"abxy"));
        }

        fn pieces(&self, bytes: &[u8]) -> Vec<Range<usize>> {
            (0..bytes.len()).map(|n| n..n + 1).collect()
        }

        fn ending(&self, _: &[u8]) -> &'static str {
            "txt"
        }

        fn check(&self, input: &Input, _: &Arc<AtomicBool>) -> Result<Vec<String>, String> {
            assert!(!input.bytes.ends_with(b"panic"));
            match input.bytes.contains(&b'x') && input.bytes.contains(&b'y') {
                true => Err(format!("x and y at {}", input.bytes.len())),
                false => Ok(vec!["fine".into()]),
            }
        }
    }

    #[test]
    fn findings_are_small_and_repeat() {
        let input = |b: &[u8]| Input { name: "a".into(), bytes: b.to_vec(), dir: PathBuf::new() };
        let letters: Arc<dyn Subject> = Arc::new(Letters(vec![input(b"bcd")]));
        let limits = Limits { jobs: 2, ..Limits::default() };
        let mut found = Vec::new();
        each(&letters, 1..200, limits, &mut |t| {
            found.push((t.seed, t.came.err().map(|f| f.input.bytes)));
            true
        });
        found.sort();
        assert_eq!(found.len(), 199);
        let wrong: Vec<&Vec<u8>> = found.iter().filter_map(|f| f.1.as_ref()).collect();
        assert!(wrong.len() > 20 && wrong.iter().all(|w| w.len() == 2), "{wrong:?}");
    }

    #[test]
    fn shapes_are_without_numbers_and_names() {
        assert_eq!(shape("map 'a b': errno 22\nmore"), "map : errno ");
    }
}
