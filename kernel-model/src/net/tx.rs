//! Sending: transmit rings in guest memory, and the wire.

use std::collections::VecDeque;

use super::nic::{DESC_BYTES, DESC_DONE, DESC_EOP};
use super::xdp::Buffer;
use crate::cpu::CpuId;
use crate::{Errno, EventKind, Kernel, field};

/// A transmit ring: 16-byte descriptors as in the receive ring.
#[derive(Clone, Debug)]
pub(crate) struct TxRing {
    /// First descriptor.
    pub(super) ring: u64,
    /// Descriptors the driver has written so far.
    produced: u64,
    /// Descriptors the hardware has read so far.
    done: u64,
    /// What is given back when a frame is gone, one for each frame.
    owners: VecDeque<Owner>,
}

#[derive(Clone, Debug)]
enum Owner {
    /// Pages of an XDP frame.
    Buffer(Box<Buffer>),
    /// The path that sends an sk_buff frees it itself.
    Skb,
}

impl TxRing {
    pub(super) fn new(ring: u64) -> TxRing {
        TxRing { ring, produced: 0, done: 0, owners: VecDeque::new() }
    }

    /// Descriptors with frames that have not left.
    pub(super) fn used(&self) -> u64 {
        self.produced - self.done
    }
}

impl Kernel {
    /// The transmit queue of a CPU (XPS: one to one).
    pub(super) fn tx_queue(&self, cpu: CpuId, ifindex: u32) -> u32 {
        self.net.nics.get(&ifindex).map_or(0, |n| cpu.0 % n.config.queues)
    }

    fn tx_put(
        &mut self,
        ifindex: u32,
        queue: u32,
        parts: &[(u64, u64)],
        owner: Owner,
    ) -> Result<(), (Owner, Errno)> {
        let Some(nic) = self.net.nics.get_mut(&ifindex).filter(|n| n.up) else {
            return Err((owner, Errno::ENETDOWN));
        };
        let size = u64::from(nic.config.ring);
        let tx = &mut nic.queues[queue as usize].tx;
        if tx.used() + parts.len() as u64 > size {
            return Err((owner, Errno::ENOSPC));
        }
        let (ring, first) = (tx.ring, tx.produced);
        tx.produced += parts.len() as u64;
        tx.owners.push_back(owner);
        for (n, (addr, len)) in parts.iter().enumerate() {
            let last = if n + 1 == parts.len() { DESC_EOP } else { 0 };
            let at = ring + (first + n as u64) % size * DESC_BYTES;
            let word = (len & 0xffff) | u64::from(DESC_DONE | last) << 16;
            let ok =
                self.mem.write_u64(at, *addr).is_ok() && self.mem.write_u64(at + 8, word).is_ok();
            assert!(ok, "rings are mapped");
        }
        Ok(())
    }

    /// Puts an XDP frame into a ring; it is given back when there is no room.
    pub(super) fn tx_put_buffer(
        &mut self,
        ifindex: u32,
        queue: u32,
        b: Buffer,
    ) -> Result<(), Box<(Buffer, Errno)>> {
        let parts = b.parts();
        self.tx_put(ifindex, queue, &parts, Owner::Buffer(Box::new(b))).map_err(|(owner, e)| {
            match owner {
                Owner::Buffer(b) => Box::new((*b, e)),
                Owner::Skb => unreachable!("the owner that was given"),
            }
        })
    }

    /// Sends an sk_buff (`ndo_start_xmit`) without freeing it.
    pub(super) fn tx_skb(&mut self, cpu: CpuId, ifindex: u32, skb: u64) -> Result<(), Errno> {
        // The tag that hardware inserts is put into the frame here: descriptors have no field.
        if self.get(skb, field!("sk_buff", "vlan_proto")) != 0 {
            let bytes = self.skb_wire_bytes(skb);
            self.wire_out(cpu, ifindex, &bytes);
            return Ok(());
        }
        let parts = self.skb_parts(skb);
        let queue = self.tx_queue(cpu, ifindex);
        self.tx_put(ifindex, queue, &parts, Owner::Skb).map_err(|e| e.1)?;
        self.tx_kick(cpu, ifindex, queue);
        Ok(())
    }

    /// The doorbell: hardware reads all descriptors, frames leave, buffers come back.
    pub(super) fn tx_kick(&mut self, cpu: CpuId, ifindex: u32, queue: u32) {
        let Some(nic) = self.net.nics.get(&ifindex) else { return };
        let size = u64::from(nic.config.ring);
        let tx = &nic.queues[queue as usize].tx;
        let (ring, from, to) = (tx.ring, tx.done, tx.produced);
        let mut frame = Vec::new();
        for n in from..to {
            let at = ring + n % size * DESC_BYTES;
            let addr = self.mem.read_u64(at).expect("rings are mapped");
            let word = self.mem.read_u64(at + 8).expect("rings are mapped");
            self.mem.write_u64(at + 8, 0).expect("rings are mapped");
            frame.extend(self.bytes(addr, word & 0xffff));
            if (word >> 16) as u16 & DESC_EOP == 0 {
                continue;
            }
            let bytes = std::mem::take(&mut frame);
            let tx = &mut self.net.nics.get_mut(&ifindex).expect("devices stay").queues
                [queue as usize]
                .tx;
            tx.done = n + 1;
            if let Some(Owner::Buffer(b)) = tx.owners.pop_front() {
                self.buffer_put(&b);
            }
            self.wire_out(cpu, ifindex, &bytes);
        }
    }

    /// A frame leaves a device and arrives at the other end of its cable.
    fn wire_out(&mut self, cpu: CpuId, ifindex: u32, bytes: &[u8]) {
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
