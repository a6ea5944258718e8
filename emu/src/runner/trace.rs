//! Events as lines of text.
//!
//! What is compared between architectures has no clocks: a `bpfeb` object has other byte-swap
//! instructions than its `bpfel` twin, so equal work may retire a different number of them. Nor
//! has it helper arguments and record bytes, whose multi-byte numbers are in the machine's order.
//! Each CPU's events are compared in their order.

use std::collections::BTreeMap;

use kernel_model::{Event, EventKind};

use super::Run;

/// Names for the numbers in events.
#[derive(Clone, Debug, Default)]
pub struct Names {
    progs: BTreeMap<u32, String>,
    maps: BTreeMap<u32, String>,
    nics: BTreeMap<u32, String>,
}

impl Names {
    pub(super) fn of(run: &Run<'_>) -> Names {
        let k = &run.machine.kernel;
        Names {
            progs: k.progs().map(|p| (p.id.0, p.name().to_string())).collect(),
            maps: k.maps.iter().map(|(id, m)| (id.0, m.def.name.clone())).collect(),
            nics: k.net.nics.iter().map(|(i, n)| (*i, n.config.name.clone())).collect(),
        }
    }

    fn prog(&self, id: kernel_model::ProgId) -> &str {
        self.progs.get(&id.0).map_or("?", String::as_str)
    }

    fn map(&self, id: kernel_model::maps::MapId) -> &str {
        self.maps.get(&id.0).map_or("?", String::as_str)
    }

    fn nic(&self, ifindex: u32) -> &str {
        self.nics.get(&ifindex).map_or("?", String::as_str)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Helpers whose result is a number in the machine's byte order, or a clock.
const NOT_COMPARED: &[&str] = &[
    "csum_diff",
    "ktime_get_ns",
    "ktime_get_boot_ns",
    "ktime_get_coarse_ns",
    "ktime_get_tai_ns",
    "jiffies64",
];

/// One line; `full` adds the clock and what depends on byte order.
// tidy: flat match
#[must_use]
pub fn line(event: &Event, names: &Names, full: bool) -> String {
    let text = match &event.kind {
        EventKind::Enter { prog } => format!("enter {}", names.prog(*prog)),
        EventKind::Exit { prog, ret } => format!("exit {} = {}", names.prog(*prog), *ret as u32),
        EventKind::Callback { prog, helper, nth } => {
            format!("callback {} from {helper} #{nth}", names.prog(*prog))
        }
        EventKind::HelperCall { prog, name, args, ret, nth } => {
            let ret = match ret {
                Some(_) if !full && NOT_COMPARED.contains(name) => "_".to_string(),
                Some(r) => r.to_string(),
                None => "..".to_string(),
            };
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            let args = if full { args.join(", ") } else { String::new() };
            format!("call {} bpf_{name}({args}) = {ret} #{nth}", names.prog(*prog))
        }
        EventKind::TailCall { from, to } => {
            format!("tail-call {} -> {}", names.prog(*from), names.prog(*to))
        }
        EventKind::MapUpdate { map, key, value } => {
            format!("update {} {} = {}", names.map(*map), hex(key), hex(value))
        }
        EventKind::MapDelete { map, key } => format!("delete {} {}", names.map(*map), hex(key)),
        EventKind::Verdict { prog, name, raw } => {
            format!("verdict {} {name} ({raw})", names.prog(*prog))
        }
        EventKind::Out { nic, packet } => format!("out {} {}", names.nic(*nic), hex(packet)),
        EventKind::Up { nic, packet } => format!("up {} {}", names.nic(*nic), hex(packet)),
        EventKind::Record { map, data } if full => {
            format!("record {} {}", names.map(*map), hex(data))
        }
        EventKind::Record { map, data } => {
            format!("record {} {} bytes", names.map(*map), data.len())
        }
        EventKind::Injected { fault, what } => format!("injected {fault}: {what}"),
        EventKind::Tracepoint { name, args } if full => {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            format!("tracepoint {name}({})", args.join(", "))
        }
        EventKind::Tracepoint { name, .. } => format!("tracepoint {name}"),
        EventKind::Drop { reason } => format!("drop {reason}"),
        EventKind::Print { text } => format!("print {text:?}"),
        EventKind::Fault { prog, fault } => {
            format!("fault {}: {fault}", prog.map_or("kernel", |p| names.prog(p)))
        }
        EventKind::RcuFree { objects } => format!("rcu frees {objects}"),
        EventKind::Leak { what } => format!("leak {what}"),
        EventKind::Note { topic, text } => format!("{topic}: {text}"),
    };
    if full {
        format!("{:>12} cpu{} {text}", event.clock_ns, event.cpu.0)
    } else {
        format!("cpu{} {text}", event.cpu.0)
    }
}

/// Numbers of the events in the order in which they are compared: CPU by CPU.
#[must_use]
pub fn order(events: &[Event], cpus: u32) -> Vec<usize> {
    let of = |cpu: u32| (0..events.len()).filter(move |n| events[*n].cpu.0 == cpu);
    (0..cpus).flat_map(of).collect()
}

/// FNV-1a, 64 bits: the same number on every machine and with every toolchain.
#[must_use]
pub fn hash(lines: &[String]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for line in lines {
        for b in line.bytes().chain([b'\n']) {
            h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    h
}

/// Frames that left, by nic, with their times.
pub(super) fn frames_out(events: &[Event], names: &Names) -> Vec<(String, super::Frames)> {
    let mut out: BTreeMap<u32, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for e in events {
        if let EventKind::Out { nic, packet } = &e.kind {
            out.entry(*nic).or_default().push((e.clock_ns, packet.clone()));
        }
    }
    out.into_iter().map(|(nic, frames)| (names.nic(nic).to_string(), frames)).collect()
}

/// A program run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Program.
    pub name: String,
    /// CPU.
    pub cpu: u32,
    /// Virtual nanoseconds.
    pub start_ns: u64,
    /// Virtual nanoseconds.
    pub length_ns: u64,
}

impl Slice {
    /// As a complete event of the Chrome trace format (times in microseconds).
    #[must_use]
    pub fn json(&self, process: &str) -> serde_json::Value {
        serde_json::json!({
            "ph": "X", "pid": process, "tid": format!("cpu{}", self.cpu), "name": self.name,
            "ts": self.start_ns as f64 / 1e3, "dur": self.length_ns as f64 / 1e3,
        })
    }
}

/// Runs of programs, from enter to exit.
pub(super) fn slices(events: &[Event], names: &Names) -> Vec<Slice> {
    let mut open: BTreeMap<u32, Vec<(String, u64)>> = BTreeMap::new();
    let mut out = Vec::new();
    for e in events {
        let stack = open.entry(e.cpu.0).or_default();
        match &e.kind {
            EventKind::Enter { prog } => stack.push((names.prog(*prog).to_string(), e.clock_ns)),
            EventKind::Exit { .. } => {
                if let Some((name, start_ns)) = stack.pop() {
                    let length_ns = e.clock_ns - start_ns;
                    out.push(Slice { name, cpu: e.cpu.0, start_ns, length_ns });
                }
            }
            _ => {}
        }
    }
    out
}
