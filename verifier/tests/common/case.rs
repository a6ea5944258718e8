//! One annotated program, verified beside the kernel of [`super::Env`].

use std::path::{Path, PathBuf};

use bpf::Program;
use verifier::annotated;
use verifier::explore::Opts;
use verifier::verify::{CheckReport, Options, check};

use super::{Env, kernel_btf};

/// A program and what it is verified beside.
pub(crate) struct Case {
    /// The program.
    pub(crate) program: Program,
    /// Its maps and the kernel's types.
    pub(crate) env: Env,
    case: annotated::Case,
}

impl Case {
    /// Assembles.
    pub(crate) fn new(text: &str) -> Case {
        let btf = kernel_btf();
        let case = annotated::Case::new(text, &btf).unwrap_or_else(|e| panic!("{e}:\n{text}"));
        let env = Env { maps: case.maps.clone(), btf };
        Case { program: case.program.clone(), env, case }
    }

    /// Verifies.
    pub(crate) fn check(&self, opts: Opts) -> CheckReport {
        let opts = self.case.opts(opts);
        let fds: Vec<i32> = (0..).take(self.env.maps.len()).collect();
        let prog_btf = self.case.own.as_ref();
        let options = Options { opts, fd_array: &fds, prog_btf, ..Options::default() };
        check(&self.program, &self.env, &options)
    }
}

/// The cases of one file: title, expectation and text.
pub(crate) fn read(path: &Path) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(path).expect("a case file is readable");
    let cases = annotated::read(&text).into_iter();
    cases.map(|c| (c.title, c.want.expect("a title has an expectation"), c.text)).collect()
}

/// Those that conformance runs too.
pub(crate) const CASES: &str = "../tests/corpus/verifier";

/// The files of a directory of cases, in order.
pub(crate) fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let files = std::fs::read_dir(dir).expect("the case directory");
    let paths = files.map(|f| f.expect("an entry").path());
    let mut paths: Vec<_> =
        paths.filter(|p| p.extension().is_some_and(|e| e == "bpfasm")).collect();
    paths.sort();
    paths
}
