//! Injected faults: allocations and helpers that fail, rings that are full, user pages that are
//! not there. Each counts its occasions from 1 and is reported when it happens.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::context::{Level, Point};
use crate::cpu::CpuId;
pub use crate::memalloc::REFILL;
use crate::{EventKind, Kernel, ProgId};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An allocation fails, of a site or program when one is named.
    Alloc {
        /// Kernel object, e.g. `htab_elem`.
        site: Option<String>,
        /// Program on whose behalf.
        prog: Option<ProgId>,
        /// Its [`chance`]; without one it always fails.
        chance: Option<u32>,
    },
    /// A helper returns a value instead of being called.
    Call {
        /// Name without `bpf_`.
        func: String,
        /// Caller.
        prog: Option<ProgId>,
        /// The value.
        ret: u64,
    },
    /// A page of user memory is not there for one access.
    UserPage {
        /// Any address in it.
        addr: u64,
    },
    /// A timer fires late.
    TimerLate {
        /// By so many nanoseconds.
        by: u64,
    },
    /// An interrupt at a point of a program, or inside a kernel path that it called.
    Interrupt {
        /// A hard or non-maskable interrupt.
        level: Level,
        /// CPU that gets it.
        cpu: CpuId,
        /// Line of a hard interrupt.
        line: u32,
        /// Whose points count.
        prog: ProgId,
        /// Points inside kernel paths count that have this name, `FUNCTION: WHERE`; without a name,
        /// those of the program itself.
        inside: Option<String>,
    },
    /// A receive ring takes nothing for a while.
    RingFull {
        /// Device.
        ifindex: u32,
        /// From this virtual time.
        from: u64,
        /// To this one.
        to: u64,
    },
}

impl Kind {
    /// Name as scenarios write it in events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Alloc { .. } => "alloc",
            Kind::Call { .. } => "call",
            Kind::UserPage { .. } => "user_page",
            Kind::TimerLate { .. } => "timer_late",
            Kind::Interrupt { level: Level::Hard, .. } => "irq",
            Kind::Interrupt { .. } => "nmi",
            Kind::RingFull { .. } => "ring_full",
        }
    }
}

/// One fault of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Kind.
    pub kind: Kind,
    /// First occasion that fails, from 1.
    pub nth: u64,
    /// How many fail.
    pub times: u64,
    /// Occasions so far.
    pub seen: u64,
    /// How often it happened.
    pub happened: u64,
}

/// A probability as a number to compare a draw of the seed's stream for faults with.
#[must_use]
pub fn chance(probability: f64) -> u32 {
    (probability.clamp(0.0, 1.0) * f64::from(u32::MAX)).round() as u32
}

/// All faults of a run.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    list: Vec<Injected>,
    /// Occasions by kind and by what fails, when they are asked for.
    noted: Option<BTreeMap<(&'static str, String), u64>>,
}

impl Faults {
    /// Counts from now on what could fail, by kind and name.
    pub fn note(&mut self) {
        self.noted = Some(BTreeMap::new());
    }

    /// How often each could have failed: kind as in [`Kind::name`], and kernel object, address,
    /// or device.
    pub fn noted(&self) -> impl Iterator<Item = (&'static str, &str, u64)> {
        self.noted.iter().flatten().map(|((kind, what), n)| (*kind, what.as_str(), *n))
    }

    /// An occasion; whether somebody wants to know.
    fn occasion(&mut self, kind: &'static str, what: impl FnOnce() -> String) -> bool {
        if let Some(noted) = &mut self.noted {
            *noted.entry((kind, what())).or_default() += 1;
        }
        !self.list.is_empty()
    }

    /// Adds a fault.
    pub fn add(&mut self, kind: Kind, nth: u64, times: u64) {
        self.list.push(Injected { kind, nth, times, seen: 0, happened: 0 });
    }

    /// All of them, in order.
    #[must_use]
    pub fn list(&self) -> &[Injected] {
        &self.list
    }

    /// Counts an occasion of each fault that applies; the first that strikes.
    fn strike(&mut self, rng: &mut ChaCha8Rng, applies: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let mut hit = None;
        for f in self.list.iter_mut().filter(|f| applies(&f.kind)) {
            f.seen += 1;
            let struck = match f.kind {
                // Drawn at each occasion, so that what comes later does not depend on the others.
                Kind::Alloc { chance: Some(chance), .. } => {
                    let drawn = rng.next_u32() <= chance;
                    drawn && f.seen >= f.nth && f.happened < f.times
                }
                _ => f.seen >= f.nth && f.seen - f.nth < f.times,
            };
            if struck && hit.is_none() {
                f.happened += 1;
                hit = Some(f.kind.clone());
            }
        }
        hit
    }
}

/// Whether a point inside a kernel path has this name.
fn is_at(point: &Point, name: &str) -> bool {
    match point {
        Point::Inside { func, at, .. } => name.split_once(": ") == Some((*func, *at)),
        _ => false,
    }
}

impl Kernel {
    /// Whether an allocation is made to fail.
    pub(crate) fn inject_alloc(&mut self, what: &str) -> bool {
        if !self.faults.occasion("alloc", || what.to_owned()) {
            return false;
        }
        let running = self.cpus[self.this_cpu.idx()].prog_frame().map(|p| p.prog);
        let hit = self.faults.strike(&mut self.rng.faults, |kind| match kind {
            // A refill is not the program's, which only happens to be there.
            Kind::Alloc { site, prog, .. } => {
                site.as_deref().map_or(what != REFILL, |s| s == what)
                    && prog.is_none_or(|p| Some(p) == running)
            }
            _ => false,
        });
        if hit.is_some() {
            self.emit(self.this_cpu, EventKind::Injected { fault: "alloc", what: what.into() });
        }
        hit.is_some()
    }

    /// The value of a helper that is made to fail.
    pub(crate) fn inject_call(&mut self, cpu: CpuId, func: &str, caller: ProgId) -> Option<u64> {
        if self.faults.list.is_empty() {
            return None;
        }
        let hit = self.faults.strike(&mut self.rng.faults, |kind| match kind {
            Kind::Call { func: f, prog, .. } => f == func && prog.is_none_or(|p| p == caller),
            _ => false,
        });
        let Some(Kind::Call { ret, .. }) = hit else { return None };
        self.emit(cpu, EventKind::Injected { fault: "call", what: format!("bpf_{func}") });
        Some(ret)
    }

    /// Whether a read of user memory hits a page that is not there.
    pub(crate) fn inject_user_page(&mut self, addr: u64, len: u64) -> bool {
        if !self.faults.occasion("user_page", || addr.to_string()) {
            return false;
        }
        let page = |a: u64| a / crate::layout::PAGE_SIZE;
        let last = addr.saturating_add(len.max(1) - 1);
        let hit = self.faults.strike(&mut self.rng.faults, |kind| match kind {
            Kind::UserPage { addr: a } => (page(addr)..=page(last)).contains(&page(*a)),
            _ => false,
        });
        if hit.is_some() {
            let what = format!("{addr:#x}");
            self.emit(self.this_cpu, EventKind::Injected { fault: "user_page", what });
        }
        hit.is_some()
    }

    /// How much later than asked a timer fires.
    pub(crate) fn inject_timer_late(&mut self, cpu: CpuId) -> u64 {
        if !self.faults.occasion("timer_late", String::new) {
            return 0;
        }
        let hit =
            self.faults.strike(&mut self.rng.faults, |kind| matches!(kind, Kind::TimerLate { .. }));
        let Some(Kind::TimerLate { by }) = hit else { return 0 };
        self.emit(cpu, EventKind::Injected { fault: "timer_late", what: format!("{by} ns") });
        by
    }

    /// Interrupts that come at this point of a program.
    pub(crate) fn inject_interrupts(&mut self, cpu: CpuId, point: &Point) {
        if self.faults.list.is_empty() {
            return;
        }
        let at = point.prog();
        let hit = self.faults.strike(&mut self.rng.faults, |kind| match kind {
            Kind::Interrupt { prog, inside, .. } if Some(*prog) == at => match inside {
                Some(name) => is_at(point, name),
                None => point.is_counted(),
            },
            _ => false,
        });
        let Some(Kind::Interrupt { level, cpu: on, line, .. }) = hit else { return };
        if level == Level::Hard {
            let what = format!("line {line} on CPU {}", on.0);
            self.emit(cpu, EventKind::Injected { fault: "irq", what });
            self.irq(on, line);
        } else {
            let what = format!("on CPU {}", on.0);
            self.emit(cpu, EventKind::Injected { fault: "nmi", what });
            self.nmi(on);
        }
    }

    /// Whether a fault of the list needs the points of programs.
    #[must_use]
    pub fn faults_at_points(&self) -> bool {
        let at_point = |f: &Injected| matches!(f.kind, Kind::Interrupt { .. });
        self.faults.list.iter().any(at_point)
    }

    /// Whether a receive ring takes nothing now.
    pub(crate) fn ring_blocked(&mut self, ifindex: u32) -> bool {
        if !self.faults.occasion("ring_full", || ifindex.to_string()) {
            return false;
        }
        let now = self.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0);
        let hit = self.faults.strike(&mut self.rng.faults, |kind| match kind {
            Kind::RingFull { ifindex: i, from, to } => *i == ifindex && (*from..*to).contains(&now),
            _ => false,
        });
        if hit.is_some() {
            let nic = self.net.nics.get(&ifindex);
            let what = nic.map_or_else(String::new, |n| n.config.name.clone());
            self.emit(self.this_cpu, EventKind::Injected { fault: "ring_full", what });
        }
        hit.is_some()
    }
}
