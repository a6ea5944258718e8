//! Map helpers (kernel/bpf/helpers.c, ringbuf.c, net/core/filter.c for redirects).

use bpf::uapi::MapType;

use super::{Body, HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::ledger::Kind as Held;
use crate::maps::MapId;
use crate::net::{RedirectInfo, Target};
use crate::{Errno, EventKind, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 1, name: "map_lookup_elem", nargs: 2, body: lookup },
    HelperRow { id: 2, name: "map_update_elem", nargs: 4, body: update },
    HelperRow { id: 3, name: "map_delete_elem", nargs: 2, body: delete },
    HelperRow { id: 25, name: "perf_event_output", nargs: 5, body: perf_event_output },
    HelperRow { id: 111, name: "skb_output", nargs: 5, body: perf_event_output },
    HelperRow { id: 121, name: "xdp_output", nargs: 5, body: perf_event_output },
    HelperRow { id: 51, name: "redirect_map", nargs: 3, body: redirect_map },
    HelperRow { id: 87, name: "map_push_elem", nargs: 3, body: push },
    HelperRow { id: 88, name: "map_pop_elem", nargs: 2, body: pop },
    HelperRow { id: 89, name: "map_peek_elem", nargs: 2, body: peek },
    HelperRow { id: 130, name: "ringbuf_output", nargs: 4, body: ringbuf_output },
    HelperRow { id: 131, name: "ringbuf_reserve", nargs: 3, body: ringbuf_reserve },
    HelperRow { id: 132, name: "ringbuf_submit", nargs: 2, body: ringbuf_submit },
    HelperRow { id: 133, name: "ringbuf_discard", nargs: 2, body: ringbuf_discard },
    HelperRow { id: 134, name: "ringbuf_query", nargs: 2, body: ringbuf_query },
    HelperRow { id: 195, name: "map_lookup_percpu_elem", nargs: 3, body: lookup_percpu },
];

/// The value of a fallible body.
fn done(r: Result<Result<u64, Errno>, Fault>) -> Ret {
    match r {
        Ok(r) => r.into(),
        Err(fault) => Ret::Fault(fault),
    }
}

fn lookup(k: &mut Kernel, cpu: CpuId, [map, key, ..]: [u64; 5]) -> Ret {
    done(k.prog_lookup(cpu, map, key).map(Ok))
}

fn lookup_percpu(k: &mut Kernel, _: CpuId, [map, key, cpu, ..]: [u64; 5]) -> Ret {
    let cpu = cpu as u32;
    if cpu >= k.config.cpus {
        return Ret::Val(0);
    }
    done(k.prog_lookup(CpuId(cpu), map, key).map(Ok))
}

/// `BPF_F_LOCK`.
const LOCK: u64 = 4;

fn update(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if !k.locks_seen() && args[3] & LOCK == 0 {
        return update_now(k, cpu, args);
    }
    let call = ("bpf_map_update_elem", args);
    k.under_locks(cpu, call, update_now, |k| k.update_plan(cpu, args))
}

fn update_now(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    done(k.prog_update(cpu, args))
}

fn delete(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if !k.locks_seen() {
        return delete_now(k, cpu, args);
    }
    k.under_locks(cpu, ("bpf_map_delete_elem", args), delete_now, |k| k.delete_plan(args))
}

fn delete_now(k: &mut Kernel, _: CpuId, [map, key, ..]: [u64; 5]) -> Ret {
    done(k.prog_delete(map, key))
}

/// Under the lock of a queue or stack.
fn in_queue(k: &mut Kernel, cpu: CpuId, call: (&'static str, [u64; 5]), body: Body) -> Ret {
    if !k.locks_seen() {
        return body(k, cpu, call.1);
    }
    k.under_locks(cpu, call, body, |k| k.queue_plan(call.1[0]))
}

fn push(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_queue(k, cpu, ("bpf_map_push_elem", args), push_now)
}

fn pop(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_queue(k, cpu, ("bpf_map_pop_elem", args), pop_now)
}

fn peek(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_queue(k, cpu, ("bpf_map_peek_elem", args), peek_now)
}

fn push_now(k: &mut Kernel, _: CpuId, [map, value, flags, ..]: [u64; 5]) -> Ret {
    let push = |k: &mut Kernel| {
        let id = k.helper_map(map)?;
        let size = k.maps[&id].def.value_size as usize;
        let value = k.mem.read_vec(value, size)?;
        Ok(k.fifo_push(id, &value, flags).map(|()| 0))
    };
    done(push(k))
}

fn pop_now(k: &mut Kernel, _: CpuId, [map, to, ..]: [u64; 5]) -> Ret {
    done(take(k, map, to, true))
}

fn peek_now(k: &mut Kernel, _: CpuId, [map, to, ..]: [u64; 5]) -> Ret {
    done(take(k, map, to, false))
}

/// Pops or peeks; the buffer is cleared when there is nothing. For bloom filters, peek tests.
fn take(k: &mut Kernel, map: u64, to: u64, pop: bool) -> Result<Result<u64, Errno>, Fault> {
    let id = k.helper_map(map)?;
    let size = k.maps[&id].def.value_size as usize;
    if k.maps[&id].def.map_type == MapType::BloomFilter {
        let value = k.mem.read_vec(to, size)?;
        return Ok(if k.bloom_has(id, &value) { Ok(0) } else { Err(Errno::ENOENT) });
    }
    match k.fifo_take(id, pop) {
        Ok(value) => {
            k.mem.write(to, &value)?;
            Ok(Ok(0))
        }
        Err(e) => {
            k.mem.fill(to, size, 0)?;
            Ok(Err(e))
        }
    }
}

/// Flags of `bpf_ringbuf_*` that do no harm: `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`.
const RB_FLAGS: u64 = 3;

/// Under the lock of a ring; without it, `or` is the result.
pub(super) fn in_ring(
    k: &mut Kernel,
    cpu: CpuId,
    call: (&'static str, [u64; 5]),
    (body, or): (Body, u64),
) -> Ret {
    if !k.locks_seen() {
        return body(k, cpu, call.1);
    }
    k.under_locks(cpu, call, body, |k| k.ring_plan(call.1[0], or))
}

fn ringbuf_output(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_ring(k, cpu, ("bpf_ringbuf_output", args), (output_now, Errno::EAGAIN.ret()))
}

fn ringbuf_reserve(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_ring(k, cpu, ("bpf_ringbuf_reserve", args), (reserve_now, 0))
}

fn output_now(k: &mut Kernel, cpu: CpuId, [map, data, size, flags, _]: [u64; 5]) -> Ret {
    if flags & !RB_FLAGS != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let output = |k: &mut Kernel| {
        let id = k.helper_map(map)?;
        let bytes = k.mem.read_vec(data, size as usize)?;
        let at = k.ring_reserve(id, size);
        if at == 0 {
            k.emit(cpu, EventKind::Drop { reason: "ringbuf full" });
            return Ok(Err(Errno::EAGAIN));
        }
        k.mem.write(at, &bytes)?;
        k.ring_commit(cpu, at, false);
        Ok(Ok(0))
    };
    done(output(k))
}

fn reserve_now(k: &mut Kernel, cpu: CpuId, [map, size, flags, ..]: [u64; 5]) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(f) => return Ret::Fault(f),
    };
    let at = if flags == 0 { k.ring_reserve(id, size) } else { 0 };
    match at {
        0 => k.emit(cpu, EventKind::Drop { reason: "ringbuf full" }),
        _ => k.prog_holds(cpu, Held::RingbufRecord, at, "bpf_ringbuf_reserve"),
    }
    Ret::Val(at)
}

fn ringbuf_submit(k: &mut Kernel, cpu: CpuId, [record, ..]: [u64; 5]) -> Ret {
    k.ring_commit(cpu, record, false);
    Ret::Val(0)
}

fn ringbuf_discard(k: &mut Kernel, cpu: CpuId, [record, ..]: [u64; 5]) -> Ret {
    k.ring_commit(cpu, record, true);
    Ret::Val(0)
}

fn ringbuf_query(k: &mut Kernel, _: CpuId, [map, what, ..]: [u64; 5]) -> Ret {
    match k.helper_map(map) {
        Ok(id) => Ret::Val(k.ring_query(id, what)),
        Err(f) => Ret::Fault(f),
    }
}

/// `BPF_F_CURRENT_CPU`.
const CURRENT_CPU: u64 = 0xffff_ffff;

/// The packet bytes that `flags >> 32` asks for follow the record, for packet programs.
fn perf_event_output(k: &mut Kernel, cpu: CpuId, [ctx, map, flags, data, size]: [u64; 5]) -> Ret {
    // BPF_F_CTXLEN_MASK and BPF_F_INDEX_MASK.
    if flags >> 52 != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let output = |k: &mut Kernel| {
        let extra = (flags >> 32 & 0xfffff) as usize;
        let packet = if extra > 0 { k.packet_bytes(cpu, ctx, extra) } else { Some(Vec::new()) };
        let Some(packet) = packet else { return Ok(Err(Errno::EFAULT)) };
        let id = k.helper_map(map)?;
        let index = if flags & CURRENT_CPU == CURRENT_CPU { cpu.0 } else { flags as u32 };
        match k.perf_is_open(id, index) {
            None => return Ok(Err(Errno::E2BIG)),
            Some(false) => return Ok(Err(Errno::ENOENT)),
            Some(true) if index != cpu.0 => return Ok(Err(Errno::EOPNOTSUPP)),
            Some(true) => {}
        }
        let mut record = k.mem.read_vec(data, size as usize)?;
        record.extend(packet);
        k.emit(cpu, EventKind::Record { map: id, data: record });
        Ok(Ok(0))
    };
    done(output(k))
}

/// `BPF_F_BROADCAST` and `BPF_F_EXCLUDE_INGRESS`.
const BROADCAST: u64 = 8;
const EXCLUDE_INGRESS: u64 = 16;

/// `bpf_redirect_map`; the low two bits of flags are what a failed look-up returns.
fn redirect_map(k: &mut Kernel, cpu: CpuId, [map, index, flags, ..]: [u64; 5]) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(f) => return Ret::Fault(f),
    };
    let t = k.maps[&id].def.map_type;
    // A cpumap takes no flags of its own, an xskmap neither.
    let own = if matches!(t, MapType::Cpumap | MapType::Xskmap) {
        0
    } else {
        BROADCAST | EXCLUDE_INGRESS
    };
    if flags & !(3 | own) != 0 {
        return Ret::Val(0);
    }
    let target = if flags & BROADCAST != 0 {
        Some(Target::All { map: id, exclude_ingress: flags & EXCLUDE_INGRESS != 0 })
    } else {
        k.redirect_target(id, index as u32)
    };
    let Some(target) = target else {
        k.net.redirect.remove(&cpu);
        return Ret::Val(flags & 3);
    };
    k.net.redirect.insert(cpu, RedirectInfo { target, flags, ..RedirectInfo::default() });
    Ret::Val(4)
}

impl Kernel {
    fn redirect_target(&mut self, id: MapId, index: u32) -> Option<Target> {
        let map = self.maps.get(&id)?;
        let (t, max) = (map.def.map_type, map.def.max_entries);
        let key = match self.mem.endian() {
            bpf::Endian::Little => index.to_le_bytes(),
            bpf::Endian::Big => index.to_be_bytes(),
        };
        if t != MapType::DevmapHash && index >= max {
            return None;
        }
        let value = self.map_lookup(id, &key, CpuId(0));
        if value == 0 {
            return None;
        }
        let (number, prog) = self.devmap_value(id, value);
        Some(match t {
            MapType::Cpumap => Target::Cpu { map: id, cpu: index, value, qsize: number, prog },
            _ => Target::Dev { map: id, index, value, ifindex: number, prog },
        })
    }

    fn bloom_has(&self, id: MapId, value: &[u8]) -> bool {
        matches!(&self.maps[&id].kind, crate::maps::Kind::Bloom(set) if set.contains(value))
    }
}
