//! `bpf_timer` on the virtual clock (kernel/bpf/helpers.c): a timer in a map value, and its
//! callback as a frame of its own CPU.
//!
//! An expiry is a softirq (`HRTIMER_MODE_REL_SOFT`): it interrupts what runs in a task, and waits
//! for the end of another softirq.

use std::collections::{BTreeMap, BTreeSet};

use verifier::btf::record::FieldKind;

use crate::context::Level;
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::lock::path::Busy;
use crate::maps::MapId;
use crate::race::Sync;
use crate::{Errno, EventKind, Kernel, ProgId};

/// One timer (`struct bpf_hrtimer`), found by its address in the map value.
#[derive(Clone, Debug)]
struct Timer {
    map: MapId,
    /// Start of the map value.
    value: u64,
    /// Callback and the program it belongs to.
    callback: Option<(ProgId, u64)>,
    /// Expiry, with the order of starting among equal ones, and its CPU.
    armed: Option<(u64, u64, CpuId)>,
    /// Its callback runs on this CPU.
    running: Option<CpuId>,
    /// What calls back.
    by: &'static str,
}

/// All timers.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    all: BTreeMap<u64, Timer>,
    /// By expiry and order of starting.
    queue: BTreeMap<(u64, u64), u64>,
    started: u64,
    /// The timer that the callback of a CPU is cancelling (`bpf_hrtimer.cancelling`).
    cancels: BTreeMap<CpuId, u64>,
    /// CPUs that wait for the end of a callback.
    waiting: BTreeSet<CpuId>,
}

/// A callback in progress.
#[derive(Clone, Debug)]
pub struct TimerFrame {
    timer: u64,
    key: u64,
    softirq: bool,
}

impl TimerFrame {
    /// A timer's callback, not that of a work queue.
    pub(crate) fn in_softirq(&self) -> bool {
        self.softirq
    }
}

impl Timers {
    /// Programs whose callbacks timers of a map have.
    pub(crate) fn callbacks(&self, map: MapId) -> impl Iterator<Item = ProgId> {
        let of_map = self.all.values().filter(move |t| t.map == map);
        of_map.filter_map(|t| t.callback.map(|c| c.0))
    }

    fn disarm(&mut self, at: u64) -> bool {
        let armed = self.all.get_mut(&at).and_then(|t| t.armed.take());
        armed.is_some_and(|(ns, n, _)| self.queue.remove(&(ns, n)).is_some())
    }
}

impl Kernel {
    /// Whether a callback is that of a `bpf_wq`, which may sleep.
    pub(crate) fn is_work(&self, t: &TimerFrame) -> bool {
        self.timers.all.get(&t.timer).is_some_and(|t| t.by != "timer_start")
    }

    /// `bpf_timer_init`.
    pub(crate) fn timer_init(&mut self, at: u64, map: MapId) -> Result<(), Errno> {
        let off = self.maps.get(&map).and_then(|m| m.def.timer_off).ok_or(Errno::EINVAL)?;
        self.async_init(at, map, off, "timer_start")
    }

    /// `bpf_wq_init`.
    pub(crate) fn wq_init(&mut self, at: u64, map: MapId) -> Result<(), Errno> {
        let record = self.maps.get(&map).map(|m| &m.def.record);
        let wq = record.and_then(|r| r.find(FieldKind::Workqueue));
        let off = wq.map(|f| f.off).ok_or(Errno::EINVAL)?;
        self.async_init(at, map, off, "bpf_wq_start")
    }

    /// `bpf_wq_start`: the callback runs in a kernel thread of this CPU, after what runs now.
    pub(crate) fn wq_start(&mut self, at: u64, cpu: CpuId) -> Result<(), Errno> {
        if !self.timers.all.contains_key(&at) {
            return Err(Errno::EINVAL);
        }
        // schedule_work: a work that is queued already is queued once.
        let queued = |f: &Frame| matches!(f, Frame::Timer(t) if t.timer == at && t.key == 0);
        if !self.cpus.iter().any(|c| c.queue.iter().any(queued)) {
            let work = TimerFrame { timer: at, key: 0, softirq: false };
            self.submit(cpu, Frame::Timer(work));
        }
        Ok(())
    }

    /// `__bpf_async_init`.
    fn async_init(&mut self, at: u64, map: MapId, off: u32, by: &'static str) -> Result<(), Errno> {
        if self.timers.all.contains_key(&at) {
            return Err(Errno::EBUSY);
        }
        // What the element has is only a mark: the timer itself is not in guest memory.
        self.mem.write_u64(at, 1).map_err(|_| Errno::EFAULT)?;
        let value = at - u64::from(off);
        let timer = Timer { map, value, callback: None, armed: None, running: None, by };
        self.timers.all.insert(at, timer);
        Ok(())
    }

    /// `bpf_timer_set_callback`.
    pub(crate) fn timer_callback(&mut self, at: u64, prog: ProgId, f: u64) -> Result<(), Errno> {
        let timer = self.timers.all.get_mut(&at).ok_or(Errno::EINVAL)?;
        timer.callback = Some((prog, f));
        Ok(())
    }

    /// `bpf_timer_start` at an absolute virtual time.
    pub(crate) fn timer_start(&mut self, at: u64, cpu: CpuId, expiry: u64) -> Result<(), Errno> {
        if self.timers.all.get(&at).is_none_or(|t| t.callback.is_none()) {
            return Err(Errno::EINVAL);
        }
        let expiry = expiry.saturating_add(self.inject_timer_late(cpu));
        self.timers.disarm(at);
        self.timers.started += 1;
        let n = self.timers.started;
        self.timers.queue.insert((expiry, n), at);
        let timer = self.timers.all.get_mut(&at).expect("looked up above");
        timer.armed = Some((expiry, n, cpu));
        Ok(())
    }

    /// The timer whose callback runs on a CPU (`hrtimer_running`).
    fn hrtimer_running(&self, cpu: CpuId) -> Option<u64> {
        let runs = |t: &Timer| t.running == Some(cpu) && t.by == "timer_start";
        self.timers.all.iter().find(|(_, t)| runs(t)).map(|(at, _)| *at)
    }

    /// The part of `bpf_timer_cancel` that is under the timer's lock: its callback is gone. A
    /// callback would wait for itself, and two that cancel each other's timers for each other.
    pub(crate) fn timer_cancel(&mut self, at: u64, cpu: CpuId) -> Result<u64, Errno> {
        let mine = self.hrtimer_running(cpu);
        let timer = self.timers.all.get_mut(&at).ok_or(Errno::EINVAL)?;
        if let Some(own) = mine {
            if own == at || self.timers.cancels.values().any(|t| *t == own) {
                return Err(Errno::EDEADLK);
            }
            self.timers.cancels.insert(cpu, at);
        }
        timer.callback = None;
        Ok(0)
    }

    /// `hrtimer_cancel`: 1 when the timer was active, and nothing yet while its callback runs.
    pub(crate) fn timer_gone(&mut self, cpu: CpuId, [at, ..]: [u64; 5]) -> Result<u64, Busy> {
        let running = self.timers.all.get(&at).and_then(|t| t.running);
        if running.is_some_and(|c| c != cpu) {
            self.timers.waiting.insert(cpu);
            return Err(Busy);
        }
        self.timers.cancels.remove(&cpu);
        Ok(u64::from(self.timers.disarm(at)))
    }

    /// `bpf_obj_free_fields` of a value that goes away or is written anew: timers and work are
    /// cancelled, what it holds is released.
    pub(crate) fn value_gone(&mut self, map: MapId, value: u64) {
        let Some(def) = self.maps.get(&map).map(|m| &m.def) else { return };
        let (timer, record) = (def.timer_off, def.record.clone());
        let work = record.find(FieldKind::Workqueue).map(|f| f.off);
        for at in [timer, work].into_iter().flatten().map(|off| value + u64::from(off)) {
            self.timers.disarm(at);
            if self.timers.all.remove(&at).is_some() {
                self.mem.write_u64(at, 0).expect("map values are mapped");
            }
        }
        if let Err(fault) = self.fields_free(value, &record) {
            self.emit(self.this_cpu, EventKind::Fault { prog: None, fault });
        }
    }

    /// Timers and work whose callback is one of a program do not start it again.
    pub(crate) fn timers_disarm(&mut self, prog: ProgId) {
        let its = self.timers.all.iter().filter(|(_, t)| t.callback.is_some_and(|c| c.0 == prog));
        for at in its.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.timers.disarm(at);
        }
    }

    /// Virtual time of the next expiry, of a timer or of what tasks wait for.
    #[must_use]
    pub fn next_timer(&self) -> Option<u64> {
        let timer = self.timers.queue.keys().next().map(|k| k.0);
        timer.into_iter().chain(self.sched.next_due()).chain(self.tcp_next_due()).min()
    }

    /// Queues the callbacks of what has expired on the CPUs of the timers, and wakes tasks.
    pub fn timers_expire(&mut self, now: u64) {
        while let Some(entry) = self.timers.queue.first_entry().filter(|e| e.key().0 <= now) {
            let timer = entry.remove();
            let armed = self.timers.all.get_mut(&timer).and_then(|t| t.armed.take());
            let Some((_, _, cpu)) = armed else { continue };
            let work = TimerFrame { timer, key: 0, softirq: true };
            self.interrupt(cpu, Level::Soft, [Frame::Timer(work)]);
        }
        self.tcp_expire(now);
        self.sched_expire(now);
    }

    /// `bpf_timer_cb`: calls back with map, key and value.
    pub(crate) fn timer_step(&mut self, cpu: CpuId, mut t: TimerFrame, input: Input) -> Flow {
        if !matches!(input, Input::Start) {
            self.timer_ended(&t);
            return Flow::Done(0);
        }
        // Cancelled between expiry and now.
        let Some(timer) = self.timers.all.get_mut(&t.timer) else { return Flow::Done(0) };
        let Some((prog, f)) = timer.callback else { return Flow::Done(0) };
        timer.running = Some(cpu);
        let (map, value, helper) = (timer.map, timer.value, timer.by);
        if self.races.is_on() {
            self.race_acquire(cpu, &Sync::Timer(t.timer));
        }
        let key = self.key_of_value(map, value);
        let Ok(at) = self.kzalloc(key.len().max(1) as u64, "timer key") else {
            return Flow::Done(0);
        };
        self.mem.write(at, &key).expect("a new object is mapped");
        t.key = at;
        self.emit(cpu, EventKind::Callback { prog, helper, nth: 0 });
        let args = [self.maps[&map].addr, at, value, 0, 0];
        let child = Frame::Prog(ProgFrame::callback(prog, f, args));
        Flow::Call { frame: Frame::Timer(t), child }
    }

    /// The callback returned or was cancelled.
    pub(crate) fn timer_ended(&mut self, t: &TimerFrame) {
        if t.key != 0 {
            self.kfree(t.key, "timer key");
        }
        if let Some(timer) = self.timers.all.get_mut(&t.timer)
            && let Some(cpu) = timer.running.take()
        {
            self.timers.cancels.remove(&cpu);
        }
        for cpu in std::mem::take(&mut self.timers.waiting) {
            self.wake(cpu);
        }
    }
}
