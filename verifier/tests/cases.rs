//! Annotated programs: what the kernel of 6.18 says about each, in `cases/*.bpfasm`.
//!
//! A case is `; == TITLE: accepted` or `; == TITLE: !INSN MESSAGE` (`\n` for a second line) and a
//! program, which `; kernel VERSION` judges for another version. Adding a case is adding lines;
//! `log_level_2.txt` is a real log, byte for byte.

mod common;

use std::fmt::Write as _;
use std::path::Path;

use bpf::btf::{Btf, Kind};
use bpf::insn::InsnIdx;
use bpf::insn::asm::{Assembly, Symbols, assemble};
use bpf::uapi::{MapType, ProgType};
use common::{BPF_F_SLEEPABLE, Env, kernel_btf};
use verifier::env::{GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::tables::Level;
use verifier::verify::{CheckReport, Options, check};

/// Kfuncs by name.
struct Kfuncs<'a>(&'a Btf);

impl Symbols for Kfuncs<'_> {
    fn kfunc(&self, name: &str) -> Option<(i32, i16)> {
        let id = self.0.find(name, Kind::Func)?;
        Some((i32::try_from(id).ok()?, 0))
    }
}

fn maps(a: &Assembly) -> Vec<MapInfo> {
    let info = |(i, m): (u32, &bpf::insn::asm::AsmMap)| MapInfo {
        id: i + 1,
        name: m.name.clone(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
        flags: m.flags,
        map_extra: 0,
        addr: GuestAddr(0x1000 * u64::from(i + 1)),
        value_addr: (m.map_type == MapType::InsnArray
            || m.map_type == MapType::Array && m.max_entries == 1)
            .then_some(GuestAddr(0x10_0000)),
        frozen_value: a.tables.get(&m.name).map(|t| {
            // `struct bpf_insn_array_value`: three more words.
            t.iter().flat_map(|at| [*at, 0, 0, 0]).flat_map(u32::to_le_bytes).collect()
        }),
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    };
    (0..).zip(&a.maps).map(info).collect()
}

/// A version of the kernel, MAJOR.MINOR.
fn kernel(text: &str) -> Level {
    let (major, minor) = text.split_once('.').expect("a version has two numbers");
    Level(major.parse().expect("a number"), minor.parse().expect("a number"))
}

/// Assembles and verifies one program.
fn run(text: &str, log_level: u32) -> CheckReport {
    let btf = kernel_btf();
    let mut a = assemble(text, &Kfuncs(&btf)).expect("a case assembles");
    let maps = maps(&a);
    let fds: Vec<i32> = (0..).take(maps.len()).collect();
    let level = text.lines().find_map(|l| l.strip_prefix("; kernel ")).map(kernel);
    let opts = Opts { log_level, level: level.unwrap_or_default(), ..Opts::default() };
    let mut prog = a.progs.pop().expect("a case is a program");
    // The kernel was given no line info.
    prog.lines.clear();
    if prog.prog_type == ProgType::Syscall {
        prog.flags |= BPF_F_SLEEPABLE;
    }
    let env = Env { maps, btf };
    check(&prog, &env, &Options { opts, fd_array: &fds, ..Options::default() })
}

/// All cases of one file; returns what differs from the expectation.
fn check_file(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a case file is readable");
    let mut parts = text.split("; == ");
    let head = parts.next().unwrap_or_default();
    let headers: String = head
        .lines()
        .filter(|l| l.starts_with("; map ") || l.starts_with("; kernel "))
        .map(|l| format!("{l}\n"))
        .collect();
    let mut wrong = String::new();
    for case in parts {
        let (title, body) = case.split_once('\n').expect("a title has a line");
        let (name, want) = title.split_once(": ").expect("a title has an expectation");
        let got = match run(&format!("{headers}{body}"), 1).result {
            Ok(_) => "accepted".to_string(),
            Err(r) => {
                let at = r.insn.map_or(-1, |i| i64::from(i.0));
                format!("!{at} {}", r.message.replace('\n', "\\n"))
            }
        };
        if got != want {
            let file = path.display();
            let _ = writeln!(wrong, "{file}: {name}\n  want {want}\n  got  {got}");
        }
    }
    wrong
}

#[test]
fn cases_agree_with_the_kernel() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let files = std::fs::read_dir(dir).expect("the case directory");
    let mut paths: Vec<_> = files.map(|f| f.expect("an entry").path()).collect();
    paths.sort();
    let wrong: String = paths.iter().map(|p| check_file(p)).collect();
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Jump tables name the same instructions in the rewritten program, and none that is gone.
#[test]
fn jump_tables_follow_the_rewriting() {
    let text = "; map jt insn_array 4 16 3
        ; prog socket p
        ; table jt first second gone
        r2 = *(u32 *)(r1 +0)
        r4 = 7
        r4 /= r2
        r2 &= 1
        r2 <<= 3
        r3 = map_value[jt]+0 ll
        r3 += r2
        r3 = *(u64 *)(r3 +0)
        gotox r3
    gone:
        r0 = 5
        exit
    first:
        r0 = r4
        exit
    second:
        r0 = 2
        exit
    ";
    let btf = kernel_btf();
    let mut a = assemble(text, &Kfuncs(&btf)).expect("it assembles");
    let maps = maps(&a);
    let prog = a.progs.pop().expect("a program");
    let env = Env { maps, btf };
    let opts = Opts { level: Level(6, 19), ..Opts::default() };
    let options = Options { opts, fd_array: &[0], ..Options::default() };
    let v = verifier::verify(prog, &env, &options).expect("6.19 takes it");
    let [table] = v.jump_tables() else { panic!("one table: {:?}", v.jump_tables()) };
    let names = |e: &Option<InsnIdx>| e.map(|at| v.insn(at).1.orig.0);
    let got: Vec<_> = table.entries.iter().map(names).collect();
    assert_eq!(got, a.tables["jt"].iter().map(|t| (*t != 10).then_some(*t)).collect::<Vec<_>>());
    assert!(table.entries.iter().flatten().all(|at| v.insn(*at).1.first));
}

#[test]
fn log_level_2_is_the_kernels() {
    let text = "; prog xdp p
        r6 = *(u32 *)(r1 +0)
        r7 = *(u32 *)(r1 +4)
        r8 = r6
        r8 += 14
        if r8 > r7 goto pc+3
        r0 = *(u8 *)(r6 +13)
        r0 &= 1
        exit
        r0 = 1
        *(u32 *)(r10 -8) = r0
        exit
    ";
    let got = run(text, 2);
    assert!(got.result.is_ok(), "{:?}", got.result);
    assert_eq!(got.log, KERNEL_LOG);
}

/// What 6.18 printed for the same program.
const KERNEL_LOG: &str = include_str!("log_level_2.txt");
