//! Calls between subprograms, global subprograms, stack depth, and the roots of exploration.

use bpf::insn::{Insn, InsnIdx, Reg};

use super::MapState;
use super::step::Next;
use super::ver::{R, Ver, blank_state, no};
use crate::check::func_args::FuncArg;
use crate::domain::reg::{RegState, RegType};
use crate::domain::state::{Callback, FuncState, MAX_CALL_FRAMES};
use crate::kfunc_calls;
use crate::marks::hit;
use crate::proto::Flags;
use crate::reject::{E2BIG, EINVAL};
use crate::render::log::type_of;

/// `BPF_F_SLEEPABLE`.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

impl Ver<'_> {
    /// Explores the main program and every global subprogram that is called.
    pub(crate) fn run(&mut self) -> R {
        self.log_head();
        self.mark_fastcalls();
        self.explore_root(0)?;
        let mut done = vec![false; self.input.cfg.subprogs.len()];
        // The exception callback is presumed to be always called.
        if let Some(s) = self.input.cfg.exception_callback {
            self.called_globals[s] = true;
        }
        let mut at = 0;
        loop {
            // Round after round in the order of the subprograms, as `do_check_subprogs`.
            let later = (at + 1..done.len()).chain(1..=at);
            let next = later.into_iter().find(|s| self.called_globals[*s] && !done[*s]);
            let Some(s) = next else { break };
            (at, done[s]) = (s, true);
            let name = self.sub_name(s).to_string();
            self.log.put(&format!("Validating {name}() func#{s}...\n"));
            self.explore_root(s)?;
            self.log.put(&format!(
                "Func#{s} ('{name}') is safe for any args that match its prototype\n"
            ));
        }
        self.stack_args_fit()?;
        self.shrink_frames();
        self.max_stack_depth()?;
        self.tail_calls_mask()?;
        let aux = &self.aux;
        kfunc_calls::eliminated(self.input.insns, |i| aux[i].seen)?;
        self.log_stats();
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:do_misc_fixups: without `CAP_PERFMON` the index of a tail call is
    /// masked by the size of its map, which must be one map.
    fn tail_calls_mask(&self) -> R {
        let tail_call = |i: usize| crate::rewrite::is_tail_call(&self.input.insns[i]);
        let poisoned = |i: usize| self.aux[i].seen && self.aux[i].map == MapState::Poisoned;
        let found = (0..self.aux.len()).find(|i| tail_call(*i) && poisoned(*i));
        match found.filter(|_| !self.leaks_ok()) {
            Some(_) => no(EINVAL, "tail_call abusing map_ptr"),
            None => Ok(()),
        }
    }

    /// What level 2 prints before the first instruction.
    fn log_head(&mut self) {
        if !self.log.level2() {
            return;
        }
        for (i, s) in self.input.cfg.subprogs.iter().enumerate() {
            self.log.put(&format!("func#{i} @{}\n", s.start.0));
        }
        self.log.put("Live regs before insn:\n");
        for (i, insn) in self.input.insns.iter().enumerate() {
            if *insn == Insn::LdImm64Hi {
                continue;
            }
            let live = self.input.cfg.live_regs_before[i];
            let regs = (0..10u8).map(|r| if live >> r & 1 == 1 { (b'0' + r) as char } else { '.' });
            let regs: String = regs.collect();
            let text = self.insn_text(i as u32);
            let scc = match self.input.cfg.scc[i] {
                0 => "    ".into(),
                n => format!("{n:3} "),
            };
            self.log.put(&format!("{scc}{i:3}: {regs} {text}\n"));
        }
    }

    fn sub_name(&self, s: usize) -> &str {
        &self.input.cfg.subprogs[s].name
    }

    /// What the kernel remarks on the declaration of the main function, and whether it says what
    /// the function is called with.
    fn main_args(&mut self) {
        let typed = !self.input.program.funcs.is_empty() && self.input.prog_btf.is_some();
        let args = typed.then(|| self.func_args(0));
        self.unreliable[0] = !matches!(&args, Some(Ok(a)) if a[..] == [FuncArg::Ctx]);
        if let Some(Err(e)) = args
            && !e.message.is_empty()
            && !e.is_unsupported()
        {
            self.log.put(&format!("{}\n", e.message));
        }
    }

    /// `do_check_common`.
    fn explore_root(&mut self, sub: usize) -> R {
        self.root = sub;
        self.cur = blank_state();
        self.explored.fill(super::ver::NONE);
        self.kept.clear();
        self.state_bytes = 0;
        self.visits.clear();
        self.pending.clear();
        self.liveness.frames_changed();
        self.cur.in_sleepable = self.input.program.flags & BPF_F_SLEEPABLE != 0
            || self.input.program.prog_type == bpf::uapi::ProgType::Syscall;
        let start = self.input.cfg.subprogs[sub].start.0;
        self.cur.frame_mut().subprog = sub as u32;
        if sub == 0 && !self.input.extension {
            self.cur.frame_mut().regs[1] = RegState::pointer(RegType::Ctx, Flags::NONE);
            self.acquire_ctx_refs();
            self.main_args();
        } else {
            if sub == 0 {
                let name = self.sub_name(0).to_string();
                self.log.put(&format!("Validating {name}() func#0...\n"));
            }
            let args = self.func_args(sub)?;
            if self.input.cfg.exception_callback == Some(sub) {
                self.cur.frame_mut().callback = Callback::Exception;
                if args != [FuncArg::Scalar] {
                    return no(EINVAL, "exception cb only supports single integer argument");
                }
            }
            for (i, a) in args.into_iter().enumerate() {
                let r = self.entry_reg(a);
                self.cur.frame_mut().regs[i + 1] = r;
            }
        }
        (self.insn_idx, self.prev_insn_idx) = (start, u32::MAX);
        (self.cur.first_insn_idx, self.cur.insn_idx) = (start, start);
        self.log.last_line = None;
        self.log.scratch_all();
        self.do_check()?;
        self.loops_end()?;
        if !self.log.level2() {
            self.log.text.clear();
        }
        Ok(())
    }

    /// A call of a global function, which is verified on its own. `args`: what does not match.
    fn global_call(&mut self, sub: usize, args: R) -> R<Next> {
        let name = self.sub_name(sub).to_string();
        self.close_stack_args();
        self.global_call_context(sub)?;
        args.map_err(|mut e| {
            if !e.is_unsupported() {
                let line = format!("Caller passes invalid args into func#{sub} ('{name}')");
                let first = std::mem::take(&mut e.message);
                e.message = if first.is_empty() { line } else { format!("{first}\n{line}") };
            }
            e
        })?;
        self.log.put(&format!("Func#{sub} ('{name}') is global and assumed valid.\n"));
        let changes = self.input.cfg.subprogs[sub].changes_pkt_data;
        self.called_globals[sub] = true;
        for r in 0..6 {
            self.set(Reg(r), RegState::NOT_INIT);
        }
        let u = self.unknown();
        self.set(Reg::R0, u);
        if changes {
            self.clear_packet_pointers();
        }
        Ok(Next::Fall)
    }

    /// Global subprograms are verified on their own, as if nothing were held.
    fn global_call_context(&self, sub: usize) -> R {
        let held = &self.cur.held;
        if held.locked() {
            let m = "global function calls are not allowed while holding a lock,\n\
                     use static function instead";
            return no(EINVAL, m);
        }
        let atomic = held.rcu || held.preempt != 0 || held.active_irq() != 0;
        if self.input.cfg.subprogs[sub].might_sleep && (atomic || !self.cur.in_sleepable) {
            let m = "global functions that may sleep are not allowed in non-sleepable context,\n\
                     i.e., in a RCU/IRQ/preempt-disabled section, or in\n\
                     a non-sleepable BPF program context";
            return no(EINVAL, m);
        }
        Ok(())
    }

    /// `btf_check_subprog_call`
    fn call_args(&mut self, sub: usize) -> R {
        if self.input.program.funcs.is_empty() || self.input.prog_btf.is_none() {
            return no(EINVAL, "");
        }
        if self.unreliable[sub] {
            return no(EINVAL, "");
        }
        let result = self.match_args(sub);
        self.unreliable[sub] = result.is_err();
        result
    }

    /// KERNEL v6.18 verifier.c:check_func_call
    pub(crate) fn check_func_call(&mut self, off: i32) -> R<Next> {
        let to = self.target(off);
        let Some(sub) = self.input.cfg.subprog_starting(InsnIdx(to)) else {
            return no(EINVAL, format!("verifier bug. No program starts at insn {to}"));
        };
        let args = self.call_args(sub);
        if self.input.cfg.subprogs[sub].is_global {
            return self.global_call(sub, args);
        }
        if let Err(e) = args {
            // A static function is verified with what it is really given.
            if e.is_unsupported() {
                return Err(e);
            }
            if !e.message.is_empty() {
                self.log.put(&format!("{}\n", e.message));
            }
        }
        self.enter(sub)
    }

    /// An indirect call, as the proposed `callx` has it: of a static function whose address the
    /// register holds. What it may do is found out for each function that comes.
    pub(crate) fn check_indirect_call(&mut self, dst: Reg) -> R<Next> {
        let r = self.read(dst)?;
        if r.ty != RegType::Func {
            let m = format!("R{} has type {}, expected func", dst.0, type_of(&r));
            return no(EINVAL, m);
        }
        self.ptr_off(dst, &r, false)?;
        let sub = r.btf_id as usize;
        if let Err(e) = self.call_args(sub)
            && e.is_unsupported()
        {
            return Err(e);
        }
        self.indirect_calls.insert((self.insn_idx, sub));
        self.enter(sub)
    }

    /// `setup_func_entry` of a static function.
    fn enter(&mut self, sub: usize) -> R<Next> {
        let to = self.input.cfg.subprogs[sub].start.0;
        let depth = self.cur.frames.len();
        if depth >= MAX_CALL_FRAMES {
            hit!("limit: call frames");
            return no(E2BIG, format!("the call stack of {} frames is too deep", depth + 1));
        }
        let mut callee = FuncState::new(self.insn_idx, depth as u32, sub as u32);
        callee.args.incoming = self.pass_stack_args(sub)?;
        let caller = self.cur.frame_mut();
        callee.regs[1..6].copy_from_slice(&caller.regs[1..6]);
        for r in &mut caller.regs[..6] {
            *r = RegState::NOT_INIT;
        }
        self.cur.push_frame(callee);
        self.liveness.frames_changed();
        self.log_call();
        Ok(Next::Goto(to))
    }

    fn log_call(&mut self) {
        if !self.log.on() {
            return;
        }
        let mut log = std::mem::take(&mut self.log);
        let top = self.cur.curframe();
        log.put("caller:\n");
        log.state(&self.cur, top - 1, true, &self.names());
        log.put("callee:\n");
        log.state(&self.cur, top, true, &self.names());
        log.scratch_all();
        self.log = log;
    }
}
