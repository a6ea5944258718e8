//! tcx and clsact: chains of programs on sk_buffs, and what happens before and after them.

use super::xdp::shared_info;
use super::{NetFrame, RedirectInfo, Target};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::event::UpFields;
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

/// Programs of one direction: tcx links first, then the filters of clsact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcHook {
    /// tcx, in order.
    pub tcx: Vec<ProgId>,
    /// clsact filters (`cls_bpf` with direct action), by priority.
    pub clsact: Vec<ProgId>,
}

impl TcHook {
    /// Takes a program off.
    pub fn remove(&mut self, prog: ProgId) {
        self.tcx.retain(|p| *p != prog);
        self.clsact.retain(|p| *p != prog);
    }
}

impl crate::Kernel {
    /// Takes a program off every hook of devices, functions of the kernel and control groups.
    pub fn prog_detach(&mut self, prog: ProgId) {
        for nic in self.net.nics.values_mut() {
            if nic.xdp == Some(prog) {
                nic.xdp = None;
            }
            nic.ingress.remove(prog);
            nic.egress.remove(prog);
        }
        self.trace_detach(prog);
        self.cgroup_detach_all(prog);
    }
}

/// How far a packet has come on its way up or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// `__netif_receive_skb`, `__dev_queue_xmit`.
    Begin,
    /// The programs.
    Chain,
    /// The protocol handler, the driver.
    Deliver,
    /// A socket has taken it, through this handler.
    Taken(&'static str),
    /// It is elsewhere: what ran for it is complete.
    Gone,
}

/// A chain in progress.
#[derive(Clone, Debug)]
pub struct Chain {
    ifindex: u32,
    skb: u64,
    hook: TcHook,
    next: usize,
    stage: Stage,
    /// The function was reported as entered.
    traced: bool,
}

impl Chain {
    pub(super) fn ingress(k: &Kernel, ifindex: u32, skb: u64) -> Chain {
        let hook = k.net.nics.get(&ifindex).map_or(TcHook::default(), |n| n.ingress.clone());
        Chain { ifindex, skb, hook, next: 0, stage: Stage::Begin, traced: false }
    }

    fn egress(k: &Kernel, ifindex: u32, skb: u64) -> Chain {
        let hook = k.net.nics.get(&ifindex).map_or(TcHook::default(), |n| n.egress.clone());
        Chain { ifindex, skb, hook, next: 0, stage: Stage::Begin, traced: false }
    }

    fn prog(&self, n: usize) -> Option<ProgId> {
        let tcx = self.hook.tcx.len();
        self.hook.tcx.get(n).or_else(|| self.hook.clsact.get(n.wrapping_sub(tcx))).copied()
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
        let chain = &mut self.hook_mut(ifindex, dir)?.tcx;
        if chain.contains(&prog) {
            return Err(Errno::EEXIST);
        }
        let at = position(chain, order)?;
        chain.insert(at, prog);
        Ok(())
    }

    /// Adds a filter to clsact; the order stands for its priority.
    ///
    /// # Errors
    /// As [`Kernel::tcx_attach`].
    pub fn clsact_attach(
        &mut self,
        ifindex: u32,
        dir: Dir,
        prog: ProgId,
        order: Order,
    ) -> Result<(), Errno> {
        let chain = &mut self.hook_mut(ifindex, dir)?.clsact;
        let at = position(chain, order)?;
        chain.insert(at, prog);
        Ok(())
    }

    /// Detaches a program from a tcx hook.
    ///
    /// # Errors
    /// `ENODEV`, `ENOENT`.
    pub fn tcx_detach(&mut self, ifindex: u32, dir: Dir, prog: ProgId) -> Result<(), Errno> {
        let chain = &mut self.hook_mut(ifindex, dir)?.tcx;
        let at = chain.iter().position(|x| *x == prog).ok_or(Errno::ENOENT)?;
        chain.remove(at);
        Ok(())
    }

    fn hook_mut(&mut self, ifindex: u32, dir: Dir) -> Result<&mut TcHook, Errno> {
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
            Input::Start | Input::Again => {}
            Input::Aborted(_) => return Err(Verdict::Drop),
            Input::Return(raw) => {
                let act = raw as u32 as i32;
                let last = chain.next.wrapping_sub(1);
                self.verdict_event(cpu, chain.prog(last), tc_name(act), raw);
                let tcx = chain.hook.tcx.len();
                if last < tcx {
                    match act {
                        0 => return Err(Verdict::Pass),
                        2 => return Err(Verdict::Drop),
                        7 => return Err(Verdict::Redirect),
                        -1 => {}
                        // Every other value ends tcx like TCX_NEXT of its last program
                        // (tcx_action_code): clsact is next.
                        _ => chain.next = tcx,
                    }
                } else {
                    match act {
                        0 => return Err(Verdict::Pass),
                        2 => return Err(Verdict::Drop),
                        4 | 8 => return Err(Verdict::Stolen),
                        7 => return Err(Verdict::Redirect),
                        // cls_bpf_exec_opcode: TC_ACT_UNSPEC, the next filter.
                        _ => {}
                    }
                }
            }
        }
        let Some(prog) = chain.prog(chain.next) else { return Err(Verdict::Pass) };
        chain.next += 1;
        self.skb_compute_pointers(chain.skb);
        Ok(Frame::Prog(ProgFrame::main(prog, self.entry_of(prog), chain.skb)))
    }

    /// `__netif_receive_skb`: tracepoint, VLAN, tc, protocol handler.
    pub(super) fn ingress_step(&mut self, cpu: CpuId, mut chain: Chain, input: Input) -> Flow {
        match chain.stage {
            Stage::Begin => {
                chain.stage = Stage::Chain;
                self.set(chain.skb, field!("sk_buff", "tc_at_ingress"), 1);
                // Here data begins behind the MAC header (eth_type_trans pulled it).
                let entered = self.func_enter(cpu, "__netif_receive_skb", &[chain.skb]);
                if self.fire(cpu, "netif_receive_skb", &[chain.skb]) || entered {
                    self.skb_pull(chain.skb, MAC_LEN);
                    chain.traced = true;
                }
                Flow::Become(net(NetFrame::Ingress(chain)))
            }
            Stage::Chain => {
                if matches!(input, Input::Start) && chain.next == 0 {
                    if chain.traced {
                        self.skb_push(chain.skb, MAC_LEN);
                    }
                    self.skb_vlan_untag(chain.skb);
                }
                match self.chain_step(cpu, &mut chain, input) {
                    Ok(child) => Flow::Call { frame: net(NetFrame::Ingress(chain)), child },
                    Err(verdict) => self.ingress_verdict(cpu, chain, &verdict),
                }
            }
            Stage::Deliver => match self.up(cpu, &chain) {
                Some((handler, child)) => {
                    chain.stage = Stage::Taken(handler);
                    Flow::Call { frame: net(NetFrame::Ingress(chain)), child }
                }
                None => self.ingress_end(cpu, &chain),
            },
            Stage::Taken(handler) => {
                let dev = self.dev_addr(chain.ifindex);
                self.func_exit(cpu, handler, &[chain.skb, dev, 0, dev], 0);
                self.ingress_end(cpu, &chain)
            }
            Stage::Gone => self.ingress_end(cpu, &chain),
        }
    }

    fn ingress_end(&mut self, cpu: CpuId, chain: &Chain) -> Flow {
        self.func_exit(cpu, "__netif_receive_skb", &[chain.skb], 0);
        Flow::Done(0)
    }

    fn ingress_verdict(&mut self, cpu: CpuId, mut chain: Chain, verdict: &Verdict) -> Flow {
        let here = "__netif_receive_skb";
        match verdict {
            Verdict::Pass => {
                chain.stage = Stage::Deliver;
                if let Some(handler) = self.handler(chain.skb) {
                    let dev = self.dev_addr(chain.ifindex);
                    let args = [chain.skb, dev, 0, dev];
                    if self.func_enter(cpu, handler, &args) {
                        self.skb_pull(chain.skb, MAC_LEN);
                    }
                }
                return Flow::Become(net(NetFrame::Ingress(chain)));
            }
            Verdict::Drop => self.skb_drop(cpu, chain.skb, "TC_INGRESS", here),
            Verdict::Stolen => self.consume_skb(cpu, chain.skb, here),
            Verdict::Redirect => {
                if let Some(child) = self.skb_redirect(cpu, chain.skb, true) {
                    chain.stage = Stage::Gone;
                    return Flow::Call { frame: net(NetFrame::Ingress(chain)), child };
                }
            }
        }
        self.ingress_end(cpu, &chain)
    }

    /// `__dev_queue_xmit`: tc, tracepoints, driver.
    pub(super) fn egress_step(&mut self, cpu: CpuId, mut chain: Chain, input: Input) -> Flow {
        match chain.stage {
            Stage::Begin => {
                chain.stage = Stage::Chain;
                self.set(chain.skb, field!("sk_buff", "tc_at_ingress"), 0);
                chain.traced = self.func_enter(cpu, "__dev_queue_xmit", &[chain.skb, 0]);
                Flow::Become(net(NetFrame::Egress(chain)))
            }
            Stage::Chain => match self.chain_step(cpu, &mut chain, input) {
                Ok(child) => Flow::Call { frame: net(NetFrame::Egress(chain)), child },
                Err(verdict) => self.egress_verdict(cpu, chain, &verdict),
            },
            Stage::Deliver => {
                self.xmit_one(cpu, &chain);
                self.egress_end(cpu, &chain, 0)
            }
            Stage::Taken(_) | Stage::Gone => self.egress_end(cpu, &chain, 0),
        }
    }

    fn egress_end(&mut self, cpu: CpuId, chain: &Chain, ret: u64) -> Flow {
        self.func_exit(cpu, "__dev_queue_xmit", &[chain.skb, 0], ret);
        Flow::Done(0)
    }

    fn egress_verdict(&mut self, cpu: CpuId, mut chain: Chain, verdict: &Verdict) -> Flow {
        let here = "__dev_queue_xmit";
        match verdict {
            Verdict::Pass => {
                chain.stage = Stage::Deliver;
                let dev = self.dev_addr(chain.ifindex);
                self.fire(cpu, "net_dev_queue", &[chain.skb]);
                self.func_enter(cpu, "dev_hard_start_xmit", &[chain.skb, dev, 0, 0]);
                self.fire(cpu, "net_dev_start_xmit", &[chain.skb, dev]);
                return Flow::Become(net(NetFrame::Egress(chain)));
            }
            Verdict::Drop => self.skb_drop(cpu, chain.skb, "TC_EGRESS", here),
            Verdict::Stolen => self.consume_skb(cpu, chain.skb, here),
            Verdict::Redirect => {
                if let Some(child) = self.skb_redirect(cpu, chain.skb, false) {
                    chain.stage = Stage::Gone;
                    return Flow::Call { frame: net(NetFrame::Egress(chain)), child };
                }
            }
        }
        // NET_XMIT_DROP
        let ret = u64::from(matches!(verdict, Verdict::Drop));
        self.egress_end(cpu, &chain, ret)
    }

    /// `xmit_one`: the driver takes the packet; it is freed when it is on the wire.
    fn xmit_one(&mut self, cpu: CpuId, chain: &Chain) {
        let (skb, here) = (chain.skb, "dev_hard_start_xmit");
        let dev = self.dev_addr(chain.ifindex);
        let len = self.get(skb, field!("sk_buff", "len"));
        match self.tx_skb(cpu, chain.ifindex, skb) {
            Ok(()) => {
                self.fire(cpu, "net_dev_xmit", &[skb, 0, dev, len]);
                self.consume_skb(cpu, skb, here);
            }
            Err(e) => {
                // NETDEV_TX_BUSY
                self.fire(cpu, "net_dev_xmit", &[skb, 0x10, dev, len]);
                let reason = if e == Errno::ENETDOWN { "DEV_READY" } else { "FULL_RING" };
                self.skb_drop(cpu, skb, reason, here);
            }
        }
        self.func_exit(cpu, here, &[skb, dev, 0, 0], 0);
    }

    /// `skb_do_redirect`: to the egress of another device, its ingress (`BPF_F_INGRESS`), or
    /// the ingress of the device at the other end of its cable (`BPF_F_PEER`).
    fn skb_redirect(&mut self, cpu: CpuId, skb: u64, at_ingress: bool) -> Option<Frame> {
        let info: RedirectInfo = self.net.redirect.remove(&cpu).unwrap_or_default();
        let to = match info.target {
            Target::Device(n) if info.peer => {
                self.net.nics.get(&n).and_then(|n| n.peer).filter(|_| at_ingress)
            }
            Target::Device(n) => Some(n),
            _ => None,
        };
        let to = to.filter(|n| self.net.nics.contains_key(n));
        self.func_enter(cpu, "skb_do_redirect", &[skb]);
        let Some(to) = to else {
            self.skb_drop(cpu, skb, "NOT_SPECIFIED", "skb_do_redirect");
            self.func_exit(cpu, "skb_do_redirect", &[skb], Errno::EINVAL.ret());
            return None;
        };
        if let Some(hop) = info.neigh {
            return self.skb_redirect_neigh(cpu, skb, to, hop);
        }
        Some(self.skb_send(to, skb, info.peer || info.flags & 1 != 0))
    }

    /// `__dev_queue_xmit`: the path of an sk_buff of this machine out of a device.
    pub(super) fn skb_xmit(&self, ifindex: u32, skb: u64) -> Frame {
        net(NetFrame::Egress(Chain::egress(self, ifindex, skb)))
    }

    /// The path of an sk_buff out of a device, or into it as if it had arrived there.
    pub(crate) fn skb_send(&mut self, ifindex: u32, skb: u64, ingress: bool) -> Frame {
        let dev = self.net.nics[&ifindex].dev;
        self.set(skb, field!("sk_buff", "dev"), dev);
        self.set(skb, field!("sk_buff", "redirected"), 1);
        if ingress {
            self.set(skb, field!("sk_buff", "skb_iif"), ifindex.into());
            self.eth_type_trans(skb);
            net(NetFrame::Ingress(Chain::ingress(self, ifindex, skb)))
        } else {
            net(NetFrame::Egress(Chain::egress(self, ifindex, skb)))
        }
    }

    /// The function that takes packets of a protocol (`struct packet_type`).
    fn handler(&self, skb: u64) -> Option<&'static str> {
        match self.be16(self.get(skb, field!("sk_buff", "protocol")) as u16) {
            0x0800 => Some("ip_rcv"),
            0x86dd => Some("ipv6_rcv"),
            0x0806 => Some("arp_rcv"),
            _ => None,
        }
    }

    /// The end of the way up: handlers take all. A packet of a socket that a task or a program of
    /// a control group waits at goes on to it.
    fn up(&mut self, cpu: CpuId, chain: &Chain) -> Option<(&'static str, Frame)> {
        let (skb, handler) = (chain.skb, self.handler(chain.skb));
        let mac = self.get(skb, field!("sk_buff", "mac_header"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let head = self.get(skb, field!("sk_buff", "head"));
        if data > head + mac {
            self.skb_push(skb, data - head - mac);
        }
        let packet = self.skb_bytes(skb);
        let fields = Box::new(self.up_fields(skb));
        self.emit(cpu, EventKind::Up { nic: chain.ifindex, packet, skb: fields });
        let Some(handler) = handler else {
            self.consume_skb(cpu, skb, "__netif_receive_skb");
            return None;
        };
        if let Some(child) = self.up_to_socket(skb) {
            return Some((handler, child));
        }
        self.consume_skb(cpu, skb, handler);
        let dev = self.dev_addr(chain.ifindex);
        self.func_exit(cpu, handler, &[skb, dev, 0, dev], 0);
        None
    }

    fn up_fields(&self, skb: u64) -> UpFields {
        let at = |field| self.get(skb, field);
        let (head, mac) = (at(field!("sk_buff", "head")), at(field!("sk_buff", "mac_header")));
        let meta = self.get(shared_info(head), field!("skb_shared_info", "meta_len"));
        let meta = self.mem.read_vec(head + mac - meta, meta as usize).unwrap_or_default();
        UpFields {
            mark: at(field!("sk_buff", "mark")) as u32,
            priority: at(field!("sk_buff", "priority")) as u32,
            vlan: at(field!("sk_buff", "vlan_tci")) as u16,
            hash: at(field!("sk_buff", "hash")) as u32,
            tstamp: at(field!("sk_buff", "tstamp")),
            meta,
        }
    }

    fn skb_pull(&mut self, skb: u64, n: u64) {
        let (data, len) = (field!("sk_buff", "data"), field!("sk_buff", "len"));
        let (d, l) = (self.get(skb, data), self.get(skb, len));
        self.set(skb, data, d + n);
        self.set(skb, len, l.wrapping_sub(n));
    }

    fn skb_push(&mut self, skb: u64, n: u64) {
        let (data, len) = (field!("sk_buff", "data"), field!("sk_buff", "len"));
        let (d, l) = (self.get(skb, data), self.get(skb, len));
        self.set(skb, data, d - n);
        self.set(skb, len, l.wrapping_add(n));
    }
}

/// `ETH_HLEN`.
const MAC_LEN: u64 = 14;

fn position(chain: &[ProgId], order: Order) -> Result<usize, Errno> {
    let find = |p| chain.iter().position(|x| *x == p).ok_or(Errno::ENOENT);
    Ok(match order {
        Order::First => 0,
        Order::Last => chain.len(),
        Order::Before(p) => find(p)?,
        Order::After(p) => find(p)? + 1,
    })
}

fn net(frame: NetFrame) -> Frame {
    Frame::Net(Box::new(frame))
}
