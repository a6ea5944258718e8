//! Events as lines of text.
//!
//! What is compared between architectures has no clocks: a `bpfeb` object has other byte-swap
//! instructions than its `bpfel` twin, so equal work may retire a different number of them. Nor
//! has it helper arguments and record bytes, whose multi-byte numbers are in the machine's order.
//! Each CPU's events are compared in their order. Nothing is kept of an event once it is written,
//! but for what was asked for.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use kernel_model::context::Level;
use kernel_model::cpu::FaultKind;
use kernel_model::event::Value;
use kernel_model::state_hash::Fnv;
use kernel_model::{Event, EventKind, helpers};
use pcap_file::pcap::PcapWriter;

use super::captures;
use super::spool::Spool;
use crate::machine::Machine;

/// What a run keeps besides the hash of its trace.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// The trace with clocks.
    pub trace: bool,
    /// The trace that is compared between architectures.
    pub compared: bool,
    /// Frames that left.
    pub frames: bool,
    /// Runs of programs.
    pub slices: bool,
    /// Where what is too long for memory goes; the system's folder when empty.
    pub folder: PathBuf,
}

/// Names for the numbers in events.
#[derive(Clone, Debug, Default)]
pub struct Names {
    progs: BTreeMap<u32, String>,
    maps: BTreeMap<u32, String>,
    nics: BTreeMap<u32, String>,
}

impl Names {
    pub(super) fn of(machine: &Machine) -> Names {
        let k = &machine.kernel;
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

/// The longest part of a trace: not through the formatter, which is ten times slower.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
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
            // Kernel functions have their whole name.
            let name = helpers::full(name);
            format!("call {} {name}({args}) = {ret} #{nth}", names.prog(*prog))
        }
        EventKind::HelperReturn { prog, name, ret, nth } => {
            format!("return {} {} = {ret} #{nth}", names.prog(*prog), helpers::full(name))
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
        EventKind::Up { nic, packet, .. } => format!("up {} {}", names.nic(*nic), hex(packet)),
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
        // A number in the text may be in the machine's byte order.
        EventKind::Stream { prog, id, .. } if !full => {
            format!("stream {} {}", names.prog(*prog), id.name())
        }
        EventKind::Stream { prog, id, text } => {
            format!("stream {} {} {text:?}", names.prog(*prog), id.name())
        }
        EventKind::Cancelled { prog, by } => {
            format!("cancelled {} by {}", names.prog(*prog), by.name())
        }
        EventKind::Fault { prog, fault } => {
            let prog = prog.map_or("kernel", |p| names.prog(p));
            match &fault.kind {
                // Its sites have clocks.
                FaultKind::Memcheck(report) if !full => format!("fault {prog}: {:?}", report.wrong),
                _ => format!("fault {prog}: {fault}"),
            }
        }
        EventKind::Switch { from, to, .. } => format!("switch {from} -> {to}"),
        EventKind::Stall { task, waited, at } => {
            let at = at.map_or(String::new(), |s| format!(", preempted in {}", names.prog(s.prog)));
            format!("stall {task} waits for {waited} ns{at}")
        }
        EventKind::Op { task, op, ret } => {
            let ret = ret.map_or("cancelled".into(), |r| Value::of(r).to_string());
            format!("task {task} op {} = {ret}", op + 1)
        }
        EventKind::RcuFree { objects } => format!("rcu frees {objects}"),
        EventKind::Race(race) => format!("data race: {race}"),
        EventKind::RcuStall(stall) => format!("rcu stall: {stall}"),
        EventKind::Deadlock { kind, lock, holding, .. } => {
            let holding = holding.iter().map(|l| format!(", holding {l}"));
            format!("deadlock {} on {lock}{}", kind.name(), holding.collect::<String>())
        }
        EventKind::LockOrder(order) => format!("lock order {order}"),
        EventKind::Leak { what } => format!("leak {what}"),
        EventKind::Note { topic, text } => format!("{topic}: {text}"),
    };
    if full {
        format!("{:>12} cpu{} {text}", event.clock_ns, event.cpu.0)
    } else {
        format!("cpu{} {text}", event.cpu.0)
    }
}

/// Writes the trace as it comes.
#[derive(Debug)]
pub(super) struct Recorder {
    pub names: Arc<Names>,
    keep: Keep,
    /// A watchdog ends runs by their length.
    pub by_time: bool,
    /// Of each CPU's lines.
    hashes: BTreeMap<u32, Fnv>,
    /// CPU, line, number of the event.
    compared: Vec<(u32, String, usize)>,
    trace: Spool,
    out: BTreeMap<u32, PcapWriter<Spool>>,
    slices: Slices,
}

/// A run that is gone back to keeps no files: they cannot be unwritten.
impl Clone for Recorder {
    fn clone(&self) -> Recorder {
        assert!(!self.keep.trace && !self.keep.frames, "no files of a run that is gone back to");
        Recorder {
            names: Arc::clone(&self.names),
            keep: self.keep.clone(),
            hashes: self.hashes.clone(),
            compared: self.compared.clone(),
            trace: Spool::default(),
            out: BTreeMap::new(),
            slices: self.slices.clone(),
            by_time: self.by_time,
        }
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new(Arc::default(), Keep::default())
    }
}

/// What came of a trace.
#[derive(Debug)]
pub(super) struct Recorded {
    pub hash: u64,
    pub trace: Option<Spool>,
    pub compared: Vec<String>,
    pub compared_at: Vec<usize>,
    pub out: Vec<(String, Spool)>,
    pub slices: Vec<Slice>,
}

impl Recorder {
    pub(super) fn new(names: Arc<Names>, mut keep: Keep) -> Recorder {
        if keep.folder.as_os_str().is_empty() {
            keep.folder = std::env::temp_dir();
        }
        Recorder {
            names,
            hashes: BTreeMap::new(),
            compared: Vec::new(),
            trace: Spool::new(&keep.folder),
            out: BTreeMap::new(),
            slices: Slices::default(),
            keep,
            by_time: false,
        }
    }

    /// The next event, by its number from 1.
    pub(super) fn write(&mut self, number: usize, e: &Event) -> Result<(), String> {
        self.written(number, e).map_err(|e| format!("keeping the trace: {e}"))
    }

    fn written(&mut self, number: usize, e: &Event) -> std::io::Result<()> {
        if self.keep.trace {
            writeln!(self.trace, "{number:>7} {}", line(e, &self.names, true))?;
        }
        if is_compared(e, self.by_time) {
            let text = line(e, &self.names, false);
            line_hash(self.hashes.entry(e.cpu.0).or_default(), &text);
            if self.keep.compared {
                self.compared.push((e.cpu.0, text, number));
            }
        }
        if self.keep.slices {
            self.slices.see(e, &self.names);
        }
        if let EventKind::Out { nic, packet } = &e.kind
            && self.keep.frames
        {
            if !self.out.contains_key(nic) {
                let new = captures::writer(Spool::new(&self.keep.folder));
                self.out.insert(*nic, new.map_err(std::io::Error::other)?);
            }
            let file = self.out.get_mut(nic).expect("just made");
            captures::put(file, e.clock_ns, packet).map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    /// All that was asked for.
    pub(super) fn finish(mut self) -> Recorded {
        self.compared.sort_by_key(|c| c.0);
        let compared_at = self.compared.iter().map(|c| c.2).collect();
        let names = &self.names;
        let out = self.out.into_iter();
        Recorded {
            hash: combined(&self.hashes),
            trace: self.keep.trace.then_some(self.trace),
            compared: self.compared.into_iter().map(|c| c.1).collect(),
            compared_at,
            out: out.map(|(n, w)| (names.nic(n).to_string(), w.into_writer())).collect(),
            slices: self.slices.done,
        }
    }
}

fn line_hash(hash: &mut Fnv, text: &str) {
    hash.add(text.as_bytes());
    hash.add(b"\n");
}

/// One hash of all CPUs: that of CPU 0, then those of the others as lines after it.
fn combined(hashes: &BTreeMap<u32, Fnv>) -> u64 {
    let mut all = hashes.get(&0).copied().unwrap_or_default();
    hashes.iter().filter(|(cpu, _)| **cpu != 0).for_each(|(cpu, h)| {
        line_hash(&mut all, &format!("cpu{cpu} {:016x}", h.0));
    });
    all.0
}

/// Lines of source are other instructions in the other byte order; which CPU ends a grace period
/// is a matter of clocks. Where runs end by time, so is how many calls they have come to.
fn is_compared(e: &Event, by_time: bool) -> bool {
    match &e.kind {
        EventKind::Callback { .. }
        | EventKind::HelperCall { .. }
        | EventKind::HelperReturn { .. }
        | EventKind::MapUpdate { .. }
        | EventKind::MapDelete { .. }
        | EventKind::Record { .. }
        | EventKind::Print { .. }
        | EventKind::Stream { .. } => !by_time,
        EventKind::Note { topic, .. } => *topic != crate::machine::path::LINE,
        EventKind::RcuFree { .. } | EventKind::RcuStall(_) | EventKind::Race(_) => false,
        _ => true,
    }
}

/// A program run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Program.
    pub name: Arc<str>,
    /// CPU.
    pub cpu: u32,
    /// What the CPU was in.
    pub level: Level,
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
            "ph": "X", "pid": process, "tid": format!("cpu{}", self.cpu), "name": &*self.name,
            "ts": self.start_ns as f64 / 1e3, "dur": self.length_ns as f64 / 1e3,
        })
    }
}

/// Runs of programs, from enter to exit.
#[derive(Clone, Debug, Default)]
struct Slices {
    names: BTreeMap<u32, Arc<str>>,
    open: BTreeMap<u32, Vec<(Arc<str>, u64)>>,
    done: Vec<Slice>,
}

impl Slices {
    fn see(&mut self, e: &Event, names: &Names) {
        let cpu = e.cpu.0;
        match &e.kind {
            EventKind::Enter { prog } => {
                let name = self.names.entry(prog.0).or_insert_with(|| names.prog(*prog).into());
                self.open.entry(cpu).or_default().push((name.clone(), e.clock_ns));
            }
            EventKind::Exit { .. } => {
                if let Some((name, start_ns)) = self.open.entry(cpu).or_default().pop() {
                    let length_ns = e.clock_ns - start_ns;
                    self.done.push(Slice { name, cpu, level: e.level, start_ns, length_ns });
                }
            }
            _ => {}
        }
    }
}
