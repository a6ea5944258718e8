//! Panes as lines of text.

use bpf::uapi::MapType;
use kernel_model::CpuId;

use super::past::Past;
use super::view::{Tab, View};
use crate::debug::monitor::state;

/// Source around the line that a CPU is at, `height` lines with their numbers.
pub(super) fn source(past: &mut Past<'_>, view: &View, height: usize) -> (String, Vec<String>) {
    let frames = past.machine().stack_frames(view.cpu);
    let Some(site) = frames.first().map(|f| f.site) else {
        return (format!("CPU {} runs no program", view.cpu.0), Vec::new());
    };
    let k = &past.machine().kernel;
    let Some(p) = k.prog(site.prog) else { return (String::new(), Vec::new()) };
    let (program, name) = (p.verified.program(), p.name().to_owned());
    let Some(line) = program.line_at(site.insn).cloned() else {
        return (format!("{name} at instruction {}", site.insn.0), listing(past, site));
    };
    let file = line.file_name().to_owned();
    let title = format!("{name} insn {} {file}:{}", site.insn.0, line.line);
    let lines = past.source(site.prog, &file);
    let at = (line.line as usize).saturating_sub(1);
    let first = at.saturating_sub(height / 2).min(lines.len().saturating_sub(height));
    let shown = lines.iter().enumerate().skip(first).take(height);
    let numbered = |(n, text): (usize, &String)| {
        let mark = if n == at { '>' } else { ' ' };
        format!("{mark}{:>4} {text}", n + 1)
    };
    (title, shown.map(numbered).collect())
}

/// BPF instructions around a place, of a program without lines.
fn listing(past: &Past<'_>, site: kernel_model::cpu::Site) -> Vec<String> {
    let Some(p) = past.machine().kernel.prog(site.prog) else { return Vec::new() };
    let program = p.verified.program();
    let from = site.insn.0.saturating_sub(4);
    let shown = from..program.insns.len() as u32;
    let one = |n: u32| {
        let mark = if n == site.insn.0 { '>' } else { ' ' };
        format!("{mark}{n:>4} {}", crate::cli::why::text(program, n))
    };
    shown.map(one).collect()
}

/// Registers with what the verifier knows of them.
pub(super) fn regs(past: &mut Past<'_>, cpu: CpuId) -> Vec<String> {
    let machine = past.machine();
    let (Some(values), Some(frame)) =
        (machine.bpf_regs(cpu), machine.stack_frames(cpu).first().copied())
    else {
        return vec![format!("CPU {} runs no program", cpu.0)];
    };
    let site = frame.site;
    let known = past.log(site.prog).and_then(|log| state::state_of(log, site.insn, Some(values)));
    let known = known.unwrap_or_default();
    let mut out = Vec::new();
    for (n, value) in values.iter().enumerate() {
        let range = state::value(&known, &format!("R{n}")).unwrap_or("");
        let value = match value {
            Some(v) => format!("{v:#x}"),
            None => "-".to_owned(),
        };
        out.push(format!("r{n:<2} {value:<18} {range}").trim_end().to_owned());
    }
    out
}

/// What the tab shows.
pub(super) fn tab(past: &mut Past<'_>, view: &View) -> Vec<String> {
    let text = match view.tab {
        Tab::Regs => return regs(past, view.cpu),
        Tab::Maps => maps(past, view.cpu),
        Tab::Rings => rings(past, view.cpu),
        Tab::Locks => past.ask(view.cpu, "locks"),
        Tab::Tasks => past.ask(view.cpu, "cpus") + &past.ask(view.cpu, "tasks"),
        Tab::Stack => past.ask(view.cpu, "stack"),
        Tab::Packet => past.ask(view.cpu, "packet"),
    };
    text.lines().map(str::to_owned).collect()
}

/// Every map that has contents.
fn maps(past: &Past<'_>, cpu: CpuId) -> String {
    let k = &past.machine().kernel;
    let mut out = String::new();
    for m in k.maps.values() {
        out += &format!("{} ({})\n", m.def.name, m.def.map_type.name());
        for line in past.ask(cpu, &format!("map {}", m.id.0)).lines() {
            out += &format!("  {line}\n");
        }
    }
    if out.is_empty() { "there are no maps\n".to_owned() } else { out }
}

/// How full rings are: of nics and of programs.
fn rings(past: &Past<'_>, cpu: CpuId) -> String {
    const BAR: u64 = 10;
    let k = &past.machine().kernel;
    let bar = |used: u64, of: u64| {
        let full = (used * BAR).div_ceil(of.max(1)).min(BAR);
        let (full, free) = ("#".repeat(full as usize), ".".repeat((BAR - full) as usize));
        format!("[{full}{free}] {used}/{of}")
    };
    let mut out = String::new();
    for nic in k.net.nics.values() {
        let of = u64::from(nic.config.ring);
        for (n, q) in nic.queues.iter().enumerate() {
            let name = &nic.config.name;
            out += &format!("{name} rx{n} {}\n", bar(q.filled - q.consumed, of));
            out += &format!("{name} tx{n} {}\n", bar(q.tx_used(), of));
        }
    }
    for m in k.maps.values() {
        if let Some(ring) = k.ring_state(m.id) {
            let (name, used) = (&m.def.name, ring.producer - ring.consumer);
            let records = ring.records.len();
            out += &format!("{name} {} bytes, {records} records\n", bar(used, ring.size));
        } else if m.def.map_type == MapType::PerfEventArray {
            out += &past.ask(cpu, &format!("perf {}", m.id.0));
        }
    }
    if out.is_empty() { "there are no rings\n".to_owned() } else { out }
}

/// Events around the present: those that have happened, and `>` before the last of them.
pub(super) fn log(past: &Past<'_>, view: &View, height: usize) -> (String, Vec<String>) {
    let now = past.happened();
    let shown = |e: &super::past::Line| view.shows(&e.text);
    let ahead = height / 3;
    let mut before: Vec<usize> = Vec::new();
    for (n, e) in past.events[..now].iter().enumerate().rev() {
        if shown(e) {
            before.push(n);
        }
        if before.len() >= height {
            break;
        }
    }
    before.reverse();
    let after = past.events.iter().enumerate().skip(now).filter(|(_, e)| shown(e));
    let after: Vec<usize> = after.map(|e| e.0).take(height).collect();
    let room = height.saturating_sub(ahead.min(after.len()));
    let from = before.len().saturating_sub(room);
    let last = before.last().copied();
    let all = before[from..].iter().chain(&after).take(height);
    let one = |n: &usize| {
        let e = &past.events[*n];
        let mark = match *n {
            n if Some(n) == last => '>',
            n if n >= now => '.',
            _ => ' ',
        };
        format!("{mark}{:>6} {:>10} cpu{} {}", n + 1, e.clock_ns, e.cpu, e.text)
    };
    let filter = match view.filter.as_str() {
        "" => String::new(),
        text => format!(", only with \"{text}\""),
    };
    (format!("events, {now} of {} so far{filter}", past.events.len()), all.map(one).collect())
}
