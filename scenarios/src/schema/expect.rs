//! Events and expectations.

use super::machine::ArchName;
use super::packet::Layer;
use super::{Name, NamedCounts};
use crate::leaf::{Data, Is, TextIs, Time};
use crate::names;
use crate::span::Spanned;
use serde::Deserialize;

/// Something observable; every field is a filter.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "filters; one row each in the reference page")]
pub enum Event {
    /// A program is entered.
    Enter {
        #[serde(default)]
        prog: Option<Name>,
        #[serde(default)]
        cpu: Option<Spanned<u32>>,
    },
    /// A program returns.
    Exit {
        #[serde(default)]
        prog: Option<Name>,
        #[serde(default)]
        ret: Option<Data>,
    },
    /// A helper or kfunc returns.
    Call {
        #[serde(default)]
        func: Option<Name>,
        #[serde(default)]
        prog: Option<Name>,
        #[serde(default)]
        nth: Option<u64>,
        #[serde(default)]
        ret: Option<Data>,
    },
    /// A source line is reached.
    Line { at: Name },
    /// A tracepoint of the model fires.
    Tracepoint {
        name: Name,
        #[serde(default)]
        args: Option<Data>,
    },
    /// A packet is dropped by the network stack.
    Drop {
        #[serde(default)]
        reason: Option<Name>,
    },
    /// A frame leaves a nic.
    Out {
        #[serde(default)]
        on: Option<Name>,
        #[serde(default)]
        packet: Option<Vec<Layer>>,
    },
    /// A record is committed to a ring or perf buffer.
    Record {
        #[serde(default)]
        map: Option<Name>,
        #[serde(default)]
        value: Option<Data>,
        /// BTF name of the record where several exist.
        #[serde(default, rename = "as")]
        record: Option<Name>,
    },
    /// A deadlock is detected.
    Deadlock {
        #[serde(default)]
        kind: Option<DeadlockKind>,
        #[serde(default)]
        lock: Option<Name>,
        #[serde(default)]
        holding: Option<Name>,
        #[serde(default)]
        cpu: Option<Spanned<u32>>,
    },
    /// An order of locks that could have deadlocked and did not: told at the end of a run.
    LockOrder {
        #[serde(default)]
        lock: Option<Name>,
        #[serde(default)]
        holding: Option<Name>,
    },
    /// A program is cancelled.
    Cancelled {
        #[serde(default)]
        prog: Option<Name>,
        #[serde(default)]
        by: Option<CancelledBy>,
    },
    /// A CPU switches tasks.
    Switch {
        #[serde(default)]
        cpu: Option<Spanned<u32>>,
        #[serde(default)]
        from: Option<Name>,
        #[serde(default)]
        to: Option<Name>,
    },
    /// A fault of the list happened.
    Injected {
        #[serde(default)]
        fault: Option<Name>,
    },
    /// Memory is misused.
    Memory {
        #[serde(default)]
        kind: Option<Misuse>,
        /// Program that does it.
        #[serde(default)]
        prog: Option<Name>,
        /// What the object was allocated for, as `site` of a fault.
        #[serde(default)]
        object: Option<Name>,
    },
    /// Two accesses race: naming it makes a run look for it.
    Race {
        /// Map or global variable, or what the object is for.
        #[serde(default)]
        on: Option<Name>,
        /// Program of one of the two.
        #[serde(default)]
        prog: Option<Name>,
    },
    /// An RCU grace period takes too long.
    RcuStall {
        /// A CPU that holds it.
        #[serde(default)]
        cpu: Option<Spanned<u32>>,
        /// A program that holds it.
        #[serde(default)]
        prog: Option<Name>,
    },
    /// A sched_ext scheduler leaves.
    SchedExit {
        #[serde(default)]
        kind: Option<Name>,
    },
    /// A task waits too long for a CPU: longer than the soft limit of the watchdog, or 30 s.
    Stall {
        #[serde(default)]
        task: Option<Name>,
    },
}

impl Event {
    /// The CPU that it is filtered by.
    #[must_use]
    pub fn cpu(&self) -> Option<&Spanned<u32>> {
        match self {
            Event::Enter { cpu, .. }
            | Event::Deadlock { cpu, .. }
            | Event::Switch { cpu, .. }
            | Event::RcuStall { cpu, .. } => cpu.as_ref(),
            _ => None,
        }
    }
}

names! {
    /// How a deadlock was found.
    pub enum DeadlockKind as "a kind of deadlock" {
        /// The same lock twice on one CPU.
        Aa = "AA",
        /// Two locks in opposite order.
        Abba = "ABBA",
        /// Waited too long.
        Timeout = "Timeout",
    }
}

names! {
    /// How memory was misused.
    pub enum Misuse as "a kind of misuse" {
        /// Access to a freed object.
        UseAfterFree = "UseAfterFree",
        /// Access to an object that waits for its grace period, outside of the sections that may.
        OutsideSection = "OutsideSection",
        /// Access that leaves its object.
        OutOfBounds = "OutOfBounds",
        /// Free of a freed object.
        DoubleFree = "DoubleFree",
        /// Free of what is no object.
        InvalidFree = "InvalidFree",
        /// A red zone or a freed object was written.
        Overwritten = "Overwritten",
    }
}

names! {
    /// What cancelled a program.
    pub enum CancelledBy as "a cause of cancellation" {
        /// The watchdog.
        Watchdog = "Watchdog",
        /// bpf_throw.
        Throw = "Throw",
        /// The timeline.
        Request = "Request",
        /// A fault.
        Fault = "Fault",
        /// may_goto ran out.
        MayGoto = "MayGoto",
    }
}

names! {
    /// Whether lists are compared in order.
    pub enum ListOrder as "an order" {
        /// In this order.
        Exact = "Exact",
        /// In any order.
        Any = "Any",
    }
}

names! {
    /// Whether others may occur besides those listed.
    pub enum Others as "a rule for the rest" {
        /// Nothing else.
        Forbid = "Forbid",
        /// Others may occur.
        Allow = "Allow",
    }
}

names! {
    /// A program's stream.
    pub enum StreamOf as "a stream" {
        /// stdout.
        Out = "Out",
        /// stderr.
        Err = "Err",
    }
}

fn exact() -> ListOrder {
    ListOrder::Exact
}

fn forbid() -> Others {
    Others::Forbid
}

/// Where packets are looked at: a nic's name (what left it), or `Up("eth0")` (what went up the
/// stack there).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Frames that left the nic.
    Out(Name),
    /// Frames handed up the stack.
    Up(Name),
}

impl On {
    /// The nic.
    #[must_use]
    pub fn nic(&self) -> &Name {
        match self {
            On::Out(n) | On::Up(n) => n,
        }
    }
}

impl crate::leaf::Leaf for On {
    fn from_node(node: &crate::tree::Node) -> Result<Self, crate::span::Finding> {
        use crate::tree::Kind;
        let name =
            |n: &crate::tree::Node| String::from_node(n).map(|v| Spanned { v, span: n.span });
        match &node.kind {
            Kind::Call(head, args) if head == "Up" && args.len() == 1 => name(&args[0]).map(On::Up),
            _ => name(node).map(On::Out),
        }
    }
}

impl<'de> Deserialize<'de> for On {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

/// What must hold.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are explained row by row in the reference page")]
pub enum Expect {
    /// Counts per return code of an attached program; a code not listed must be 0.
    Verdicts { prog: Name, are: NamedCounts },
    /// What left a nic (or went up the stack).
    Packets {
        on: On,
        are: Vec<Vec<Layer>>,
        #[serde(default = "exact")]
        order: ListOrder,
        #[serde(default = "forbid")]
        rest: Others,
        /// Matched against the sk_buff of each packet, for `Up`.
        #[serde(default)]
        skb: Option<Data>,
    },
    /// Packets that the network stack dropped, by reason; a reason not listed must be 0.
    Drops { are: NamedCounts },
    /// Contents of a map.
    Map {
        map: Name,
        #[serde(default)]
        has: Vec<Data>,
        #[serde(default)]
        lacks: Vec<Data>,
        #[serde(default)]
        holds: Option<Vec<Data>>,
        #[serde(default)]
        len: Option<Spanned<Is<u64>>>,
        #[serde(default)]
        cpu: Option<Spanned<u32>>,
    },
    /// A global variable.
    Global { name: Name, is: Data },
    /// Events in this order; others may lie between.
    Sequence(Vec<Event>),
    /// Events in any order.
    AnyOrder(Vec<Event>),
    /// How often an event happened.
    Count { of: Event, is: Spanned<Is<u64>> },
    /// An event that must not happen.
    Never(Event),
    /// An event within a time, measured from another or from time 0.
    Eventually {
        event: Event,
        within: Spanned<Time>,
        #[serde(default)]
        after: Option<Event>,
    },
    /// Text of a program's stream.
    Stream {
        prog: Name,
        of: StreamOf,
        #[serde(default)]
        has: Vec<TextIs>,
        #[serde(default)]
        lacks: Vec<TextIs>,
        #[serde(default)]
        bytes: Option<Spanned<Is<u64>>>,
    },
    /// What the consumer of a ring or perf buffer got.
    Records {
        map: Name,
        are: Vec<Data>,
        #[serde(default = "exact")]
        order: ListOrder,
        /// Left out: nothing else with an exact order, others too without.
        #[serde(default)]
        rest: Option<Others>,
        #[serde(default)]
        lost: Option<Spanned<Is<u64>>>,
        /// BTF name of the records where several exist.
        #[serde(default, rename = "as")]
        record: Option<Name>,
    },
    /// The program loads; verifier statistics.
    Accepted {
        prog: Name,
        #[serde(default)]
        insns: Option<Spanned<Is<u64>>>,
        #[serde(default)]
        states: Option<Spanned<Is<u64>>>,
        #[serde(default)]
        stack: Option<Spanned<Is<u64>>>,
    },
    /// The program does not load.
    Rejected {
        prog: Name,
        #[serde(default)]
        errno: Option<Data>,
        #[serde(default)]
        log: Vec<Spanned<TextIs>>,
        #[serde(default)]
        at: Option<Name>,
        #[serde(default)]
        archs: Vec<Spanned<ArchName>>,
    },
    /// Instructions of the worst single run and of the whole scenario.
    Budget {
        prog: Name,
        #[serde(default)]
        insns: Option<Spanned<Is<u64>>>,
        #[serde(default)]
        total: Option<Spanned<Is<u64>>>,
    },
    /// Time with a CPU, in permille of that of one CPU; of each task of the name.
    Share { task: Name, is: Spanned<Is<u64>> },
    /// Wake-up latency: so many percent of the task's wake-ups led to a CPU within a time.
    Latency { task: Name, wakeup: Spanned<Time>, percentile: u32 },
    /// Leaks that are expected.
    Leaks(Vec<Spanned<String>>),
    /// Architectures whose traces may differ.
    Differs { archs: Vec<Spanned<ArchName>>, what: Spanned<String> },
}
