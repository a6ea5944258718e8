//! cpumap: frames that become sk_buffs on another CPU, in a kernel thread of the entry
//! (kernel/bpf/cpumap.c).

use std::collections::VecDeque;

use super::NetFrame;
use super::redirect::Work;
use super::xdp::{Buffer, xdp_name};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::maps::MapId;
use crate::trace::Deferred;
use crate::{Kernel, ProgId, field};

/// `CPU_MAP_BULK_SIZE`.
pub(super) const BULK: usize = 8;
/// `CPUMAP_BATCH`.
const BATCH: usize = 8;

/// An entry in use (`struct bpf_cpu_map_entry`).
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    queue: VecDeque<Buffer>,
    /// Its thread, made when the entry is first used.
    task: u64,
    scheduled: bool,
    prog: Option<ProgId>,
}

/// The thread's batch in progress.
#[derive(Clone, Debug)]
pub struct Kthread {
    key: (MapId, u32),
    /// The task that ran before.
    prev: u64,
    begun: bool,
    /// Frames for the program, and those it passed.
    batch: VecDeque<Buffer>,
    passed: VecDeque<Buffer>,
    current: Option<Buffer>,
    processed: u64,
    pass: u64,
    drop: u64,
    redirect: u64,
    /// The statistics of this batch were reported.
    reported: bool,
}

impl Kthread {
    fn new(key: (MapId, u32)) -> Kthread {
        Kthread {
            key,
            prev: 0,
            begun: false,
            batch: VecDeque::new(),
            passed: VecDeque::new(),
            current: None,
            processed: 0,
            pass: 0,
            drop: 0,
            redirect: 0,
            reported: true,
        }
    }
}

fn call(t: Kthread, child: Frame) -> Flow {
    Flow::Call { frame: Frame::Net(Box::new(NetFrame::CpuMap(t))), child }
}

impl Kernel {
    /// `bq_flush_to_queue`: what the entry's ring takes goes, the rest is dropped; the thread
    /// is woken.
    pub(super) fn cpu_flush(&mut self, cpu: CpuId, work: Work) {
        let Work::Cpu { map, cpu: to, qsize, prog, frames } = work else { return };
        let processed = frames.len() as u64;
        let Some(mut entry) = self.cpumap_entry((map, to)) else {
            for b in &frames {
                self.xdp_drop(cpu, b);
            }
            return;
        };
        entry.prog = prog;
        let mut drops = 0;
        for b in frames {
            if entry.queue.len() < qsize as usize {
                entry.queue.push_back(b);
            } else {
                drops += 1;
                self.buffer_put(&b);
                self.drop_packet(cpu, "CPUMAP_FULL");
            }
        }
        let wake = !std::mem::replace(&mut entry.scheduled, true);
        self.net.cpumap.insert((map, to), entry);
        self.fire(cpu, "xdp_cpumap_enqueue", &[map.0.into(), processed, drops, to.into()]);
        if wake {
            let thread = Kthread::new((map, to));
            self.submit(CpuId(to), Frame::Net(Box::new(NetFrame::CpuMap(thread))));
        }
    }

    /// The entry, with its thread `cpumap/CPU/map:ID`.
    fn cpumap_entry(&mut self, key: (MapId, u32)) -> Option<Entry> {
        if let Some(entry) = self.net.cpumap.remove(&key) {
            return Some(entry);
        }
        if key.1 >= self.config.cpus {
            return None;
        }
        let comm = format!("cpumap/{}/map:{}", key.1, key.0.0);
        let pid = self.pid_alloc();
        let task = self.task_new(&comm, pid, key.1).ok()?;
        Some(Entry { queue: VecDeque::new(), task, scheduled: false, prog: None })
    }

    /// `cpu_map_kthread_run`: batches until the ring is empty.
    pub(super) fn kthread_step(&mut self, cpu: CpuId, mut t: Kthread, input: Input) -> Flow {
        if !t.begun {
            t.begun = true;
            self.kthread_switch(cpu, &mut t, true);
        }
        if let Some(b) = t.current.take() {
            let act = if let Input::Return(v) = input { Some(v) } else { None };
            if let Some(child) = self.cpumap_verdict(cpu, &mut t, b, act) {
                return call(t, child);
            }
        }
        loop {
            if let Some(b) = t.batch.pop_front() {
                let Some(prog) = self.net.cpumap.get(&t.key).and_then(|e| e.prog) else {
                    t.passed.push_back(b);
                    continue;
                };
                let xdp = self.xdp_scratch(cpu, b.dev, 0, 0);
                self.xdp_prepare(xdp, &b);
                t.current = Some(b);
                let child = ProgFrame::main(prog, self.entry_of(prog), xdp);
                return call(t, Frame::Prog(child));
            }
            if t.redirect > 0
                && let Some(child) = self.xdp_flush(cpu)
            {
                return call(t, child);
            }
            if let Some(b) = t.passed.pop_front() {
                if let Some(child) = self.up_the_stack(cpu, b) {
                    return call(t, child);
                }
                continue;
            }
            if !std::mem::replace(&mut t.reported, true) {
                self.kthread_report(cpu, &t);
                // What is told of the batch runs before the next one.
                return Flow::Become(Frame::Net(Box::new(NetFrame::CpuMap(t))));
            }
            if !self.kthread_batch(&mut t) {
                self.kthread_switch(cpu, &mut t, false);
                return Flow::Done(0);
            }
        }
    }

    /// Takes the next batch out of the ring; false when it is empty.
    fn kthread_batch(&mut self, t: &mut Kthread) -> bool {
        let Some(entry) = self.net.cpumap.get_mut(&t.key) else { return false };
        let n = entry.queue.len().min(BATCH);
        if n == 0 {
            entry.scheduled = false;
            return false;
        }
        t.batch = entry.queue.drain(..n).collect();
        (t.processed, t.pass, t.drop, t.redirect) = (n as u64, 0, 0, 0);
        t.reported = false;
        true
    }

    fn kthread_switch(&mut self, cpu: CpuId, t: &mut Kthread, to_thread: bool) {
        let Some(thread) = self.net.cpumap.get(&t.key).map(|e| e.task) else { return };
        let c = &mut self.cpus[cpu.idx()];
        let (prev, next) = if to_thread {
            t.prev = c.task;
            (c.task, thread)
        } else {
            (thread, t.prev)
        };
        c.task = next;
        // TASK_RUNNING for the idle task, TASK_INTERRUPTIBLE for a thread that sleeps.
        self.fire(cpu, "sched_switch", &[0, prev, next, u64::from(!to_thread)]);
    }

    fn kthread_report(&mut self, cpu: CpuId, t: &Kthread) {
        let Ok(stats) = self.kzalloc(crate::size!("xdp_cpumap_stats"), "xdp_cpumap_stats") else {
            return;
        };
        self.set(stats, field!("xdp_cpumap_stats", "redirect"), t.redirect);
        self.set(stats, field!("xdp_cpumap_stats", "pass"), t.pass);
        self.set(stats, field!("xdp_cpumap_stats", "drop"), t.drop);
        let map = t.key.0.0.into();
        self.fire(cpu, "xdp_cpumap_kthread", &[map, t.processed, 0, 0, stats]);
        self.after_fired(cpu, Deferred::Kfree(stats));
    }

    /// What the entry's program said of a frame (`cpu_map_bpf_prog_run_xdp`).
    fn cpumap_verdict(
        &mut self,
        cpu: CpuId,
        t: &mut Kthread,
        mut b: Buffer,
        act: Option<u64>,
    ) -> Option<Frame> {
        let prog = self.net.cpumap.get(&t.key).and_then(|e| e.prog);
        let xdp = self.xdp_scratch(cpu, b.dev, 0, 0);
        self.xdp_read_back(xdp, &mut b);
        let raw = act.unwrap_or(0);
        self.verdict_event(cpu, prog, xdp_name(raw as u32), raw);
        match raw as u32 {
            2 => {
                t.pass += 1;
                t.passed.push_back(b);
            }
            4 => match self.xdp_do_redirect(cpu, prog, b) {
                Ok(child) => {
                    t.redirect += 1;
                    return child;
                }
                Err(back) => {
                    t.drop += 1;
                    self.xdp_drop(cpu, &back.0);
                }
            },
            act => {
                if act != 1 {
                    self.warn_invalid_xdp(cpu, None, prog, act);
                }
                t.drop += 1;
                self.xdp_drop(cpu, &b);
            }
        }
        None
    }
}
