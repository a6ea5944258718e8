//! Every encoder is checked against llvm-mc: a function or constant of an `asm.rs` that its
//! tests do not name is listed here.

const FILES: [(&str, &str, &str); 5] = [
    ("x86_64", include_str!("x86_64/asm.rs"), include_str!("x86_64/asm/tests.rs")),
    ("aarch64", include_str!("aarch64/asm.rs"), include_str!("aarch64/asm/tests.rs")),
    ("riscv64", include_str!("riscv64/asm.rs"), include_str!("riscv64/asm/tests.rs")),
    ("riscv64 short", include_str!("riscv64/asm/short.rs"), include_str!("riscv64/asm/tests.rs")),
    ("s390x", include_str!("s390x/asm.rs"), include_str!("s390x/asm/tests.rs")),
];

/// Names that a file offers to the rest of its back end: functions, constants that are code, and
/// variants of its enums of operations and conditions.
fn offered(source: &str) -> Vec<String> {
    let word = |s: &str| -> String {
        s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = Vec::new();
    let mut variants = false;
    for line in source.lines() {
        let function = ["pub(crate) fn ", "pub(crate) const fn "];
        if let Some(rest) = function.iter().find_map(|f| line.strip_prefix(f)) {
            names.push(word(rest));
        } else if let Some(rest) = line.strip_prefix("pub(crate) const ") {
            let code = rest.contains(": [u8;") || rest.contains(": u16") || rest.contains(": u32");
            names.extend(code.then(|| word(rest)));
        } else if line.starts_with("pub(crate) enum ") {
            variants = true;
        } else if line == "}" {
            variants = false;
        } else if variants && line.trim_start().starts_with(char::is_uppercase) {
            names.push(word(line.trim_start()));
        }
    }
    names
}

fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + name.len()..].starts_with(part))
}

#[test]
fn every_encoder_and_every_operation_is_checked() {
    let mut missing = Vec::new();
    for (arch, source, tests) in FILES {
        let offered = offered(source);
        assert!(offered.len() > 5, "{arch}: the file is read");
        missing.extend(offered.iter().filter(|n| !names(tests, n)).map(|n| format!("{arch}: {n}")));
    }
    assert!(missing.is_empty(), "not checked against llvm-mc:\n{}", missing.join("\n"));
}
