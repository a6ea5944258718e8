//! `do_check`: walks one path after the other, an instruction at a time.

use bpf::insn::{Call, Imm64, Insn, disasm};

use super::ver::{Pending, R, Ver, no};
use crate::reject::EFAULT;
use crate::transfer::sanitize;
use crate::verified::Stats;

/// `BPF_LOG_STATS`.
const BPF_LOG_STATS: u32 = 4;

/// What follows an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next slot.
    Fall,
    /// This slot.
    Goto(u32),
    /// The path ends.
    Done,
}

/// `print_verification_stats` of a level.
pub(crate) fn stats_text(level: u32, s: &Stats, depths: &[u32]) -> String {
    let line = stats_line(s);
    if level & BPF_LOG_STATS == 0 {
        return line;
    }
    let depths: Vec<String> = depths.iter().map(u32::to_string).collect();
    format!("verification time 0 usec\nstack depth {}\n{line}", depths.join("+"))
}

/// The line of `print_verification_stats` that every level has.
fn stats_line(s: &Stats) -> String {
    format!(
        "processed {} insns (limit 1000000) max_states_per_insn {} total_states {} peak_states {} \
         mark_read {}\n",
        s.insns_processed, s.max_states_per_insn, s.total_states, s.peak_states, s.mark_read
    )
}

/// Prints kfuncs by name, and the offset of a callback as the number it is.
struct LogNames<'a>(Option<&'a bpf::btf::Btf>);

impl disasm::Names for LogNames<'_> {
    fn kfunc(&self, btf_id: i32, _off: i16) -> Option<String> {
        self.0.map(|b| b.name(btf_id.cast_unsigned()).to_string())
    }

    fn imm64(&self, imm: &Imm64) -> Option<String> {
        match imm {
            Imm64::Func(off) => Some(format!("{:#x}", off.cast_unsigned())),
            _ => None,
        }
    }
}

impl Ver<'_> {
    /// `print_verification_stats`. There is no clock here, so the time is none.
    pub(crate) fn log_stats(&mut self) {
        let text = stats_text(self.log.level, &self.stats, &self.stack_depth);
        self.log.say(&text);
    }

    /// Ends the current path and takes the next pending one.
    fn next_path(&mut self) -> R<bool> {
        self.log.scratch_all();
        self.update_branch_counts()?;
        self.update_live_stack();
        let Some(Pending { state, insn_idx, prev_insn_idx, log_pos }) = self.pending.pop() else {
            return Ok(false);
        };
        if !self.log.level2() {
            self.log.text.truncate(log_pos);
        }
        self.cur = state;
        self.insn_idx = insn_idx;
        self.prev_insn_idx = prev_insn_idx;
        Ok(true)
    }

    /// KERNEL v6.18 verifier.c:do_check
    pub(crate) fn do_check(&mut self) -> R {
        let mut print_state = false;
        let mut prev = self.prev_insn_idx;
        loop {
            self.cur_hist = None;
            self.prev_insn_idx = prev;
            if self.insn_idx as usize >= self.input.insns.len() {
                let (i, n) = (self.insn_idx, self.input.insns.len());
                return no(EFAULT, format!("invalid insn idx {i} insn_cnt {n}"));
            }
            self.count_insn()?;
            (self.cur.last_insn_idx, self.cur.insn_idx) = (prev, self.insn_idx);
            let mut pruned = false;
            if self.input.cfg.prune_point[self.insn_idx as usize] {
                pruned = self.is_state_visited()?;
                self.no_bug()?;
            }
            let next = if pruned {
                self.log_safe(print_state);
                Next::Done
            } else {
                if self.input.cfg.jmp_point[self.insn_idx as usize] {
                    self.push_hist(Default::default(), Default::default());
                }
                if let Some(r) = &mut self.recorder {
                    r.see(&self.cur);
                }
                self.log_insn(&mut print_state);
                prev = self.insn_idx;
                let depth = self.cur.frames.len();
                let next = self.walk_insn()?;
                let exit = *self.insn(prev) == Insn::Exit;
                print_state |= exit && self.cur.frames.len() < depth;
                next
            };
            match next {
                Next::Fall => self.insn_idx += 1,
                Next::Goto(to) => self.insn_idx = to,
                Next::Done => {
                    if !self.next_path()? {
                        return Ok(());
                    }
                    prev = self.prev_insn_idx;
                    print_state = true;
                }
            }
        }
    }

    /// The part of `do_check` around `do_check_insn`.
    fn walk_insn(&mut self) -> R<Next> {
        let at = self.insn_idx as usize;
        self.note_insn();
        if !self.cur.speculative {
            self.aux[at].seen = true;
        } else if self.aux[at].nospec {
            return Ok(Next::Done);
        }
        self.liveness.begin(&self.cur, self.insn_idx, self.input.cfg);
        let result = self.check_insn();
        let result = result.and_then(|next| self.no_bug().map(|()| next));
        match result {
            Err(e) if self.cur.speculative && sanitize::recoverable(&e) => {
                // The barrier keeps this path from being reached.
                if !std::mem::take(&mut self.log.refusal_said) {
                    self.log.put(&format!("{}\n", e.message));
                }
                self.liveness.commit(self.input.cfg);
                (self.aux[at].nospec, self.aux[at].alu_state) = (true, 0);
                return Ok(Next::Done);
            }
            Err(e) => return Err(e),
            Ok(_) => self.liveness.commit(self.input.cfg),
        }
        #[cfg(any(test, feature = "testing"))]
        if let Some(flaw) = self.input.opts.flaw {
            flaw.spoil(&self.input.insns[at], &mut self.cur);
        }
        if self.cur.speculative && self.aux[at].nospec_result {
            return Ok(Next::Done);
        }
        result
    }

    /// `verifier_bug`: a refusal, where the kernel only warns of itself.
    fn no_bug(&mut self) -> R {
        match self.bug.take() {
            Some(text) => no(EFAULT, text),
            None => Ok(()),
        }
    }

    fn count_insn(&mut self) -> R {
        self.within_memory()?;
        self.stats.insns_processed += 1;
        self.within_budget()
    }

    fn speculation(&self) -> &'static str {
        if self.cur.speculative { " (speculative execution)" } else { "" }
    }

    fn log_safe(&mut self, print_state: bool) {
        let (from, to) = (self.prev_insn_idx as i32, self.insn_idx);
        let how = self.speculation();
        if print_state {
            self.log.put(&format!("\nfrom {from} to {to}{how}: safe\n"));
        } else {
            self.log.put(&format!("{to}: safe\n"));
        }
    }

    /// `print_insn_state` of the current frame.
    pub(crate) fn log_state(&mut self) {
        if self.log.on() {
            let mut log = std::mem::take(&mut self.log);
            log.insn_state(self.insn_idx, &self.cur, self.cur.curframe(), &self.names());
            self.log = log;
        }
    }

    fn log_insn(&mut self, print_state: &mut bool) {
        if !self.log.on() {
            return;
        }
        let mut log = std::mem::take(&mut self.log);
        let (at, frame) = (self.insn_idx, self.cur.curframe());
        if *print_state && log.level2() {
            let (from, how) = (self.prev_insn_idx as i32, self.speculation());
            log.put(&format!("\nfrom {from} to {at}{how}:"));
            log.state(&self.cur, frame, true, &self.names());
            *print_state = false;
        }
        if log.scratched() {
            log.insn_state(at, &self.cur, frame, &self.names());
        }
        self.log = log;
        self.log_line_info(at);
        let text = self.insn_text(at);
        self.log.insn(at, &text);
    }

    /// `verbose_insn`: maps are the addresses they have, for programs that may know them.
    pub(crate) fn insn_text(&self, at: u32) -> String {
        let insn = self.insn(at);
        let map = self.input.insn_map.get(at as usize).copied().flatten();
        let (Insn::LdImm64 { dst, imm }, Some(m)) = (insn, map) else {
            return disasm::disasm_op(insn, &LogNames(self.input.env.btf()));
        };
        let m = &self.maps[m as usize];
        let addr = match *imm {
            _ if !self.leaks_ok() => 0,
            Imm64::MapValue { off, .. } | Imm64::MapIdxValue { off, .. } => {
                m.value_addr.map_or(0, |a| a.0 + u64::from(off))
            }
            _ => m.addr.0,
        };
        format!("(18) r{} = {addr:#x}", dst.0)
    }

    /// `verbose_linfo`: the source line, unless it was the last one printed.
    pub(crate) fn log_line_info(&mut self, at: u32) {
        let lines = &self.input.program.lines;
        let Some(i) = lines.partition_point(|l| l.insn.0 <= at).checked_sub(1) else { return };
        let l = &lines[i];
        let same = |p: usize| p == i || (lines[p].file == l.file && lines[p].line == l.line);
        if !self.log.on() || self.log.last_line.is_some_and(same) {
            return;
        }
        self.log.put(&format!("; {} @ {}:{}\n", l.text.trim_start(), l.file_name(), l.line));
        self.log.last_line = Some(i);
    }

    /// `do_check_insn`.
    // tidy: flat match
    fn check_insn(&mut self) -> R<Next> {
        let insn = *self.insn(self.insn_idx);
        match insn {
            Insn::Alu { width, op, dst, src } => self.check_alu(width, op, dst, src),
            Insn::Neg { width, dst } => self.check_neg(width, dst),
            Insn::MovSx { width, dst, src, bits } => self.check_movsx(width, dst, src, bits),
            Insn::End { op, dst, bits } => self.check_end(bits, op, dst),
            Insn::Load { size, sext, dst, src, off } => self.check_load(size, sext, dst, src, off),
            Insn::Store { size, dst, off, src } => self.check_store(size, dst, off, src),
            Insn::Atomic { size, op, dst, off, src } => self.check_atomic(size, op, dst, off, src),
            Insn::LoadAcquire { size, dst, src, off } => {
                self.check_load_acquire(size, dst, src, off)
            }
            Insn::StoreRelease { size, dst, off, src } => {
                self.check_store_release(size, dst, off, src)
            }
            Insn::LdImm64 { dst, imm } => self.check_ld_imm(dst, imm),
            Insn::LdAbs { .. } => self.check_ld_abs(None),
            Insn::LdInd { src, .. } => self.check_ld_abs(Some(src)),
            Insn::Jmp { width, op, dst, src, off } => {
                self.jmps_processed += 1;
                self.check_cond_jmp(width, op, dst, src, off)
            }
            Insn::Ja { off, .. } => {
                self.jmps_processed += 1;
                Ok(Next::Goto(self.target(off)))
            }
            Insn::MayGoto { off } => {
                self.jmps_processed += 1;
                self.check_may_goto(off)
            }
            Insn::Call(Call::Helper(id)) => {
                self.jmps_processed += 1;
                self.call_under_lock(Call::Helper(id))?;
                self.close_stack_args();
                self.check_helper_call(id)
            }
            Insn::Call(Call::Local(off)) => {
                self.jmps_processed += 1;
                self.check_func_call(off)
            }
            Insn::Call(Call::Kfunc { btf_id, off }) => {
                self.jmps_processed += 1;
                self.call_under_lock(Call::Kfunc { btf_id, off })?;
                self.close_stack_args();
                self.check_kfunc_call(btf_id, off)
            }
            Insn::Exit => {
                self.jmps_processed += 1;
                self.check_exit()
            }
            Insn::AddrSpaceCast { dst, src, cast } => self.check_addr_space_cast(dst, src, cast),
            Insn::Gotox { dst } => {
                self.jmps_processed += 1;
                self.check_indirect_jump(dst)
            }
            Insn::Callx { dst } => {
                self.jmps_processed += 1;
                self.check_indirect_call(dst)
            }
            Insn::MovPercpu { .. } | Insn::LdImm64Hi => {
                no(crate::reject::EINVAL, "invalid BPF_LD_IMM insn")
            }
        }
    }

    /// Slot a relative jump of the current instruction leads to.
    pub(crate) fn target(&self, off: i32) -> u32 {
        (self.insn_idx as i32).wrapping_add(1).wrapping_add(off) as u32
    }
}
