//! The tracefile format of lcov (geninfo(1)): `genhtml`, codecov and editors read it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{File, Share};

/// All files as one tracefile.
#[must_use]
pub fn lcov(files: &BTreeMap<String, File>) -> String {
    let mut out = String::from("TN:\n");
    for (name, file) in files {
        one(&mut out, name, file);
    }
    out
}

fn one(out: &mut String, name: &str, file: &File) {
    let path = file.path.as_deref().unwrap_or(Path::new(name));
    let _ = writeln!(out, "SF:{}", path.display());
    for (name, f) in &file.funcs {
        let _ = writeln!(out, "FN:{},{name}", f.line);
    }
    for (name, f) in &file.funcs {
        let _ = writeln!(out, "FNDA:{},{name}", f.hits);
    }
    let both = |s: Share, what: &str| format!("{what}F:{}\n{what}H:{}\n", s.of, s.hit);
    out.push_str(&both(file.func_share(), "FN"));
    for (number, line) in &file.lines {
        for (n, [taken, not]) in line.branches.iter().enumerate() {
            let reached = taken + not > 0;
            for (way, count) in [taken, not].into_iter().enumerate() {
                let count = if reached { count.to_string() } else { "-".to_owned() };
                let _ = writeln!(out, "BRDA:{number},{n},{way},{count}");
            }
        }
    }
    out.push_str(&both(file.branch_share(), "BR"));
    for (number, line) in &file.lines {
        let _ = writeln!(out, "DA:{number},{}", line.hits);
    }
    out.push_str(&both(file.line_share(), "L"));
    out.push_str("end_of_record\n");
}
