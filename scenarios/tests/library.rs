//! Every scenario of the library parses, and its objects lie beside it for both byte orders.

use scenarios::parse::{Files, parse};
use scenarios::validate::{NoObjects, validate};
use std::fs;
use std::path::{Path, PathBuf};

struct Disk;

impl Files for Disk {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let full = Path::new(from).parent().unwrap().join(path);
        let text = fs::read_to_string(&full).map_err(|e| format!("{path}: {e}"))?;
        Ok((full.display().to_string(), text))
    }
}

/// Files below the library whose name ends so, in order.
fn library(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("library")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn scenarios_parse_and_validate() {
    let mut shown = Vec::new();
    for path in library(".ron") {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = parse(&path.display().to_string(), &text, &[], &Disk);
        let mut findings = parsed.findings;
        if let Some(s) = &parsed.scenario {
            findings.extend(validate(s, &NoObjects));
        }
        shown.extend(findings.iter().map(|f| scenarios::render::human(&parsed.files, f)));
    }
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

/// A scenario names `x.bpf.o`; the runner takes `x.el.bpf.o` or `x.eb.bpf.o` beside it.
#[test]
fn objects_lie_beside_their_scenario() {
    for path in library(".ron") {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = parse(&path.display().to_string(), &text, &[], &Disk);
        let scenario = parsed.scenario.expect("parsed by the test above");
        for file in scenario.objects.iter().filter_map(|(_, o)| o.file.as_ref()) {
            let stem = file.v.strip_suffix(".bpf.o").expect("an object file");
            for twin in ["el.bpf.o", "eb.bpf.o", "bpf.c"] {
                let beside = path.with_file_name(format!("{stem}.{twin}"));
                assert!(beside.is_file(), "{} is missing", beside.display());
            }
        }
    }
}

/// No object says where it was built: the same source gives the same bytes everywhere.
#[test]
fn objects_hold_no_machine_path() {
    for path in library(".bpf.o") {
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for root in ["/home/", "/tmp/", "/root/", "/work/"] {
            assert!(!text.contains(root), "{} names a path below {root}", path.display());
        }
    }
}
