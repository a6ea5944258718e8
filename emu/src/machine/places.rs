//! Names of the points that the loaded programs can come to, before any of them runs: a pinned
//! schedule that names others was written for other programs.

use std::collections::BTreeSet;

use jit::{PointKind, RelocKind};
use kernel_model::ProgId;
use kernel_model::context::Point;
use kernel_model::{helpers, kfuncs};

use super::Machine;

/// A name without the object that a call is given: `PROG: FUNCTION(&LOCK) called` is of
/// `PROG: FUNCTION called` and `LOCK`.
#[must_use]
pub(crate) fn without_object(name: &str) -> (String, Option<&str>) {
    let parts = name.split_once("(&").and_then(|(head, rest)| {
        let (object, tail) = rest.split_once(')')?;
        Some((format!("{head}{tail}"), Some(object)))
    });
    parts.unwrap_or_else(|| (name.to_owned(), None))
}

impl Machine {
    /// Names of the counted points of a program, without objects.
    #[must_use]
    pub fn place_names(&self, prog: ProgId) -> BTreeSet<String> {
        let Some(loaded) = self.text().prog(prog) else { return BTreeSet::new() };
        let called = loaded.compiled.relocs.iter().filter_map(|r| match r.kind {
            RelocKind::Helper(id) => helpers::name(id),
            RelocKind::Kfunc(id) => kfuncs::name(self.arch(), id),
        });
        let calls = called.flat_map(|func| {
            [Point::Call { prog, func, arg: 0 }, Point::Returned { prog, func, arg: 0 }]
        });
        let own = loaded.compiled.debug.points.iter().map(|p| match p.kind {
            PointKind::Enter => Point::Enter { prog, insn: p.orig },
            PointKind::Leave => Point::Leave { prog, insn: p.orig },
            PointKind::Back => Point::Back { prog, insn: p.orig },
        });
        calls.chain(own).map(|p| self.point_name(&p)).collect()
    }

    /// Whether programs can load others, whose points nobody knows yet (`bpf_sys_bpf`).
    #[must_use]
    pub fn loads_programs(&self) -> bool {
        let sys_bpf = |id| helpers::name(id) == Some("sys_bpf");
        let relocs = self.text().progs().iter().flat_map(|p| &p.compiled.relocs);
        relocs.into_iter().any(|r| matches!(r.kind, RelocKind::Helper(id) if sys_bpf(id)))
    }
}
