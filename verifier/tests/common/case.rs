//! One annotated program, verified beside the kernel of [`super::Env`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::Program;
use bpf::btf::Btf;
use verifier::annotated;
use verifier::annotated::types::types;
use verifier::explore::Opts;
use verifier::verify::CheckReport;

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
        Case::beside(text, kernel_btf())
    }

    /// Assembles for a kernel with these types.
    pub(crate) fn beside(text: &str, btf: Btf) -> Case {
        let case = annotated::Case::new(text, &btf).unwrap_or_else(|e| panic!("{e}:\n{text}"));
        let beside = case.kernel(Arc::new(btf), 0);
        let env = Env { maps: beside.maps, btf: beside.btf, symbols: beside.symbols };
        Case { program: case.program.clone(), env, case }
    }

    /// Verifies.
    pub(crate) fn check(&self, opts: Opts) -> CheckReport {
        let fds: Vec<i32> = (0..).take(self.env.maps.len()).collect();
        let report = self.case.check(&self.env, &fds, self.case.opts(opts));
        report.unwrap_or_else(|e| panic!("what it is attached to: {e}"))
    }
}

/// The types that a file of cases names.
pub(crate) fn types_of(path: &Path) -> Btf {
    let read = |path: &Path| std::fs::read_to_string(path).expect("a readable file");
    let name = annotated::read(&read(path)).into_iter().find_map(|c| c.types);
    name.map_or_else(kernel_btf, |name| {
        types(&read(&path.with_file_name(name))).expect("the types are well formed")
    })
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
