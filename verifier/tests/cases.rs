//! Annotated programs: what the kernel of 6.18 says about each, in `tests/corpus/verifier`.
//!
//! A case is `; == TITLE: accepted` or `; == TITLE: !INSN MESSAGE` (`\n` for a second line) and a
//! program, which `; kernel VERSION` judges for another version. Adding a case is adding lines;
//! `log_level_2.txt` is a real log, byte for byte.

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::insn::InsnIdx;
use bpf::insn::asm::assemble;
use common::case::{CASES, Case, files, read, types_of};
use common::{Env, kernel_btf};
use verifier::annotated::{Kfuncs, verdict};
use verifier::env::MapInfo;
use verifier::explore::Opts;
use verifier::tables::Level;
use verifier::verify::Options;

/// All cases of one file; returns what differs from the expectation.
fn check_file(path: &Path) -> String {
    let mut wrong = String::new();
    let types = types_of(path);
    for (name, want, text) in read(path) {
        let got = verdict(&Case::beside(&text, types.clone()).check(Opts::default()));
        if got != want {
            let file = path.display();
            let _ = writeln!(wrong, "{file}: {name}\n  want {want}\n  got  {got}");
        }
    }
    wrong
}

#[test]
fn cases_agree_with_the_kernel() {
    let wrong: String = files(CASES).iter().map(|p| check_file(p)).collect();
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Lines within which a program that is refused may differ from the next, which is not.
const TWIN_LINES: usize = 9;

/// Lines of the longer of two programs from the first that differs to the last.
fn differing(a: &str, b: &str) -> usize {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let front = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let rest = (&a[front..], &b[front..]);
    let back = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(|(x, y)| x == y).count();
    a.len().max(b.len()) - front - back
}

/// In `rules_*` a program that breaks a rule stands in front of the nearest that keeps it.
#[test]
fn each_refusal_has_a_twin() {
    let mut wrong = String::new();
    let rules =
        |p: &&PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("rules_"));
    let files = files(CASES);
    let mut refusals = 0;
    for path in files.iter().filter(rules) {
        for pair in read(path).chunks(2) {
            let [(name, want, text), (_, twin, kept)] = pair else { panic!("one is alone") };
            refusals += 1;
            let near = differing(text, kept) <= TWIN_LINES;
            if want == "accepted" || twin != "accepted" || !near {
                let _ = writeln!(wrong, "{}: {name}: {}", path.display(), differing(text, kept));
            }
        }
    }
    assert!(wrong.is_empty() && refusals > 60, "{refusals}:\n{wrong}");
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
    let maps = MapInfo::of_assembly(&a);
    let prog = a.progs.pop().expect("a program");
    let env = Env { maps, btf: Arc::new(btf), symbols: None };
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
    let got = Case::new(text).check(Opts { log_level: 2, ..Opts::default() });
    assert!(got.result.is_ok(), "{:?}", got.result);
    assert_eq!(got.log, KERNEL_LOG);
}

/// What 6.18 printed for the same program.
const KERNEL_LOG: &str = include_str!("log_level_2.txt");
