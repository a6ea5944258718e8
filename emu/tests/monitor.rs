//! Monitor commands over machines that stand in the middle of a scenario: each file of
//! `monitor/` is a session, `! continue`, `! reverse-continue` and `> COMMAND` with what it
//! answers, the same on every architecture that it names. `UPDATE_EXPECT=1` accepts what is
//! answered now.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::debug::Target;
use emu::runner::RunOptions;
use emu::runner::cells::{self, Cell};
use gdb::{Debuggee as _, Direction, Resume, Stop};

/// What a session says on an architecture.
fn session(text: &str, arch: Arch) -> String {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library");
    let of = |name: &str| text.lines().find_map(|l| l.strip_prefix(&format!("! {name} ")));
    let path = library.join(of("scenario").expect("a session has a scenario"));
    let file = fs::read_to_string(&path).unwrap();
    let parsed = cells::read(&path, &file, &Cell::default());
    let s = parsed.scenario.expect("the library parses");
    let options = RunOptions { dir: cells::folder(&path), ..RunOptions::default() };
    let mut target = Target::new(&s, arch, &options).unwrap();
    let mut out = String::new();
    for line in text.lines().filter(|l| l.starts_with("! ") || l.starts_with("> ")) {
        let _ = writeln!(out, "{line}");
        let direction = match line {
            "! continue" => Direction::Forward,
            "! reverse-continue" => Direction::Backward,
            _ => {
                if let Some(command) = line.strip_prefix("> ") {
                    let mut said = String::new();
                    let stop = target.monitor(command, &mut |text| said += text);
                    assert!(said.is_empty() || said.ends_with('\n'), "{command}: {said:?}");
                    out += &said;
                    if let Some(Stop::Library { .. }) = stop {
                        out += "(programs are shown otherwise)\n";
                    }
                    target.take_notices().iter().for_each(|n| out += &format!("({n})\n"));
                }
                continue;
            }
        };
        let how = Resume { direction, step: None, only: None };
        let stop = target.resume(&how, &mut || false).unwrap();
        let _ = match stop {
            Stop::Event { cpu, text } => writeln!(out, "stops on CPU {cpu}: {text}"),
            stop => writeln!(out, "stops: {stop:?}"),
        };
    }
    out
}

#[test]
fn sessions_answer_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitor");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let archs = text.lines().find_map(|l| l.strip_prefix("! archs ")).unwrap_or("x86_64");
        let archs = archs.split(' ').map(|a| Arch::from_name(a).expect("an architecture"));
        for (n, arch) in archs.enumerate() {
            let said = session(&text, arch);
            if n == 0 && std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::write(&file, said).unwrap();
                continue;
            }
            let now = fs::read_to_string(&file).unwrap();
            if said != now {
                let differs = said.lines().zip(now.lines()).find(|(a, b)| a != b);
                wrong.push(format!("{} on {arch}: {differs:?}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 accepts:\n{}", wrong.join("\n"));
}
