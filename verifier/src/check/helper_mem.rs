//! Memory that helpers read and write: `check_helper_mem_access`, `check_mem_size_reg`.

use bpf::insn::Reg;

use super::mem::Access;
use crate::domain::reg::RegType;
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::EACCES;
use crate::render::log::type_of;
use crate::tables;

/// `BPF_MAX_VAR_SIZ`.
const BPF_MAX_VAR_SIZ: u64 = 1 << 29;

/// How a helper uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemUse {
    /// It writes.
    pub(crate) write: bool,
    /// It does not read: the bytes need not be initialised.
    pub(crate) raw: bool,
    /// Size 0 is allowed.
    pub(crate) zero_ok: bool,
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:check_helper_mem_access
    ///
    /// True when the bytes are stack that the helper initialises: they are written after the
    /// other arguments were checked.
    pub(crate) fn helper_mem(&mut self, n: Reg, size: i64, u: MemUse) -> R<bool> {
        use RegType as T;
        let p = *self.r(n);
        let off = p.off;
        match p.ty {
            T::Packet | T::PacketMeta => {
                if u.write && !tables::packet_access(self.input.program, true) {
                    return no(EACCES, "cannot write into packet");
                }
                self.packet_access(n, &p, off, size, u.zero_ok)?;
            }
            T::MapKey => {
                if u.write {
                    return no(EACCES, format!("R{} cannot write into {}", n.0, type_of(&p)));
                }
                let total = self.maps[p.map as usize].key_size;
                self.mem_region(n, &p, off, size, total, u.zero_ok)?;
            }
            T::MapValue => {
                self.map_access_type(&p, off, size, u.write)?;
                self.map_access(n, &p, (off, size), u.zero_ok, true)?;
            }
            T::Mem => {
                if u.write && p.flags.has(Flags::MEM_RDONLY) {
                    return no(EACCES, format!("R{} cannot write into {}", n.0, type_of(&p)));
                }
                self.mem_region(n, &p, off, size, p.mem_size, u.zero_ok)?;
            }
            T::Buf => self.buffer_place(n, &p, off, size, u.write)?,
            // KERNEL v6.18 verifier.c:check_stack_range_initialized
            T::Stack if size == 0 && !u.zero_ok => {
                return no(EACCES, "invalid zero-sized read");
            }
            T::Stack => {
                self.stack_range_initialized(n, &p, off, size, u.write, u.raw)?;
                return Ok(u.raw && p.b.as_const().is_some());
            }
            T::BtfId if !u.write => {
                let size = u32::try_from(size).unwrap_or(u32::MAX);
                self.mem_btf(
                    Access { base: n, off, size, write: None, dst: None, sext: false },
                    &p,
                )?;
            }
            _ if u.zero_ok && size == 0 && p.is_null() => {}
            _ => return no(EACCES, format!("R{} type={} expected=fp", n.0, type_of(&p))),
        }
        Ok(false)
    }

    /// KERNEL v6.18 verifier.c:check_mem_size_reg; the memory is in the register before.
    pub(crate) fn mem_size(&mut self, n: Reg, u: MemUse) -> R<Option<i64>> {
        let r = *self.r(n);
        let i = n.0;
        if r.b.smin < 0 {
            let m = "min value is negative, either use unsigned or 'var &= const'";
            return no(EACCES, format!("R{i} {m}"));
        }
        if r.b.umin == 0 && !u.zero_ok {
            let (lo, hi) = (r.b.umin, r.b.umax);
            return no(EACCES, format!("R{i} invalid zero-sized read: u64=[{lo},{hi}]"));
        }
        if r.b.umax >= BPF_MAX_VAR_SIZ {
            let m = "unbounded memory access, use 'var &= const' or 'if (var < const)'";
            return no(EACCES, format!("R{i} {m}"));
        }
        let size = r.b.umax as i64;
        // A variable size initialises nothing for sure.
        let raw = u.raw && r.b.as_const().is_some();
        let fills = self.helper_mem(Reg(i - 1), size, MemUse { raw, ..u })?;
        self.mark_precise(n)?;
        Ok(fills.then_some(size))
    }
}
