//! Coverage and cost of programs by lines of their source, summed over runs.
//!
//! ```text
//!  Machine::coverage ─► Covered (of a run) ─► Sum ─► lcov, HTML, folded stacks, text
//! ```
//!
//! A line ran as often as the instruction of it that ran most often: it never says more than the
//! truth, also where the compiler has put one line into several places. Line numbers are those of
//! BTF line info; a program without it has none and is left out.

mod html;
mod lcov;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bpf::Program;
use bpf::insn::InsnIdx;

use crate::machine::cover::{Folded, ProgCover};

pub use html::html;
pub use lcov::lcov;

/// What the programs of one run did.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    /// Programs that were loaded, and their counts.
    pub progs: Vec<(Program, ProgCover)>,
    /// Instructions by stack of functions.
    pub folded: Folded,
}

/// A line of source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// As BTF has it.
    pub text: String,
    /// How often it ran.
    pub hits: u64,
    /// BPF instructions retired in it.
    pub insns: u64,
    /// Conditional jumps, in order of instruction: how often taken and not, if ever reached.
    pub branches: Vec<[u64; 2]>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Func {
    /// Line of its first instruction.
    pub line: u32,
    /// How often it was entered.
    pub hits: u64,
}

/// A source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Where it is, when it was found.
    pub path: Option<PathBuf>,
    /// By number, from 1.
    pub lines: BTreeMap<u32, Line>,
    /// By name.
    pub funcs: BTreeMap<String, Func>,
}

/// One program as it counts towards the sum.
type Counts = (Program, Vec<u64>, BTreeMap<InsnIdx, [u64; 2]>);

/// The sum over runs.
#[derive(Debug, Default)]
pub struct Sum {
    /// Programs that are alike, by their instructions' text.
    progs: Vec<Counts>,
    /// Instructions by stack of functions.
    pub folded: Folded,
    /// Where sources are looked for.
    folders: Vec<PathBuf>,
}

impl Sum {
    /// Adds a run. `folder` is where its sources may be.
    pub fn add(&mut self, covered: Covered, folder: &Path) {
        if !self.folders.iter().any(|f| f == folder) {
            self.folders.push(folder.to_path_buf());
        }
        for (stack, n) in covered.folded {
            *self.folded.entry(stack).or_default() += n;
        }
        for (program, c) in covered.progs {
            let alike = |p: &Counts| {
                p.0.name == program.name && p.0.lines == program.lines && p.0.insns == program.insns
            };
            match self.progs.iter_mut().find(|p| alike(p)) {
                Some((_, hits, branches)) => {
                    hits.iter_mut().zip(&c.hits).for_each(|(sum, n)| *sum += n);
                    for (at, [a, b]) in c.branches {
                        let sum = branches.entry(at).or_default();
                        *sum = [sum[0] + a, sum[1] + b];
                    }
                }
                None => self.progs.push((program, c.hits, c.branches)),
            }
        }
    }

    /// By source file. What two builds or byte orders of one source did is summed: of one line, of
    /// one function.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, File> {
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        for prog in &self.progs {
            for (name, one) in self.files_of(prog) {
                let file = files.entry(name).or_default();
                file.path = file.path.take().or(one.path);
                for (number, line) in one.lines {
                    let sum = file.lines.entry(number).or_default();
                    sum.text = line.text;
                    sum.hits += line.hits;
                    sum.insns += line.insns;
                    merge(&mut sum.branches, &line.branches);
                }
                for (name, func) in one.funcs {
                    let sum = file.funcs.entry(name).or_insert(Func { line: func.line, hits: 0 });
                    sum.hits += func.hits;
                }
            }
        }
        files
    }

    fn files_of(&self, (program, hits, branches): &Counts) -> BTreeMap<String, File> {
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        for (at, n) in (0..).map(InsnIdx).zip(hits) {
            let Some(line) = program.line_at(at) else { continue };
            let file = files
                .entry(line.file.clone())
                .or_insert_with(|| File { path: self.found(&line.file), ..File::default() });
            let sum = file.lines.entry(line.line).or_default();
            sum.text.clone_from(&line.text);
            sum.hits = sum.hits.max(*n);
            sum.insns += n;
            if let Some(ways) = branches.get(&at) {
                sum.branches.push(*ways);
            }
        }
        for func in &program.funcs {
            let (Some(line), Some(n)) = (program.line_at(func.start), hits.get(func.start.idx()))
            else {
                continue;
            };
            if let Some(file) = files.get_mut(&line.file) {
                file.funcs.insert(func.name.clone(), Func { line: line.line, hits: *n });
            }
        }
        files
    }

    /// A source as the compiler named it: there, or in a folder of the runs under its last name.
    fn found(&self, file: &str) -> Option<PathBuf> {
        let as_named = Path::new(file);
        let leaf = as_named.file_name()?;
        let near = self.folders.iter().flat_map(|f| [f.join(as_named), f.join(leaf)]);
        std::iter::once(as_named.to_path_buf()).chain(near).find(|p| p.is_file())
    }

    /// Folded stacks, as flame graph tools read them: `a;b;c 123`.
    #[must_use]
    pub fn folded_text(&self) -> String {
        self.folded.iter().map(|(stack, n)| format!("{} {n}\n", stack.join(";"))).collect()
    }
}

/// Adds branches of one line in two builds: the n-th to the n-th.
fn merge(sum: &mut Vec<[u64; 2]>, more: &[[u64; 2]]) {
    sum.resize(sum.len().max(more.len()), [0; 2]);
    for (sum, [a, b]) in sum.iter_mut().zip(more) {
        *sum = [sum[0] + a, sum[1] + b];
    }
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that ran.
    pub hit: usize,
    /// All.
    pub of: usize,
}

impl Share {
    fn count(all: impl Iterator<Item = bool>) -> Share {
        all.fold(Share::default(), |s, hit| Share { hit: s.hit + usize::from(hit), of: s.of + 1 })
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = (self.hit * 100).checked_div(self.of).unwrap_or(100);
        write!(f, "{} of {} ({percent} %)", self.hit, self.of)
    }
}

impl File {
    /// Lines that ran.
    #[must_use]
    pub fn line_share(&self) -> Share {
        Share::count(self.lines.values().map(|l| l.hits > 0))
    }

    /// Ways of conditional jumps that were taken.
    #[must_use]
    pub fn branch_share(&self) -> Share {
        let ways = self.lines.values().flat_map(|l| l.branches.iter().flatten());
        Share::count(ways.map(|n| *n > 0))
    }

    /// Functions that were entered.
    #[must_use]
    pub fn func_share(&self) -> Share {
        Share::count(self.funcs.values().map(|f| f.hits > 0))
    }
}
