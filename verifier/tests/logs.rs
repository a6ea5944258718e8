//! Logs of 6.18, byte for byte: `logs/*.log` has a program, `====` and what the kernel printed.
//!
//! The first line says how it was loaded: log level, program flags, and whether the loader may
//! see kernel addresses (`CAP_PERFMON`). Adding a case is adding a file.

use std::path::Path;

use bpf::insn::asm::{NoSymbols, assemble};
use verifier::env::{CtxAccess, CtxConv, Layout, MapInfo};
use verifier::explore::Opts;
use verifier::{KernelEnv, Options, check};

struct Env;

impl KernelEnv for Env {
    fn map_by_fd(&self, _: i32) -> Option<MapInfo> {
        None
    }
    fn btf(&self) -> Option<&bpf::btf::Btf> {
        None
    }
    fn layout(&self) -> Layout {
        Layout {
            array_max_entries: 36,
            array_index_mask: 260,
            array_value: 272,
            prog_bpf_func: 48,
            htab_elem_key: 48,
            cpu_number: 0,
        }
    }
    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        Some(CtxConv { insns: vec![access.insn], target_size: 8 })
    }
    fn has_helper(&self, _: i32) -> bool {
        true
    }
    fn identity(&self) -> u64 {
        0
    }
}

/// The number behind a word of the first line.
fn setting(head: &str, word: &str) -> u32 {
    let mut words = head.split_whitespace().skip_while(|w| *w != word);
    words.nth(1).and_then(|n| n.parse().ok()).expect("a case says how it was loaded")
}

/// The first line that differs.
fn difference(text: &str) -> Option<String> {
    let (head, rest) = text.split_once('\n').expect("a case has a first line");
    let (program, want) = rest.split_once("====\n").expect("a case has a log");
    let source = format!("; prog socket_filter p\n{program}");
    let mut a = assemble(&source, &NoSymbols).expect("a case assembles");
    let mut prog = a.progs.pop().expect("a case is a program");
    // The kernel was given neither line nor function info.
    prog.lines.clear();
    prog.funcs.clear();
    prog.flags |= setting(head, "flags");
    let opts = Opts {
        log_level: setting(head, "level"),
        allow_ptr_leaks: setting(head, "leaks") == 1,
        ..Opts::default()
    };
    let got = check(&prog, &Env, &Options { opts, ..Options::default() }).log;
    let mut lines = got.lines().zip(want.lines()).enumerate();
    match lines.find(|(_, (g, w))| g != w) {
        Some((n, (g, w))) => Some(format!("line {n}\n  want {w}\n  got  {g}")),
        None if got == want => None,
        None => Some(format!("{} lines instead of {}", got.lines().count(), want.lines().count())),
    }
}

#[test]
fn logs_are_the_kernels() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let files = std::fs::read_dir(dir).expect("the directory of logs");
    let mut paths: Vec<_> = files.map(|f| f.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 7, "the logs are there");
    let differ = paths.iter().filter_map(|p| {
        let text = std::fs::read_to_string(p).expect("a log is readable");
        difference(&text).map(|d| format!("{}: {d}\n", p.display()))
    });
    let differ: String = differ.collect();
    assert!(differ.is_empty(), "\n{differ}");
}
