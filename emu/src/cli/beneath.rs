//! `--target OBJ:PROG`: the program that extensions replace functions of, and that fentry and fexit
//! programs trace.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::btf::{Btf, Kind, TypeId};
use bpf::uapi::{AttachType, ProgType};
use bpf::{Arch, Program};
use verifier::FuncFacts;

use super::target::Target;
use super::world::World;
use super::{Exit, out};

/// `OBJ:PROG`.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// The object.
    pub(super) object: PathBuf,
    /// Its program.
    pub(super) program: String,
}

/// Reads `OBJ:PROG`.
pub(super) fn spec(text: &str) -> Result<Spec, String> {
    match text.rsplit_once(':') {
        Some((o, p)) if !o.is_empty() && !p.is_empty() => {
            Ok(Spec { object: o.into(), program: p.to_owned() })
        }
        _ => Err("OBJ:PROG is expected, an object and one of its programs".to_owned()),
    }
}

/// A program that others are attached to. The kernel has accepted it before they come.
#[derive(Debug)]
pub(super) struct Beneath {
    program: Program,
    btf: Btf,
    funcs: Vec<FuncFacts>,
}

impl Beneath {
    /// Opens and verifies it; an error has been reported.
    pub(super) fn open(
        spec: &Spec,
        arch: Option<Arch>,
        target: &Target,
    ) -> Result<Arc<Beneath>, Exit> {
        let path: &Path = &spec.object;
        let world = World::open_for(path, arch, target)?;
        let name = format!("{}: {}", path.display(), spec.program);
        let bad = |what: String, next: &str| {
            out::error(&format!("{name}: {what}"), next);
            Exit::BadInput
        };
        let def = world.programs(path, Some(&spec.program))?.remove(0);
        let program = world.link(&def).map_err(|e| bad(e.to_string(), ""))?;
        let report = world.check(&program, target.opts(1));
        if let Err(r) = &report.result {
            let next = "a program can only be attached to one that the kernel accepts";
            return Err(bad(r.message.clone(), next));
        }
        let Some(btf) = world.object.btf() else {
            let m =
                "FENTRY/FEXIT program can only be attached to another program annotated with BTF";
            return Err(bad(m.to_owned(), "compile it with -g"));
        };
        Ok(Arc::new(Beneath { program, btf: btf.clone(), funcs: report.funcs }))
    }

    /// The function a program is meant for; `None` when it is for something else.
    pub(super) fn function(&self, p: &Program) -> Option<TypeId> {
        let traces = matches!(
            p.attach_type,
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
        );
        if p.prog_type != ProgType::Ext && !(p.prog_type == ProgType::Tracing && traces) {
            return None;
        }
        let name = p.attach_to.as_deref().unwrap_or(&self.program.name);
        self.btf.find(name, Kind::Func)
    }

    /// What the verifier asks of it.
    pub(super) fn for_verifier(&self, p: &Program) -> Option<verifier::Target<'_>> {
        let func = self.function(p)?;
        let (program, btf, funcs) = (&self.program, &self.btf, &self.funcs[..]);
        Some(verifier::Target { program, btf, func, funcs, of: None })
    }
}
