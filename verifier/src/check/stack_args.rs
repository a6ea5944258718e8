//! Arguments beyond the fifth: stored below `r11` by the caller, loaded above it by the callee
//! (since 7.2).

use bpf::insn::{Insn, Reg, Src};

use crate::domain::reg::RegType;
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::reject::EINVAL;

/// `MAX_BPF_FUNC_REG_ARGS`.
const REG_ARGS: usize = 5;
/// Arguments on the stack: of twelve, those that no register has.
const STACK_ARGS: usize = 7;

/// Which argument an offset names, from 0.
fn slot(off: i16, load: bool) -> Option<usize> {
    let bytes = if load { off } else { off.checked_neg()? };
    let at = usize::try_from(bytes).ok().filter(|b| b.is_multiple_of(8))?;
    (at / 8).checked_sub(1)
}

impl Ver<'_> {
    /// A load of an argument.
    pub(super) fn load_stack_arg(&mut self, dst: Reg, off: i16, plain: bool) -> R<Next> {
        self.writable(dst)?;
        let Some(n) = slot(off, true).filter(|_| plain) else {
            return no(EINVAL, "R11 is invalid");
        };
        let args = &self.cur.frame().args;
        if args.closed {
            return no(EINVAL, "r11 load must be before any r11 store or call insn");
        }
        let Some(r) = args.incoming.get(n).copied() else {
            let depth = args.incoming.len() * 8;
            return no(EINVAL, format!("invalid read from stack arg off {off} depth {depth}"));
        };
        self.set(dst, r);
        Ok(Next::Fall)
    }

    /// A store of an argument for the next call.
    pub(super) fn store_stack_arg(&mut self, off: i16, plain: bool, src: Src) -> R<Next> {
        let Some(n) = slot(off, false).filter(|_| plain) else {
            return no(EINVAL, "R11 is invalid");
        };
        if n >= STACK_ARGS {
            let m = format!("exceeds max {STACK_ARGS} stack args");
            return no(EINVAL, format!("stack arg write offset {off} {m}"));
        }
        let mut v = match src {
            Src::Imm(i) => self.known(i64::from(i) as u64),
            Src::Reg(r) => {
                if self.r(r).is_scalar() {
                    self.mark_precise(r)?;
                }
                *self.r(r)
            }
        };
        if v.is_scalar() {
            (v.precise, v.id) = (true, 0);
        }
        let sub = self.cur.frame().subprog as usize;
        self.args_written[sub] = self.args_written[sub].max(n + 1);
        let args = &mut self.cur.frame_mut().args;
        args.closed = true;
        let len = args.outgoing.len().max(n + 1);
        args.outgoing.resize(len, crate::domain::reg::RegState::NOT_INIT);
        args.outgoing[n] = v;
        Ok(Next::Fall)
    }

    /// After a call no argument is left.
    pub(crate) fn close_stack_args(&mut self) {
        let args = &self.cur.frame().args;
        if !args.outgoing.is_empty() || (!args.closed && !args.incoming.is_empty()) {
            let args = &mut self.cur.frame_mut().args;
            (args.outgoing, args.closed) = (Vec::new(), true);
        }
    }

    /// What a static function is given beyond the fifth argument, by its declaration.
    pub(crate) fn pass_stack_args(&mut self, sub: usize) -> R<Vec<crate::domain::reg::RegState>> {
        let params = self
            .input
            .prog_btf
            .and_then(|b| b.func_proto(self.input.cfg.subprogs[sub].type_id).map(|p| p.1.len()));
        let needed = params.unwrap_or(0).saturating_sub(REG_ARGS);
        let caller = self.cur.frame().subprog as usize;
        self.args_needed[caller] = self.args_needed[caller].max(needed);
        let given = &self.cur.frame().args.outgoing;
        let missing = |n: &usize| given.get(*n).is_none_or(|r| r.ty == RegType::NotInit);
        if let Some(n) = (0..needed).find(missing) {
            let all = needed + REG_ARGS;
            let m = format!("stack arg{} is not initialized", n + 1);
            return no(EINVAL, format!("callee expects {all} args, {m}"));
        }
        let passed = given.get(..needed).unwrap_or_default().to_vec();
        self.close_stack_args();
        Ok(passed)
    }

    /// Once all is walked: no function stores more than its callees take, or leaves by a tail call.
    pub(crate) fn stack_args_fit(&self) -> R {
        for (n, s) in self.input.cfg.subprogs.iter().enumerate() {
            let (written, needed) = (self.args_written[n], self.args_needed[n]);
            if written > needed {
                let m = format!("but calls only require {needed}");
                return no(EINVAL, format!("func#{n} writes {written} stack arg slots, {m}"));
            }
            let body = &self.input.insns[s.start.idx()..s.end.idx()];
            let uses = |i: &Insn| {
                matches!(
                    i,
                    Insn::Load { src: Reg::PARAMS, .. } | Insn::Store { dst: Reg::PARAMS, .. }
                )
            };
            if s.has_tail_call && body.iter().any(uses) {
                return no(EINVAL, "tail_calls are not allowed in functions with stack args");
            }
        }
        Ok(())
    }
}
