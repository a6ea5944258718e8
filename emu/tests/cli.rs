//! The command line, by transcripts: each file of `cli/*.txt` is a list of commands with what
//! they print and how they exit. `UPDATE_EXPECT=1` accepts what is printed now.
//!
//! What changes from run to run or with the code generator is masked: times of reports, trace
//! hashes, native code. Commands run in a fresh folder with copies of the files of `cli/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli")
}

/// A folder of its own for a transcript, gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("orrery-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for entry in fs::read_dir(folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e != "txt") {
                fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
            }
        }
        Place(dir)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// Replaces what follows a word, up to a blank or comma, by a mask.
fn mask(line: &str, after: &str, with: &str) -> String {
    let Some(at) = line.find(after) else { return line.to_owned() };
    let (head, tail) = line.split_at(at + after.len());
    let end = tail.find([' ', ',', '"', '}']).unwrap_or(tail.len());
    format!("{head}{with}{}", &tail[end..])
}

fn masked(line: &str) -> String {
    let native = line.trim_start().strip_prefix('+').is_some();
    if native && line.starts_with("       ") {
        return "        +native".to_owned();
    }
    // Where the model puts an object is no matter of the command line.
    let line = line.split("=0xffff8").enumerate().map(|(n, part)| match n {
        0 => part.to_owned(),
        _ => format!("=ADDRESS{}", part.trim_start_matches(|c: char| c.is_ascii_hexdigit())),
    });
    let line: String = line.collect();
    let line = mask(&line, ", trace ", "HASH");
    let line = mask(&line, "\"trace_hash\":\"", "HASH");
    let line = mask(&line, "\"native_insns\":", "N");
    mask(&line, " time=\"", "T")
}

/// Runs one command line; `cat FILE` shows a file instead.
fn run(dir: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let ["cat", file] = words.as_slice() {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_else(|e| format!("{e}\n"));
        // A line that reads as one of the transcript's own steps aside.
        let aside = |line: &str| if line.starts_with(['#', '$']) { " " } else { "" };
        return text.lines().map(|line| format!("{}{}\n", aside(line), masked(line))).collect();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    let out = command.args(&words[1..]).current_dir(dir).env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: &[u8]| {
        let mut lines: Vec<String> = String::from_utf8_lossy(bytes).lines().map(masked).collect();
        lines.dedup_by(|a, b| a == b && a.ends_with("+native"));
        lines.into_iter().map(|l| l + "\n").collect::<String>()
    };
    let err = text(&out.stderr);
    let err: String = err.lines().map(|l| format!("! {l}\n")).collect();
    format!("{}{err}exit {}\n", text(&out.stdout), out.status.code().unwrap_or(-1))
}

/// What the commands of a transcript print now.
fn replayed(name: &str, transcript: &str) -> String {
    let place = Place::new(name);
    let mut out = String::new();
    for line in transcript.lines() {
        if line.starts_with('#') {
            out += &format!("{line}\n");
        } else if let Some(command) = line.strip_prefix("$ ") {
            out += &format!("$ {command}\n{}", run(&place.0, command));
        }
    }
    out
}

#[test]
fn transcripts() {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let now = replayed(&name, &text);
        if now == text {
            continue;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, now).unwrap();
        } else {
            wrong.push(format!("{name}:\n{now}"));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 accepts these:\n{}", wrong.join("\n"));
}
