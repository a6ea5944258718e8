//! Receiving: frames into the ring, and the NAPI poll that takes them out.

use super::NetFrame;
use super::nic::{DESC_BYTES, DESC_DONE, DESC_EOP, HEADROOM, Rss};
use super::xdp::{Buffer, Next};
use crate::context::Level;
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::{Kernel, ProgId, field};

/// `NAPI_POLL_WEIGHT`.
pub(super) const BUDGET: u32 = 64;
/// `NET_RX_SOFTIRQ`.
const NET_RX_SOFTIRQ: u64 = 3;

/// Why hardware did not take a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// No such device, or its cable is out.
    Down,
    /// No free descriptor.
    RingFull,
    /// Longer than the device takes (17 fragments and the first buffer).
    TooLong,
    /// No memory for a buffer.
    NoMemory,
}

/// Fields of the sk_buff that hardware (or the scenario) gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields of struct sk_buff")]
pub struct SkbFields {
    pub mark: Option<u32>,
    pub priority: Option<u32>,
    pub vlan: Option<u16>,
    pub hash: Option<u32>,
    pub tstamp: Option<u64>,
}

/// NAPI poll of one queue.
#[derive(Clone, Debug)]
pub struct Poll {
    pub(super) ifindex: u32,
    pub(super) queue: u32,
    /// Frames handled in this round.
    pub(super) done: u32,
    /// The frame whose program runs.
    pub(super) current: Option<Buffer>,
    /// That program, which may have left its hook meanwhile.
    pub(super) prog: Option<ProgId>,
    stage: Stage,
}

/// How far a poll has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Frames,
    Flush,
    Done,
}

impl Kernel {
    /// A frame arrives: hardware writes it into the ring and raises the interrupt.
    ///
    /// # Errors
    /// Why it was dropped; also counted and in the trace.
    pub fn net_receive(
        &mut self,
        ifindex: u32,
        queue: Option<u32>,
        frame: &[u8],
        given: SkbFields,
    ) -> Result<(), Dropped> {
        let taken = self.ring_fill(ifindex, queue, frame, given);
        if let Err(why) = taken {
            let reason = match why {
                Dropped::Down => "DEV_READY",
                Dropped::RingFull => "RX_RING_FULL",
                Dropped::TooLong => "PKT_TOO_BIG",
                Dropped::NoMemory => "NOMEM",
            };
            self.drop_packet(CpuId(0), reason);
            if let Some(dev) = self.net.nics.get(&ifindex).map(|n| n.dev) {
                self.count(dev, field!("net_device", "stats.rx_dropped"), 1);
            }
        }
        taken
    }

    fn ring_fill(
        &mut self,
        ifindex: u32,
        queue: Option<u32>,
        frame: &[u8],
        given: SkbFields,
    ) -> Result<(), Dropped> {
        let hash = super::rss::frame_hash(frame);
        let nic = self.net.nics.get_mut(&ifindex).filter(|n| n.up).ok_or(Dropped::Down)?;
        let queues = nic.config.queues;
        let n = queue.unwrap_or(match nic.config.rss {
            Rss::Toeplitz => hash % queues,
            Rss::Off => 0,
            Rss::RoundRobin => {
                nic.turn = (nic.turn + 1) % queues;
                (nic.turn + queues - 1) % queues
            }
        });
        let (ring_size, chunk) = (u64::from(nic.config.ring), nic.buffer_data() as usize);
        let q = nic.queues.get(n as usize).ok_or(Dropped::Down)?.clone();
        let parts = frame.chunks(chunk).count().max(1) as u64;
        if parts > 18 {
            return Err(Dropped::TooLong);
        }
        if q.filled - q.consumed + parts > ring_size || self.ring_blocked(ifindex) {
            return Err(Dropped::RingFull);
        }
        for (i, part) in frame.chunks(chunk).enumerate() {
            let Ok(page) = self.net_page("rx ring") else {
                self.ring_unfill(&q, ring_size, i as u64);
                return Err(Dropped::NoMemory);
            };
            let last = i as u64 + 1 == parts;
            let at = q.ring + (q.filled + i as u64) % ring_size * DESC_BYTES;
            let flags = DESC_DONE | if last { DESC_EOP } else { 0 };
            let word = u64::from(part.len() as u16) | u64::from(flags) << 16;
            let ok = self.mem.write(page + HEADROOM, part).is_ok()
                && self.mem.write_u64(at, page).is_ok()
                && self.mem.write_u64(at + 8, word | u64::from(hash) << 32).is_ok();
            assert!(ok, "rings and pages are mapped");
            if i == 0 && given != SkbFields::default() {
                self.net.given.insert(at, given);
            }
        }
        self.raise_rx(ifindex, n, parts);
        Ok(())
    }

    /// Takes back the buffers of a frame that is not complete.
    fn ring_unfill(&mut self, q: &super::nic::Queue, size: u64, parts: u64) {
        for n in 0..parts {
            let at = q.ring + (q.filled + n) % size * DESC_BYTES;
            let page = self.mem.read_u64(at).expect("rings are mapped");
            self.net.given.remove(&at);
            self.net_page_put(page);
        }
    }

    /// The device's interrupt: the poll is a softirq (`NET_RX_SOFTIRQ`).
    fn raise_rx(&mut self, ifindex: u32, queue: u32, parts: u64) {
        let nic = self.net.nics.get_mut(&ifindex).expect("looked up before");
        let q = &mut nic.queues[queue as usize];
        q.filled += parts;
        if !std::mem::replace(&mut q.scheduled, true) {
            let cpu = q.cpu;
            let poll =
                Poll { ifindex, queue, done: 0, current: None, prog: None, stage: Stage::New };
            let work = Frame::Net(Box::new(NetFrame::Poll(poll)));
            self.interrupt(cpu, Level::Soft, [work]);
        }
    }

    pub(super) fn poll_step(&mut self, cpu: CpuId, mut poll: Poll, input: Input) -> Flow {
        match input {
            Input::Start if poll.stage == Stage::New => {
                poll.stage = Stage::Frames;
                let napi = self.poll_napi(&poll);
                self.fire(cpu, "softirq_entry", &[NET_RX_SOFTIRQ]);
                self.func_enter(cpu, "net_rx_action", &[]);
                self.func_enter(cpu, "__napi_poll", &[napi, 0]);
                return Flow::Become(Frame::Net(Box::new(NetFrame::Poll(poll))));
            }
            Input::Start | Input::Again => {}
            Input::Return(_) | Input::Aborted(_) => {
                let verdict = if let Input::Return(v) = input { Some(v) } else { None };
                if let Some(buffer) = poll.current.take()
                    && let Next::Child(child) = self.xdp_verdict(cpu, &poll, buffer, verdict)
                {
                    return call(poll, child);
                }
            }
        }
        while poll.stage == Stage::Frames {
            let Some(buffer) = (poll.done < BUDGET).then(|| self.take_frame(&poll)).flatten()
            else {
                poll.stage = Stage::Flush;
                break;
            };
            poll.done += 1;
            let nic = &self.net.nics[&poll.ifindex];
            if let Some(prog) = nic.xdp {
                let xdp = nic.queues[poll.queue as usize].xdp;
                self.xdp_prepare(xdp, &buffer);
                let child = ProgFrame::main(prog, self.entry_of(prog), xdp);
                (poll.current, poll.prog) = (Some(buffer), Some(prog));
                return call(poll, Frame::Prog(child));
            }
            if let Some(child) = self.up_the_stack(cpu, buffer) {
                return call(poll, child);
            }
        }
        if poll.stage == Stage::Flush {
            poll.stage = Stage::Done;
            self.tx_kick(cpu, poll.ifindex, poll.queue);
            if let Some(child) = self.xdp_flush(cpu) {
                return call(poll, child);
            }
        }
        self.poll_end(cpu, poll);
        Flow::Done(0)
    }

    fn poll_napi(&self, poll: &Poll) -> u64 {
        self.net.nics[&poll.ifindex].queues[poll.queue as usize].napi
    }

    /// The end of a poll: with work left it is repolled, else interrupts are on again.
    fn poll_end(&mut self, cpu: CpuId, mut poll: Poll) {
        let napi = self.poll_napi(&poll);
        let work = u64::from(poll.done);
        self.fire(cpu, "napi_poll", &[napi, work, BUDGET.into()]);
        self.func_exit(cpu, "__napi_poll", &[napi, 0], work);
        self.func_exit(cpu, "net_rx_action", &[], 0);
        self.fire(cpu, "softirq_exit", &[NET_RX_SOFTIRQ]);
        let nic = self.net.nics.get_mut(&poll.ifindex).expect("devices stay");
        let q = &mut nic.queues[poll.queue as usize];
        if poll.done >= BUDGET || q.filled > q.consumed {
            (poll.done, poll.stage) = (0, Stage::New);
            let work = Frame::Net(Box::new(NetFrame::Poll(poll)));
            self.interrupt(cpu, Level::Soft, [work]);
        } else {
            q.scheduled = false;
        }
    }

    /// Takes the next whole frame out of the ring.
    fn take_frame(&mut self, poll: &Poll) -> Option<Buffer> {
        let nic = self.net.nics.get(&poll.ifindex)?;
        let (dev, size) = (nic.dev, u64::from(nic.config.ring));
        let q = nic.queues[poll.queue as usize].clone();
        let mut out: Option<Buffer> = None;
        let mut at = q.consumed;
        while at < q.filled {
            let desc = q.ring + at % size * DESC_BYTES;
            let page = self.mem.read_u64(desc).expect("rings are mapped");
            let word = self.mem.read_u64(desc + 8).expect("rings are mapped");
            self.mem.write_u64(desc + 8, 0).expect("rings are mapped");
            at += 1;
            let (len, flags) = (word & 0xffff, (word >> 16) as u16);
            assert!(flags & DESC_DONE != 0, "hardware filled this descriptor");
            match &mut out {
                None => {
                    let given = self.net.given.remove(&desc).unwrap_or_default();
                    let mut first = Buffer::new((poll.ifindex, poll.queue), page, len, given);
                    first.hash = (word >> 32) as u32;
                    out = Some(first);
                }
                Some(b) => b.frags.push((page, len)),
            }
            if flags & DESC_EOP != 0 {
                break;
            }
        }
        let nic = self.net.nics.get_mut(&poll.ifindex)?;
        nic.queues[poll.queue as usize].consumed = at;
        let buffer = out?;
        self.count(dev, field!("net_device", "stats.rx_packets"), 1);
        self.count(dev, field!("net_device", "stats.rx_bytes"), buffer.total());
        Some(buffer)
    }
}

fn call(poll: Poll, child: Frame) -> Flow {
    Flow::Call { frame: Frame::Net(Box::new(NetFrame::Poll(poll))), child }
}
