//! Precision: which scalars a safety decision depended on, found by walking back the jump
//! history and the chain of kept states. Source: `backtrack_insn`, `__mark_chain_precision`.

use bpf::insn::{AluOp, AtomicOp, Call, Insn, Reg, Src};

use super::live::stack_mask;
use super::ver::{R, Ver};
use crate::domain::state::{Hist, LinkedReg, VState};
use crate::marks::hit;
use crate::rewrite::TAIL_CALL;

const ARGS: u16 = 0b11_1110;

/// `struct backtrack_state`: registers and slots wanted per frame.
#[derive(Default)]
struct Backtrack {
    frame: usize,
    regs: [u16; 8],
    slots: [u64; 8],
}

/// The walk cannot go on.
enum Lost {
    /// It lost track: everything is marked.
    Track,
    /// 6.18 calls it a bug of its own, and refuses.
    Bug(String),
}

/// `verifier_bug`.
fn bug(what: &str, mask: u64) -> Result<(), Lost> {
    Err(Lost::Bug(format!("verifier bug: {what} {mask:x}")))
}

/// `fmt_reg_mask`.
fn reg_mask(mask: u16) -> String {
    let regs = (0..16).filter(|i| mask >> i & 1 == 1);
    regs.map(|i| format!("r{i}")).collect::<Vec<_>>().join(",")
}

impl Backtrack {
    fn at(frame: usize) -> Backtrack {
        Backtrack { frame, ..Backtrack::default() }
    }

    fn empty(&self) -> bool {
        let n = self.frame + 1;
        self.regs[..n].iter().all(|m| *m == 0) && self.slots[..n].iter().all(|m| *m == 0)
    }

    fn has(&self, r: Reg) -> bool {
        self.regs[self.frame] >> r.0 & 1 == 1
    }

    fn want(&mut self, r: Reg) {
        self.regs[self.frame] |= 1 << r.0;
    }

    fn drop(&mut self, r: Reg) {
        self.regs[self.frame] &= !(1 << r.0);
    }

    /// `bt_sync_linked_regs`.
    fn sync_linked(&mut self, hist: Option<&Hist>) {
        let Some(h) = hist.filter(|h| !h.linked.list().is_empty()) else { return };
        let wanted = |l: &LinkedReg| match l.is_slot {
            true => self.slots[usize::from(l.frame)] >> l.index & 1 == 1,
            false => self.regs[usize::from(l.frame)] >> l.index & 1 == 1,
        };
        if !h.linked.list().iter().any(wanted) {
            return;
        }
        hit!("precision: linked scalars");
        for l in h.linked.list() {
            match l.is_slot {
                true => self.slots[usize::from(l.frame)] |= 1 << l.index,
                false => self.regs[usize::from(l.frame)] |= 1 << l.index,
            }
        }
    }

    fn load(&mut self, dst: Reg, hist: Option<&Hist>) {
        if self.has(dst) {
            self.drop(dst);
            if let Some((f, spi)) = hist.and_then(|h| h.flags.stack) {
                self.slots[f as usize] |= 1 << spi;
            }
        }
    }

    fn store(&mut self, dst: Reg, src: Option<Reg>, hist: Option<&Hist>) -> Result<(), Lost> {
        if self.has(dst) {
            return Err(Lost::Track);
        }
        if let Some((f, spi)) = hist.and_then(|h| h.flags.stack)
            && self.slots[f as usize] >> spi & 1 == 1
        {
            self.slots[f as usize] &= !(1 << spi);
            if let Some(r) = src {
                self.want(r);
            }
        }
        Ok(())
    }

    /// A fetching operation is a load of what was there and a store. 6.18 forgets the load: its
    /// result stays wanted before it. Both are wanted here, so that nothing is forgotten and no
    /// loop converges that does not there.
    fn atomic(
        &mut self,
        op: AtomicOp,
        dst: Reg,
        src: Reg,
        hist: Option<&Hist>,
    ) -> Result<(), Lost> {
        let result = match op {
            AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => None,
            AtomicOp::Cmpxchg => Some(Reg::R0),
            _ => Some(src),
        };
        match result.filter(|r| self.has(*r)) {
            Some(r) if self.has(dst) && r != dst => Err(Lost::Track),
            Some(r) => {
                self.load(r, hist);
                self.want(r);
                Ok(())
            }
            None => self.store(dst, Some(src), hist),
        }
    }

    /// A comparison: both sides, but for pointers to the stack.
    fn compare(&mut self, dst: Reg, src: Reg, hist: Option<&Hist>) {
        if !self.has(dst) && !self.has(src) {
            return;
        }
        let flags = hist.map(|h| h.flags).unwrap_or_default();
        if !flags.src_stack {
            self.want(src);
        }
        if !flags.dst_stack {
            self.want(dst);
        }
    }

    /// Walking back over a call into its caller: arguments pass, for subprograms.
    fn leave(&mut self, whom: &str, pass_args: bool) -> Result<(), Lost> {
        let (regs, slots) = (self.regs[self.frame], self.slots[self.frame]);
        if regs & !ARGS != 0 {
            return bug(&format!("{whom} unexpected regs"), regs.into());
        }
        if slots != 0 {
            return bug(&format!("{whom} leftover stack slots"), slots);
        }
        if self.frame == 0 {
            return Err(Lost::Bug("verifier bug: subprog exit from frame 0".to_owned()));
        }
        self.regs[self.frame] = 0;
        self.frame -= 1;
        if pass_args {
            self.regs[self.frame] |= regs;
        }
        Ok(())
    }

    /// Walking back over the end of a function into it.
    fn enter(&mut self) -> Result<(), Lost> {
        if self.frame + 1 >= self.regs.len() {
            let text = format!("verifier bug: subprog enter from frame {}", self.frame);
            return Err(Lost::Bug(text));
        }
        self.frame += 1;
        Ok(())
    }

    /// What a call defines cannot be wanted before it.
    fn no_args(&self, what: &str) -> Result<(), Lost> {
        let regs = self.regs[self.frame];
        if regs & ARGS != 0 { bug(what, regs.into()) } else { Ok(()) }
    }
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:backtrack_insn
    fn backtrack_insn(
        &mut self,
        idx: u32,
        subseq: Option<u32>,
        hist: Option<&Hist>,
        bt: &mut Backtrack,
    ) -> Result<(), Lost> {
        let insn = self.insn(idx);
        if *insn == Insn::LdImm64Hi {
            return Ok(());
        }
        self.log_backtrack(idx, bt);
        bt.sync_linked(hist);
        match *insn {
            Insn::Alu { op: AluOp::Mov, dst, src, .. } if bt.has(dst) => {
                bt.drop(dst);
                if let Src::Reg(s) = src
                    && s != Reg::FP
                {
                    bt.want(s);
                }
            }
            Insn::MovSx { dst, src, .. } if bt.has(dst) => {
                bt.drop(dst);
                bt.want(src);
            }
            Insn::Alu { dst, src: Src::Reg(s), .. } if bt.has(dst) && s != Reg::FP => bt.want(s),
            Insn::Load { dst, .. } | Insn::LoadAcquire { dst, .. } => bt.load(dst, hist),
            Insn::Store { dst, src: Src::Reg(s), .. } | Insn::StoreRelease { dst, src: s, .. } => {
                bt.store(dst, Some(s), hist)?;
            }
            Insn::Store { dst, .. } => bt.store(dst, None, hist)?,
            Insn::Atomic { op, dst, src, .. } => bt.atomic(op, dst, src, hist)?,
            Insn::Call(call) => self.backtrack_call(call, idx, subseq, bt)?,
            Insn::Callx { .. } => bt.leave("static subprog", true)?,
            Insn::Exit => self.backtrack_exit(subseq, bt)?,
            Insn::Jmp { dst, src: Src::Reg(s), .. } => bt.compare(dst, s, hist),
            Insn::LdImm64 { dst, .. } => bt.drop(dst),
            Insn::LdAbs { .. } | Insn::LdInd { .. } if bt.has(Reg::R0) => return Err(Lost::Track),
            _ => {}
        }
        bt.sync_linked(hist);
        Ok(())
    }

    fn log_backtrack(&mut self, idx: u32, bt: &Backtrack) {
        if self.log.level2() {
            let (frame, regs) = (bt.frame, reg_mask(bt.regs[bt.frame]));
            let slots = stack_mask(bt.slots[bt.frame]);
            let op = self.insn_text(idx);
            self.log.put(&format!(
                "mark_precise: frame{frame}: regs={regs} stack={slots} before {idx}: {op}\n"
            ));
        }
    }

    fn backtrack_call(
        &self,
        call: Call,
        idx: u32,
        subseq: Option<u32>,
        bt: &mut Backtrack,
    ) -> Result<(), Lost> {
        if let Call::Local(off) = call {
            let to = bpf::insn::InsnIdx((idx as i32 + 1).wrapping_add(off) as u32);
            let callee = self.input.cfg.subprog_starting(to);
            if callee.is_some_and(|s| self.input.cfg.subprogs[s].is_global) {
                bt.no_args("global subprog unexpected regs")?;
                bt.drop(Reg::R0);
                return Ok(());
            }
            return bt.leave("static subprog", true);
        }
        let straight = subseq == Some(idx + 1);
        if self.input.cfg.calls_callback[idx as usize] && !straight {
            return bt.leave("callback", false);
        }
        bt.drop(Reg::R0);
        bt.no_args("backtracking call unexpected regs")?;
        if call == Call::Helper(TAIL_CALL) && !straight {
            // The program that replaced the callee returned to its caller.
            bt.enter()?;
        }
        Ok(())
    }

    fn backtrack_exit(&self, subseq: Option<u32>, bt: &mut Backtrack) -> Result<(), Lost> {
        if subseq.is_some_and(|s| self.input.cfg.calls_callback[s as usize]) {
            bt.regs[bt.frame] &= !ARGS;
        }
        bt.no_args("backtracking exit unexpected regs")?;
        let before = subseq.and_then(|s| s.checked_sub(1)).map(|s| *self.insn(s));
        let from_call = matches!(before, Some(Insn::Call(Call::Local(_)) | Insn::Callx { .. }));
        let r0 = from_call && bt.has(Reg::R0);
        bt.drop(Reg::R0);
        bt.enter()?;
        if r0 {
            bt.want(Reg::R0);
        }
        Ok(())
    }

    /// Walks back through one state's history. `Ok(true)`: nothing is wanted any more.
    fn backtrack_state(
        &mut self,
        st: &VState,
        last: u32,
        mut subseq: Option<u32>,
        mut skip: bool,
        bt: &mut Backtrack,
    ) -> Result<bool, Lost> {
        let (mut i, mut n) = (last, st.hist.len());
        loop {
            let entry = n.checked_sub(1).map(|k| &st.hist[k]).filter(|h| h.idx == i);
            if !skip {
                self.backtrack_insn(i, subseq, entry, bt)?;
            }
            skip = false;
            if bt.empty() {
                return Ok(true);
            }
            subseq = Some(i);
            if i == st.first_insn_idx && (n == 0 || (n == 1 && st.hist[0].idx == i)) {
                return Ok(false);
            }
            match entry {
                Some(h) => {
                    i = h.prev_idx;
                    n -= 1;
                }
                None => i = i.checked_sub(1).ok_or(Lost::Track)?,
            }
        }
    }

    /// Marks what is wanted in a kept state; what was marked before is wanted no longer.
    fn mark_wanted(&mut self, at: u32, bt: &mut Backtrack) -> bool {
        let mut changed = false;
        for f in (0..=bt.frame).rev() {
            let frame = &mut self.kept[at as usize].state.frames[f];
            for i in (0..11).filter(|i| bt.regs[f] >> i & 1 == 1).collect::<Vec<usize>>() {
                if !frame.regs[i].is_scalar() || frame.regs[i].precise {
                    bt.regs[f] &= !(1 << i);
                } else {
                    frame.regs[i].precise = true;
                    changed = true;
                }
            }
            for i in (0..64).filter(|i| bt.slots[f] >> i & 1 == 1).collect::<Vec<usize>>() {
                match frame.stack.get(i) {
                    Some(s) if s.is_scalar_spill() && !s.reg.precise => {
                        frame.stack[i].reg.precise = true;
                        changed = true;
                    }
                    _ => bt.slots[f] &= !(1 << i),
                }
            }
            self.log_wanted(at, f, bt);
        }
        changed
    }

    fn log_wanted(&mut self, at: u32, f: usize, bt: &Backtrack) {
        if !self.log.level2() {
            return;
        }
        let mut log = std::mem::take(&mut self.log);
        let (regs, slots) = (reg_mask(bt.regs[f]), stack_mask(bt.slots[f]));
        log.put(&format!("mark_precise: frame{f}: parent state regs={regs} stack={slots}: "));
        log.state(&self.kept[at as usize].state, f, true, &self.names());
        self.log = log;
    }

    /// `mark_all_scalars_precise`: in all kept states on the path.
    pub(super) fn mark_all_precise(&mut self, mut at: Option<u32>) {
        while let Some(i) = at {
            let st = &mut self.kept[i as usize].state;
            st.update_regs(|r| r.is_scalar() && !r.precise, |r| r.precise = true);
            at = st.parent;
        }
    }

    /// KERNEL v6.18 verifier.c:__mark_chain_precision
    fn mark_chain(&mut self, start: &VState, mut bt: Backtrack) -> bool {
        if !self.capable() || bt.empty() {
            return false;
        }
        let mut changed = false;
        self.log_chain(&bt, start.insn_idx, start.first_insn_idx, None);
        let mut result = self.backtrack_state(start, start.insn_idx, None, true, &mut bt);
        let (mut at, mut subseq) = (start.parent, start.first_insn_idx);
        loop {
            match result {
                Ok(true) => return changed,
                Ok(false) => {}
                Err(Lost::Track) => break,
                Err(Lost::Bug(text)) => {
                    self.bug.get_or_insert(text);
                    return changed;
                }
            }
            let Some(i) = at else { break };
            changed |= self.mark_wanted(i, &mut bt);
            if bt.empty() {
                return changed;
            }
            let hist = std::mem::take(&mut self.kept[i as usize].state.hist);
            let st = &self.kept[i as usize].state;
            let st = VState { hist, ..st.clone() };
            self.log_chain(&bt, st.last_insn_idx, st.first_insn_idx, Some(subseq));
            result = if st.last_insn_idx == u32::MAX {
                // The entry of the main program or of a global subprogram: arguments.
                Ok(true)
            } else {
                self.backtrack_state(&st, st.last_insn_idx, Some(subseq), false, &mut bt)
            };
            (at, subseq) = (st.parent, st.first_insn_idx);
            self.kept[i as usize].state.hist = st.hist;
        }
        hit!("precision: lost track");
        self.log_lost(start);
        self.mark_all_precise(start.parent);
        true
    }

    fn log_chain(&mut self, bt: &Backtrack, last: u32, first: u32, subseq: Option<u32>) {
        if self.log.level2() {
            let (frame, subseq) = (bt.frame, subseq.map_or(-1, i64::from));
            let last = last as i32;
            self.log.put(&format!(
                "mark_precise: frame{frame}: last_idx {last} first_idx {first} \
                 subseq_idx {subseq} \n"
            ));
        }
    }

    fn log_lost(&mut self, start: &VState) {
        if self.log.level2() {
            let frame = start.curframe();
            self.log.put(&format!(
                "mark_precise: frame{frame}: falling back to forcing all scalars precise\n"
            ));
        }
    }

    /// `mark_chain_precision`.
    pub(crate) fn mark_precise(&mut self, r: Reg) -> R {
        if !self.r(r).is_scalar() || !self.capable() {
            return Ok(());
        }
        let mut bt = Backtrack::at(self.cur.curframe());
        bt.want(r);
        self.with_cur(|v, cur| v.mark_chain(cur, bt));
        Ok(())
    }

    /// `mark_chain_precision_batch` for one slot.
    pub(crate) fn mark_slot_precise(&mut self, frame: usize, spi: usize) {
        let mut bt = Backtrack::at(self.cur.curframe());
        bt.slots[frame] |= 1 << spi;
        self.with_cur(|v, cur| v.mark_chain(cur, bt));
    }

    /// The current state beside the rest: walking it back changes kept states only.
    fn with_cur<T>(&mut self, f: impl FnOnce(&mut Self, &VState) -> T) -> T {
        let cur = std::mem::replace(&mut self.cur, VState::nothing());
        let result = f(self, &cur);
        self.cur = cur;
        result
    }

    /// `propagate_precision`: what was precise in kept state `old` is in the state it covers.
    /// The state is the current one unless given. True when a mark was added.
    pub(super) fn propagate_precision(&mut self, old: u32, st: Option<&VState>) -> R<bool> {
        let frame = st.unwrap_or(&self.cur).curframe();
        let mut bt = Backtrack::at(frame);
        let frames = &self.kept[old as usize].state.frames;
        for (f, frame) in frames.iter().enumerate().rev() {
            for (i, r) in frame.regs[..10].iter().enumerate() {
                bt.regs[f] |= u16::from(r.is_scalar() && r.precise) << i;
            }
            for (i, s) in frame.stack.iter().enumerate().take(64) {
                bt.slots[f] |= u64::from(s.is_scalar_spill() && s.reg.precise) << i;
            }
        }
        if !bt.empty() {
            hit!("precision: from a covering state");
        }
        if self.log.level2() {
            for f in (0..frames.len()).rev() {
                self.log_propagated(f, &bt);
            }
        }
        Ok(match st {
            Some(st) => self.mark_chain(st, bt),
            None => self.with_cur(|v, cur| v.mark_chain(cur, bt)),
        })
    }

    fn log_propagated(&mut self, f: usize, bt: &Backtrack) {
        let regs = (0..10).filter(|i| bt.regs[f] >> i & 1 == 1).map(|i| format!("r{i}"));
        let slots = (0..64).filter(|i| bt.slots[f] >> i & 1 == 1);
        let all: Vec<String> = regs.chain(slots.map(|i| format!("fp-{}", 8 * (i + 1)))).collect();
        if !all.is_empty() {
            self.log.put(&format!("frame {f}: propagating {}\n", all.join(",")));
        }
    }
}
