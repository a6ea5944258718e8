//! Golden transcripts: scripts of `tests/gdb` through the installed gdb-multiarch, on all four
//! architectures, each with one expected text. `UPDATE_EXPECT=1` writes it from x86-64; the other
//! three must then say the same.
//!
//! A script begins with `# scenario: TOPIC/NAME`, a file of the library; with `, without DWARF` its
//! objects are stripped of it. `.gdb` files are commands of gdb, `.mi` files those that IDEs send.
//! Addresses are numbered in the order they come.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bpf::Arch;
use emu::debug::Target;
use emu::runner::cells::{self, Cell};
use gdb::session::{Files, serve};

const GDB: &str = "gdb-multiarch";
const STRIP: &str = "llvm-strip-19";
/// The longest a transcript may take in this profile.
const LIMIT: Duration = Duration::from_secs(120);

/// What every session begins with, before the script's own commands.
const PRELUDE: &str = "set confirm off\nset width 0\nset height 0\nset style enabled off\n\
                       set breakpoint pending on\nset remotetimeout 60\n";

/// Printed when the script begins.
const MARK: &str = "== script ==";

fn folder() -> PathBuf {
    tests::root().join("tests/gdb")
}

/// The tools that are needed, or a word on what is skipped.
fn installed() -> bool {
    let there = |tool: &&str| {
        let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !there {
            eprintln!("skipped: {tool} is not installed (./x test installs it)");
        }
        there
    };
    [GDB, STRIP].iter().all(there)
}

fn scripts() -> Vec<PathBuf> {
    let all = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path());
    let ours = |p: &PathBuf| p.extension().is_some_and(|e| e == "gdb" || e == "mi");
    let mut all: Vec<PathBuf> = all.filter(ours).collect();
    all.sort();
    all
}

/// One session on one architecture: what gdb printed, addresses numbered.
fn transcript(script: &Path, arch: Arch) -> String {
    let text = fs::read_to_string(script).unwrap();
    let script = script.to_path_buf();
    let header = text.clone();
    let head = header.lines().find_map(|l| l.strip_prefix("# scenario: ")).expect("a scenario");
    let (name, bare) = match head.split_once(", ") {
        Some((name, "without DWARF")) => (name, true),
        _ => (head, false),
    };
    let mut path = tests::root().join(format!("scenarios/library/{name}.ron"));
    if bare {
        path = stripped(&path, arch);
    }
    let said = session(&path, arch, move |port| debug(&script, &text, port));
    numbered(&said.replace(&path.parent().unwrap().display().to_string(), "FOLDER"))
}

/// A scenario's folder again, without the debug information of its objects.
fn stripped(path: &Path, arch: Arch) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stripped-{arch}"));
    fs::create_dir_all(&folder).unwrap();
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    for ending in ["ron", "bpf.c", "el.bpf.o", "eb.bpf.o"] {
        let from = path.with_file_name(format!("{name}.{ending}"));
        let to = folder.join(format!("{name}.{ending}"));
        fs::copy(from, &to).unwrap();
        if ending.ends_with(".o") {
            assert!(Command::new(STRIP).arg("-g").arg(to).status().unwrap().success());
        }
    }
    folder.join(format!("{name}.ron"))
}

/// Runs a debugger over a scenario; what `debugger`, which is given a port, has to say.
fn session(
    path: &Path,
    arch: Arch,
    debugger: impl FnOnce(u16) -> String + Send + 'static,
) -> String {
    let cell = Cell::default();
    let parsed = cells::read(path, &fs::read_to_string(path).unwrap(), &cell);
    let scenario = parsed.scenario.as_ref().expect("it is valid");
    let mut target = Target::new(scenario, arch, &cells::options(path, &cell)).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let debugger = std::thread::spawn(move || debugger(port));
    let mut stream = accept(&listener);
    stream.set_nodelay(true).unwrap();
    let ended = serve(&mut stream, &mut target, &mut Files::new());
    drop(stream);
    let said = debugger.join().expect("gdb ran");
    ended.unwrap_or_else(|e| panic!("{arch}: {e}\n{said}"));
    said
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let began = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        assert!(began.elapsed() < LIMIT, "gdb does not connect");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs gdb over a script; all it printed.
fn debug(script: &Path, text: &str, port: u16) -> String {
    let connect = format!("{PRELUDE}target remote :{port}\n");
    let mi = script.extension().is_some_and(|e| e == "mi");
    let (kind, input) = if mi {
        (["-i=mi3"].as_slice(), format!("{connect}echo {MARK}\\n\n{}-gdb-exit\n", body(text)))
    } else {
        let end = "disconnect\nquit\n";
        let text = format!("{connect}echo {MARK}\\n\nset trace-commands on\n{text}\n{end}");
        (&[] as &[&str], text)
    };
    let output = started(kind, &input).wait_with_output().unwrap();
    relevant(&String::from_utf8_lossy(&output.stdout))
}

/// gdb with commands on its standard input, which ends with them. It is killed when it takes too
/// long.
fn started(args: &[&str], input: &str) -> Child {
    // Errors in their place among the rest.
    let mut gdb = Command::new("sh");
    gdb.args(["-c", "exec timeout --foreground \"$@\" 2>&1", "sh"])
        .arg(LIMIT.as_secs().to_string());
    gdb.args([GDB, "-nx", "-q"]).args(args).current_dir(tests::root());
    gdb.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = gdb.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child
}

fn body(text: &str) -> String {
    text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

/// What came after the connection was there.
fn relevant(all: &str) -> String {
    let all = all.replace("(gdb) ", "");
    let after = all.find(MARK).and_then(|at| Some(at + all[at..].find('\n')? + 1));
    let root = tests::root().display().to_string();
    let ours = |l: &&str| !l.starts_with("+#") && !l.starts_with("(gdb)");
    let lines = all[after.unwrap_or(0)..].lines().filter(ours);
    lines.map(|l| unnamed(&l.replace(&root, "ROOT")).trim_end().to_owned() + "\n").collect()
}

/// Without gdb's name of the architecture, which IDEs are told.
fn unnamed(line: &str) -> String {
    let mut parts = line.split(",arch=\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('"').map_or("", |p| p.1))
}

/// Addresses as `<1>`, `<2>`: equal ones are equal.
fn numbered(text: &str) -> String {
    let mut known = BTreeMap::new();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("0x") {
        let digits = rest[at + 2..].find(|c: char| !c.is_ascii_hexdigit());
        let end = digits.map_or(rest.len(), |d| at + 2 + d);
        out.push_str(&rest[..at]);
        let number = &rest[at..end];
        // Short ones are values: alike everywhere.
        if number.len() > 6 {
            let next = known.len() + 1;
            out.push_str(&format!("<{}>", known.entry(number).or_insert(next)));
        } else {
            out.push_str(number);
        }
        rest = &rest[end..];
    }
    out + rest
}

#[test]
fn every_transcript_is_the_same_on_all_four() {
    if !installed() {
        return;
    }
    let only = std::env::var("TRANSCRIPT").ok();
    let mut wrong = String::new();
    for script in scripts() {
        let name = script.file_name().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        let began = Instant::now();
        let golden = script.with_extension("txt");
        let one = |arch| {
            let script = &script;
            move || transcript(script, arch)
        };
        let all = std::thread::scope(|s| {
            let running = Arch::ALL.map(|arch| s.spawn(one(arch)));
            running.map(|t| t.join().expect("the session ended"))
        });
        for (arch, said) in Arch::ALL.into_iter().zip(all) {
            if arch == Arch::ALL[0] && std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::write(&golden, &said).unwrap();
            }
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            if said != expected {
                wrong += &format!("{name} on {arch}:\n{}\n", first_difference(&expected, &said));
            }
        }
        eprintln!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The lines around the first that differs.
fn first_difference(expected: &str, said: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), said.lines().collect());
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let before = a[at.saturating_sub(4)..at].iter().map(|l| format!("    {l}\n"));
    let minus = a.iter().skip(at).take(6).map(|l| format!("  - {l}\n"));
    let plus = b.iter().skip(at).take(6).map(|l| format!("  + {l}\n"));
    before.chain(minus).chain(plus).collect()
}

/// A program that goes round for as long as anybody waits.
const LONG: &str = r##"Scenario(
    orrery: 1,
    about: "a long run",
    machine: (nics: {"eth0": ()}),
    objects: {"long": (asm: r#"
        ; prog xdp long
        r2 = 0
        again: r2 += 1
        if r2 < 100000 goto again
        r0 = 2
        exit
    "#)},
    attach: [Xdp(prog: "long", nic: "eth0")],
    packets: {"p": [Eth(), Zeros("46B")]},
    timeline: [At("0us", Send(packet: "p", on: "eth0", times: 1000000, gap: "200us"))],
    expect: [Verdicts(prog: "long", are: (PASS: 1000000))],
)
"##;

/// Presses Ctrl-C when gdb has gone on; all it printed.
fn interrupting(port: u16) -> String {
    let text = "continue\nbt 1\nprint $_siginfo\nreverse-stepi\nkill\nquit\n";
    let input = format!("{PRELUDE}target remote :{port}\n{text}");
    let mut child = started(&[], &input);
    let mut all = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(Result::ok) {
        all += &format!("{line}\n");
        if line.contains("Continuing") {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    // `timeout` passes it on to gdb.
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    lines.map_while(Result::ok).for_each(|l| all += &format!("{l}\n"));
    child.wait().unwrap();
    all
}

#[test]
fn an_interrupt_stops_a_run_anywhere() {
    if !installed() {
        return;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("long.ron");
    fs::write(&path, LONG).unwrap();
    for arch in Arch::ALL {
        let said = session(&path, arch, interrupting);
        assert!(said.contains("received signal SIGINT"), "{arch}: {said}");
        assert!(said.contains("in long ()") || said.contains(" long"), "{arch}: {said}");
    }
}
