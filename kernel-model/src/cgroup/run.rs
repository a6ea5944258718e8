//! The programs of a group at one hook (`bpf_prog_run_array_cg`), and what they return together.
//!
//! All of them run. One that returns 0 refuses: the value is then `-EPERM`, unless an error stands
//! there already, by `bpf_set_retval` or from before.

use std::sync::Arc;

use bpf::uapi::AttachType;

use super::attach::Item;
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::sched::OpFrame;
use crate::trace::function;
use crate::{Errno, Kernel, ProgId, field};

/// `enum cgroup_bpf_attach_type`: an attach type; LSM programs have one for each hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Atype {
    /// `enum bpf_attach_type`.
    Of(u32),
    /// By the row of the hook's function.
    Lsm(usize),
}

impl Atype {
    /// `to_cgroup_bpf_attach_type`.
    pub(crate) fn plain(attach: AttachType) -> Option<Atype> {
        let of_groups = attach.name().starts_with("cgroup_");
        of_groups.then_some(Atype::Of(attach as u32))
    }
}

/// What surrounds a run.
#[derive(Clone, Debug)]
pub(crate) enum Hook {
    /// The value is an error, or 0.
    Plain,
    /// The bits above the first of what a program returns are flags of the hook.
    Flags,
    /// The same; `retval` is a member of the context, at this address.
    Retval(u64),
    /// A packet of a socket, as it was before.
    Skb(Box<SavedSkb>),
}

/// What the programs of a packet change for their run.
#[derive(Clone, Debug)]
pub(crate) struct SavedSkb {
    egress: bool,
    sk: u64,
    data: u64,
    len: u64,
    cb: Vec<u8>,
}

/// `NET_XMIT_DROP`, `NET_XMIT_CN`.
pub(crate) const XMIT_DROP: u64 = 1;
pub(crate) const XMIT_CN: u64 = 2;
/// `BPF_RET_SET_CN`.
const SET_CN: u64 = 1;

/// Programs of a group in progress.
#[derive(Clone, Debug)]
pub struct CgroupFrame {
    progs: Arc<[Item]>,
    next: usize,
    attach: u32,
    ctx: u64,
    /// `bpf_cg_run_ctx.retval`.
    retval: i32,
    flags: u64,
    hook: Hook,
}

impl CgroupFrame {
    /// Programs that have not run.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.progs.iter().skip(self.next).map(|i| i.prog)
    }

    /// The group that the program which runs is attached to, and the attach type.
    pub(super) fn running(&self) -> Option<(usize, u32)> {
        let item = self.progs.get(self.next.checked_sub(1)?)?;
        Some((item.group, self.attach))
    }
}

impl Kernel {
    /// The kind of hook that a program is attached to by an attach type.
    pub(crate) fn cgroup_atype(&self, attach: AttachType, prog: ProgId) -> Option<Atype> {
        if attach != AttachType::LsmCgroup {
            return Atype::plain(attach);
        }
        let to = self.progs.get(&prog)?.verified.program().attach_to.as_deref()?;
        function(&format!("bpf_lsm_{to}")).map(|(row, _)| Atype::Lsm(row))
    }

    /// Whether any group has programs for packets that arrive.
    pub(crate) fn cgroup_ingress_enabled(&self) -> bool {
        self.cgroups.enabled(Atype::Of(AttachType::CgroupInetIngress as u32))
    }

    /// `cgroup_bpf_sock_enabled`: whether the group of a socket has programs for a hook.
    pub(crate) fn cgroup_has(&self, sk: u64, attach: AttachType) -> bool {
        let group = self.cgroups.by_addr(self.sock_cgroup(sk));
        group.is_some_and(|g| self.cgroups.effective(g, Atype::Of(attach as u32)).is_some())
    }

    /// `cgroup_id` of the group of a socket: the root's until there are others.
    pub(crate) fn sock_cgroup_id(&self, sk: u64) -> u64 {
        match self.sock_cgroup(sk) {
            0 => super::ROOT_ID,
            cgroup => self.cgroup_id(cgroup),
        }
    }

    /// The same of a group above it.
    pub(crate) fn sock_ancestor_id(&self, sk: u64, level: i32) -> u64 {
        match (self.sock_cgroup(sk), level) {
            (0, 0) => super::ROOT_ID,
            (0, _) => 0,
            (cgroup, _) => self.cgroup_ancestor(cgroup, level).map_or(0, |c| self.cgroup_id(c)),
        }
    }

    /// `sock_cgroup_ptr`: the group in which a socket was made.
    pub(crate) fn sock_cgroup(&self, sk: u64) -> u64 {
        match self.get(sk, field!("sock", "sk_cgrp_data.cgroup")) {
            0 => self.cgroups.all.first().map_or(0, |c| c.addr),
            cgroup => cgroup,
        }
    }

    /// The programs of a group, if it has any, on a context; `retval` is what they begin with.
    pub(crate) fn cgroup_run(
        &mut self,
        cgroup: u64,
        atype: Atype,
        (ctx, retval): (u64, i32),
        hook: Hook,
    ) -> Option<Frame> {
        let group = self.cgroups.by_addr(cgroup)?;
        let progs = self.cgroups.effective(group, atype)?;
        let attach = match atype {
            Atype::Of(attach) => attach,
            Atype::Lsm(_) => AttachType::LsmCgroup as u32,
        };
        let mut frame = CgroupFrame { progs, next: 0, attach, ctx, retval: 0, flags: 0, hook };
        self.retval_set(&mut frame, retval);
        Some(Frame::Op(Box::new(OpFrame::Cgroup(frame))))
    }

    /// `__cgroup_bpf_run_filter_skb`: the value is 0, an error, or for packets that leave a
    /// `NET_XMIT_*`.
    pub(crate) fn cgroup_run_skb(&mut self, sk: u64, skb: u64, egress: bool) -> Option<Frame> {
        let family = self.get(sk, field!("sock", "__sk_common.skc_family"));
        if !matches!(family, 2 | 10) {
            return None;
        }
        let attach =
            if egress { AttachType::CgroupInetEgress } else { AttachType::CgroupInetIngress };
        let atype = Atype::Of(attach as u32);
        let group = self.cgroups.by_addr(self.sock_cgroup(sk))?;
        let progs = self.cgroups.effective(group, atype)?;
        let (data, len) = (field!("sk_buff", "data"), field!("sk_buff", "len"));
        let cb = field!("sk_buff", "cb");
        let saved = SavedSkb {
            egress,
            sk: self.get(skb, field!("sk_buff", "sk")),
            data: self.get(skb, data),
            len: self.get(skb, len),
            cb: self.bytes(skb + u64::from(cb.off), cb.size.into()),
        };
        let head = self.get(skb, field!("sk_buff", "head"));
        let network = head + self.get(skb, field!("sk_buff", "network_header"));
        let moved = network.wrapping_sub(saved.data);
        self.set(skb, field!("sk_buff", "sk"), sk);
        self.set(skb, data, network);
        self.set(skb, len, saved.len.wrapping_sub(moved));
        let hook = Hook::Skb(Box::new(saved));
        let attach = attach as u32;
        let frame = CgroupFrame { progs, next: 0, attach, ctx: skb, retval: 0, flags: 0, hook };
        Some(Frame::Op(Box::new(OpFrame::Cgroup(frame))))
    }

    pub(crate) fn cgroup_step(&mut self, _: CpuId, mut f: CgroupFrame, input: Input) -> Flow {
        if f.next > 0 {
            // One that is cancelled refuses.
            let ret = if let Input::Return(v) = input { v & 0xffff_ffff } else { 0 };
            self.cgroup_returned(&mut f, ret);
        }
        let Some(prog) = f.progs.get(f.next).map(|i| i.prog) else {
            return Flow::Done(self.cgroup_end(&f));
        };
        f.next += 1;
        if let Hook::Skb(_) = f.hook {
            // bpf_prog_run_save_cb: each begins with an empty control block.
            let own = field!("qdisc_skb_cb", "data");
            let cb = f.ctx + u64::from(field!("sk_buff", "cb").off);
            self.set_bytes(cb, own, &[]);
            self.skb_compute_pointers(f.ctx);
        }
        let child = Frame::Prog(ProgFrame::main(prog, self.entry_of(prog), f.ctx));
        Flow::Call { frame: Frame::Op(Box::new(OpFrame::Cgroup(f))), child }
    }

    fn cgroup_returned(&mut self, f: &mut CgroupFrame, mut ret: u64) {
        let egress = matches!(&f.hook, Hook::Skb(s) if s.egress);
        if egress || matches!(f.hook, Hook::Flags) {
            f.flags |= ret >> 1;
            ret &= 1;
        }
        if ret == 0 && !is_error(self.retval_of(f)) {
            self.retval_set(f, -(Errno::EPERM as i32));
        }
    }

    fn cgroup_end(&mut self, f: &CgroupFrame) -> u64 {
        let ret = self.retval_of(f);
        let value = i64::from(ret) as u64;
        let Hook::Skb(saved) = &f.hook else { return value };
        let skb = f.ctx;
        self.set(skb, field!("sk_buff", "sk"), saved.sk);
        self.set(skb, field!("sk_buff", "data"), saved.data);
        self.set(skb, field!("sk_buff", "len"), saved.len);
        self.set_bytes(skb, field!("sk_buff", "cb"), &saved.cb);
        let value = if ret != 0 && !is_error(ret) { Errno::EFAULT.ret() } else { value };
        let congested = f.flags & SET_CN != 0;
        match (saved.egress && congested, value) {
            (true, 0) => XMIT_CN,
            (true, _) => XMIT_DROP,
            (false, value) => value,
        }
    }

    fn retval_of(&self, f: &CgroupFrame) -> i32 {
        match f.hook {
            Hook::Retval(at) => self.mem.read_u32(at).map_or(0, u32::cast_signed),
            _ => f.retval,
        }
    }

    fn retval_set(&mut self, f: &mut CgroupFrame, to: i32) {
        match f.hook {
            Hook::Retval(at) => {
                let to = u64::from(to.cast_unsigned());
                self.mem.write_uint(at, 4, to).expect("the context is mapped");
            }
            _ => f.retval = to,
        }
    }

    /// `bpf_get_retval` and `bpf_set_retval` of the program that runs.
    pub(crate) fn cgroup_retval(&mut self, cpu: CpuId, set: Option<i32>) -> Option<i32> {
        let mine = |f: &Frame| match f {
            Frame::Op(o) => matches!(**o, OpFrame::Cgroup(_)),
            _ => false,
        };
        let at = self.cpus[cpu.idx()].frames.iter().rposition(mine)?;
        let Frame::Op(op) = &mut self.cpus[cpu.idx()].frames[at] else { return None };
        let OpFrame::Cgroup(f) = &mut **op else { return None };
        let mut f = f.clone();
        if let Some(to) = set {
            self.retval_set(&mut f, to);
        }
        let now = self.retval_of(&f);
        if let Frame::Op(op) = &mut self.cpus[cpu.idx()].frames[at] {
            **op = OpFrame::Cgroup(f);
        }
        Some(now)
    }
}

/// `IS_ERR_VALUE`.
fn is_error(ret: i32) -> bool {
    (-4095..0).contains(&ret)
}
