//! What linking could not resolve and left as a call that no kernel knows: refused where it is
//! reached, harmless in code that is not.

use super::core_reloc::{self, CoreKind};
use super::externs::ExternKind;
use super::link::POISON_KFUNC;
use super::{CoreRecord, Object};
use crate::insn::{Call, Insn, InsnIdx};
use crate::program::Program;

impl Object {
    /// What an instruction of a linked program stands for that the kernel does not have.
    #[must_use]
    pub fn missing(&self, program: &Program, at: InsnIdx) -> Option<String> {
        let Insn::Call(Call::Helper(id)) = program.insns.get(at.idx())? else { return None };
        if *id == core_reloc::POISON {
            return self.core_name(self.core_at(program, at)?);
        }
        let index = usize::try_from(id.checked_sub(POISON_KFUNC)?).ok()?;
        let missing = self.externs().get(index)?;
        let is_function = matches!(missing.kind, ExternKind::Function { .. });
        is_function.then(|| format!("kernel function {}", missing.name))
    }

    /// The CO-RE record of an instruction.
    fn core_at(&self, program: &Program, at: InsnIdx) -> Option<&CoreRecord> {
        let placed = program.funcs.iter().rev().find(|f| f.start <= at)?;
        let f = self.functions().iter().find(|f| f.name == placed.name)?;
        let slot = f.start + at.0 - placed.start.0;
        // A 64-bit load is poisoned as a whole.
        let is_here = |r: &&CoreRecord| r.slot == slot || r.slot + 1 == slot;
        self.texts[f.text].records.core.iter().rev().find(is_here)
    }

    /// `struct inet_sock.freebind (byte_off)`.
    fn core_name(&self, r: &CoreRecord) -> Option<String> {
        let btf = self.btf()?;
        let kind = CoreKind::from_raw(r.kind)?;
        let path = core_reloc::path_name(btf, r, kind).unwrap_or_else(|| btf.type_name(r.type_id));
        Some(format!("{path} ({})", kind.name()))
    }
}
