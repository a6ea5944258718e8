//! Queued spin locks, one atomic step of the kernel at a time (kernel/bpf/rqspinlock.c of 6.18,
//! kernel/locking/qspinlock.c).
//!
//! ```text
//!  Fast ─free─► Push ─► got                  the held table is told after the lock is taken:
//!    │taken                                  an NMI in between finds nothing in it
//!    ▼
//!  Slow ─nobody waits─► SetPending ─► Pending ─free─► got
//!    │someone waits         │lost                 └─timeout─► pending cleared ─► failed
//!    └──────► Queue ◄───────┘
//!               │ push, a node (none left or NMI: NoNode, spins on the word)
//!               ▼
//!             Tail ─► Link ─► Mcs ─► Head ─free─► Claim ─► HandOver ─► got
//!                              │2       └─timeout─┐
//!                              └────────► Leave ◄─┘ next waiter gets the 2 ─► failed
//! ```
//!
//! Between two steps other CPUs may run and interrupts may come. [`Rules::Plain`] is the same
//! algorithm without held table and timeouts. The word is the truth: what a program writes
//! over it has its effects. The kernel trusts the tail of a word; here a tail that leads
//! nowhere counts as none, so that a spoilt word ends in a timeout too.

use super::word::{
    LOCKED, LOCKED_MASK, LOCKED_PENDING_MASK, LockId, NodeId, PENDING, PENDING_MASK, TAIL_MASK,
    Words, decode_tail, encode_tail,
};
use crate::Errno;
use crate::mem::{GuestMemory, MemFault};

/// `RES_NR_HELD`.
pub const HELD_MAX: usize = 31;
/// `_Q_MAX_NODES`: task, softirq, hardirq and NMI.
const NODES_MAX: u32 = 4;
/// `RES_DEF_TIMEOUT`, ns.
pub const TIMEOUT_NS: u64 = 250_000_000;
/// Of `resilient_tas_spin_lock`, ns.
pub const TAS_TIMEOUT_NS: u64 = 1_000_000_000;
/// Between two searches for deadlocks, ns.
const CHECK_NS: u64 = 1_000_000;

/// Which lock function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// `res_spin_lock`.
    Resilient,
    /// `resilient_tas_spin_lock`: without `CONFIG_QUEUED_SPINLOCKS`.
    TestAndSet,
    /// `queued_spin_lock`: waits for ever.
    Plain,
}

/// How a deadlock was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadlockKind {
    /// The same lock twice on one CPU.
    Aa,
    /// Two CPUs, each with what the other wants.
    Abba,
    /// Waited too long.
    Timeout,
}

impl DeadlockKind {
    /// As scenarios write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DeadlockKind::Aa => "AA",
            DeadlockKind::Abba => "ABBA",
            DeadlockKind::Timeout => "Timeout",
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the lock function returns.
    pub errno: Errno,
    /// How it was found. A waiter that another one sent away has that one's kind.
    pub kind: DeadlockKind,
    /// A lock of this CPU that is part of it.
    pub holding: Option<LockId>,
    /// The other CPU.
    pub other: Option<u32>,
}

/// What an attempt does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on with the next step. Between the two lies a point with this name.
    Point(&'static str),
    /// It spins until something changes, and looks again at that time at the latest.
    Wait {
        /// Virtual time of its CPU, ns.
        until: u64,
    },
    /// The lock is taken.
    Got,
    /// It is not.
    Failed(Failure),
}

/// `struct rqspinlock_held`: what a CPU holds, and the lock that it wants, on top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    cnt: usize,
    locks: [Option<LockId>; HELD_MAX],
}

impl Held {
    /// How many, those beyond the table's end included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cnt
    }

    /// The entries in order of acquisition; one that is being taken out is `None`.
    #[must_use]
    pub fn entries(&self) -> &[Option<LockId>] {
        &self.locks[..self.cnt.min(HELD_MAX)]
    }

    /// All but the top one.
    fn below(&self) -> &[Option<LockId>] {
        let e = self.entries();
        &e[..e.len().saturating_sub(1)]
    }

    /// `grab_held_lock_entry`.
    fn push(&mut self, lock: LockId) {
        self.cnt += 1;
        if let Some(slot) = self.locks.get_mut(self.cnt - 1) {
            *slot = Some(lock);
        }
    }

    /// `release_held_lock_entry`: the top one, whichever it is.
    fn pop(&mut self) {
        assert!(self.cnt > 0, "an unlock without a lock");
        if let Some(slot) = self.locks.get_mut(self.cnt - 1) {
            *slot = None;
        }
        self.cnt -= 1;
    }
}

/// `struct mcs_spinlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Node {
    /// Which lock it waits for, `None` when not in use.
    lock: Option<LockId>,
    state: Turn,
    next: Option<NodeId>,
}

/// `mcs_spinlock.locked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Turn {
    #[default]
    Waits,
    /// 1: head of the queue.
    Head,
    /// `RES_TIMEOUT_VAL`, and why the one before it left.
    Leave(DeadlockKind),
}

/// Of one CPU.
#[derive(Clone, Debug, Default)]
struct PerCpu {
    held: Held,
    /// `rqnodes` and `qnodes`.
    nodes: [[Node; NODES_MAX as usize]; 2],
    counts: [u32; 2],
}

/// What all attempts share.
#[derive(Clone, Debug)]
pub struct Queues {
    pub(crate) words: Words,
    cpus: Vec<PerCpu>,
    /// CPUs that spin on a word, with it.
    spinning: Vec<(LockId, u32)>,
    /// CPUs whose wait may be over; the kernel takes them out.
    pub(crate) woken: Vec<u32>,
}

impl Queues {
    pub(crate) fn new(cpus: u32) -> Queues {
        Queues {
            words: Words::default(),
            cpus: vec![PerCpu::default(); cpus as usize],
            spinning: Vec::new(),
            woken: Vec::new(),
        }
    }

    /// The held table of a CPU.
    #[must_use]
    pub fn held(&self, cpu: u32) -> &Held {
        &self.cpus[cpu as usize].held
    }

    /// Releases a lock.
    ///
    /// # Errors
    /// Its memory is gone.
    pub fn unlock(
        &mut self,
        mem: &mut GuestMemory,
        (cpu, lock): (u32, LockId),
        rules: Rules,
    ) -> Result<(), MemFault> {
        let word = self.words.get(mem, lock)?;
        let word = if rules == Rules::TestAndSet { 0 } else { word & !LOCKED_MASK };
        self.words.set(mem, lock, word)?;
        if rules != Rules::Plain {
            self.cpus[cpu as usize].held.pop();
        }
        self.wake(lock);
        Ok(())
    }

    /// The uncontended way in one go: false when the word is not 0, and nothing has changed then.
    pub(crate) fn try_fast(
        &mut self,
        mem: &mut GuestMemory,
        (cpu, lock): (u32, LockId),
        rules: Rules,
    ) -> Result<bool, MemFault> {
        let got = self.words.cmpxchg(mem, lock, 0, LOCKED)?;
        if got && rules != Rules::Plain {
            self.cpus[cpu as usize].held.push(lock);
        }
        Ok(got)
    }

    /// Those who spin on a word look again.
    fn wake(&mut self, lock: LockId) {
        let woken = self.spinning.extract_if(.., |(l, _)| *l == lock).map(|(_, cpu)| cpu);
        self.woken.extend(woken);
    }

    fn spin(&mut self, lock: LockId, cpu: u32) {
        if !self.spinning.contains(&(lock, cpu)) {
            self.spinning.push((lock, cpu));
        }
    }

    fn node(&mut self, family: usize, n: NodeId) -> Option<&mut Node> {
        self.cpus.get_mut(n.cpu as usize)?.nodes[family].get_mut(n.idx as usize)
    }
}

/// `struct rqspinlock_timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Timeout {
    /// 0 before the first look.
    end: u64,
    duration: u64,
    cur: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Fast,
    Push,
    Slow,
    SetPending,
    UndoPending,
    PushPending {
        held: bool,
    },
    Pending,
    Queue,
    Node,
    NoNode,
    Tail,
    Link {
        prev: NodeId,
    },
    Mcs,
    Head,
    Claim {
        word: u32,
    },
    /// Waits for the next node to be linked, with this to tell it, until a time.
    HandOver {
        turn: Turn,
        until: Option<u64>,
    },
    Leave,
    TasPush,
    Tas,
}

/// What an attempt tells who traces locks, as it comes into a queue and leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contention {
    /// `trace_contention_begin`.
    Begin,
    /// `trace_contention_end`, with the error of an attempt that failed.
    End(Option<Errno>),
}

/// An attempt to take a lock.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The lock.
    pub lock: LockId,
    /// Which CPU wants it.
    pub cpu: u32,
    /// How.
    pub rules: Rules,
    /// In an NMI no node is taken.
    in_nmi: bool,
    at: At,
    timeout: Timeout,
    idx: u32,
    failure: Option<Failure>,
    /// Of the last step. A pending waiter tells nothing: it is in no queue.
    pub(crate) told: Option<Contention>,
}

type Stepped = Result<Next, MemFault>;

impl Acquire {
    /// An attempt that has not begun.
    #[must_use]
    pub fn new(lock: LockId, cpu: u32, rules: Rules, in_nmi: bool) -> Acquire {
        let at = if rules == Rules::TestAndSet { At::TasPush } else { At::Fast };
        let timeout = Timeout::default();
        Acquire { lock, cpu, rules, in_nmi, at, timeout, idx: 0, failure: None, told: None }
    }

    /// The next step.
    ///
    /// # Errors
    /// The memory of the lock is gone.
    // tidy: flat match
    pub fn step(&mut self, q: &mut Queues, mem: &mut GuestMemory, now: u64) -> Stepped {
        match self.at {
            At::Fast => self.fast(q, mem),
            At::Push => {
                self.push(q);
                Ok(Next::Got)
            }
            At::Slow => self.slow(q, mem),
            At::SetPending => self.set_pending(q, mem),
            At::UndoPending => {
                let word = q.words.get(mem, self.lock)?;
                self.put(q, mem, word & !PENDING_MASK)?;
                Ok(self.go(At::Queue, "pending taken back"))
            }
            At::PushPending { held } => {
                self.push(q);
                self.arm(TIMEOUT_NS);
                let at = if held { "in the held table, waits" } else { "pending" };
                Ok(self.go(At::Pending, at))
            }
            At::Pending => self.pending(q, mem, now),
            At::Queue => Ok(self.queue(q)),
            At::Node => self.take_node(q, mem),
            At::NoNode => self.no_node(q, mem, now),
            At::Tail => self.tail(q, mem),
            At::Link { prev } => Ok(self.link(q, prev)),
            At::Mcs => Ok(self.mcs(q)),
            At::Head => self.head(q, mem, now),
            At::Claim { word } => self.claim(q, mem, word),
            At::HandOver { turn, until } => Ok(self.hand_over(q, turn, until, now)),
            At::Leave => self.leave(q, mem),
            At::TasPush => {
                self.push(q);
                self.arm(TAS_TIMEOUT_NS);
                Ok(self.go(At::Tas, "in the held table"))
            }
            At::Tas => self.test_and_set(q, mem, now),
        }
    }

    fn go(&mut self, at: At, point: &'static str) -> Next {
        self.at = at;
        Next::Point(point)
    }

    fn put(&self, q: &mut Queues, mem: &mut GuestMemory, word: u32) -> Result<(), MemFault> {
        q.words.set(mem, self.lock, word)?;
        q.wake(self.lock);
        Ok(())
    }

    fn push(&self, q: &mut Queues) {
        if self.rules != Rules::Plain {
            q.cpus[self.cpu as usize].held.push(self.lock);
        }
    }

    fn pop(&self, q: &mut Queues) {
        if self.rules != Rules::Plain {
            q.cpus[self.cpu as usize].held.pop();
        }
    }

    /// `RES_RESET_TIMEOUT`.
    fn arm(&mut self, duration: u64) {
        (self.timeout.end, self.timeout.duration) = (0, duration);
    }

    fn family(&self) -> usize {
        usize::from(self.rules == Rules::Plain)
    }

    fn me(&self) -> NodeId {
        NodeId { cpu: self.cpu, idx: self.idx }
    }

    fn fast(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        let got = q.words.cmpxchg(mem, self.lock, 0, LOCKED)?;
        Ok(match (got, self.rules) {
            (true, Rules::Plain) => Next::Got,
            (true, _) => self.go(At::Push, "taken, not in the held table"),
            (false, _) => self.go(At::Slow, "found taken"),
        })
    }

    fn slow(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        // A hand-over from the pending waiter is waited for a bounded time: one point.
        let word = q.words.get(mem, self.lock)?;
        let at = if word & !LOCKED_MASK == 0 { At::SetPending } else { At::Queue };
        Ok(self.go(at, if at == At::Queue { "found waiters" } else { "found no waiter" }))
    }

    /// `queued_fetch_set_pending_acquire`.
    fn set_pending(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        let old = q.words.get(mem, self.lock)?;
        self.put(q, mem, old | PENDING)?;
        Ok(match old & !LOCKED_MASK {
            0 => {
                let at = At::PushPending { held: old & LOCKED_MASK != 0 };
                self.go(at, "pending, not in the held table")
            }
            old if old & PENDING_MASK == 0 => self.go(At::UndoPending, "pending beside a queue"),
            _ => self.go(At::Queue, "found another pending"),
        })
    }

    fn pending(&mut self, q: &mut Queues, mem: &mut GuestMemory, now: u64) -> Stepped {
        let word = q.words.get(mem, self.lock)?;
        if word & LOCKED_MASK == 0 {
            // clear_pending_set_locked
            self.put(q, mem, word & !PENDING_MASK | LOCKED)?;
            return Ok(Next::Got);
        }
        let Some(failure) = self.check(q, mem, LOCKED_MASK, now)? else {
            return Ok(self.spin(q));
        };
        self.put(q, mem, word & !PENDING_MASK)?;
        self.pop(q);
        Ok(Next::Failed(failure))
    }

    fn queue(&mut self, q: &mut Queues) -> Next {
        self.push(q);
        let family = self.family();
        let count = &mut q.cpus[self.cpu as usize].counts[family];
        self.idx = *count;
        *count += 1;
        self.told = Some(Contention::Begin);
        // Plain locks take a node in an NMI too.
        if self.idx >= NODES_MAX || self.in_nmi && self.rules != Rules::Plain {
            self.arm(TIMEOUT_NS);
            return self.go(At::NoNode, "without a node");
        }
        let (me, lock) = (self.me(), Some(self.lock));
        *q.node(family, me).expect("a node of this CPU") = Node { lock, ..Node::default() };
        self.go(At::Node, "has a node")
    }

    /// `__this_cpu_dec(rqnodes[0].mcs.count)`.
    fn release_node(&mut self, q: &mut Queues) {
        self.told = Some(Contention::End(self.failure.map(|f| f.errno)));
        let (family, me) = (self.family(), self.me());
        if let Some(node) = q.node(family, me) {
            *node = Node::default();
        }
        q.cpus[self.cpu as usize].counts[family] -= 1;
    }

    fn take_node(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        if q.words.cmpxchg(mem, self.lock, 0, LOCKED)? {
            self.release_node(q);
            return Ok(Next::Got);
        }
        Ok(self.go(At::Tail, "not in the queue yet"))
    }

    fn no_node(&mut self, q: &mut Queues, mem: &mut GuestMemory, now: u64) -> Stepped {
        if q.words.cmpxchg(mem, self.lock, 0, LOCKED)? {
            self.release_node(q);
            return Ok(Next::Got);
        }
        let Some(failure) = self.check(q, mem, u32::MAX, now)? else { return Ok(self.spin(q)) };
        self.failure = Some(failure);
        self.release_node(q);
        self.pop(q);
        Ok(Next::Failed(failure))
    }

    /// `xchg_tail`.
    fn tail(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        let old = q.words.get(mem, self.lock)?;
        self.put(q, mem, old & !TAIL_MASK | encode_tail(self.me()))?;
        let (family, lock) = (self.family(), Some(self.lock));
        let prev = decode_tail(old).filter(|prev| {
            *prev != self.me() && q.node(family, *prev).is_some_and(|n| n.lock == lock)
        });
        Ok(match prev {
            Some(prev) => self.go(At::Link { prev }, "in the queue, not linked"),
            None => {
                self.arm(2 * TIMEOUT_NS);
                self.go(At::Head, "head of the queue")
            }
        })
    }

    fn link(&mut self, q: &mut Queues, prev: NodeId) -> Next {
        let (family, me, lock) = (self.family(), self.me(), Some(self.lock));
        match q.node(family, prev) {
            Some(node) if node.lock == lock && node.next.is_none() => {
                node.next = Some(me);
                q.woken.push(prev.cpu);
                self.go(At::Mcs, "waits in the queue")
            }
            // The tail was written over: there is nobody who would call this waiter.
            _ => {
                self.arm(2 * TIMEOUT_NS);
                self.go(At::Head, "head of a spoilt queue")
            }
        }
    }

    /// `arch_mcs_spin_lock_contended`: only the head of the queue looks at the clock.
    fn mcs(&mut self, q: &mut Queues) -> Next {
        let (family, me) = (self.family(), self.me());
        match q.node(family, me).expect("a node of this CPU").state {
            Turn::Waits => Next::Wait { until: u64::MAX },
            Turn::Head => {
                self.arm(2 * TIMEOUT_NS);
                self.go(At::Head, "head of the queue")
            }
            Turn::Leave(kind) => {
                let holding = q.held(self.cpu).below().iter().rev().find_map(|l| *l);
                let errno = Errno::EDEADLK;
                self.failure = Some(Failure { errno, kind, holding, other: None });
                self.go(At::Leave, "sent out of the queue")
            }
        }
    }

    fn head(&mut self, q: &mut Queues, mem: &mut GuestMemory, now: u64) -> Stepped {
        let word = q.words.get(mem, self.lock)?;
        if word & LOCKED_PENDING_MASK == 0 {
            return Ok(self.go(At::Claim { word }, "saw it free"));
        }
        self.failure = self.check(q, mem, LOCKED_PENDING_MASK, now)?;
        Ok(match self.failure {
            Some(_) => self.go(At::Leave, "gives up"),
            None => self.spin(q),
        })
    }

    fn claim(&mut self, q: &mut Queues, mem: &mut GuestMemory, seen: u32) -> Stepped {
        let tail = encode_tail(self.me());
        if seen & TAIL_MASK == tail && q.words.cmpxchg(mem, self.lock, seen, LOCKED)? {
            q.wake(self.lock);
            self.release_node(q);
            return Ok(Next::Got);
        }
        let word = q.words.get(mem, self.lock)?;
        if word & LOCKED_MASK != 0 {
            // Only the head sets it, unless the word was written over.
            return Ok(self.go(At::Head, "head of a spoilt queue"));
        }
        self.put(q, mem, word | LOCKED)?;
        let at = At::HandOver { turn: Turn::Head, until: None };
        Ok(self.go(at, "taken, the next waiter not called"))
    }

    /// `smp_cond_load_relaxed(&node->next, VAL)`, then the next node is told. Who took the tail
    /// links itself within steps; when nobody does for a whole timeout, the tail was spoilt.
    fn hand_over(&mut self, q: &mut Queues, turn: Turn, until: Option<u64>, now: u64) -> Next {
        let (family, me) = (self.family(), self.me());
        let next = q.node(family, me).expect("a node of this CPU").next;
        let until = until.unwrap_or(now.saturating_add(TIMEOUT_NS));
        match next {
            Some(next) => {
                if let Some(node) = q.node(family, next) {
                    node.state = turn;
                    q.woken.push(next.cpu);
                }
            }
            None if now < until => {
                self.at = At::HandOver { turn, until: Some(until) };
                return Next::Wait { until };
            }
            None => {}
        }
        self.release_node(q);
        match self.failure {
            None => Next::Got,
            Some(failure) => {
                self.pop(q);
                Next::Failed(failure)
            }
        }
    }

    /// `waitq_timeout`: the last waiter clears the tail, another sends the next one away.
    fn leave(&mut self, q: &mut Queues, mem: &mut GuestMemory) -> Stepped {
        let failure = self.failure.expect("it gave up for a reason");
        let word = q.words.get(mem, self.lock)?;
        if word & TAIL_MASK != encode_tail(self.me()) {
            let at = At::HandOver { turn: Turn::Leave(failure.kind), until: None };
            return Ok(self.go(at, "gives up, the next waiter not told"));
        }
        self.put(q, mem, word & !TAIL_MASK)?;
        self.release_node(q);
        self.pop(q);
        Ok(Next::Failed(failure))
    }

    /// Ends an attempt that is in progress, because its program is cancelled. The kernel has no
    /// such way; here the waiter is taken out of the queue wherever it stands in it.
    pub(crate) fn abandon(mut self, q: &mut Queues, mem: &mut GuestMemory) -> Result<(), MemFault> {
        let word = q.words.get(mem, self.lock)?;
        match self.at {
            At::Fast | At::Slow | At::SetPending | At::Queue | At::TasPush => {}
            At::Push => self.put(q, mem, word & !LOCKED_MASK)?,
            At::UndoPending | At::PushPending { .. } => self.put(q, mem, word & !PENDING_MASK)?,
            At::Pending => {
                self.put(q, mem, word & !PENDING_MASK)?;
                self.pop(q);
            }
            At::Tas => self.pop(q),
            At::Node | At::NoNode => {
                self.release_node(q);
                self.pop(q);
            }
            At::Tail | At::Link { .. } | At::Mcs | At::Head | At::Claim { .. } | At::Leave => {
                self.leave_queue(q, mem, word)?;
                self.pop(q);
            }
            At::HandOver { turn, .. } => {
                let word = if turn == Turn::Head { word & !LOCKED_MASK } else { word };
                self.leave_queue(q, mem, word)?;
                self.pop(q);
            }
        }
        q.spinning.retain(|(lock, cpu)| (*lock, *cpu) != (self.lock, self.cpu));
        Ok(())
    }

    /// Takes the node out of the queue: the one before it is followed by the one behind it.
    fn leave_queue(
        &mut self,
        q: &mut Queues,
        mem: &mut GuestMemory,
        word: u32,
    ) -> Result<(), MemFault> {
        let (family, me, lock) = (self.family(), self.me(), Some(self.lock));
        let next = q.node(family, me).and_then(|n| n.next);
        let linked = |n: &Node| n.lock == lock && n.next == Some(me);
        let all = q.cpus.iter().zip(0u32..);
        let nodes =
            all.flat_map(|(c, cpu)| c.nodes[family].iter().zip(0u32..).map(move |n| (n, cpu)));
        let prev = nodes.filter(|((n, _), _)| linked(n)).map(|((_, idx), cpu)| NodeId { cpu, idx });
        let prev = prev.last();
        if let Some(node) = prev.and_then(|p| q.node(family, p)) {
            node.next = next;
        }
        if let (None, Some(n)) = (prev, next)
            && let Some(node) = q.node(family, n)
        {
            node.state = Turn::Head;
            q.woken.push(n.cpu);
        }
        let word = match word & TAIL_MASK == encode_tail(me) {
            true => word & !TAIL_MASK | prev.map_or(0, encode_tail),
            false => word,
        };
        self.put(q, mem, word)?;
        self.release_node(q);
        Ok(())
    }

    fn test_and_set(&mut self, q: &mut Queues, mem: &mut GuestMemory, now: u64) -> Stepped {
        if q.words.cmpxchg(mem, self.lock, 0, LOCKED)? {
            return Ok(Next::Got);
        }
        let Some(failure) = self.check(q, mem, u32::MAX, now)? else { return Ok(self.spin(q)) };
        self.pop(q);
        Ok(Next::Failed(failure))
    }

    fn spin(&self, q: &mut Queues) -> Next {
        q.spin(self.lock, self.cpu);
        match self.rules {
            Rules::Plain => Next::Wait { until: u64::MAX },
            _ => {
                let look = self.timeout.cur.saturating_add(CHECK_NS + 1);
                Next::Wait { until: look.min(self.timeout.end.saturating_add(1)) }
            }
        }
    }

    /// `check_timeout`: the first look sets the clock, later ones search when a millisecond has
    /// passed.
    fn check(
        &mut self,
        q: &Queues,
        mem: &GuestMemory,
        mask: u32,
        now: u64,
    ) -> Result<Option<Failure>, MemFault> {
        if self.rules == Rules::Plain {
            return Ok(None);
        }
        let t = &mut self.timeout;
        if t.end == 0 {
            (t.cur, t.end) = (now, now.saturating_add(t.duration));
            return Ok(None);
        }
        let below = q.held(self.cpu).below();
        if now > t.end {
            let holding = below.iter().rev().find_map(|l| *l);
            let (errno, kind) = (Errno::ETIMEDOUT, DeadlockKind::Timeout);
            return Ok(Some(Failure { errno, kind, holding, other: None }));
        }
        if t.cur + CHECK_NS >= now {
            return Ok(None);
        }
        t.cur = now;
        let (errno, lock) = (Errno::EDEADLK, Some(self.lock));
        if below.contains(&lock) {
            let kind = DeadlockKind::Aa;
            return Ok(Some(Failure { errno, kind, holding: lock, other: Some(self.cpu) }));
        }
        if q.words.get(mem, self.lock)? & mask == 0 {
            return Ok(None);
        }
        Ok(self.abba(q).map(|(cpu, holding)| {
            let kind = DeadlockKind::Abba;
            Failure { errno, kind, holding: Some(holding), other: Some(cpu) }
        }))
    }

    /// `check_deadlock_ABBA`: another CPU that has what is wanted here and wants what is held
    /// here. The first one that has it decides.
    fn abba(&self, q: &Queues) -> Option<(u32, LockId)> {
        let mine = q.held(self.cpu).below();
        let others = (0u32..).zip(&q.cpus).filter(|(cpu, _)| *cpu != self.cpu);
        for (cpu, other) in others {
            let held = &other.held;
            if !(2..=HELD_MAX).contains(&held.cnt) {
                continue;
            }
            let Some(wanted) = held.entries().last().copied().flatten() else { continue };
            if held.below().contains(&Some(self.lock)) {
                return mine.contains(&Some(wanted)).then_some((cpu, wanted));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
