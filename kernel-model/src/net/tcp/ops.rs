//! Programs of type sock_ops (`tcp_call_bpf`, `bpf_skops_established`).

use bpf::uapi::AttachType;

use super::{Step, TcpFrame, state};
use crate::cgroup::{Atype, Hook};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::types::Field;
use crate::{Kernel, field};

/// `BPF_SOCK_OPS_*_CB_FLAG`: all, and those whose callbacks the model does not have
/// (`PARSE_ALL_HDR_OPT`, `PARSE_UNKNOWN_HDR_OPT`, `WRITE_HDR_OPT`).
pub(crate) const CB_FLAGS: i64 = 0x7f;
pub(crate) const CB_UNMODELLED: i64 = 0x70;
pub(super) const RTO_FLAG: u64 = 1;
pub(super) const RETRANS_FLAG: u64 = 2;
pub(super) const STATE_FLAG: u64 = 4;
pub(super) const RTT_FLAG: u64 = 8;

/// `BPF_SOCK_OPS_*`.
pub(super) const TIMEOUT_INIT: u8 = 1;
pub(super) const RWND_INIT: u8 = 2;
pub(super) const TCP_CONNECT_CB: u8 = 3;
pub(super) const ACTIVE_ESTABLISHED_CB: u8 = 4;
pub(super) const PASSIVE_ESTABLISHED_CB: u8 = 5;
pub(super) const NEEDS_ECN: u8 = 6;
pub(super) const RTO_CB: u8 = 8;
pub(super) const RETRANS_CB: u8 = 9;
pub(super) const STATE_CB: u8 = 10;
pub(super) const TCP_LISTEN_CB: u8 = 11;
pub(super) const RTT_CB: u8 = 12;

/// A call of the programs.
#[derive(Clone, Debug)]
pub(super) struct Ops {
    sk: u64,
    op: u8,
    args: [u32; 4],
    /// The packet, and how far programs see into it from its data on.
    skb: Option<(u64, u64)>,
    then: Option<fn(&mut Kernel, CpuId, &mut TcpFrame, i32)>,
}

/// A callback whose reply nobody asks for.
pub(super) fn call(sk: u64, op: u8, args: &[u32]) -> Step {
    let mut all = [0; 4];
    all[..args.len()].copy_from_slice(args);
    Step::Ops(Box::new(Ops { sk, op, args: all, skb: None, then: None }))
}

/// `bpf_skops_established`: the packet that ended the handshake goes with it.
pub(super) fn established(sk: u64, op: u8, skb: u64, header: u64) -> Step {
    let skb = (skb != 0).then_some((skb, header));
    Step::Ops(Box::new(Ops { sk, op, args: [0; 4], skb, then: None }))
}

/// A question; a value of -1 is that of programs that refuse.
pub(super) fn ask(sk: u64, op: u8, then: fn(&mut Kernel, CpuId, &mut TcpFrame, i32)) -> Step {
    Step::Ops(Box::new(Ops { sk, op, args: [0; 4], skb: None, then: Some(then) }))
}

impl Kernel {
    /// `BPF_SOCK_OPS_TEST_FLAG`.
    pub(super) fn tcp_cb_flag(&self, sk: u64, flag: u64) -> bool {
        self.get(sk, field!("tcp_sock", "bpf_sock_ops_cb_flags")) & flag != 0
    }

    /// `sk_fullsock`.
    pub(crate) fn sk_fullsock(&self, sk: u64) -> bool {
        !matches!(self.tcp_state(sk), state::TIME_WAIT | state::NEW_SYN_RECV)
    }

    /// `tcp_call_bpf`: without programs the reply is what the context begins with.
    pub(super) fn tcp_call_bpf(
        &mut self,
        cpu: CpuId,
        f: &mut TcpFrame,
        call: &Ops,
    ) -> Option<Frame> {
        let whole = self.sk_fullsock(call.sk);
        // sk_to_full_sk: a request has the group of its listener.
        let owner = match whole {
            true => call.sk,
            false => self.get(call.sk, field!("sock", "__sk_common.skc_listener")),
        };
        let child = self.sock_ops_child(owner, call, whole);
        match child {
            Some(_) => f.then = call.then,
            None => {
                if let Some(then) = call.then {
                    then(self, cpu, f, call.args[0].cast_signed());
                }
            }
        }
        let (ctx, child) = child?;
        f.ctx = ctx;
        Some(child)
    }

    /// `BPF_SOCK_OPS_TCP_LISTEN_CB`.
    pub(crate) fn tcp_listening(&mut self, sk: u64) -> Frame {
        TcpFrame::new(Level::Task, sk, [call(sk, TCP_LISTEN_CB, &[])]).frame()
    }

    fn sock_ops_child(&mut self, owner: u64, call: &Ops, whole: bool) -> Option<(u64, Frame)> {
        if !self.cgroup_has(owner, AttachType::CgroupSockOps) {
            return None;
        }
        let ctx =
            self.kzalloc(crate::types::size("bpf_sock_ops_kern"), "bpf_sock_ops_kern").ok()?;
        for (at, value) in [
            (field!("bpf_sock_ops_kern", "sk"), call.sk),
            (field!("bpf_sock_ops_kern", "op"), call.op.into()),
            (field!("bpf_sock_ops_kern", "is_fullsock"), whole.into()),
            (field!("bpf_sock_ops_kern", "is_locked_tcp_sock"), whole.into()),
        ] {
            self.set(ctx, at, value);
        }
        let args = field!("bpf_sock_ops_kern", "args");
        for (n, value) in call.args.iter().enumerate() {
            let at = Field { off: args.off + 4 * n as u32, size: 4 };
            self.set(ctx, at, (*value).into());
        }
        if let Some((skb, header)) = call.skb {
            let data = self.get(skb, field!("sk_buff", "data"));
            self.set(ctx, field!("bpf_sock_ops_kern", "skb"), skb);
            self.set(ctx, field!("bpf_sock_ops_kern", "skb_data_end"), data + header);
        }
        let atype = Atype::Of(AttachType::CgroupSockOps as u32);
        let child = self.cgroup_run(self.sock_cgroup(owner), atype, (ctx, 0), Hook::Plain)?;
        Some((ctx, child))
    }
}
