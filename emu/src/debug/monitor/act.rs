//! Commands that change the machine: `map NAME set KEY VALUE`, `inject`.

use kernel_model::context::Level;
use kernel_model::fault::Kind;
use kernel_model::{CpuId, Kernel, helpers};

use super::names::{self, MapTypes};
use super::{Reply, number, words};
use crate::machine::Machine;

/// Nanoseconds for which a ring takes nothing, when nothing else is said.
const RING_FULL_NS: u64 = 1_000_000;

const USAGE: &str = "inject alloc [OBJECT] | call FUNC VALUE | user_page ADDR | timer_late NS | \
                     irq [LINE [CPU]] | nmi [CPU] | ring_full NIC [NS]";

/// Does a command that changes the machine; `None` when it is another.
pub fn act(machine: &mut Machine, cpu: CpuId, command: &str) -> Option<Reply> {
    let words = words::split(command);
    match words.as_slice() {
        ["map", name, "set", args @ ..] => Some(set(&mut machine.kernel, cpu, name, args)),
        ["inject", args @ ..] => Some(inject(machine, cpu, args)),
        _ => None,
    }
}

/// `map NAME set KEY VALUE`, as user space does it; of a per-CPU map the value of one CPU.
fn set(k: &mut Kernel, cpu: CpuId, name: &str, args: &[&str]) -> Reply {
    let [key, value] = args else { return Err("map NAME set KEY VALUE".to_owned()) };
    let map = names::map(k, name)?;
    let (id, name, percpu) = (map.id, map.def.name.clone(), map.is_percpu());
    let (stride, size) = (map.value_stride() as usize, map.def.value_size as usize);
    let types = MapTypes::of(k, &map.def);
    let key_bytes = types.bytes(types.key, key, vec![0; map.def.key_size as usize])?;
    let whole = map.user_value_size(k.config.cpus);
    // Members that are left out keep what they have.
    let mut all = match k.map_entry(id, &key_bytes) {
        Some(kernel_model::maps::Entry::Values(at)) => at
            .iter()
            .flat_map(|at| {
                let len = if percpu { stride } else { size };
                k.mem.read_vec(*at, len).unwrap_or_else(|_| vec![0; len])
            })
            .collect(),
        _ => vec![0; whole],
    };
    let from = if percpu { cpu.0 as usize * stride } else { 0 };
    let part = all.get_mut(from..from + size).ok_or("that CPU has no value")?;
    let bytes = types.bytes(types.value, value, part.to_vec())?;
    part.copy_from_slice(&bytes);
    let failed = |e: kernel_model::Errno| format!("writing to {name}: {}", e.name());
    k.user_update(id, &key_bytes, &all, 0).map_err(failed)?;
    Ok(format!(
        "{name}: {}: {}\n",
        types.text(types.key, &key_bytes),
        types.text(types.value, &bytes)
    ))
}

/// `inject KIND`: the next occasion fails.
fn inject(machine: &mut Machine, cpu: CpuId, args: &[&str]) -> Reply {
    let kind = fault(&machine.kernel, cpu, args)?;
    let said = match &kind {
        Kind::Interrupt { .. } => format!("{} at the program's next point\n", kind.name()),
        Kind::RingFull { to, .. } => format!("the ring takes nothing until {to} ns\n"),
        _ => format!("the next occasion fails: {}\n", args.join(" ")),
    };
    let times = if matches!(kind, Kind::RingFull { .. }) { u64::MAX } else { 1 };
    machine.kernel.faults.add(kind, 1, times);
    // Interrupts at points have these looked at.
    let chooser = machine.take_chooser();
    machine.schedule(chooser);
    Ok(said)
}

fn fault(k: &Kernel, cpu: CpuId, args: &[&str]) -> Result<Kind, String> {
    let on = |text: Option<&&str>| match text {
        None => Ok(cpu),
        Some(n) => {
            let n = u32::try_from(number(n)?).ok().filter(|n| *n < k.config.cpus);
            n.map(CpuId).ok_or_else(|| format!("there are {} CPUs", k.config.cpus))
        }
    };
    let prog = || {
        let running = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
        running.ok_or_else(|| format!("CPU {} runs no program here", cpu.0))
    };
    let interrupt = |level, cpu, line| {
        let inside = None;
        prog().map(|prog| Kind::Interrupt { level, cpu, line, prog, inside })
    };
    match args {
        ["alloc"] => Ok(Kind::Alloc { site: None, prog: None, chance: None }),
        ["alloc", site] => {
            Ok(Kind::Alloc { site: Some((*site).to_owned()), prog: None, chance: None })
        }
        ["call", func, value] => {
            let func = helpers::bare(func).to_owned();
            let ret = match value.strip_prefix('-') {
                Some(n) => number(n)?.wrapping_neg(),
                None => number(value)?,
            };
            Ok(Kind::Call { func, prog: None, ret })
        }
        ["user_page", addr] => Ok(Kind::UserPage { addr: number(addr)? }),
        ["timer_late", by] => Ok(Kind::TimerLate { by: number(by)? }),
        ["irq", rest @ ..] if rest.len() <= 2 => {
            let line = rest.first().map_or(Ok(0), |l| number(l))?;
            let line = u32::try_from(line).map_err(|_| "that is no line")?;
            interrupt(Level::Hard, on(rest.get(1))?, line)
        }
        ["nmi", rest @ ..] if rest.len() <= 1 => interrupt(Level::Nmi, on(rest.first())?, 0),
        ["ring_full", nic, rest @ ..] if rest.len() <= 1 => {
            let all: Vec<&str> = k.net.nics.values().map(|n| &*n.config.name).collect();
            let none = || format!("no nic `{nic}`; there are: {}", all.join(", "));
            let ifindex = names::nic(k, nic).ok_or_else(none)?.ifindex;
            let from = k.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0);
            let ns = rest.first().map_or(Ok(RING_FULL_NS), |n| number(n))?;
            Ok(Kind::RingFull { ifindex, from, to: from.saturating_add(ns) })
        }
        _ => Err(USAGE.to_owned()),
    }
}
