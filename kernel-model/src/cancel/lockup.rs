//! Lockups (kernel/watchdog.c): a CPU that does not come out of a program for twenty seconds, or
//! has interrupts off for ten.

use crate::cpu::{CpuId, Site};
use crate::ledger::Kind;
use crate::{EventKind, Kernel};

/// `watchdog_thresh` in nanoseconds: a hard lockup. A soft one takes twice as long.
pub const THRESH_NS: u64 = 10_000_000_000;

/// Topic of the notes.
pub const TOPIC: &str = "watchdog";

impl Kernel {
    /// Whether the run on top of a CPU is a lockup that was not told of.
    #[must_use]
    pub fn locked_up(&self, cpu: CpuId) -> bool {
        let Some(p) = self.root_frame(cpu).filter(|p| !p.locked_up) else { return false };
        // A task that was preempted has let the watchdog's thread in.
        let ran = self.now(cpu).saturating_sub(p.started_ns.max(p.resumed_ns));
        ran >= 2 * THRESH_NS || ran >= THRESH_NS && self.irqs_off_since(cpu, THRESH_NS)
    }

    fn irqs_off_since(&self, cpu: CpuId, ns: u64) -> bool {
        let off = self.ledger.iter().filter(|h| h.0 == Kind::Irq && h.2.cpu == cpu);
        off.map(|h| h.2.clock_ns).min().is_some_and(|t| self.now(cpu) - t >= ns)
    }

    /// `watchdog_timer_fn`, `watchdog_hardlockup_check`: tells of it, once a run.
    pub fn report_lockup(&mut self, cpu: CpuId, stack: &[Site]) {
        let hard = self.irqs_off_since(cpu, THRESH_NS);
        let task = self.cpus[cpu.idx()].task;
        let pid = self.get(task, crate::field!("task_struct", "pid"));
        let (now, comm) = (self.now(cpu), self.task_comm(task));
        let Some(p) = self.root_frame_mut(cpu) else { return };
        p.locked_up = true;
        let (prog, secs) = (p.entry.prog, (now - p.started_ns.max(p.resumed_ns)) / 1_000_000_000);
        let n = cpu.0;
        let text = match hard {
            true => format!("CPU{n}: Watchdog detected hard LOCKUP on cpu {n}"),
            false => format!("BUG: soft lockup - CPU#{n} stuck for {secs}s! [{comm}:{pid}]"),
        };
        self.emit(cpu, EventKind::Note { topic: TOPIC, text: text.clone() });
        self.stream_report(cpu, prog, &format!("watchdog: {text}"), stack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Frame, ProgId};

    #[test]
    fn a_run_of_twenty_seconds_is_a_soft_lockup_and_ten_without_interrupts_a_hard_one() {
        for (irqs_off, after, text) in [
            (false, 2 * THRESH_NS, "BUG: soft lockup - CPU#0 stuck for 20s! [swapper/0:0]"),
            (true, THRESH_NS, "CPU0: Watchdog detected hard LOCKUP on cpu 0"),
        ] {
            let (mut k, cpu) = (Kernel::new(Config::default()), CpuId(0));
            k.submit(cpu, Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 });
            let _ = k.next(cpu);
            if irqs_off {
                k.prog_holds(cpu, Kind::Irq, 0, "bpf_local_irq_save");
            }
            let began = k.now(cpu);
            k.advance_to(began + after - 1);
            assert!(!k.locked_up(cpu));
            k.advance_to(began + after);
            assert!(k.locked_up(cpu));
            k.report_lockup(cpu, &[]);
            let note = |e: &crate::Event| match &e.kind {
                EventKind::Note { text, .. } => Some(text.clone()),
                _ => None,
            };
            assert_eq!(k.events.iter().find_map(note).as_deref(), Some(text));
            assert!(!k.locked_up(cpu), "told once");
        }
    }
}
