//! Programs in C, with what 6.18 says of each in tags of the function: lists, trees, locks,
//! callbacks, in `tests/corpus/verifier`, where conformance runs them too; what conformance does
//! not load in `objects`. `NAME.bpf.c` is the source of `NAME.bpf.o`; a changed source is compiled
//! by `clang -O2 -g -target bpf -mcpu=v3`, its log taken from a kernel. `switch` needs clang 22
//! and `-mcpu=v4`.

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bpf::Program;
use bpf::btf::Kind;
use bpf::object::{Kconfig, LinkEnv, MapDef, Object, ObjectError, ProgramDef};
use bpf::uapi::{MapType, ProgType};
use common::{BPF_F_SLEEPABLE, Env, kernel_btf};
use verifier::env::{GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::tables::Level;
use verifier::verify::{self, CheckReport, Options};
use verifier::{FuncFacts, Target};

fn map((i, m): (u32, &MapDef)) -> MapInfo {
    let single = m.map_type == MapType::Array && m.max_entries == 1;
    let addr = 0x1000 * u64::from(i + 1);
    MapInfo {
        id: i + 1,
        name: m.name.clone(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
        flags: m.flags,
        map_extra: 0,
        addr: GuestAddr(addr),
        value_addr: single.then_some(GuestAddr(addr + 0x100_0000)),
        frozen_value: m.data.clone().filter(|_| m.map_type == MapType::InsnArray),
        inner: None,
        value_type_id: m.value_type,
        spin_lock_off: None,
        timer_off: None,
    }
}

/// What the source says the kernel says.
fn expected<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    let btf = object.btf()?;
    let func = btf.find(name, Kind::Func)?;
    let tags = || btf.decl_tags(func).filter_map(|(_, tag)| tag.strip_prefix("comment:test_"));
    match tags().any(|t| t == "expect_success") {
        true => Some("accepted"),
        false => tags().find_map(|t| t.strip_prefix("expect_msg=0=")),
    }
}

/// What others are attached to: a program, its types, what is known of its functions.
struct Beneath(Object, Program, Vec<FuncFacts>);

impl Beneath {
    fn read() -> Beneath {
        let object = read("target");
        let def = object.program("pass").expect("the target has a program").clone();
        let (program, report) = judge(&object, &def, None).expect("the target links");
        assert!(report.result.is_ok(), "{:?}", report.result);
        Beneath(object, program, report.funcs)
    }

    fn for_verifier(&self, p: &Program) -> Option<Target<'_>> {
        let btf = self.0.btf()?;
        let func = btf.find(p.attach_to.as_deref()?, Kind::Func)?;
        Some(Target { program: &self.1, btf, func, funcs: &self.2, of: None })
    }
}

/// Links and verifies one program.
fn judge(
    object: &Object,
    def: &ProgramDef,
    below: Option<&Beneath>,
) -> Result<(Program, CheckReport), ObjectError> {
    judge_at(object, def, below, Level::V6_18)
}

/// The same for a version of the kernel.
fn judge_at(
    object: &Object,
    def: &ProgramDef,
    below: Option<&Beneath>,
    level: Level,
) -> Result<(Program, CheckReport), ObjectError> {
    let maps = (0..).zip(object.maps()).map(map).collect();
    let env = Env { maps, btf: Arc::new(kernel_btf()), symbols: None };
    let kconfig = Kconfig { kernel_version: 0x6_1200, values: BTreeMap::new() };
    let ksyms: BTreeMap<String, u64> = BTreeMap::new();
    let link = LinkEnv { target_btf: &env.btf, kconfig: &kconfig, ksyms: &ksyms };
    let mut program = object.link(def, &link)?;
    if program.prog_type == ProgType::Syscall {
        program.flags |= BPF_F_SLEEPABLE;
    }
    let fds: Vec<i32> = (0..).take(env.maps.len()).collect();
    let options = Options {
        opts: Opts { log_level: 1, level, ..Opts::default() },
        fd_array: &fds,
        prog_btf: object.btf(),
        endian: object.endian,
        target: below.and_then(|b| b.for_verifier(&program)),
    };
    let report = verify::check(&program, &env, &options);
    Ok((program, report))
}

/// The verdict on one program: the last line of the message.
fn verdict(object: &Object, def: &ProgramDef, below: Option<&Beneath>) -> String {
    match judge(object, def, below) {
        Err(e) => format!("does not link: {e}"),
        Ok((_, report)) => match report.result {
            Ok(()) => "accepted".to_owned(),
            Err(r) => r.message.lines().last().unwrap_or_default().to_owned(),
        },
    }
}

fn read(name: &str) -> Object {
    let folders = ["../tests/corpus/verifier", "tests/objects"];
    let path = |f| format!("{}/{f}/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"));
    let bytes = folders.iter().find_map(|f| std::fs::read(path(f)).ok());
    let bytes = bytes.expect("a committed object");
    Object::parse(&bytes).expect("a well-formed object")
}

fn check(name: &str, programs: usize) {
    check_on(name, programs, None);
}

fn check_on(name: &str, programs: usize, below: Option<&Beneath>) {
    let object = read(name);
    let mut wrong = String::new();
    let mut seen = 0;
    for def in object.programs() {
        let Some(want) = expected(&object, &def.name) else { continue };
        seen += 1;
        let got = verdict(&object, def, below);
        if got != want {
            let _ = writeln!(wrong, "{}\n  want {want}\n  got  {got}", def.name);
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{wrong}");
    assert_eq!(seen, programs, "programs with an expectation in {name}");
}

#[test]
fn graphs() {
    check("graph", 81);
}

#[test]
fn callbacks() {
    check("callbacks", 44);
}

#[test]
fn locks() {
    check("locks", 37);
}

#[test]
fn kernel_pointers() {
    check("kptr", 20);
}

#[test]
fn programs_on_programs() {
    check_on("freplace", 22, Some(&Beneath::read()));
}

/// Jump tables of clang 22, each map as the program that uses it needs it.
#[test]
fn jump_tables() {
    let object = read("switch");
    let tables: Vec<&MapDef> =
        object.maps().iter().filter(|m| m.map_type == MapType::InsnArray).collect();
    let entries: Vec<u32> = tables.iter().map(|m| m.max_entries).collect();
    assert_eq!(entries, [14, 14, 14], "two in one program, the second again in the other");
    assert_ne!(tables[1].data, tables[2].data, "the function is elsewhere in the other program");
    for def in object.programs() {
        let at = |level| judge_at(&object, def, None, level).expect("it links").1.result;
        assert!(at(Level(6, 19)).is_ok(), "{}: {:?}", def.name, at(Level(6, 19)));
        let old = at(Level::V6_18).expect_err("6.18 has no gotox");
        assert_eq!(old.message, "unknown opcode 0d", "{}", def.name);
    }
}
