//! `BPF_PROG_TEST_RUN` against what Linux 6.18 answers: `tests/corpus/test_run/cases.txt`, on
//! four architectures and, where permitted, in the running kernel.

use std::collections::BTreeMap;

use bpf::insn::asm::{NoSymbols, assemble};
use bpf::{Arch, Endian, Program};
use emu::host::{HostKernel, TestRunIn, TestRunOut};
use emu::loader::{Bpf, ProgLoad};
use emu::{Config, Machine};
use kernel_model::syscall::Why;
use kernel_model::types;

/// One case, as text.
struct Case {
    name: String,
    section: String,
    program: String,
    given: BTreeMap<String, String>,
    expected: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let path = tests::root().join("tests/corpus/test_run/cases.txt");
    let text = std::fs::read_to_string(path).expect("the cases are in the corpus");
    let mut out: Vec<Case> = Vec::new();
    let pairs = |s: &str| {
        let pair = |w: &str| w.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        s.split_whitespace().map(|w| pair(w).expect("KEY=VALUE")).collect()
    };
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "case" {
            out.push(Case {
                name: rest.to_owned(),
                section: String::new(),
                program: String::new(),
                given: BTreeMap::new(),
                expected: BTreeMap::new(),
            });
            continue;
        }
        let case = out.last_mut().expect("begins with a case");
        match word {
            "prog" => case.section = rest.to_owned(),
            "in" => case.given = pairs(rest),
            "out" => case.expected = pairs(rest),
            _ => {
                case.program.push_str(line);
                case.program.push('\n');
            }
        }
    }
    out
}

/// `aa*14,bb`.
fn bytes(text: &str) -> Vec<u8> {
    let hex = |s: &str| -> Vec<u8> {
        let byte = |i: usize| u8::from_str_radix(&s[i..i + 2], 16).expect("hex");
        (0..s.len()).step_by(2).map(byte).collect()
    };
    let part = |s: &str| match s.split_once('*') {
        Some((b, n)) => hex(b).repeat(n.parse().expect("a number")),
        None => hex(s),
    };
    text.split(',').flat_map(part).collect()
}

/// Offset and size of a context field: of the UAPI structure, or `u32@OFFSET`.
fn field(section: &str, name: &str) -> (usize, usize) {
    if let Some((size, at)) = name.split_once('@') {
        return (at.parse().expect("an offset"), if size == "u64" { 8 } else { 4 });
    }
    let structure = if section.starts_with("xdp") { "xdp_md" } else { "__sk_buff" };
    let f = types::field(structure, name);
    (f.off as usize, f.size as usize)
}

fn fields<'a>(
    section: &'a str,
    pairs: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = ((usize, usize), u64)> + 'a {
    let field = move |(k, v): (&'a String, &'a String)| {
        let name = k.strip_prefix("ctx.")?;
        Some((field(section, name), v.parse().expect("a number")))
    };
    pairs.iter().filter_map(field)
}

fn context(case: &Case, endian: Endian) -> Vec<u8> {
    let mut ctx = Vec::new();
    for ((at, size), value) in fields(&case.section, &case.given) {
        ctx.resize(ctx.len().max(at + size), 0);
        let b = match endian {
            Endian::Little => value.to_le_bytes()[..size].to_vec(),
            Endian::Big => value.to_be_bytes()[8 - size..].to_vec(),
        };
        ctx[at..at + size].copy_from_slice(&b);
    }
    ctx
}

fn program(case: &Case) -> Program {
    let text = format!("; prog xdp p\n{}", case.program);
    let assembly = assemble(&text, &NoSymbols).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut program = assembly.progs.into_iter().next().expect("one program");
    let sec = bpf::object::sec::lookup(&case.section).expect("a section name");
    program.section.clone_from(&case.section);
    (program.prog_type, program.attach_type) = (sec.prog_type, sec.attach_type);
    (program.flags, program.attach_to) = (sec.flags, sec.target);
    program.license = "GPL".to_owned();
    program
}

/// Runs a case somewhere and compares; an error of the run is its errno's name.
fn check(
    case: &Case,
    endian: Endian,
    run: impl FnOnce(&TestRunIn<'_>) -> Result<TestRunOut, String>,
) -> Result<(), String> {
    let number = |k: &str| case.given.get(k).map_or(0, |v| v.parse().expect("a number"));
    let data = case.given.get("data").map_or(Vec::new(), |v| bytes(v));
    let ctx = context(case, endian);
    let given = TestRunIn {
        data: &data,
        ctx: &ctx,
        data_out: number("data_out") as usize,
        ctx_out: number("ctx_out") as usize,
        repeat: number("repeat"),
        flags: number("flags"),
        cpu: number("cpu"),
    };
    let out = match (run(&given), case.expected.get("errno")) {
        (Err(said), Some(errno)) if said == *errno => return Ok(()),
        (said, Some(errno)) => return Err(format!("{}: {errno} expected: {said:?}", case.name)),
        (Err(said), None) => return Err(format!("{}: {said}", case.name)),
        (Ok(out), None) => out,
    };
    let wrong = |what: &str, is: String| Err(format!("{}: {what} is {is}", case.name));
    if out.retval.to_string() != case.expected["retval"] {
        return wrong("retval", out.retval.to_string());
    }
    if let Some(data) = case.expected.get("data")
        && out.data != bytes(data)
    {
        return wrong("data", format!("{:02x?}", out.data));
    }
    for ((at, size), value) in fields(&case.section, &case.expected) {
        let b = out.ctx.get(at..at + size).unwrap_or_default();
        let fold = |v: u64, b: &u8| v << 8 | u64::from(*b);
        let is = match endian {
            Endian::Little => b.iter().rev().fold(0, fold),
            Endian::Big => b.iter().fold(0, fold),
        };
        if is != value {
            return wrong(&format!("context at {at}"), is.to_string());
        }
    }
    Ok(())
}

fn load(kernel: &mut dyn Bpf, case: &Case) -> i32 {
    let program = program(case);
    let load = ProgLoad { program, fd_array: &[], btf: None, log_level: 1, struct_ops: None };
    let loaded = kernel.prog_load(load);
    loaded.unwrap_or_else(|e| panic!("{}: {e:?}", case.name)).fd
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn on_four_architectures() {
    let mut wrong = Vec::new();
    for arch in Arch::ALL {
        for case in cases() {
            let mut m = Machine::new(arch, Config::default()).expect("a machine");
            let fd = load(&mut m.kernel, &case);
            let id = m.kernel.fd_prog(fd).expect("just loaded");
            m.compile(id).expect("it compiles");
            let said = check(&case, arch.endian(), |given| {
                m.test_run(fd, given).map_err(|e| match e.why {
                    Why::Unsupported(what) => format!("unsupported: {what}"),
                    _ => e.errno.name().to_owned(),
                })
            });
            wrong.extend(said.err().map(|e| format!("{arch}: {e}")));
        }
    }
    report(&wrong);
}

#[test]
fn in_the_running_kernel() {
    let mut host = match HostKernel::open() {
        Ok(host) => host,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let mut wrong = Vec::new();
    for case in cases() {
        let fd = load(&mut host, &case);
        let run = |given: &TestRunIn<'_>| host.test_run(fd, given).map_err(|e| e.name().to_owned());
        wrong.extend(check(&case, Endian::Little, run).err());
    }
    report(&wrong);
}
