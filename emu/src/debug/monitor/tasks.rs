//! `tasks`, `cpus`, `cpu`.

use std::fmt::Write as _;

use kernel_model::Kernel;
use kernel_model::cpu::CpuId;
use kernel_model::rcu::Flavor;
use kernel_model::sched::{Doing, Op, TaskView};
use kernel_model::sys::SYSCALLS;

use super::{Here, Reply, names, no_more, number};

fn doing(k: &Kernel, t: &TaskView<'_>) -> String {
    match t.doing {
        Doing::New => "not begun".to_owned(),
        Doing::Running => "running".to_owned(),
        Doing::Ready(since) => format!("ready since {since}"),
        Doing::Preempted(since, prog) => {
            format!("in {}, ready since {since}", names::prog_name(k, prog))
        }
        Doing::Blocked(_) => match (t.waits, t.until) {
            (Some(what), _) => format!("waits for {what}"),
            (None, Some(until)) => format!("sleeps until {until}"),
            (None, None) => "blocked in the kernel".to_owned(),
        },
        Doing::Dead => "ended".to_owned(),
    }
}

/// An operation in words.
fn op_text(k: &Kernel, op: &Op) -> String {
    match op {
        Op::Run(ns) => format!("runs for {ns} ns"),
        Op::Sleep(ns) => format!("sleeps for {ns} ns"),
        Op::Yield => "yields".to_owned(),
        Op::Wait(n) => format!("waits for {}", k.wait_name(*n)),
        Op::Wake(n) => format!("wakes {}", k.wait_name(*n)),
        Op::Lock(n, mode) => format!("{} {}", mode.verb(), k.wait_name(*n)),
        Op::Unlock(n) => format!("unlocks {}", k.wait_name(*n)),
        Op::Migrate(cpu) => format!("migrates to CPU {cpu}"),
        Op::Exit(code) => format!("exits with {code}"),
        Op::TestRun(t) => format!("test run of {}", names::prog_name(k, t.prog)),
        Op::Sys(call) => format!("system call {}", SYSCALLS[call.row].name),
        Op::Map(c) => {
            let name = k.map(c.map).map_or("a map that is gone", |m| &*m.def.name);
            let what = if c.value.is_some() { "updates" } else { "deletes from" };
            format!("{what} {name}")
        }
        Op::Call(n, _) | Op::Enter(n, _) => format!("calls function {n}"),
        Op::Return(_) => "returns from a function".to_owned(),
    }
}

/// `tasks`.
pub(super) fn tasks(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let tasks = here.kernel().task_views();
    if tasks.is_empty() {
        return Ok("the scenario has no tasks\n".to_owned());
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>5} {:<16} {:<3} {:<28} {:>10}  op",
        "pid", "name", "cpu", "state", "ran ns"
    );
    for t in &tasks {
        let words = |op| op_text(here.kernel(), op);
        let op = t.op.map_or(String::new(), |(op, n)| format!("{n}/{} {}", t.ops, words(op)));
        let line = format!(
            "{:>5} {:<16} {:<3} {:<28} {:>10}  {op}",
            t.pid,
            t.name,
            t.cpu.0,
            doing(here.kernel(), t),
            t.ran_ns
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    Ok(out)
}

/// One line about a CPU.
fn line(here: &Here<'_>, cpu: CpuId) -> String {
    let k = here.kernel();
    let mark = if cpu == here.cpu { '*' } else { ' ' };
    let (pid, comm) = k.cpu_task(cpu);
    let task = if pid == 0 { comm } else { format!("{comm}/{pid}") };
    let level = k.context(cpu).level.name();
    let mut out = format!("{mark} cpu{} {:>12} ns {level:<8} {task:<16}", cpu.0, k.now(cpu));
    match here.machine.stack_frames(cpu).first() {
        Some(f) => {
            let place = k.place(f.site).map(|p| p.to_string()).unwrap_or_default();
            let _ =
                write!(out, " {} at {}: {place}", names::prog_name(k, f.site.prog), f.site.insn.0);
        }
        None if k.is_idle(cpu) => out.push_str(" idle"),
        None => out.push_str(" in the kernel"),
    }
    if let Some(point) = here.machine.place(cpu) {
        let _ = write!(out, " [{}]", here.machine.point_name(&point));
    }
    out
}

/// `cpus`.
pub(super) fn cpus(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let all = (0..here.kernel().config.cpus).map(|n| line(here, CpuId(n)) + "\n");
    Ok(all.collect())
}

/// `cpu [N]`.
pub(super) fn cpu(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let cpu = match args {
        [] => here.cpu,
        [n, more @ ..] => {
            no_more(more)?;
            let all = k.config.cpus;
            let n = u32::try_from(number(n)?).ok().filter(|n| *n < all);
            CpuId(n.ok_or_else(|| format!("there are {all} CPUs, numbered from 0"))?)
        }
    };
    let mut out = line(here, cpu) + "\n";
    let (c, context) = (&k.cpus[cpu.idx()], k.context(cpu));
    let _ = writeln!(out, "  retired {} BPF instructions, passed {} points", c.retired, c.points);
    let off = [
        (context.irqs_off, "interrupts"),
        (context.bh_off, "softirqs"),
        (context.preempt_off, "preemption"),
    ];
    let off: Vec<&str> = off.iter().filter(|o| o.0).map(|o| o.1).collect();
    if !off.is_empty() {
        let _ = writeln!(out, "  off: {}", off.join(", "));
    }
    for flavor in Flavor::ALL {
        if let Some(s) = k.rcu.section(cpu, flavor) {
            let _ = writeln!(out, "  {} section: {} since {} ns", flavor.name(), s.by, s.since_ns);
        }
    }
    for (n, f) in here.machine.stack_frames(cpu).iter().enumerate() {
        let place = k.place(f.site).map_or_else(|| f.site.prog.to_string(), |p| p.to_string());
        let _ = writeln!(out, "  #{n} {place}");
    }
    let party = k.lock_party(cpu).to_string();
    if !party.is_empty() {
        let _ = writeln!(out, "{party}");
    }
    if let Some(t) = k.stand(cpu).and_then(|s| s.until) {
        let _ = writeln!(out, "  waits until {t} ns");
    }
    Ok(out)
}
