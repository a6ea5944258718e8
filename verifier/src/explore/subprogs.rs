//! Calls between subprograms, global subprograms, stack depth, and the roots of exploration.

use bpf::btf::Kind;
use bpf::insn::{Insn, InsnIdx, Reg};

use super::step::Next;
use super::ver::{R, Ver, blank_state, no, unsupported};
use crate::check::helper_mem::MemUse;
use crate::domain::reg::{RegState, RegType};
use crate::domain::state::{Callback, FuncState, MAX_CALL_FRAMES};
use crate::proto::Flags;
use crate::reject::{E2BIG, EINVAL};

/// `BPF_F_SLEEPABLE`.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// Argument of a global subprogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GlobalArg {
    Scalar,
    Ctx,
    /// A readable and writable object of this size; the flag says that NULL is excluded.
    Mem(u32, bool),
}

impl Ver<'_> {
    /// Explores the main program and every global subprogram that is called.
    pub(crate) fn run(&mut self) -> R {
        self.log_head();
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
        self.max_stack_depth()?;
        if self.log.on() {
            if !self.log.level2() {
                self.log.text.clear();
            }
            self.log.text.push_str(&super::step::stats_line(&self.stats));
        }
        Ok(())
    }

    /// What level 2 prints before the first instruction.
    fn log_head(&mut self) {
        use bpf::insn::disasm;
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
            let text = disasm::disasm_op(insn, &disasm::NoNames);
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

    /// `do_check_common`.
    fn explore_root(&mut self, sub: usize) -> R {
        self.root = sub;
        self.cur = blank_state();
        self.explored.fill(super::ver::NONE);
        self.kept.clear();
        self.visits.clear();
        self.pending.clear();
        self.liveness.frames_changed();
        self.cur.in_sleepable = self.input.program.flags & BPF_F_SLEEPABLE != 0
            || self.input.program.prog_type == bpf::uapi::ProgType::Syscall;
        let start = self.input.cfg.subprogs[sub].start.0;
        self.cur.frame_mut().subprog = sub as u32;
        if sub == 0 {
            self.cur.frame_mut().regs[1] = RegState::pointer(RegType::Ctx, Flags::NONE);
            self.acquire_ctx_refs();
        } else {
            let args = self.global_args(sub)?;
            if self.input.cfg.exception_callback == Some(sub) {
                self.cur.frame_mut().callback = Callback::Exception;
                if args != [GlobalArg::Scalar] {
                    return no(EINVAL, "exception cb only supports single integer argument");
                }
            }
            for (i, a) in args.into_iter().enumerate() {
                let r = match a {
                    GlobalArg::Scalar => self.unknown(),
                    GlobalArg::Ctx => RegState::pointer(RegType::Ctx, Flags::NONE),
                    GlobalArg::Mem(mem_size, true) => {
                        RegState { mem_size, ..RegState::pointer(RegType::Mem, Flags::NONE) }
                    }
                    GlobalArg::Mem(size, false) => {
                        let mut r = RegState::pointer(RegType::Mem, Flags::PTR_MAYBE_NULL);
                        (r.mem_size, r.id) = (size, self.new_id());
                        r
                    }
                };
                self.cur.frame_mut().regs[i + 1] = r;
            }
        }
        (self.insn_idx, self.prev_insn_idx) = (start, u32::MAX);
        (self.cur.first_insn_idx, self.cur.insn_idx) = (start, start);
        self.log.last_line = None;
        self.log.scratch_all();
        self.do_check()
    }

    /// `btf_prepare_func_args`.
    fn global_args(&self, sub: usize) -> R<Vec<GlobalArg>> {
        let s = &self.input.cfg.subprogs[sub];
        let proto = self.input.prog_btf.and_then(|b| Some((b, b.func_proto(s.type_id)?)));
        let Some((btf, (_, params))) = proto else {
            return unsupported("global function without BTF", "btf.c:btf_prepare_func_args");
        };
        let mut out = Vec::new();
        for (i, p) in params.iter().enumerate() {
            let t = btf.resolve(p.ty);
            out.push(match btf.kind(t) {
                Kind::Int | Kind::Enum | Kind::Enum64 => GlobalArg::Scalar,
                Kind::Ptr => self.global_ptr(btf, s.type_id, i, t)?,
                k => {
                    let m = format!("Arg#{i} type {k} in {}() is not supported yet.", s.name);
                    return no(EINVAL, m);
                }
            });
        }
        Ok(out)
    }

    /// A pointer argument: the context, or an object whose size its type tells.
    fn global_ptr(&self, btf: &bpf::btf::Btf, func: u32, i: usize, ptr: u32) -> R<GlobalArg> {
        let tags = btf.decl_tags(func).filter(|(c, _)| *c == i as i32);
        let tags: Vec<&str> = tags.map(|t| t.1).collect();
        if tags.iter().any(|t| *t != "arg:ctx" && *t != "arg:nonnull") {
            return unsupported("argument tags", "btf.c:btf_prepare_func_args");
        }
        let to = btf.pointee(ptr).map_or(0, |t| btf.resolve(t));
        let name = btf.name(to);
        if tags.contains(&"arg:ctx") || is_ctx_struct(self.input.program.prog_type, name) {
            return Ok(GlobalArg::Ctx);
        }
        match btf.size_of(to) {
            Some(size) if to != 0 => Ok(GlobalArg::Mem(size, tags.contains(&"arg:nonnull"))),
            _ => {
                let kind = btf.kind(to);
                let m = "size cannot be determined";
                no(EINVAL, format!("arg#{i} reference type('{kind} {name}') {m}"))
            }
        }
    }

    /// `btf_check_func_arg_match`.
    fn global_call(&mut self, sub: usize) -> R<Next> {
        let name = self.sub_name(sub).to_string();
        self.global_call_context(sub)?;
        let bad = |mut e: Box<crate::reject::Rejection>| {
            if !e.is_unsupported() {
                e.message += &format!("\nCaller passes invalid args into func#{sub} ('{name}')");
            }
            e
        };
        for (i, a) in self.global_args(sub)?.into_iter().enumerate() {
            let n = Reg(i as u8 + 1);
            self.global_arg(n, a).map_err(bad)?;
        }
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

    fn global_arg(&mut self, n: Reg, a: GlobalArg) -> R {
        let r = self.read(n)?;
        match a {
            GlobalArg::Scalar if !r.is_scalar() => no(EINVAL, format!("R{} is not a scalar", n.0)),
            GlobalArg::Scalar => Ok(()),
            GlobalArg::Ctx if r.ty != RegType::Ctx => {
                no(EINVAL, format!("arg#{} expects pointer to ctx", n.0 - 1))
            }
            GlobalArg::Ctx => self.ctx_unmodified(n),
            GlobalArg::Mem(_, true) if r.is_null() || r.may_be_null() => {
                no(EINVAL, format!("arg#{} is expected to be non-NULL", n.0 - 1))
            }
            GlobalArg::Mem(..) if r.is_null() => Ok(()),
            GlobalArg::Mem(size, _) => {
                // `check_mem_reg` looks at the access as if the NULL check had been made.
                let saved = r;
                self.regs()[n.idx()].flags = r.flags.without(Flags::PTR_MAYBE_NULL);
                let u = MemUse { write: true, raw: false, zero_ok: false };
                let result = self.helper_mem(n, size.into(), u);
                self.regs()[n.idx()] = saved;
                result.map(|_| ())
            }
        }
    }

    /// KERNEL v6.18 verifier.c:check_func_call
    pub(crate) fn check_func_call(&mut self, off: i32) -> R<Next> {
        let to = self.target(off);
        let Some(sub) = self.input.cfg.subprog_starting(InsnIdx(to)) else {
            return no(EINVAL, format!("verifier bug. No program starts at insn {to}"));
        };
        if self.input.cfg.subprogs[sub].is_global {
            return self.global_call(sub);
        }
        let depth = self.cur.frames.len();
        if depth >= MAX_CALL_FRAMES {
            return no(E2BIG, format!("the call stack of {} frames is too deep", depth + 1));
        }
        let mut callee = FuncState::new(self.insn_idx, depth as u32, sub as u32);
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
        (log.scratched_regs, log.scratched_slots) = (0, 0);
        self.log = log;
    }
}

/// `btf_is_prog_ctx_type`: structures that stand for the context of a program type.
fn is_ctx_struct(ty: bpf::uapi::ProgType, name: &str) -> bool {
    use bpf::uapi::ProgType as P;
    let want: &[&str] = match ty {
        P::SocketFilter | P::SchedCls | P::SchedAct | P::CgroupSkb | P::LwtIn | P::LwtOut => {
            &["__sk_buff"]
        }
        P::LwtXmit | P::LwtSeg6local | P::SkSkb | P::FlowDissector => &["__sk_buff"],
        P::Xdp => &["xdp_md"],
        P::SockOps => &["bpf_sock_ops"],
        P::SkMsg => &["sk_msg_md"],
        P::CgroupSock => &["bpf_sock"],
        P::CgroupSockAddr => &["bpf_sock_addr"],
        P::CgroupSockopt => &["bpf_sockopt"],
        P::CgroupSysctl => &["bpf_sysctl"],
        P::SkReuseport => &["sk_reuseport_md"],
        P::SkLookup => &["bpf_sk_lookup"],
        P::Kprobe => &["bpf_user_pt_regs_t", "user_pt_regs", "pt_regs"],
        P::PerfEvent => &["bpf_perf_event_data"],
        P::Netfilter => &["bpf_nf_ctx"],
        _ => &[],
    };
    want.contains(&name)
}
