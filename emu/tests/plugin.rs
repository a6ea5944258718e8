//! `orrery plugin` as the public conformance runner calls it: a process for each vector, memory as
//! an argument of bytes with two blanks behind each, options behind it, the program as a line on
//! standard input, 64 bits of r0 on standard output.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bpf::insn::encode;
use bpf::{Arch, Endian};
use emu::conform::data::{self, Parsed};
use emu::conform::vector::Vector;
use emu::conform::{Body, collect};

/// Bytes as the runner writes them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}  ")).collect()
}

fn plugin(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A plugin that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A vector on an architecture: what is wrong, if anything.
fn run(name: &str, v: &Vector, arch: Arch) -> Option<String> {
    let endian = arch.endian();
    if v.expect.order.is_some_and(|o| o != endian) {
        return None;
    }
    let program: Vec<u8> =
        v.insns.iter().flat_map(|i| encode(i).to_bytes(Endian::Little)).collect();
    let mem = v.mem.as_ref().map(|m| hex(m.of(endian)));
    // The runner's --plugin_options are "plugin --arch A".
    let args: Vec<&str> =
        mem.as_deref().into_iter().chain(["plugin", "--arch", arch.name()]).collect();
    let out = plugin(&args, &format!("{}\n", hex(&program)));
    let said = String::from_utf8_lossy(&out.stdout);
    let wrong = |what: &str| {
        let more = String::from_utf8_lossy(&out.stderr);
        Some(format!("{name} on {arch}: {what}: {} {said}{more}", out.status))
    };
    match (&v.expect.error, v.expect.r0) {
        (Some(_), _) if !out.status.success() => None,
        (Some(_), _) => wrong("it should fail"),
        (None, _) if !out.status.success() => wrong("it fails"),
        (None, Some(r0)) if u64::from_str_radix(said.trim(), 16) != Ok(r0) => {
            wrong(&format!("expected {r0:x}"))
        }
        (None, _) => None,
    }
}

#[test]
fn the_corpus_on_every_architecture() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/conform");
    let cases = collect::collect(&[folder], &mut |_| Ok(None)).unwrap();
    let vectors = cases.iter().filter_map(|c| match &c.body {
        Body::Vector(v) => Some((c.name.as_str(), v)),
        _ => None,
    });
    let vectors: Vec<_> = vectors.collect();
    assert!(vectors.len() >= 9, "{} vectors", vectors.len());
    let each = vectors.iter().flat_map(|(name, v)| Arch::ALL.map(|arch| (*name, v, arch)));
    let wrong: Vec<String> = each.filter_map(|(name, v, arch)| run(name, v, arch)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `r0 = *(u16 *)(r1 +0); exit` and `r0 = r2; exit`.
const LOAD: &str = "69 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00";
const LEN: &str = "bf 20 00 00 00 00 00 00 95 00 00 00 00 00 00 00";

#[test]
fn memory_in_every_form() {
    let r0 = |args: &[&str], input: &str| {
        let out = plugin(args, input);
        let text = String::from_utf8(out.stdout).unwrap();
        out.status.success().then(|| u64::from_str_radix(text.trim(), 16).unwrap())
    };
    // As the runner gives it, in front of all; behind the verb; without blanks; in capitals.
    for mem in ["11  22  ", "1122", " 11\t22 "] {
        assert_eq!(r0(&[mem, "plugin"], LOAD), Some(0x2211), "{mem:?}");
        assert_eq!(r0(&["plugin", mem, "--arch", "s390x"], LOAD), Some(0x1122), "{mem:?}");
        assert_eq!(r0(&["plugin", "--interpret", mem], LOAD), Some(0x2211), "{mem:?}");
    }
    assert_eq!(r0(&["AB  CD  ", "plugin", "--jit"], LOAD), Some(0xcdab));
    // None, and nothing.
    for args in [&["plugin"][..], &["plugin", ""], &["", "plugin"], &["  ", "plugin"]] {
        assert_eq!(r0(args, LEN), Some(0), "{args:?}");
    }
    // The program by option, with whatever stands on standard input.
    assert_eq!(r0(&["plugin", "--program", LEN], "nothing"), Some(0));
    // Nothing is read behind the memory.
    assert_eq!(r0(&["11", "plugin"], LOAD), None);
}

#[test]
fn what_is_no_input() {
    let cases: &[(&[&str], &str, i32, &str)] = &[
        (&["plugin"], "", 2, "there is no program"),
        (&["plugin"], "zz", 2, "no byte in hex"),
        (&["plugin"], "95 00 00", 2, "no whole number of instructions"),
        (&["plugin", "123"], LOAD, 2, "no byte in hex"),
        (&["plugin", "--arch", "vax"], LOAD, 2, "vax"),
        (&["plugin", "--elf"], LOAD, 2, ""),
        (&["plugin"], "ff 00 00 00 00 00 00 00", 2, "unknown opcode ff"),
        (&["plugin"], "18 00 00 00 00 00 00 00", 2, "ld_imm64"),
        (&["plugin"], "05 00 ff ff 00 00 00 00", 1, "refused by the verifier"),
    ];
    for (args, input, code, words) in cases {
        let out = plugin(args, input);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(*code), "{args:?} {input}: {said}");
        assert!(said.contains(words), "{args:?} {input}: {said}");
        assert!(out.stdout.is_empty(), "{args:?} {input}");
    }
}

/// The vectors that are made from the RFC are read by the same rules.
#[test]
fn a_vector_that_expects_an_error_fails() {
    let text = "-- asm\nmov %r0, 1\nldxb %r0, [%r1+8]\nexit\n-- mem\n01\n-- error\nrefused\n";
    let Ok(Parsed::Vector(v)) = data::parse(text) else { panic!("it is a vector") };
    assert_eq!(run("error", &v, Arch::X86_64), None);
    let mut right = v.clone();
    right.expect.error = None;
    right.expect.r0 = Some(1);
    assert!(run("no error", &right, Arch::X86_64).is_some(), "what fails is told");
}
