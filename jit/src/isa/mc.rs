//! Test oracle for encoders: llvm-mc assembles the text, we compare the bytes.
//!
//! One process per call, whatever the number of cases. Without `llvm-mc-19` the tests skip
//! visibly, and fail when `CI` is set.

use std::io::Write as _;
use std::process::{Command, Stdio};

const TOOL: &str = "llvm-mc-19";

/// One instruction: what llvm-mc is given, and our bytes.
pub(crate) type Case = (String, Vec<u8>);

/// Runs the tool over `input`; `None` when it is not installed.
fn run(args: &[&str], input: String) -> Option<(String, String)> {
    let spawned = Command::new(TOOL)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        assert!(std::env::var_os("CI").is_none(), "{TOOL} is needed in CI");
        eprintln!("skipped: no {TOOL}");
        return None;
    };
    let mut stdin = child.stdin.take().expect("piped above");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().expect("the tool ends");
    writer.join().expect("no panic").expect("the tool reads its input");
    let text = |bytes| String::from_utf8(bytes).expect("the tool writes ASCII");
    Some((text(out.stdout), text(out.stderr)))
}

/// `0x1f,0x20` of an `encoding: [0x1f,0x20]` comment.
fn encoding(line: &str) -> Option<Vec<u8>> {
    let list = line.split_once("encoding: [")?.1.split_once(']')?.0;
    list.split(',').map(|b| u8::from_str_radix(b.trim_start_matches("0x"), 16).ok()).collect()
}

/// Every case must assemble to its bytes. `prelude` holds directives only.
pub(crate) fn check(triple: &str, mattr: &str, prelude: &str, cases: &[Case]) {
    let mut input = format!("{prelude}\n");
    for (text, _) in cases {
        input.push_str(text);
        input.push('\n');
    }
    let triple = format!("--triple={triple}");
    let mattr = format!("--mattr={mattr}");
    let Some((out, err)) = run(&[&triple, &mattr, "--show-encoding"], input) else { return };
    assert!(err.is_empty(), "{TOOL}: {}", &err[..err.len().min(600)]);
    let theirs: Vec<_> = out.lines().filter_map(encoding).collect();
    assert_eq!(theirs.len(), cases.len(), "one encoding a case");
    for ((text, ours), theirs) in cases.iter().zip(theirs) {
        assert_eq!(*ours, theirs, "{text}");
    }
}

/// Disassembles `code`; every instruction must be known. Empty when the tool is not installed.
pub(crate) fn disassemble(triple: &str, mattr: &str, code: &[u8]) -> Vec<String> {
    let input = code.iter().map(|b| format!("{b:#04x} ")).collect::<String>();
    let triple = format!("--triple={triple}");
    let mattr = format!("--mattr={mattr}");
    let Some((out, err)) = run(&[&triple, &mattr, "--disassemble"], input) else {
        return Vec::new();
    };
    assert!(err.is_empty(), "{TOOL}: {}", &err[..err.len().min(600)]);
    let lines = out.lines().map(|l| l.trim().replace('\t', " "));
    lines.filter(|l| !l.is_empty() && !l.starts_with('.')).collect()
}
