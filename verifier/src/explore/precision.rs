//! Precision: which scalars a safety decision depended on, found by walking back the jump
//! history and the chain of kept states. Source: `backtrack_insn`, `__mark_chain_precision`.

use bpf::insn::{AluOp, AtomicOp, Call, Insn, Reg, Src};

use super::ver::{R, Ver};
use crate::domain::state::{Hist, VState};

const ARGS: u16 = 0b11_1110;

/// `struct backtrack_state`: registers and slots wanted per frame.
#[derive(Default)]
struct Backtrack {
    frame: usize,
    regs: [u16; 8],
    slots: [u64; 8],
}

/// The walk lost track: everything is marked.
struct Lost;

impl Backtrack {
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
        let Some(h) = hist.filter(|h| !h.linked.0.is_empty()) else { return };
        let some = h.linked.0.iter().any(|(f, i, slot)| match slot {
            true => self.slots[*f as usize] >> i & 1 == 1,
            false => self.regs[*f as usize] >> i & 1 == 1,
        });
        for (f, i, slot) in h.linked.0.iter().filter(|_| some) {
            match slot {
                true => self.slots[*f as usize] |= 1 << i,
                false => self.regs[*f as usize] |= 1 << i,
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
            return Err(Lost);
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

    /// Walking back over a call into its caller: arguments pass, for subprograms.
    fn leave(&mut self, pass_args: bool) -> Result<(), Lost> {
        if self.regs[self.frame] & !ARGS != 0 || self.slots[self.frame] != 0 || self.frame == 0 {
            return Err(Lost);
        }
        let args = self.regs[self.frame];
        self.regs[self.frame] = 0;
        self.frame -= 1;
        if pass_args {
            self.regs[self.frame] |= args;
        }
        Ok(())
    }
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:backtrack_insn
    fn backtrack_insn(
        &self,
        idx: u32,
        subseq: Option<u32>,
        hist: Option<&Hist>,
        bt: &mut Backtrack,
    ) -> Result<(), Lost> {
        bt.sync_linked(hist);
        match *self.insn(idx) {
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
            Insn::Atomic { op, dst, src, .. } => {
                let result = if op == AtomicOp::Cmpxchg { Reg::R0 } else { src };
                if bt.has(result) {
                    return Err(Lost);
                }
                bt.store(dst, Some(src), hist)?;
            }
            Insn::Call(call) => self.backtrack_call(call, idx, subseq, bt)?,
            Insn::Exit => self.backtrack_exit(subseq, bt)?,
            Insn::Jmp { dst, src: Src::Reg(s), .. } if bt.has(dst) || bt.has(s) => {
                bt.want(dst);
                bt.want(s);
            }
            Insn::LdImm64 { dst, .. } => bt.drop(dst),
            Insn::LdAbs { .. } | Insn::LdInd { .. } if bt.has(Reg::R0) => return Err(Lost),
            _ => {}
        }
        bt.sync_linked(hist);
        Ok(())
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
                bt.drop(Reg::R0);
                return if bt.regs[bt.frame] & ARGS != 0 { Err(Lost) } else { Ok(()) };
            }
            return bt.leave(true);
        }
        let straight = subseq == Some(idx + 1);
        if self.input.cfg.calls_callback[idx as usize] && !straight {
            return bt.leave(false);
        }
        bt.drop(Reg::R0);
        if bt.regs[bt.frame] & ARGS != 0 { Err(Lost) } else { Ok(()) }
    }

    fn backtrack_exit(&self, subseq: Option<u32>, bt: &mut Backtrack) -> Result<(), Lost> {
        if subseq.is_some_and(|s| self.input.cfg.calls_callback[s as usize]) {
            bt.regs[bt.frame] &= !ARGS;
        }
        if bt.regs[bt.frame] & ARGS != 0 || bt.frame + 1 >= bt.regs.len() {
            return Err(Lost);
        }
        let before = subseq.and_then(|s| s.checked_sub(1)).map(|s| *self.insn(s));
        let from_call = matches!(before, Some(Insn::Call(Call::Local(_))));
        let r0 = from_call && bt.has(Reg::R0);
        bt.drop(Reg::R0);
        bt.frame += 1;
        if r0 {
            bt.want(Reg::R0);
        }
        Ok(())
    }

    /// Walks back through one state's history. `Ok(true)`: nothing is wanted any more.
    fn backtrack_state(
        &self,
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
            if i == st.first_insn_idx && (n == 0 || (n == 1 && entry.is_some())) {
                return Ok(false);
            }
            match entry {
                Some(h) => {
                    i = h.prev_idx;
                    n -= 1;
                }
                None => i = i.checked_sub(1).ok_or(Lost)?,
            }
        }
    }

    /// Marks what is wanted in a kept state; what was marked before is wanted no longer.
    fn mark_wanted(&mut self, at: u32, bt: &mut Backtrack) -> bool {
        let st = &mut self.kept[at as usize].state;
        let mut changed = false;
        for (f, frame) in st.frames.iter_mut().enumerate().take(bt.frame + 1) {
            for (i, r) in frame.regs.iter_mut().enumerate() {
                if bt.regs[f] >> i & 1 == 1 && (!r.is_scalar() || r.precise) {
                    bt.regs[f] &= !(1 << i);
                } else if bt.regs[f] >> i & 1 == 1 {
                    (r.precise, changed) = (true, true);
                }
            }
            for i in (0..64).filter(|i| bt.slots[f] >> i & 1 == 1).collect::<Vec<usize>>() {
                match frame.stack.get_mut(i) {
                    Some(s) if s.is_scalar_spill() && !s.reg.precise => {
                        (s.reg.precise, changed) = (true, true);
                    }
                    _ => bt.slots[f] &= !(1 << i),
                }
            }
        }
        changed
    }

    /// `mark_all_scalars_precise`: in all kept states on the path.
    fn mark_all_precise(&mut self, mut at: Option<u32>) {
        while let Some(i) = at {
            let st = &mut self.kept[i as usize].state;
            st.all_regs_mut().filter(|r| r.is_scalar()).for_each(|r| r.precise = true);
            at = st.parent;
        }
    }

    /// KERNEL v6.18 verifier.c:__mark_chain_precision
    fn mark_chain(&mut self, start: Option<&VState>, mut bt: Backtrack) -> bool {
        if !self.capable() || bt.empty() {
            return false;
        }
        let st = start.unwrap_or(&self.cur);
        let (parent, mut changed) = (st.parent, false);
        let mut result = self.backtrack_state(st, st.insn_idx, None, true, &mut bt);
        let (mut at, mut subseq) = (parent, Some(st.first_insn_idx));
        loop {
            match result {
                Ok(true) => return changed,
                Ok(false) => {}
                Err(Lost) => break,
            }
            let Some(i) = at else { break };
            changed |= self.mark_wanted(i, &mut bt);
            if bt.empty() {
                return changed;
            }
            let st = &self.kept[i as usize].state;
            if st.parent.is_none() && st.hist.is_empty() && st.insn_idx == st.first_insn_idx {
                // The entry of the main program or of a global subprogram: arguments.
                return changed;
            }
            result = self.backtrack_state(st, st.last_insn_idx, subseq, false, &mut bt);
            (at, subseq) = (st.parent, Some(st.first_insn_idx));
        }
        self.mark_all_precise(parent);
        true
    }

    /// `mark_chain_precision`.
    pub(crate) fn mark_precise(&mut self, r: Reg) -> R {
        if !self.r(r).is_scalar() {
            return Ok(());
        }
        let mut bt = Backtrack { frame: self.cur.curframe(), ..Backtrack::default() };
        bt.want(r);
        self.mark_chain(None, bt);
        Ok(())
    }

    /// `propagate_precision`: what was precise in kept state `old` is in the state it covers.
    /// The state is the current one unless given. True when a mark was added.
    pub(super) fn propagate_precision(&mut self, old: u32, st: Option<&VState>) -> R<bool> {
        let frame = st.unwrap_or(&self.cur).curframe();
        let mut bt = Backtrack { frame, ..Backtrack::default() };
        for (f, frame) in self.kept[old as usize].state.frames.iter().enumerate() {
            for (i, r) in frame.regs[..10].iter().enumerate() {
                bt.regs[f] |= u16::from(r.is_scalar() && r.precise) << i;
            }
            for (i, s) in frame.stack.iter().enumerate().take(64) {
                bt.slots[f] |= u64::from(s.is_scalar_spill() && s.reg.precise) << i;
            }
        }
        Ok(self.mark_chain(st, bt))
    }
}
