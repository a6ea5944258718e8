//! `orrery watch` under scripts of keys: each file of `tests/watch` has a scenario, an
//! architecture, a size and keys, then the screens. `UPDATE_EXPECT=1` accepts what is shown now.

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::cli::watch;

/// The head of a file and what it shows now.
fn shown(text: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let head: Vec<&str> = text.lines().take_while(|l| l.starts_with("! ")).collect();
    let of = |name: &str| head.iter().find_map(|l| l.strip_prefix(&format!("! {name} ")));
    let file = root.join("scenarios/library").join(of("scenario").expect("a scenario"));
    let arch = of("arch").and_then(Arch::from_name).expect("an architecture");
    let (w, h) = of("size").and_then(|s| s.split_once('x')).expect("a size");
    let size = (w.parse().unwrap(), h.parse().unwrap());
    let screens = watch::screens(&file, arch, size, of("keys").unwrap_or(""));
    let screens = screens.unwrap_or_else(|e| format!("error: {e}\n"));
    head.iter().map(|l| format!("{l}\n")).collect::<String>() + &screens
}

#[test]
fn screens_are_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/watch");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let now = shown(&text);
        if now != text {
            match std::env::var_os("UPDATE_EXPECT") {
                Some(_) => fs::write(&file, now).unwrap(),
                None => wrong.push(format!("{}:\n{now}", file.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 accepts:\n{}", wrong.join("\n"));
}
