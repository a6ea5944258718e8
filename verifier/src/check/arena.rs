//! Arena pointers.

use bpf::insn::Reg;

use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, unsupported};

impl Ver<'_> {
    /// `addr_space_cast`.
    pub(crate) fn check_addr_space_cast(&mut self, _dst: Reg, _src: Reg) -> R<Next> {
        unsupported("addr_space_cast", "verifier.c:check_alu_op")
    }
}
