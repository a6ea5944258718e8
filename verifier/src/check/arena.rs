//! Arena pointers: 32-bit offsets into memory that faults safely, so nothing bounds them.
//!
//! | operation | on an arena pointer |
//! |---|---|
//! | load | an unknown scalar |
//! | store, atomic | allowed |
//! | arithmetic | stays an arena pointer, in 32 bits |
//! | cast to user, copy to memory | an unknown scalar |

use bpf::insn::{AtomicOp, Cast, Reg};
use bpf::uapi::MapType;

use super::mem::Access;
use crate::domain::reg::{RegState, RegType};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL};

impl Ver<'_> {
    /// `addr_space_cast`.
    pub(crate) fn check_addr_space_cast(&mut self, dst: Reg, src: Reg, cast: Cast) -> R<Next> {
        self.read(src)?;
        let arena = |m: &&crate::env::MapInfo| m.map_type == MapType::Arena;
        let Some(map) = self.input.maps.iter().find(arena) else {
            let m = "can only be used in a program that has an associated arena";
            return no(EINVAL, format!("addr_space_cast insn {m}"));
        };
        /// `BPF_F_NO_USER_CONV`.
        const NO_USER_CONV: u32 = 1 << 18;
        let no_user = map.flags & NO_USER_CONV != 0;
        self.writable(dst)?;
        let mut v = self.unknown();
        if cast == Cast::ToKernel {
            v = RegState { b: v.b, ..RegState::pointer(RegType::Arena, Flags::NONE) };
            v.subreg_def = self.insn_idx + 1;
        }
        self.aux[self.insn_idx as usize].arena_w32 = cast == Cast::ToKernel || no_user;
        self.set(dst, v);
        Ok(Next::Fall)
    }

    /// An access through an arena pointer.
    pub(crate) fn mem_arena(&mut self, a: Access) -> R {
        if let Some(d) = a.dst.filter(|_| a.write.is_none()) {
            let u = self.unknown();
            self.set(d, u);
        }
        Ok(())
    }

    /// `bpf_jit_supports_insn`: x86-64 makes a loop of these, which cannot fault in an arena. The
    /// other machines could, but a program is accepted on all of them or on none.
    pub(crate) fn arena_atomic(&self, n: Reg, p: &RegState, op: AtomicOp) -> R {
        let loops = matches!(op, AtomicOp::FetchAnd | AtomicOp::FetchOr | AtomicOp::FetchXor);
        if p.ty == RegType::Arena && loops {
            let m = format!("BPF_ATOMIC stores into R{} arena is not allowed", n.0);
            return no(EACCES, m);
        }
        Ok(())
    }

    /// Arithmetic on an arena pointer: anything goes, the upper half is cut off.
    pub(crate) fn arena_alu(&mut self) {
        self.aux[self.insn_idx as usize].arena_w32 = true;
    }
}
