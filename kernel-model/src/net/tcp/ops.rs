//! Programs of type sock_ops (`tcp_call_bpf`, `bpf_skops_established`).

use bpf::uapi::AttachType;

use super::{Step, TcpFrame, state};
use crate::cgroup::{Atype, Hook};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::types::Field;
use crate::{Kernel, field};

/// `BPF_SOCK_OPS_ALL_CB_FLAGS`.
pub(crate) const CB_FLAGS: i64 = 0x7f;
/// `BPF_SOCK_OPS_*_CB_FLAG`.
pub(super) const RTO_FLAG: u64 = 1;
pub(super) const RETRANS_FLAG: u64 = 2;
pub(super) const STATE_FLAG: u64 = 4;
pub(super) const RTT_FLAG: u64 = 8;
pub(super) const PARSE_ALL_FLAG: u64 = 16;
pub(super) const PARSE_UNKNOWN_FLAG: u64 = 32;
pub(super) const WRITE_FLAG: u64 = 64;

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
pub(super) const PARSE_HDR_OPT_CB: u8 = 13;
pub(crate) const HDR_OPT_LEN_CB: u8 = 14;
pub(crate) const WRITE_HDR_OPT_CB: u8 = 15;

/// What a callback about a header is about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    /// The socket or the request of the context.
    pub(super) of: u64,
    /// The packet, and how far programs see into it from its data on.
    pub(super) skb: Option<(u64, u64)>,
    /// `syn_skb`, 0 for none.
    pub(super) syn: u64,
    /// `args[0]`.
    pub(super) arg: u32,
    /// `remaining_opt_len`.
    pub(super) room: u8,
}

/// A call of the programs.
#[derive(Clone, Debug)]
pub(super) struct Ops {
    /// Whose group has the programs, where the context's socket does not say it.
    owner: Option<u64>,
    op: u8,
    args: [u32; 4],
    header: Header,
    then: Option<Then>,
}

/// What is done with the value.
type Then = fn(&mut Kernel, CpuId, &mut TcpFrame, i32);

/// A callback whose reply nobody asks for.
pub(super) fn call(sk: u64, op: u8, args: &[u32]) -> Step {
    let mut all = [0; 4];
    all[..args.len()].copy_from_slice(args);
    let header = Header { of: sk, ..Header::default() };
    Step::Ops(Box::new(Ops { owner: None, op, args: all, header, then: None }))
}

/// `bpf_skops_established`, `bpf_skops_parse_hdr`: a packet that arrived goes with it.
pub(super) fn with_skb(sk: u64, op: u8, skb: u64, len: u64) -> Step {
    let skb = (skb != 0).then_some((skb, len));
    let header = Header { of: sk, skb, ..Header::default() };
    Step::Ops(Box::new(Ops { owner: None, op, args: [0; 4], header, then: None }))
}

/// A question; a value of -1 is that of programs that refuse.
pub(super) fn ask(sk: u64, op: u8, then: Then) -> Step {
    let header = Header { of: sk, ..Header::default() };
    Step::Ops(Box::new(Ops { owner: None, op, args: [0; 4], header, then: Some(then) }))
}

/// About a header that is to be sent: what programs did is in [`TcpFrame::opt`].
pub(super) fn header(owner: u64, op: u8, header: Header, then: Then) -> Step {
    let args = [header.arg, 0, 0, 0];
    Step::Ops(Box::new(Ops { owner: Some(owner), op, args, header, then: Some(then) }))
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
        let sk = call.header.of;
        let whole = self.sk_fullsock(sk);
        // sk_to_full_sk: a request has the group of its listener.
        let owner = call.owner.unwrap_or_else(|| match whole {
            true => sk,
            false => self.get(sk, field!("sock", "__sk_common.skc_listener")),
        });
        f.opt.left = None;
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
        let ctx = self.kzalloc(crate::size!("bpf_sock_ops_kern"), "bpf_sock_ops_kern").ok()?;
        for (at, value) in [
            (field!("bpf_sock_ops_kern", "sk"), call.header.of),
            (field!("bpf_sock_ops_kern", "syn_skb"), call.header.syn),
            (field!("bpf_sock_ops_kern", "remaining_opt_len"), call.header.room.into()),
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
        if let Some((skb, len)) = call.header.skb {
            let data = self.get(skb, field!("sk_buff", "data"));
            self.set(ctx, field!("bpf_sock_ops_kern", "skb"), skb);
            self.set(ctx, field!("bpf_sock_ops_kern", "skb_data_end"), data + len);
        }
        let atype = Atype::Of(AttachType::CgroupSockOps as u32);
        let child = self.cgroup_run(self.sock_cgroup(owner), atype, (ctx, 0), Hook::Plain)?;
        Some((ctx, child))
    }
}
