//! tcx and clsact: chains of programs on sk_buffs, and what happens after them.

use super::{NetFrame, RedirectInfo};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::{Errno, EventKind, Kernel, ProgId, field};

/// Direction of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// Frames that arrive.
    Ingress,
    /// Frames that leave.
    Egress,
}

/// Place in a chain (`BPF_F_BEFORE`, `BPF_F_AFTER`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    #[default]
    Last,
    /// Just before a program.
    Before(ProgId),
    /// Just after a program.
    After(ProgId),
}

/// A chain in progress.
#[derive(Clone, Debug)]
pub struct Chain {
    ifindex: u32,
    skb: u64,
    progs: Vec<ProgId>,
    next: usize,
}

impl Chain {
    pub(super) fn ingress(k: &Kernel, ifindex: u32, skb: u64) -> Chain {
        let progs = k.net.nics.get(&ifindex).map_or(Vec::new(), |n| n.ingress.clone());
        Chain { ifindex, skb, progs, next: 0 }
    }

    fn egress(k: &Kernel, ifindex: u32, skb: u64) -> Chain {
        let progs = k.net.nics.get(&ifindex).map_or(Vec::new(), |n| n.egress.clone());
        Chain { ifindex, skb, progs, next: 0 }
    }
}

/// What a chain came to (`tcx_run`, `sch_handle_ingress`).
enum Verdict {
    Pass,
    Drop,
    Stolen,
    Redirect,
}

/// `__TC_ACT` names; tcx has the same numbers.
fn tc_name(act: i32) -> &'static str {
    match act {
        -1 => "TC_ACT_UNSPEC",
        0 => "TC_ACT_OK",
        1 => "TC_ACT_RECLASSIFY",
        2 => "TC_ACT_SHOT",
        3 => "TC_ACT_PIPE",
        4 => "TC_ACT_STOLEN",
        5 => "TC_ACT_QUEUED",
        6 => "TC_ACT_REPEAT",
        7 => "TC_ACT_REDIRECT",
        8 => "TC_ACT_TRAP",
        _ => "TC_ACT_UNKNOWN",
    }
}

impl Kernel {
    /// Attaches a program to a tcx hook (`bpf_mprog_attach`).
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST` when it is there already, `ENOENT` for an unknown neighbour.
    pub fn tcx_attach(
        &mut self,
        ifindex: u32,
        dir: Dir,
        prog: ProgId,
        order: Order,
    ) -> Result<(), Errno> {
        let chain = self.chain_mut(ifindex, dir)?;
        if chain.contains(&prog) {
            return Err(Errno::EEXIST);
        }
        let find = |p| chain.iter().position(|x| *x == p).ok_or(Errno::ENOENT);
        let at = match order {
            Order::First => 0,
            Order::Last => chain.len(),
            Order::Before(p) => find(p)?,
            Order::After(p) => find(p)? + 1,
        };
        chain.insert(at, prog);
        Ok(())
    }

    /// Detaches a program from a tcx hook.
    ///
    /// # Errors
    /// `ENODEV`, `ENOENT`.
    pub fn tcx_detach(&mut self, ifindex: u32, dir: Dir, prog: ProgId) -> Result<(), Errno> {
        let chain = self.chain_mut(ifindex, dir)?;
        let at = chain.iter().position(|x| *x == prog).ok_or(Errno::ENOENT)?;
        chain.remove(at);
        Ok(())
    }

    fn chain_mut(&mut self, ifindex: u32, dir: Dir) -> Result<&mut Vec<ProgId>, Errno> {
        let nic = self.net.nics.get_mut(&ifindex).ok_or(Errno::ENODEV)?;
        Ok(match dir {
            Dir::Ingress => &mut nic.ingress,
            Dir::Egress => &mut nic.egress,
        })
    }

    /// Runs the next program of a chain, or says what the chain came to.
    fn chain_step(
        &mut self,
        cpu: CpuId,
        chain: &mut Chain,
        input: Input,
    ) -> Result<Frame, Verdict> {
        match input {
            Input::Start => {}
            Input::Aborted(_) => return Err(Verdict::Drop),
            Input::Return(raw) => {
                let act = raw as u32 as i32;
                let prog = chain.progs.get(chain.next.wrapping_sub(1)).copied();
                self.verdict_event(cpu, prog, tc_name(act), raw);
                match act {
                    0 => return Err(Verdict::Pass),
                    2 => return Err(Verdict::Drop),
                    4 | 5 | 8 => return Err(Verdict::Stolen),
                    7 => return Err(Verdict::Redirect),
                    // tcx_action_code: every other value goes on with the next program.
                    _ => {}
                }
            }
        }
        let Some(prog) = chain.progs.get(chain.next).copied() else { return Err(Verdict::Pass) };
        chain.next += 1;
        self.skb_compute_pointers(chain.skb);
        Ok(Frame::Prog(ProgFrame::main(prog, self.entry_of(prog), chain.skb)))
    }

    pub(super) fn ingress_step(&mut self, cpu: CpuId, mut chain: Chain, input: Input) -> Flow {
        if matches!(input, Input::Start) {
            self.set(chain.skb, field!("sk_buff", "tc_at_ingress"), 1);
        }
        let redirected = chain.next > chain.progs.len();
        if redirected {
            return Flow::Done(0);
        }
        match self.chain_step(cpu, &mut chain, input) {
            Ok(child) => Flow::Call { frame: net(NetFrame::Ingress(chain)), child },
            Err(Verdict::Pass) => {
                self.up(cpu, chain.ifindex, chain.skb);
                Flow::Done(0)
            }
            Err(Verdict::Drop) => {
                self.kfree_skb(chain.skb);
                self.drop_packet(cpu, "TC_INGRESS");
                Flow::Done(0)
            }
            Err(Verdict::Stolen) => {
                self.kfree_skb(chain.skb);
                Flow::Done(0)
            }
            Err(Verdict::Redirect) => match self.skb_redirect(cpu, chain.skb) {
                Some(child) => {
                    chain.next = chain.progs.len() + 1;
                    Flow::Call { frame: net(NetFrame::Ingress(chain)), child }
                }
                None => Flow::Done(0),
            },
        }
    }

    pub(super) fn egress_step(&mut self, cpu: CpuId, mut chain: Chain, input: Input) -> Flow {
        if matches!(input, Input::Start) {
            self.set(chain.skb, field!("sk_buff", "tc_at_ingress"), 0);
        }
        if chain.next > chain.progs.len() {
            return Flow::Done(0);
        }
        match self.chain_step(cpu, &mut chain, input) {
            Ok(child) => return Flow::Call { frame: net(NetFrame::Egress(chain)), child },
            Err(Verdict::Pass) => {
                let bytes = self.skb_wire_bytes(chain.skb);
                self.kfree_skb(chain.skb);
                self.wire_out(cpu, chain.ifindex, &bytes);
            }
            Err(Verdict::Drop) => {
                self.kfree_skb(chain.skb);
                self.drop_packet(cpu, "TC_EGRESS");
            }
            Err(Verdict::Stolen) => self.kfree_skb(chain.skb),
            Err(Verdict::Redirect) => {
                if let Some(child) = self.skb_redirect(cpu, chain.skb) {
                    chain.next = chain.progs.len() + 1;
                    return Flow::Call { frame: net(NetFrame::Egress(chain)), child };
                }
            }
        }
        Flow::Done(0)
    }

    /// `skb_do_redirect`: to the egress of another device, or its ingress (`BPF_F_INGRESS`).
    fn skb_redirect(&mut self, cpu: CpuId, skb: u64) -> Option<Frame> {
        let info: RedirectInfo = self.net.redirect.remove(&cpu).unwrap_or_default();
        if !self.net.nics.contains_key(&info.ifindex) {
            self.kfree_skb(skb);
            self.drop_packet(cpu, "TC_REDIRECT");
            return None;
        }
        Some(self.skb_send(info.ifindex, skb, info.flags & 1 != 0))
    }

    /// The path of an sk_buff out of a device, or into it as if it had arrived there.
    pub(crate) fn skb_send(&mut self, ifindex: u32, skb: u64, ingress: bool) -> Frame {
        let dev = self.net.nics[&ifindex].dev;
        self.set(skb, field!("sk_buff", "dev"), dev);
        self.set(skb, field!("sk_buff", "redirected"), 1);
        if ingress {
            self.set(skb, field!("sk_buff", "skb_iif"), ifindex.into());
            self.eth_type_trans(skb);
            self.skb_vlan_untag(skb);
            net(NetFrame::Ingress(Chain::ingress(self, ifindex, skb)))
        } else {
            net(NetFrame::Egress(Chain::egress(self, ifindex, skb)))
        }
    }

    /// The end of the way up: the model has no protocol stack above.
    fn up(&mut self, cpu: CpuId, ifindex: u32, skb: u64) {
        let packet = self.skb_bytes(skb);
        self.emit(cpu, EventKind::Up { nic: ifindex, packet });
        self.kfree_skb(skb);
    }

    /// A frame leaves a device and arrives at the other end of its cable.
    pub(super) fn wire_out(&mut self, cpu: CpuId, ifindex: u32, bytes: &[u8]) {
        let Some(nic) = self.net.nics.get(&ifindex).filter(|n| n.up) else {
            self.drop_packet(cpu, "DEV_READY");
            return;
        };
        let (dev, peer, limit) = (nic.dev, nic.peer, nic.config.mtu as usize + 14 + 4);
        if bytes.len() > limit {
            self.drop_packet(cpu, "PKT_TOO_BIG");
            return;
        }
        self.count(dev, field!("net_device", "stats.tx_packets"), 1);
        self.count(dev, field!("net_device", "stats.tx_bytes"), bytes.len() as u64);
        self.emit(cpu, EventKind::Out { nic: ifindex, packet: bytes.to_vec() });
        if let Some(peer) = peer {
            // A full ring is counted and reported by the receiver.
            let _dropped = self.net_receive(peer, None, bytes, super::SkbFields::default());
        }
    }
}

fn net(frame: NetFrame) -> Frame {
    Frame::Net(Box::new(frame))
}
