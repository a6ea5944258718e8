//! Loaded programs as a debugger sees them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bpf::insn::InsnIdx;
use bpf::insn::disasm::{NoNames, disasm_op};
use bpf::object::Object;
use gdb::{Image, Listed, Origin};
use kernel_model::layout::RETURN_TRAP;
use kernel_model::{Prog, ProgId};

use super::converted;
use super::monitor::state;
use crate::engine;
use crate::machine::Machine;
use crate::runner::Loaded;

/// Images by program: each is made once.
#[derive(Debug, Default)]
pub(super) struct Images {
    made: BTreeMap<ProgId, Arc<Image>>,
    /// Those of programs that are loaded now, in order of address.
    now: Vec<Arc<Image>>,
    /// Programs when `now` was made, and the end of text.
    of: (usize, u64),
    /// The same when the debugger was last told.
    told: (usize, u64),
}

impl Images {
    /// Of programs that are loaded now.
    pub(super) fn now(&self) -> &[Arc<Image>] {
        &self.now
    }

    /// Looks at a machine.
    pub(super) fn look(&mut self, machine: &Machine, objects: &[Loaded]) {
        let of = (machine.kernel.progs.len(), machine.text().end());
        if of == self.of {
            return;
        }
        self.of = of;
        let loaded = machine.text().progs().iter();
        self.now = loaded.filter_map(|l| self.image(machine, objects, l)).collect();
    }

    /// Whether they are others than when this was last asked.
    pub(super) fn are_news(&mut self) -> bool {
        std::mem::replace(&mut self.told, self.of) != self.of
    }

    fn image(
        &mut self,
        machine: &Machine,
        objects: &[Loaded],
        l: &Arc<engine::Loaded>,
    ) -> Option<Arc<Image>> {
        let prog = machine.kernel.prog(l.prog)?;
        let made = self.made.entry(l.prog);
        Some(Arc::clone(made.or_insert_with(|| Arc::new(make(machine, objects, l, prog)))))
    }
}

fn make(machine: &Machine, objects: &[Loaded], l: &engine::Loaded, prog: &Prog) -> Image {
    let len = l.compiled.code.len();
    let code = machine.kernel.mem.read_vec(l.base, len).unwrap_or_default();
    let stack = prog.verified.subprogs().iter().map(|s| s.stack_depth).collect();
    Image {
        id: l.prog.0,
        name: prog.name().to_owned(),
        tag: prog.tag.iter().map(|b| format!("{b:02x}")).collect(),
        arch: machine.arch(),
        base: l.base,
        code,
        returns_to: RETURN_TRAP,
        converted: converted::of(&machine.kernel, prog.verified.program()),
        debug: l.compiled.debug.clone(),
        stack,
        origin: origin(machine, objects, prog),
        listing: listing(prog),
    }
}

/// The first state in which the verifier came to each instruction of a program.
pub(super) fn states(machine: &Machine, id: u32) -> Vec<String> {
    let prog = ProgId(id);
    let log = state::log_of(&machine.kernel, prog);
    let mut states = log.map(|log| state::first_states(&log)).unwrap_or_default();
    let insns = machine.kernel.prog(prog).map_or(0, |p| p.verified.program().insns.len());
    (0..insns as u32).map(|n| states.remove(&n).unwrap_or_default()).collect()
}

/// Each instruction with its line.
fn listing(prog: &Prog) -> Vec<Listed> {
    let program = prog.verified.program();
    let one = |(n, insn): (u32, &bpf::insn::Insn)| {
        let line = program.line_at(InsnIdx(n)).map(|l| (l.file.clone(), l.line));
        Listed { text: disasm_op(insn, &NoNames), line }
    };
    (0u32..).zip(&program.insns).map(one).collect()
}

/// The object file that a program came from.
fn origin(machine: &Machine, objects: &[Loaded], prog: &Prog) -> Option<Origin> {
    let of = |o: &&Loaded| o.progs.iter().any(|p| p.id == prog.id);
    let loaded = objects.iter().find(of)?;
    let (elf, file) = (loaded.elf.as_ref()?, loaded.file.as_ref()?);
    let title = &loaded.progs.iter().find(|p| p.id == prog.id)?.name;
    let def = elf.programs().iter().find(|d| d.name == *title)?;
    let insns = elf.origins(def).ok()?.into_iter().map(Some).collect();
    let address = |map: usize| {
        let id = loaded.maps.get(map)?.id;
        machine.kernel.map(id)?.array_values()
    };
    let data = elf.data_sections();
    let data = data.into_iter().filter_map(|(section, map)| Some((section, address(map)?)));
    let data = data.collect();
    let folder = from_root(&loaded.folder);
    let file_of_main = prog.verified.program().line_at(InsnIdx(0)).map(|l| &l.file);
    let source = file_of_main.and_then(|f| std::fs::read_to_string(loaded.folder.join(f)).ok());
    let source = source.map(Arc::from);
    let (object, externs) = (Arc::clone(file), externs(elf, &address));
    Some(Origin { object, folder, source, insns, data, externs })
}

/// A folder by its whole path; none named is the one we are in.
fn from_root(folder: &Path) -> String {
    let here = Path::new(".").join(folder);
    let whole = std::path::absolute(&here).unwrap_or(here);
    whole.to_string_lossy().into_owned()
}

/// Variables of the kernel's configuration, which are in a map of their own.
fn externs(elf: &Object, address: &dyn Fn(usize) -> Option<u64>) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for e in elf.externs() {
        if let Some((map, var)) = elf.global(&e.name)
            && let Some(at) = address(map)
        {
            out.insert(e.name.clone(), at + u64::from(var.offset));
        }
    }
    out
}

/// A source file that a program names.
pub(super) fn source(images: &[Arc<Image>], dir: &Path, name: &str) -> Option<Arc<[u8]>> {
    let named = |l: &Listed| l.line.as_ref().is_some_and(|(file, _)| file == name);
    if !images.iter().any(|i| i.listing.iter().any(named)) {
        return None;
    }
    let own = Path::new(name);
    let beside = dir.join(own.file_name()?);
    let bytes = std::fs::read(own).or_else(|_| std::fs::read(beside)).ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_is_the_one_we_are_in() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Path::new(&from_root(Path::new(""))), here);
        assert_eq!(Path::new(&from_root(Path::new("a/b"))), here.join("a/b"));
        assert_eq!(from_root(Path::new("/a/b")), "/a/b");
    }
}
