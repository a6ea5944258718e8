//! Redirects: what the helpers ask for, bulk queues of devmaps, and their flush at the end of
//! the poll (kernel/bpf/devmap.c, net/core/filter.c:xdp_do_redirect).

use std::collections::VecDeque;

use super::xdp::{Buffer, xdp_name};
use super::{NetFrame, cpumap};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::maps::MapId;
use crate::{Errno, EventKind, Kernel, ProgId, field};

/// `DEV_MAP_BULK_SIZE`.
const DEV_BULK: usize = 16;

/// Where a redirect goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nowhere: no helper was called, or its look-up failed.
    #[default]
    None,
    /// A device by number.
    Device(u32),
    /// An entry of a devmap.
    Dev { map: MapId, index: u32, value: u64, ifindex: u32, prog: Option<ProgId> },
    /// All devices of a devmap.
    All { map: MapId, exclude_ingress: bool },
    /// An entry of a cpumap.
    Cpu { map: MapId, cpu: u32, value: u64, qsize: u32, prog: Option<ProgId> },
}

/// What `bpf_redirect*` asked for on a CPU (`struct bpf_redirect_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RedirectInfo {
    pub(crate) target: Target,
    /// Helper flags.
    pub(crate) flags: u64,
    /// `BPF_F_PEER`: to the ingress of the device at the other end.
    pub(crate) peer: bool,
    /// `BPF_F_NEIGH`: with a link-layer header for the next hop.
    pub(crate) neigh: Option<super::fib::NextHop>,
}

/// A bulk queue.
#[derive(Clone, Debug)]
pub(in crate::net) enum Work {
    /// To a device (`struct xdp_dev_bulk_queue`).
    Dev { to: u32, from: u32, prog: Option<ProgId>, frames: VecDeque<Buffer> },
    /// To a CPU (`struct xdp_bulk_queue`).
    Cpu { map: MapId, cpu: u32, qsize: u32, prog: Option<ProgId>, frames: VecDeque<Buffer> },
}

/// Bulk queues that are being sent.
#[derive(Clone, Debug)]
pub struct Flush {
    work: VecDeque<Work>,
    /// The devmap queue whose program runs: frames it has passed, frames in all.
    kept: Vec<Buffer>,
    count: usize,
    current: Option<Buffer>,
}

impl Flush {
    pub(super) fn frame(work: VecDeque<Work>) -> Frame {
        let flush = Flush { work, kept: Vec::new(), count: 0, current: None };
        Frame::Net(Box::new(NetFrame::Flush(flush)))
    }
}

impl Kernel {
    /// `xdp_do_redirect`: puts a frame where the program's helper said. What does not go is
    /// given back with the error; a full bulk queue has to be sent first.
    pub(super) fn xdp_do_redirect(
        &mut self,
        cpu: CpuId,
        prog: Option<ProgId>,
        b: Buffer,
    ) -> Result<Option<Frame>, Box<(Buffer, Errno)>> {
        let info = self.net.redirect.remove(&cpu).unwrap_or_default();
        let (dev, prog) = (self.dev_addr(b.dev), self.prog_addr(prog));
        let (tgt, map_type, map, index) = self.redirect_args(&info.target);
        let from = b.dev;
        let done = self.xdp_enqueue(cpu, info.target, b);
        let err = done.as_ref().err().map_or(0, |e| e.1.ret());
        let name = if err == 0 { "xdp_redirect" } else { "xdp_redirect_err" };
        debug_assert!(from != 0);
        self.fire(cpu, name, &[dev, prog, tgt, err, map_type, map, index]);
        done
    }

    /// Target, map type, map id and index as the tracepoint has them.
    fn redirect_args(&self, target: &Target) -> (u64, u64, u64, u64) {
        let kind = |m: &MapId| self.maps.get(m).map_or(0, |m| m.def.map_type as u64);
        match target {
            Target::None => (0, 0, 0, 0),
            // A redirect to a number has map id INT_MAX.
            Target::Device(n) => (self.dev_addr(*n), 0, 0x7fff_ffff, (*n).into()),
            Target::Dev { map, index, value, .. } => {
                (*value, kind(map), map.0.into(), (*index).into())
            }
            Target::All { map, .. } => (0, kind(map), map.0.into(), 0),
            Target::Cpu { map, cpu, value, .. } => (*value, kind(map), map.0.into(), (*cpu).into()),
        }
    }

    fn xdp_enqueue(
        &mut self,
        cpu: CpuId,
        target: Target,
        b: Buffer,
    ) -> Result<Option<Frame>, Box<(Buffer, Errno)>> {
        match target {
            Target::None => Err(Box::new((b, Errno::EINVAL))),
            Target::Device(to) => self.dev_enqueue(cpu, to, None, b),
            Target::Dev { ifindex, prog, .. } => self.dev_enqueue(cpu, ifindex, prog, b),
            Target::All { map, exclude_ingress } => self.enqueue_all(cpu, map, exclude_ingress, b),
            Target::Cpu { map, cpu: to, qsize, prog, .. } => {
                Ok(self.cpu_enqueue(cpu, (map, to), qsize, prog, b))
            }
        }
    }

    /// `__xdp_enqueue`: the device must exist, be up, and take frames of this length.
    fn dev_enqueue(
        &mut self,
        cpu: CpuId,
        to: u32,
        prog: Option<ProgId>,
        b: Buffer,
    ) -> Result<Option<Frame>, Box<(Buffer, Errno)>> {
        if let Err(e) = self.forwardable(to, b.total()) {
            return Err(Box::new((b, e)));
        }
        let from = b.dev;
        let queues = self.net.bulk.entry(cpu).or_default();
        let same =
            |w: &Work| matches!(w, Work::Dev { to: t, prog: p, .. } if (*t, *p) == (to, prog));
        let at = queues.iter().position(same).unwrap_or_else(|| {
            queues.push(Work::Dev { to, from, prog, frames: VecDeque::new() });
            queues.len() - 1
        });
        let Work::Dev { frames, .. } = &mut queues[at] else { unreachable!("found as one") };
        frames.push_back(b);
        if frames.len() < DEV_BULK {
            return Ok(None);
        }
        let full = queues.remove(at);
        Ok(Some(Flush::frame([full].into())))
    }

    /// `xdp_ok_fwd_dev`.
    fn forwardable(&self, to: u32, len: u64) -> Result<(), Errno> {
        let nic = self.net.nics.get(&to).ok_or(Errno::EINVAL)?;
        if !nic.up {
            return Err(Errno::ENETDOWN);
        }
        let limit = u64::from(nic.config.mtu) + 14 + 4;
        if len > limit { Err(Errno::EMSGSIZE) } else { Ok(()) }
    }

    /// `dev_map_enqueue_multi`: a copy for each device but the last, which gets the frame.
    fn enqueue_all(
        &mut self,
        cpu: CpuId,
        map: MapId,
        exclude: bool,
        b: Buffer,
    ) -> Result<Option<Frame>, Box<(Buffer, Errno)>> {
        let mut targets = Vec::new();
        for key in self.user_keys(map) {
            let at = self.map_lookup(map, &key, cpu);
            if at == 0 {
                continue;
            }
            let (ifindex, prog) = self.devmap_value(map, at);
            let valid = self.forwardable(ifindex, b.total()).is_ok();
            if valid && !(exclude && ifindex == b.dev) {
                targets.push((ifindex, prog));
            }
        }
        let Some((last, prog)) = targets.pop() else {
            // Nobody to send to is no error: the frame is gone.
            self.buffer_put(&b);
            return Ok(None);
        };
        let mut full = VecDeque::new();
        for (to, prog) in targets {
            let Some(copy) = self.buffer_clone(&b) else {
                return Err(Box::new((b, Errno::ENOMEM)));
            };
            if let Ok(Some(Frame::Net(f))) = self.dev_enqueue(cpu, to, prog, copy)
                && let NetFrame::Flush(f) = *f
            {
                full.extend(f.work);
            }
        }
        let last = self.dev_enqueue(cpu, last, prog, b)?;
        if let Some(Frame::Net(f)) = last
            && let NetFrame::Flush(f) = *f
        {
            full.extend(f.work);
        }
        Ok((!full.is_empty()).then(|| Flush::frame(full)))
    }

    /// `ifindex` and program of a devmap's value.
    pub(crate) fn devmap_value(&self, map: MapId, at: u64) -> (u32, Option<ProgId>) {
        let ifindex = self.get(at, field!("bpf_devmap_val", "ifindex")) as u32;
        (ifindex, self.entry_prog(map, at))
    }

    /// Program of a devmap's or cpumap's value, when values have one.
    pub(crate) fn entry_prog(&self, map: MapId, at: u64) -> Option<ProgId> {
        let size = self.maps.get(&map)?.def.value_size;
        let id = (size >= 8).then(|| self.mem.read_u32(at + 4).ok()).flatten()?;
        (id != 0).then_some(ProgId(id)).filter(|p| self.progs.contains_key(p))
    }

    /// `xdp_do_flush`: the frame that sends what was redirected during the poll.
    pub(super) fn xdp_flush(&mut self, cpu: CpuId) -> Option<Frame> {
        let work = self.net.bulk.remove(&cpu).unwrap_or_default();
        (!work.is_empty()).then(|| Flush::frame(work.into()))
    }

    pub(super) fn flush_step(&mut self, cpu: CpuId, mut f: Flush, input: Input) -> Flow {
        if let Some(b) = f.current.take() {
            let act = if let Input::Return(v) = input { Some(v) } else { None };
            self.devmap_verdict(cpu, &mut f, b, act);
        }
        loop {
            let Some(work) = f.work.front_mut() else { return Flow::Done(0) };
            match work {
                Work::Dev { to, from, prog, frames } => {
                    let (to, from, prog) = (*to, *from, *prog);
                    if f.count == 0 {
                        f.count = frames.len();
                    }
                    let Some(p) = prog else {
                        f.kept = frames.drain(..).collect();
                        self.bulk_xmit(cpu, &mut f, to, from);
                        continue;
                    };
                    let Some(b) = frames.pop_front() else {
                        self.bulk_xmit(cpu, &mut f, to, from);
                        continue;
                    };
                    let xdp = self.xdp_scratch(cpu, b.dev, b.queue, to);
                    self.xdp_prepare(xdp, &b);
                    f.current = Some(b);
                    let child = ProgFrame::main(p, self.entry_of(p), xdp);
                    let frame = Frame::Net(Box::new(NetFrame::Flush(f)));
                    return Flow::Call { frame, child: Frame::Prog(child) };
                }
                Work::Cpu { .. } => {
                    let work = f.work.pop_front().expect("looked at");
                    self.cpu_flush(cpu, work);
                }
            }
        }
    }

    /// What the program of a devmap entry said of a frame (`dev_map_bpf_prog_run`).
    fn devmap_verdict(&mut self, cpu: CpuId, f: &mut Flush, mut b: Buffer, act: Option<u64>) {
        let Some(Work::Dev { to, prog, .. }) = f.work.front() else { return };
        let (to, prog) = (*to, *prog);
        let xdp = self.xdp_scratch(cpu, b.dev, b.queue, to);
        self.xdp_read_back(xdp, &mut b);
        let raw = act.unwrap_or(0);
        self.verdict_event(cpu, prog, xdp_name(raw as u32), raw);
        match raw as u32 {
            2 => f.kept.push(b),
            1 => self.xdp_drop(cpu, &b),
            act => {
                if act != 0 {
                    self.warn_invalid_xdp(cpu, None, prog, act);
                }
                let args = [self.dev_addr(to), self.prog_addr(prog), act.into()];
                self.fire(cpu, "xdp_exception", &args);
                self.xdp_drop(cpu, &b);
            }
        }
    }

    /// `bq_xmit_all` after the program: what the ring takes goes, the rest is dropped.
    fn bulk_xmit(&mut self, cpu: CpuId, f: &mut Flush, to: u32, from: u32) {
        let (mut sent, mut err) = (0, 0u64);
        let queue = self.tx_queue(cpu, to);
        for b in std::mem::take(&mut f.kept) {
            match self.tx_put_buffer(to, queue, b) {
                Ok(()) => sent += 1,
                Err(back) => {
                    self.buffer_put(&back.0);
                    self.drop_packet(cpu, "XDP_REDIRECT_ERR");
                    if sent == 0 {
                        err = back.1.ret();
                    }
                }
            }
        }
        self.tx_kick(cpu, to, queue);
        let drops = f.count as u64 - sent;
        let args = [self.dev_addr(from), self.dev_addr(to), sent, drops, err];
        self.fire(cpu, "xdp_devmap_xmit", &args);
        f.count = 0;
        f.work.pop_front();
    }

    /// `bpf_warn_invalid_xdp_action`: `pr_warn_once`.
    pub(super) fn warn_invalid_xdp(
        &mut self,
        cpu: CpuId,
        ifindex: Option<u32>,
        prog: Option<ProgId>,
        act: u32,
    ) {
        let dev = ifindex.map_or(0, |i| self.dev_addr(i));
        let args = [dev, self.prog_addr(prog), act.into()];
        self.func_enter(cpu, "bpf_warn_invalid_xdp_action", &args);
        self.func_exit(cpu, "bpf_warn_invalid_xdp_action", &args, 0);
        if std::mem::replace(&mut self.net.warned_invalid_xdp, true) {
            return;
        }
        // XDP_REDIRECT is the last that drivers know.
        let kind = if act > 4 { "Illegal" } else { "Driver unsupported" };
        let (name, id) = prog
            .and_then(|p| self.progs.get(&p))
            .map_or((String::new(), 0), |p| (p.name().to_string(), p.id.0));
        let nic = ifindex.and_then(|i| self.net.nics.get(&i));
        let dev = nic.map_or_else(|| "N/A".to_string(), |n| n.config.name.clone());
        let text = format!(
            "{kind} XDP return value {act} on prog {name} (id {id}) dev {dev}, expect packet loss!"
        );
        self.emit(cpu, EventKind::Note { topic: "xdp", text });
    }

    pub(super) fn xdp_drop(&mut self, cpu: CpuId, b: &Buffer) {
        self.buffer_put(b);
        self.drop_packet(cpu, "XDP");
    }

    fn cpu_enqueue(
        &mut self,
        cpu: CpuId,
        (map, to): (MapId, u32),
        qsize: u32,
        prog: Option<ProgId>,
        b: Buffer,
    ) -> Option<Frame> {
        let queues = self.net.bulk.entry(cpu).or_default();
        let same =
            |w: &Work| matches!(w, Work::Cpu { map: m, cpu: c, .. } if (*m, *c) == (map, to));
        let at = queues.iter().position(same).unwrap_or_else(|| {
            queues.push(Work::Cpu { map, cpu: to, qsize, prog, frames: VecDeque::new() });
            queues.len() - 1
        });
        let Work::Cpu { frames, .. } = &mut queues[at] else { unreachable!("found as one") };
        frames.push_back(b);
        if frames.len() >= cpumap::BULK {
            let full = queues.remove(at);
            self.cpu_flush(cpu, full);
        }
        None
    }
}
