//! Jump tables and `gotox`: addresses of instructions, loaded from an `insn_array`.

use bpf::insn::Reg;
use bpf::uapi::MapType;

use super::mem::Access;
use crate::domain::reg::{RegState, RegType};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::reject::{EACCES, EINVAL};
use crate::render::log::type_of;

/// `ERANGE`.
const ERANGE: i32 = 34;
/// Bytes of an address.
const ADDRESS: u32 = 8;

impl Ver<'_> {
    /// The pointer leads into a jump table.
    pub(super) fn in_insn_array(&self, p: &RegState) -> bool {
        let map = self.maps.get(p.map as usize).filter(|_| p.ty == RegType::MapValue);
        map.is_some_and(|m| m.map_type == MapType::InsnArray)
    }

    /// A load from a jump table: the address of one of its instructions.
    pub(super) fn load_insn(&mut self, a: Access, d: Reg, p: &RegState) -> R {
        if a.size != ADDRESS || a.sext {
            return no(EACCES, format!("Invalid read of {} bytes from insn_array", a.size));
        }
        // The access has the offsets of the pointer and of the instruction.
        self.set(d, RegState { ty: RegType::Insn, off: a.off, ..*p });
        Ok(())
    }

    /// KERNEL v6.19 verifier.c:check_indirect_jump
    pub(crate) fn check_indirect_jump(&mut self, dst: Reg) -> R<Next> {
        let r = self.read(dst)?;
        let n = dst.0;
        if r.ty != RegType::Insn {
            let m = format!("R{n} has type {}, expected PTR_TO_INSN", type_of(&r));
            return no(EINVAL, m);
        }
        let targets = self.jump_targets(n, &r)?;
        let Some((last, others)) = targets.split_last() else {
            let id = self.maps[r.map as usize].id;
            let m = format!("register R{n} doesn't point to any offset in map id={id}");
            return no(EINVAL, m);
        };
        for to in others {
            self.push_stack(*to, self.insn_idx)?;
        }
        Ok(Next::Goto(*last))
    }

    /// Where the entries in the register's range lead, each once.
    fn jump_targets(&self, n: u8, r: &RegState) -> R<Vec<u32>> {
        let max = u64::from(u32::MAX) * u64::from(ADDRESS);
        let index = |what: &str, value: u64| match value.checked_add_signed(r.off.into()) {
            Some(at) if at <= max => Ok(at / u64::from(ADDRESS)),
            _ => {
                let m = format!("the sum of R{n} {what} {value} and off {} is too big", r.off);
                no(ERANGE, m)
            }
        };
        let first = index("umin_value", r.b.umin)?;
        let last = index("umax_value", r.b.umax)?;
        let entries = self.maps[r.map as usize].max_entries;
        if last >= u64::from(entries) {
            let m = format!("[{first},{last}] max_entries {entries}");
            return no(EINVAL, format!("R{n} points to outside of jump table: {m}"));
        }
        let table = &self.input.tables[r.map as usize];
        let range = table.get(first as usize..=last as usize).unwrap_or_default();
        let mut targets = range.to_vec();
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }
}
