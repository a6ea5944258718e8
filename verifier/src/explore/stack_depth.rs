//! Stack of all call chains together: `check_max_stack_depth`, and what else only the call graph
//! tells (who may throw, whom nobody may call).
//!
//! A chain starts at the main program and at each asynchronous callback, which has a stack of
//! its own. Tracing programs may be given a private stack by the JIT: frames of the main chain
//! that are large enough then count for themselves.

use std::collections::BTreeMap;

use bpf::insn::{Call, Imm64, Insn, InsnIdx};
use bpf::uapi::{AttachType, ProgType};

use super::ver::{R, Ver, no};
use crate::btf::BtfSrc;
use crate::domain::state::{MAX_BPF_STACK, MAX_CALL_FRAMES};
use crate::reject::{E2BIG, EACCES, EFAULT, EINVAL};

/// `BPF_PRIV_STACK_MIN_SIZE`.
const PRIV_STACK_MIN: u32 = 64;
/// Deepest stack of the callers of a subprogram with a tail call.
const TAIL_CALL_MAX: u32 = 256;

/// `enum priv_stack_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Private {
    Unknown,
    No,
    Adaptive,
}

/// One walk over the calls.
struct Walk {
    /// Per subprogram, over all walks.
    private: Vec<Private>,
    /// The chain may use private stacks.
    supported: bool,
    /// Frames above the current one.
    chain: Vec<usize>,
    /// The deepest stack a subprogram was reached with, by frame and kind of chain: a shallower
    /// one tells nothing new, and chains are exponentially many.
    seen: BTreeMap<(usize, usize, bool), u32>,
    /// A callee with a tail call was entered (`tail_call_reachable`).
    tail: bool,
}

/// `bpf_enable_priv_stack`.
fn private_stack(p: &bpf::Program) -> bool {
    match p.prog_type {
        ProgType::Kprobe | ProgType::Tracepoint | ProgType::PerfEvent => true,
        ProgType::RawTracepoint => true,
        // `bpf_prog_check_recur`.
        ProgType::Tracing => p.attach_type != Some(AttachType::TraceIter),
        _ => false,
    }
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:check_max_stack_depth
    pub(super) fn max_stack_depth(&self) -> R {
        let subs = &self.input.cfg.subprogs;
        let tail = subs.iter().any(|s| s.has_tail_call);
        let adaptive = !tail && !self.input.extension && private_stack(self.input.program);
        let mut w = Walk {
            private: vec![Private::Unknown; subs.len()],
            supported: false,
            chain: Vec::new(),
            seen: BTreeMap::new(),
            tail: false,
        };
        // Backwards: what an asynchronous callback calls must not use a private stack, which
        // the main program might be using.
        for s in (0..subs.len()).rev().filter(|s| *s == 0 || self.is_async_cb(*s)) {
            (w.supported, w.tail) = (s == 0 && adaptive, false);
            w.seen.clear();
            self.depth_from(s, 0, &mut w)?;
        }
        Ok(())
    }

    /// `is_async_cb`, which an exception callback is too.
    fn is_async_cb(&self, s: usize) -> bool {
        self.is_async[s] || self.input.cfg.exception_callback == Some(s)
    }

    /// `is_cb`.
    fn is_cb(&self, s: usize) -> bool {
        self.is_callback[s] || self.input.cfg.exception_callback == Some(s)
    }

    /// `check_max_stack_depth_subprog`.
    fn depth_from(&self, sub: usize, above: u32, w: &mut Walk) -> R {
        let frames = w.chain.len();
        let in_cb = w.chain.iter().chain([&sub]).any(|s| self.is_cb(*s));
        if w.seen.get(&(sub, frames, in_cb)).is_some_and(|d| *d > above) {
            return Ok(());
        }
        w.seen.insert((sub, frames, in_cb), above + 1);
        let s = &self.input.cfg.subprogs[sub];
        if sub != 0 && s.has_tail_call && above >= TAIL_CALL_MAX {
            let m = "tail_calls are not allowed when call stack of previous frames is";
            return no(EACCES, format!("{m} {above} bytes. Too large"));
        }
        let depth = self.frame_depth(sub, above, w)?;
        w.chain.push(sub);
        for i in s.start.0..s.end.0 {
            self.depth_call(i, sub, depth, in_cb, w)?;
        }
        w.chain.pop();
        let cb = self.input.cfg.exception_callback;
        if w.tail && w.chain.iter().any(|c| cb == Some(*c)) {
            return no(EINVAL, "cannot tail call within exception cb");
        }
        Ok(())
    }

    /// The stack down to and with a subprogram's own frame.
    fn frame_depth(&self, sub: usize, above: u32, w: &mut Walk) -> R<u32> {
        let max = MAX_BPF_STACK as u32;
        // `round_up_stack_depth` of a JIT.
        let own = self.stack_depth[sub].next_multiple_of(16);
        if w.supported && w.private[sub] == Private::Unknown && own >= PRIV_STACK_MIN {
            w.private[sub] = Private::Adaptive;
        }
        if w.private[sub] == Private::Adaptive {
            if own > max {
                let m = format!("stack size of subprog {sub} is {own}. Too large");
                return no(EACCES, m);
            }
            return Ok(above);
        }
        let depth = above + own;
        if depth > max {
            let n = w.chain.len() + 1;
            return no(EACCES, format!("combined stack size of {n} calls is {depth}. Too large"));
        }
        Ok(depth)
    }

    /// The functions that an indirect call has called.
    fn depth_indirect(&self, i: u32, depth: u32, w: &mut Walk) -> R {
        let callees = self.indirect_calls.range((i, 0)..=(i, usize::MAX)).map(|c| c.1);
        for callee in callees {
            if !w.supported {
                w.private[callee] = Private::No;
            }
            let outer = std::mem::take(&mut w.tail);
            if w.chain.len() >= MAX_CALL_FRAMES {
                let n = w.chain.len();
                return no(E2BIG, format!("the call stack of {n} frames is too deep !"));
            }
            self.depth_from(callee, depth, w)?;
            if w.tail || self.input.cfg.subprogs[callee].has_tail_call {
                return no(EINVAL, "tail_calls are not allowed in functions called via callx");
            }
            w.tail = outer;
        }
        Ok(())
    }

    /// One instruction of a subprogram: a throw, or a call that goes deeper.
    fn depth_call(&self, i: u32, sub: usize, depth: u32, in_cb: bool, w: &mut Walk) -> R {
        let (off, direct) = match *self.insn(i) {
            Insn::Call(Call::Kfunc { btf_id, off: 0 }) => {
                let name = self.btf_name(BtfSrc::Vmlinux, btf_id.cast_unsigned());
                if in_cb && name == "bpf_throw" {
                    let m = format!("cannot be called from callback subprog {sub}");
                    return no(EINVAL, format!("bpf_throw kfunc (insn {i}) {m}"));
                }
                return Ok(());
            }
            Insn::Callx { .. } => return self.depth_indirect(i, depth, w),
            Insn::Call(Call::Local(off)) => (off, true),
            Insn::LdImm64 { imm: Imm64::Func(off), .. } => (off, false),
            _ => return Ok(()),
        };
        let to = InsnIdx((i as i32 + 1).wrapping_add(off) as u32);
        let Some(callee) = self.input.cfg.subprog_starting(to) else { return Ok(()) };
        if self.is_async_cb(callee) {
            if self.input.cfg.subprogs[callee].has_tail_call {
                return no(EFAULT, "verifier bug: subprog has tail_call and async cb");
            }
            // It runs on a stack of its own, unless it is called like any other.
            if !direct {
                return Ok(());
            }
            if self.input.cfg.exception_callback == Some(callee) {
                return no(EINVAL, format!("insn {i} cannot call exception cb directly"));
            }
        }
        if !w.supported {
            w.private[callee] = Private::No;
        }
        w.tail |= self.input.cfg.subprogs[callee].has_tail_call;
        if w.chain.len() >= MAX_CALL_FRAMES {
            let n = w.chain.len();
            return no(E2BIG, format!("the call stack of {n} frames is too deep !"));
        }
        self.depth_from(callee, depth, w)
    }
}
