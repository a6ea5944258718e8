//! `ring`, `perf`, `trace_pipe`.

use std::fmt::Write as _;
use std::sync::Arc;

use bpf::btf::{Btf, Kind, TypeId};
use bpf::uapi::MapType;
use kernel_model::Kernel;
use kernel_model::maps::{Map, RecordState};
use kernel_model::net::Nic;
use kernel_model::syscall::BtfId;

use super::{Here, Reply, frame, names, no_more, number};
use crate::runner::data::Types;

/// Records that are shown.
const SHOWN: usize = 16;

/// `ring NAME [as STRUCT]`.
pub(super) fn ring(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let is_ring = |m: &&Map| matches!(m.def.map_type, MapType::Ringbuf | MapType::UserRingbuf);
    let rings = k.maps.values().filter(is_ring).map(|m| m.def.name.clone());
    let nics = k.net.nics.values().map(|n| n.config.name.clone());
    let all: Vec<String> = rings.chain(nics).collect();
    let known = || format!("ring NAME [as STRUCT], of: {}", all.join(", "));
    let (name, more) = args.split_first().ok_or_else(known)?;
    if let Some(nic) = names::nic(k, name) {
        no_more(more)?;
        return Ok(nic_rings(nic));
    }
    let map = names::map(k, name).map_err(|_| format!("no ring `{name}`; {}", known()))?;
    let state = k.ring_state(map.id).ok_or_else(|| format!("{name} is no ring; {}", known()))?;
    let typed = match more {
        [] => None,
        ["as", words @ ..] => Some(record_type(k, map, &words.join(" "))?),
        more => return no_more(more).map(|()| String::new()),
    };
    let used = state.producer - state.consumer;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {used} of {} bytes used, producer {}, consumer {}, {} records",
        map.def.name,
        state.size,
        state.producer,
        state.consumer,
        state.records.len()
    );
    for r in state.records.iter().take(SHOWN) {
        let what = match r.state {
            RecordState::Busy => "reserved, not submitted",
            RecordState::Ready => "ready",
            RecordState::Discarded => "discarded",
        };
        let by = k.ledger.last(kernel_model::ledger::Kind::RingbufRecord, r.addr);
        let by = by.and_then(|h| h.stack.first()).and_then(|s| k.place(*s));
        let by = by.map_or(String::new(), |p| format!(", by {p}"));
        let _ = writeln!(out, "record {:#x}: {} bytes, {what}{by}", r.addr, r.len);
        let bytes = k.mem.read_vec(r.addr, r.len as usize).unwrap_or_default();
        match &typed {
            Some((btf, ty)) if btf.size_of(*ty).is_some_and(|n| n as usize <= bytes.len()) => {
                let types = Types { btf, endian: k.mem.endian() };
                let _ = writeln!(out, "  {}", types.text(*ty, &bytes));
            }
            _ => out += &frame::dump(&bytes),
        }
    }
    if state.records.len() > SHOWN {
        let _ = writeln!(out, "and {} more", state.records.len() - SHOWN);
    }
    Ok(out)
}

/// What records are: a type by its name in C, of the programs that use the ring.
fn record_type(k: &Kernel, map: &Map, name: &str) -> Result<(Arc<Btf>, TypeId), String> {
    let users = k.progs().filter(|p| p.maps.contains(&map.id));
    let mut all = users.filter_map(|p| k.btf_object(BtfId(p.btf_id)));
    let plain = name.trim_start_matches("struct ").trim_start_matches("union ");
    let found = all.find_map(|btf| {
        let kinds = [Kind::Struct, Kind::Union, Kind::Typedef, Kind::Int];
        let ty = kinds.into_iter().find_map(|kind| btf.find(plain, kind))?;
        Some((btf, ty))
    });
    found.ok_or_else(|| format!("no program that uses {} has a type `{name}`", map.def.name))
}

/// Receive and transmit rings of a nic.
fn nic_rings(nic: &Nic) -> String {
    let mut out = String::new();
    for (n, q) in nic.queues.iter().enumerate() {
        let (of, poll) = (nic.config.ring, if q.scheduled { ", poll scheduled" } else { "" });
        let _ = writeln!(
            out,
            "{} queue {n} (CPU {}): rx {} of {of} used, tx {} of {of} used{poll}",
            nic.config.name,
            q.cpu.0,
            q.filled - q.consumed,
            q.tx_used()
        );
    }
    out
}

/// `perf NAME`.
pub(super) fn perf(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let is_perf = |m: &&Map| m.def.map_type == MapType::PerfEventArray;
    let all: Vec<&str> = k.maps.values().filter(is_perf).map(|m| &*m.def.name).collect();
    let known = || match all.as_slice() {
        [] => "there is no perf event array".to_owned(),
        all => format!("perf NAME, of: {}", all.join(", ")),
    };
    let (name, more) = args.split_first().ok_or_else(known)?;
    no_more(more)?;
    let map = names::map(k, name).ok().filter(is_perf).ok_or_else(known)?;
    Ok(perf_text(k, map))
}

fn perf_text(k: &Kernel, map: &Map) -> String {
    let open: Vec<String> = k.perf_events(map.id).map(|c| c.0.to_string()).collect();
    match open.is_empty() {
        true => format!("{}: no event is open; records are lost\n", map.def.name),
        false => format!("{}: events are open for CPUs {}\n", map.def.name, open.join(", ")),
    }
}

/// `trace_pipe [N]`.
pub(super) fn trace_pipe(here: &Here<'_>, args: &[&str]) -> Reply {
    let count = match args {
        [] => usize::MAX,
        [n, more @ ..] => {
            no_more(more)?;
            usize::try_from(number(n)?).unwrap_or(usize::MAX)
        }
    };
    let lines = here.kernel().trace_pipe();
    let skip = lines.len().saturating_sub(count);
    let text: String = lines.skip(skip).map(|l| format!("{l}\n")).collect();
    Ok(if text.is_empty() { "nothing was written\n".to_owned() } else { text })
}
