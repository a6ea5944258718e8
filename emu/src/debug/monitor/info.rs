//! `info debug`.

use std::fmt::Write as _;

use super::{Here, Reply};

/// `info debug`.
pub(super) fn info(here: &Here<'_>, args: &[&str]) -> Reply {
    if args != ["debug"] {
        return Err("info debug".to_owned());
    }
    let (m, k) = (here.machine, here.kernel());
    let mut out = String::new();
    let _ = writeln!(out, "architecture {}, {} CPUs", m.arch(), k.config.cpus);
    let _ =
        writeln!(out, "{} BPF and {} native instructions retired", m.retired(), m.native_insns());
    for p in k.progs() {
        let (name, lines) = (p.name(), p.verified.program().lines.len());
        let types = if p.btf_id == 0 { "no types" } else { "types" };
        let _ = writeln!(out, "{name} (id {}): {types}, {lines} lines of source", p.id.0);
    }
    Ok(out)
}
