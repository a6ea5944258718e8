//! `bpf_throw`: the program ends at once, in whatever frame it is.
//!
//! | thrown in | nothing held | something held | exception callback |
//! |---|---|---|---|
//! | main program | R1 is what the program returns | refused | is entered with R1 |
//! | subprogram | the same | refused | the same |
//! | callback of a helper | refused by the walk over all calls (`check_max_stack_depth`) | | |

use bpf::insn::Reg;

use super::kfunc::meta::{KfuncMeta, Special};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver};

impl<'a> Ver<'a> {
    /// A call of `bpf_throw`, after its argument was checked: without a callback of the
    /// program's own the cookie is the return value.
    pub(crate) fn check_throw(&mut self, _meta: &KfuncMeta<'a>) -> R {
        if self.input.cfg.exception_callback.is_none() {
            self.return_code(Reg::R1)?;
        }
        Ok(())
    }

    /// What follows a kfunc: an exception ends the path, all frames must hold nothing.
    pub(crate) fn after_kfunc(&mut self, meta: &KfuncMeta<'a>) -> R<Next> {
        if !meta.is(&[Special::Throw]) {
            return Ok(Next::Fall);
        }
        self.resource_leak(true, true, "bpf_throw")?;
        Ok(Next::Done)
    }
}
