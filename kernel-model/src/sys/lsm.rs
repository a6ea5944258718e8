//! LSM hooks: the programs of one run in their order, and the first that refuses decides
//! (`bpf_lsm_*` trampolines, security/bpf/hooks.c). Those that take a function's place (fmod_ret)
//! do the same: the first value other than 0 is what the function returns, without having run.

use std::collections::VecDeque;

use crate::cgroup::{Atype, Hook};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::sched::OpFrame;
use crate::trace::{Attached, How, function};
use crate::{Kernel, ProgId, field};

/// Programs of a hook in progress; the value is the verdict.
#[derive(Clone, Debug)]
pub struct LsmFrame {
    progs: VecDeque<Attached>,
    /// The object that holds the context, and the context.
    object: u64,
    ctx: u64,
    /// Programs of a control group that are next, and last (`__cgroup_bpf_run_lsm_*`).
    shim: Option<(u64, Atype)>,
    modify: Option<Modify>,
}

/// What programs in the place of a function are besides.
#[derive(Clone, Debug)]
struct Modify {
    /// The function returns a `long`.
    wide: bool,
    running: Option<ProgId>,
}

impl LsmFrame {
    /// Programs that have not run.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.progs.iter().map(|a| a.prog)
    }
}

impl Kernel {
    /// The programs of a hook, when it has any. `hook` is the function's whole name.
    pub(super) fn lsm(&mut self, cpu: CpuId, hook: &'static str, args: &[u64]) -> Option<Frame> {
        let (row, function) = function(hook).expect("a function of the type table");
        let progs: VecDeque<Attached> = self.hooks.entry(row, How::Lsm).collect();
        let atype = Atype::Lsm(row);
        let shim = self.cgroups.enabled(atype).then(|| {
            // bpf_lsm_find_cgroup_shim: the socket's group, or that of the running task.
            let of = match function.first.as_deref() {
                Some("socket") => Some(self.get(args[0], field!("socket", "sk"))),
                Some("sock") => Some(args[0]),
                _ => None,
            };
            match of {
                Some(0) => None,
                Some(sk) => Some((self.sock_cgroup(sk), atype)),
                None => self.cgroup_of(self.cpus[cpu.idx()].task).ok().map(|c| (c, atype)),
            }
        });
        let shim = shim.flatten();
        if progs.is_empty() && shim.is_none() {
            return None;
        }
        // Without memory for it the hook is not heard, as when the trampoline has no programs.
        let (object, ctx) = self.trampoline_context(row, args).ok()?;
        let frame = LsmFrame { progs, object, ctx, shim, modify: None };
        Some(Frame::Op(Box::new(OpFrame::Lsm(frame))))
    }

    /// The programs that may take the place of a function which is entered (`invoke_bpf_mod_ret`).
    pub(super) fn modify_return(&mut self, name: &'static str, args: &[u64]) -> Option<Frame> {
        let (row, _) = function(name)?;
        let progs: VecDeque<Attached> = self.hooks.entry(row, How::Modify).collect();
        if progs.is_empty() {
            return None;
        }
        let (object, ctx) = self.trampoline_context(row, args).ok()?;
        let modify = Some(Modify { wide: name.starts_with("sys_"), running: None });
        let frame = LsmFrame { progs, object, ctx, shim: None, modify };
        Some(Frame::Op(Box::new(OpFrame::Lsm(frame))))
    }

    pub(crate) fn lsm_step(&mut self, cpu: CpuId, mut f: LsmFrame, input: Input) -> Flow {
        // A program that was cancelled says nothing.
        let verdict = match input {
            Input::Return(v) if f.modify.as_ref().is_some_and(|m| m.wide) => v,
            Input::Return(v) => i64::from(v as u32 as i32) as u64,
            _ => 0,
        };
        let shim = f.shim.take_if(|_| verdict == 0 && f.progs.is_empty());
        let next = shim
            .and_then(|(cgroup, atype)| self.cgroup_run(cgroup, atype, (f.ctx, 0), Hook::Plain));
        if let Some(child) = next {
            return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Lsm(f))), child };
        }
        if let Some(prog) = f.modify.as_mut().and_then(|m| m.running.take()) {
            self.cpus[cpu.idx()].active.remove(&prog);
        }
        while let Some(m) = &mut f.modify {
            // __bpf_prog_enter_recur: one that is in progress on the CPU counts a miss.
            let Some(next) = f.progs.front().map(|a| a.prog).filter(|_| verdict == 0) else {
                break;
            };
            if self.cpus[cpu.idx()].active.insert(next) {
                m.running = Some(next);
                break;
            }
            f.progs.pop_front();
            if let Some(p) = self.progs.get_mut(&next) {
                p.misses += 1;
            }
        }
        match f.progs.pop_front().filter(|_| verdict == 0) {
            Some(a) => {
                let mut child = ProgFrame::main(a.prog, self.entry_of(a.prog), f.ctx);
                child.cookie = a.cookie;
                let frame = Frame::Op(Box::new(OpFrame::Lsm(f)));
                Flow::Call { frame, child: Frame::Prog(child) }
            }
            None => {
                self.kfree(f.object, "tracing context");
                Flow::Done(verdict)
            }
        }
    }
}
