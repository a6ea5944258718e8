//! Every example of the language parses, and every mistake is reported at its exact place.

use scenarios::parse::{Files, parse};
use scenarios::render;
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

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn ron_files(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir(name))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "ron"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn examples_are_accepted() {
    for path in ron_files("examples") {
        let text = fs::read_to_string(&path).unwrap();
        let parsed = parse(&path.display().to_string(), &text, &[], &Disk);
        let mut findings = parsed.findings;
        if let Some(s) = &parsed.scenario {
            findings.extend(scenarios::validate::validate(s, &scenarios::validate::NoObjects));
        }
        let shown: Vec<String> = findings.iter().map(|f| render::human(&parsed.files, f)).collect();
        assert!(shown.is_empty(), "{}", shown.join("\n"));
    }
}

/// Stands in for the loaded object of the example that the mistakes are made in.
struct Balancer;

impl scenarios::validate::Objects for Balancer {
    fn programs(&self, _: &str) -> Option<Vec<String>> {
        Some(vec!["xdp_lb".into()])
    }
    fn maps(&self, _: &str) -> Option<Vec<String>> {
        Some(["backends", "conns", "stats"].map(String::from).to_vec())
    }
    fn globals(&self, _: &str) -> Option<Vec<String>> {
        Some(vec!["vip".into()])
    }
}

/// A mistake is a file: what is replaced in the balancer's scenario, by what, and what is said.
#[test]
fn mistakes_are_explained_at_their_place() {
    let base = fs::read_to_string(dir("examples").join("02_l4_load_balancer.ron")).unwrap();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir("mistakes")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 30, "the thirty typical mistakes");
    let mut wrong = Vec::new();
    for path in paths {
        let case = fs::read_to_string(&path).unwrap();
        let (head, gives) = case.split_once("--- gives\n").unwrap();
        let (replace, with) =
            head.strip_prefix("--- replace\n").unwrap().split_once("--- with\n").unwrap();
        let (replace, with) =
            (replace.strip_suffix('\n').unwrap(), with.strip_suffix('\n').unwrap_or(with));
        assert!(base.contains(replace), "{}: nothing to replace", path.display());
        let text = base.replacen(replace, with, 1);
        let parsed = parse("lb.ron", &text, &[], &Disk);
        let mut findings = parsed.findings;
        if let Some(s) = &parsed.scenario {
            findings.extend(scenarios::validate::validate(s, &Balancer));
        }
        let shown: String = findings.iter().map(|f| render::human(&parsed.files, f)).collect();
        assert!(!shown.is_empty(), "{} was accepted", path.display());
        if shown == gives {
            continue;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&path, format!("{head}--- gives\n{shown}")).unwrap();
        } else {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 accepts these:\n{}", wrong.join("\n"));
}
