//! Room in sk_buffs: heads of several pages, `pskb_expand_head`, `__pskb_pull_tail`, pushes and
//! pops behind a header (net/core/skbuff.c, net/core/filter.c).

use super::xdp::frag_at;
use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::ledger::Kind;
use crate::{Errno, Kernel, field};

/// `BPF_SKB_MAX_LEN`: what is left of four pages beside `struct skb_shared_info`.
pub(crate) fn max_len() -> u64 {
    4 * PAGE_SIZE - shared_bytes()
}

fn shared_bytes() -> u64 {
    crate::size!("skb_shared_info").next_multiple_of(64)
}

impl Kernel {
    /// `skb_shinfo`.
    pub(crate) fn skb_shared(&self, skb: u64) -> u64 {
        self.get(skb, field!("sk_buff", "head")) + self.get(skb, field!("sk_buff", "end"))
    }

    /// First byte and linear length (`skb_headlen`).
    pub(crate) fn skb_linear(&self, skb: u64) -> (u64, u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let data = self.get(skb, field!("sk_buff", "data"));
        (data, head + self.get(skb, field!("sk_buff", "tail")) - data)
    }

    /// Gives back the pages of a head.
    pub(super) fn skb_head_put(&mut self, head: u64, end: u64) {
        let pages = (end + shared_bytes()) / PAGE_SIZE;
        if pages <= 1 {
            self.net_page_put(head);
        } else if self.ledger.release(Kind::Page, head).is_some() {
            self.alloc.free_pages(head - DIRECT_MAP, pages);
        }
    }

    /// `pskb_expand_head`: a head with that much room in front of the data and behind it.
    pub(crate) fn skb_expand(&mut self, skb: u64, front: u64, behind: u64) -> Result<(), Errno> {
        let head = self.get(skb, field!("sk_buff", "head"));
        let (tail, end) =
            (self.get(skb, field!("sk_buff", "tail")), self.get(skb, field!("sk_buff", "end")));
        let (data, len) = self.skb_linear(skb);
        if data - head >= front && end - tail >= behind {
            return Ok(());
        }
        // Metadata of XDP stands in front of the data.
        let front = front.max(data - head).next_multiple_of(64);
        let bytes = front + len + behind.max(end - tail.min(end)) + shared_bytes();
        let pages = bytes.div_ceil(PAGE_SIZE).next_power_of_two();
        if self.inject_alloc("sk_buff head") {
            return Err(Errno::ENOMEM);
        }
        let phys = self.alloc.pages(&mut self.mem, pages).ok_or(Errno::ENOMEM)?;
        let (to, to_end) = (DIRECT_MAP + phys, pages * PAGE_SIZE - shared_bytes());
        let old = self.bytes(head, tail);
        let moved = front - (data - head);
        let shared = self.bytes(head + end, shared_bytes());
        self.mem.write(to + moved, &old).expect("new pages are mapped");
        self.mem.write(to + to_end, &shared).expect("new pages are mapped");
        self.kernel_holds(Kind::Page, to, "sk_buff head");
        self.skb_head_put(head, end);
        self.set(skb, field!("sk_buff", "head"), to);
        self.set(skb, field!("sk_buff", "end"), to_end);
        self.set(skb, field!("sk_buff", "data"), to + front);
        self.set(skb, field!("sk_buff", "tail"), tail + moved);
        self.skb_move_headers(skb, moved.cast_signed(), false);
        Ok(())
    }

    /// `skb_headers_offset_update`; a transport header that was never set stays so.
    pub(crate) fn skb_move_headers(&mut self, skb: u64, by: i64, outer: bool) {
        let mut all = vec![field!("sk_buff", "mac_header"), field!("sk_buff", "network_header")];
        if !outer {
            all.push(field!("sk_buff", "transport_header"));
            all.push(field!("sk_buff", "inner_transport_header"));
            all.push(field!("sk_buff", "inner_network_header"));
            all.push(field!("sk_buff", "inner_mac_header"));
        }
        for f in all {
            let at = self.get(skb, f);
            if at != UNSET && at != 0 {
                self.set(skb, f, at.wrapping_add_signed(by) & 0xffff);
            }
        }
    }

    /// `pskb_may_pull`: the first `len` bytes are in the linear part.
    pub(crate) fn skb_may_pull(&mut self, skb: u64, len: u64) -> Result<(), Errno> {
        let (_, linear) = self.skb_linear(skb);
        if len <= linear {
            return Ok(());
        }
        if len > self.get(skb, field!("sk_buff", "len")) {
            return Err(Errno::ENOMEM);
        }
        let mut left = len - linear;
        self.skb_expand(skb, 0, left)?;
        let shared = self.skb_shared(skb);
        let (data, linear) = self.skb_linear(skb);
        let mut to = data + linear;
        let n = self.get(shared, field!("skb_shared_info", "nr_frags")) as usize;
        let mut kept = Vec::new();
        for i in 0..n {
            let at = frag_at(shared, i);
            let (page, off, size) = self.frag(at);
            let take = left.min(size);
            if take > 0 {
                let bytes = self.bytes(page + off, take);
                self.mem.write(to, &bytes).expect("tailroom is mapped");
                (to, left) = (to + take, left - take);
            }
            if take == size {
                self.net_page_put(page);
            } else {
                kept.push((page, off + take, size - take));
            }
        }
        for (i, (page, off, size)) in kept.iter().enumerate() {
            let at = frag_at(shared, i);
            self.set(at, field!("skb_frag", "netmem"), *page);
            self.set(at, field!("skb_frag", "offset"), *off);
            self.set(at, field!("skb_frag", "len"), *size);
        }
        self.set(shared, field!("skb_shared_info", "nr_frags"), kept.len() as u64);
        let head = self.get(skb, field!("sk_buff", "head"));
        self.set(skb, field!("sk_buff", "tail"), to - head);
        let more = self.get(skb, field!("sk_buff", "data_len"));
        self.set(skb, field!("sk_buff", "data_len"), more - (len - linear));
        Ok(())
    }

    /// Page, offset and length of a fragment.
    fn frag(&self, at: u64) -> (u64, u64, u64) {
        (
            self.get(at, field!("skb_frag", "netmem")),
            self.get(at, field!("skb_frag", "offset")),
            self.get(at, field!("skb_frag", "len")),
        )
    }

    /// `bpf_skb_generic_push`: a gap of zeroes behind the first `off` bytes.
    pub(crate) fn skb_gap_open(&mut self, skb: u64, off: u64, len: u64) -> Result<(), Errno> {
        self.skb_expand(skb, len, 0)?;
        let (data, _) = self.skb_linear(skb);
        let front = self.bytes(data, off);
        self.mem.write(data - len, &front).expect("headroom is mapped");
        self.mem.fill(data - len + off, len as usize, 0).expect("headroom is mapped");
        self.skb_resize(skb, data - len, len.cast_signed());
        Ok(())
    }

    /// `bpf_skb_generic_pop`: the bytes behind the first `off` go.
    pub(crate) fn skb_gap_close(&mut self, skb: u64, off: u64, len: u64) -> Result<(), Errno> {
        self.skb_may_pull(skb, off + len)?;
        let (data, _) = self.skb_linear(skb);
        let front = self.bytes(data, off);
        self.mem.write(data + len, &front).expect("packet memory is mapped");
        self.skb_resize(skb, data + len, -len.cast_signed());
        Ok(())
    }

    /// A new first byte and a length that grew by so much.
    fn skb_resize(&mut self, skb: u64, data: u64, by: i64) {
        let len = self.get(skb, field!("sk_buff", "len"));
        self.set(skb, field!("sk_buff", "data"), data);
        self.set(skb, field!("sk_buff", "len"), len.wrapping_add_signed(by));
        let shared = self.skb_shared(skb);
        self.set(shared, field!("skb_shared_info", "meta_len"), 0);
    }

    /// `skb_push` of zeroes.
    pub(crate) fn skb_push_zeroes(&mut self, skb: u64, len: u64) -> Result<(), Errno> {
        self.skb_gap_open(skb, 0, len)
    }

    /// `bpf_skb_grow_rcsum` and `bpf_skb_trim_rcsum`: a new length, zeroes behind.
    pub(crate) fn skb_set_len(&mut self, skb: u64, len: u64) -> Result<(), Errno> {
        let old = self.get(skb, field!("sk_buff", "len"));
        if len < old {
            self.skb_trim(skb, len);
            return Ok(());
        }
        if len > old {
            // __skb_grow: all of it becomes linear.
            self.skb_may_pull(skb, old)?;
            self.skb_expand(skb, 0, len - old)?;
            let (data, linear) = self.skb_linear(skb);
            let more = (len - old) as usize;
            self.mem.fill(data + linear, more, 0).expect("tailroom is mapped");
            let tail = self.get(skb, field!("sk_buff", "tail"));
            self.set(skb, field!("sk_buff", "tail"), tail + more as u64);
            self.set(skb, field!("sk_buff", "len"), len);
        }
        Ok(())
    }

    /// `___pskb_trim`.
    fn skb_trim(&mut self, skb: u64, len: u64) {
        let (data, linear) = self.skb_linear(skb);
        let shared = self.skb_shared(skb);
        let n = self.get(shared, field!("skb_shared_info", "nr_frags")) as usize;
        let (mut at, mut kept) = (linear, 0);
        for i in 0..n {
            let frag = frag_at(shared, i);
            let (page, _, size) = self.frag(frag);
            if at >= len {
                self.net_page_put(page);
            } else {
                self.set(frag, field!("skb_frag", "len"), size.min(len - at));
                kept += 1;
            }
            at += size;
        }
        self.set(shared, field!("skb_shared_info", "nr_frags"), kept);
        let head = self.get(skb, field!("sk_buff", "head"));
        let linear = linear.min(len);
        self.set(skb, field!("sk_buff", "tail"), data + linear - head);
        self.set(skb, field!("sk_buff", "data_len"), len - linear);
        self.set(skb, field!("sk_buff", "len"), len);
    }
}

/// A header offset that was never set.
pub(crate) const UNSET: u64 = 0xffff;
