//! Tasks, timeline, consumers, faults, schedule and matrix: everything that happens.

use super::machine::{ArchName, Attach, Cpus};
use super::packet::Layer;
use super::{Event, Expect, Name, Names};
use crate::leaf::{Bytes, Data, Is, Leaf, Rate, Time};
use crate::names;
use crate::span::{Finding, Spanned};
use crate::tree::Kind;
use serde::Deserialize;
use serde::de::Deserializer;

names! {
    /// Order of an iterator over control groups.
    pub enum IterOrder as "an order of control groups" {
        /// The group alone.
        SelfOnly = "SelfOnly",
        /// It and all below, parents first.
        Pre = "Pre",
        /// It and all below, parents last.
        Post = "Post",
        /// It and those above.
        Up = "Up",
    }
}

/// A modelled task.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Operations in order.
    pub script: Vec<Op>,
    /// How many of them: `name.0`, `name.1`, ...
    #[serde(default = "one")]
    pub count: Spanned<u32>,
    /// CPUs it may run on.
    #[serde(default)]
    pub cpus: Cpus,
    /// -20..=19.
    #[serde(default)]
    pub nice: i32,
    /// Scheduler weight, 1 to 10,000, instead of that of `nice`; 100 is that of nice 0.
    #[serde(default)]
    pub weight: Option<u32>,
    /// cgroup path.
    #[serde(default)]
    pub cgroup: Option<Name>,
    /// `comm`; the task's name when left out.
    #[serde(default)]
    pub comm: Option<String>,
    /// When it starts.
    #[serde(default)]
    pub start: Time,
    /// `Once`, `Times(n)` or `Forever`.
    #[serde(default)]
    pub repeat: Repeat,
}

fn one() -> Spanned<u32> {
    Spanned::nowhere(1)
}

/// How often a script runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub enum Repeat {
    /// Once.
    #[default]
    Once,
    /// So many times.
    Times(u64),
    /// Until the run ends.
    Forever,
}

/// One operation of a task's script.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Op {
    /// Use the CPU.
    Run(Time),
    /// Sleep.
    Sleep(Time),
    /// Give up the CPU.
    Yield,
    /// Wait for an event by name; one that came when nobody waited is taken.
    Wait(Name),
    /// Wake all who wait for it.
    Wake(Name),
    /// Take a mutex by name; who waits gets it in turn.
    Lock(Name),
    /// Release it.
    Unlock(Name),
    /// Take a reader-writer semaphore by name, with other readers.
    DownRead(Name),
    /// Release it.
    UpRead(Name),
    /// Take it alone; who waits gets it in turn.
    DownWrite(Name),
    /// Release it.
    UpWrite(Name),
    /// Move to a CPU, and stay there.
    Migrate(Spanned<u32>),
    /// End.
    Exit(Spanned<i32>),
    /// A system call.
    Sys {
        /// Its name.
        call: Name,
        /// Arguments by name.
        #[serde(default)]
        args: Option<Data>,
        /// What it must return.
        #[serde(default)]
        ret: Option<Data>,
    },
    /// Write an element, by bpf(2); members left out are zero.
    Put {
        /// Map.
        map: Name,
        /// Key.
        key: Data,
        /// Value.
        value: Data,
        /// What it must return.
        #[serde(default)]
        ret: Option<Data>,
    },
    /// Delete an element, by bpf(2).
    Delete {
        /// Map.
        map: Name,
        /// Key.
        key: Data,
        /// What it must return.
        #[serde(default)]
        ret: Option<Data>,
    },
    /// A user function that returns at once, for uprobes.
    Call {
        /// Its name.
        symbol: Name,
        /// Arguments by name.
        #[serde(default)]
        args: Option<Data>,
    },
    /// A user function, which is on the task's stack until its `Return`.
    Enter {
        /// Its name.
        symbol: Name,
        /// Arguments by name.
        #[serde(default)]
        args: Option<Data>,
    },
    /// The user function that was entered last returns.
    Return {
        /// What it returns.
        #[serde(default)]
        value: Option<Data>,
    },
    /// `BPF_PROG_TEST_RUN` by this task.
    TestRun {
        /// Program.
        prog: Name,
        /// Context.
        #[serde(default)]
        ctx: Option<Data>,
        /// What it must return.
        #[serde(default)]
        ret: Option<Data>,
    },
}

/// One line of the timeline.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Step {
    /// At a time.
    At(Spanned<Time>, Action),
    /// So long after the start of the step above.
    After(Spanned<Time>, Action),
    /// Again and again.
    Every {
        /// Distance.
        period: Spanned<Time>,
        /// First time.
        #[serde(default)]
        from: Spanned<Time>,
        /// How often.
        times: Spanned<u64>,
        /// What.
        act: Box<Action>,
    },
    /// Once, at the first match, at that very safepoint.
    When(Event, Action),
}

impl Step {
    /// The action of the step.
    #[must_use]
    pub fn action(&self) -> &Action {
        match self {
            Step::At(_, a) | Step::After(_, a) | Step::When(_, a) => a,
            Step::Every { act, .. } => act,
        }
    }
}

/// Pace of a capture's replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub enum Pace {
    /// As captured.
    #[default]
    Captured,
    /// A fixed distance.
    Gap(Time),
    /// As fast as the ring takes them.
    Flat,
}

/// Fields of the sk_buff of a frame that arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "fields of struct sk_buff")]
pub struct SkbFields {
    pub mark: Option<u32>,
    pub priority: Option<u32>,
    pub vlan: Option<u16>,
    pub hash: Option<u32>,
    pub tstamp: Option<u64>,
}

/// What happens at a step.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Action {
    /// Frames arrive at a nic.
    Send {
        /// A packet by name.
        packet: Name,
        /// Interface.
        on: Name,
        /// Receive queue; by RSS when left out.
        #[serde(default)]
        queue: Option<Spanned<u32>>,
        /// How often.
        #[serde(default)]
        times: Option<Spanned<u64>>,
        /// Distance between them.
        #[serde(default)]
        gap: Time,
        /// sk_buff fields given by the hardware.
        #[serde(default)]
        skb: Option<SkbFields>,
    },
    /// Starts a traffic generator.
    Play {
        /// Flows by name.
        flows: Name,
        /// Interface.
        on: Name,
    },
    /// Replays a capture.
    Replay {
        /// pcap or pcapng file.
        pcap: Name,
        /// Interface.
        on: Name,
        /// Pace.
        #[serde(default)]
        pace: Pace,
        /// Frame numbers, from 1.
        #[serde(default)]
        frames: Option<Is<u64>>,
        /// sk_buff fields given by the hardware.
        #[serde(default)]
        skb: Option<SkbFields>,
    },
    /// `BPF_PROG_TEST_RUN` by user space: on the CPU that it calls from, the program's current task
    /// is `orrery`, with pid 1000.
    TestRun {
        /// Program.
        prog: Name,
        /// CPU.
        #[serde(default)]
        cpu: Spanned<u32>,
        /// A packet by name.
        #[serde(default)]
        packet: Option<Name>,
        /// Frames of a capture, one run each.
        #[serde(default)]
        frames: Option<Data>,
        /// Context.
        #[serde(default)]
        ctx: Option<Data>,
        /// What it must return.
        #[serde(default)]
        ret: Option<Data>,
        /// What must come out.
        #[serde(default)]
        out: Option<Data>,
    },
    /// User space links an iterator program (`SEC("iter/task")` and others), opens it and reads it
    /// to its end.
    ReadIter {
        /// Program.
        prog: Name,
        /// Of `iter/cgroup`: where it begins, the root when left out.
        #[serde(default)]
        cgroup: Option<Name>,
        /// Of `iter/cgroup`: which groups, and in which order.
        #[serde(default)]
        order: Option<IterOrder>,
        /// Of `iter/bpf_map_elem`: whose elements.
        #[serde(default)]
        map: Option<Name>,
        /// Of `iter/task` and `iter/task_file`: the only task.
        #[serde(default)]
        task: Option<Name>,
        /// Most bytes of one read(2).
        #[serde(default)]
        room: Option<Spanned<Bytes>>,
        /// All that is read.
        #[serde(default)]
        text: Option<Name>,
        /// What the last read(2) returns, or why the link is refused: 0 when left out.
        #[serde(default)]
        ret: Option<Data>,
    },
    /// Fires a tracepoint of the model.
    Fire {
        /// Its name.
        tracepoint: Name,
        /// Arguments.
        #[serde(default)]
        args: Option<Data>,
        /// CPU.
        #[serde(default)]
        cpu: Spanned<u32>,
    },
    /// User space writes a map.
    Put {
        /// Map.
        map: Name,
        /// Key.
        key: Data,
        /// Value; members left out keep theirs.
        value: Data,
    },
    /// User space deletes an element.
    Delete {
        /// Map.
        map: Name,
        /// Key.
        key: Data,
    },
    /// User space writes a global.
    Set {
        /// Variable.
        global: Name,
        /// Value.
        to: Data,
    },
    /// The cable goes or comes.
    Link {
        /// Interface.
        nic: Name,
        /// Up or down.
        up: bool,
    },
    /// An interrupt.
    Irq {
        /// CPU.
        cpu: Spanned<u32>,
        /// Line.
        #[serde(default)]
        line: u32,
    },
    /// A non-maskable interrupt.
    Nmi {
        /// CPU.
        cpu: Spanned<u32>,
    },
    /// Starts a task; one that a step starts does not start by itself.
    Start(Name),
    /// Ends a task by SIGKILL.
    Kill(Name),
    /// Loads an object; one that a step loads is not there from the start.
    Load(Name),
    /// Attaches a program.
    Attach(Attach),
    /// Detaches a program.
    Detach(Name),
    /// Asks a program to stop.
    Cancel {
        /// Program.
        prog: Name,
    },
    /// An expectation that must hold now.
    Check(Box<Expect>),
    /// A named point to return to in the debugger.
    Snapshot(Name),
}

/// User space that reads at a pace.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Consumer {
    /// Reads a ring buffer.
    Ringbuf {
        /// Map.
        map: Name,
        /// Records per second; as fast as they come when left out.
        #[serde(default)]
        rate: Option<Rate>,
        /// When it starts.
        #[serde(default)]
        start: Time,
        /// BTF name of the record.
        #[serde(default)]
        record: Option<Name>,
    },
    /// Reads a perf event array.
    Perf {
        /// Map.
        map: Name,
        /// Records per second.
        #[serde(default)]
        rate: Option<Rate>,
        /// When it starts.
        #[serde(default)]
        start: Time,
        /// BTF name of the record.
        #[serde(default)]
        record: Option<Name>,
    },
    /// Writes a user ring buffer.
    UserRingbuf {
        /// Map.
        map: Name,
        /// Records per second.
        rate: Rate,
        /// The record.
        send: Data,
        /// BTF name of the record.
        #[serde(default)]
        record: Option<Name>,
    },
    /// Reads a program's stream.
    Stream {
        /// Program.
        prog: Name,
        /// Reads per second.
        #[serde(default)]
        rate: Option<Rate>,
    },
}

impl Consumer {
    /// The map read or written.
    #[must_use]
    pub fn map(&self) -> Option<&Name> {
        match self {
            Consumer::Ringbuf { map, .. }
            | Consumer::Perf { map, .. }
            | Consumer::UserRingbuf { map, .. } => Some(map),
            Consumer::Stream { .. } => None,
        }
    }
}

/// Something that goes wrong; `nth` counts from 1.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "one row each in the reference page")]
pub enum Fault {
    /// The n-th allocation fails, or each from there on with a probability.
    Alloc {
        #[serde(default = "one_th")]
        nth: Spanned<u64>,
        /// 1 when left out; with a probability, no limit.
        #[serde(default)]
        times: Option<u64>,
        /// Above 0, at most 1; drawn from the seed's stream for faults.
        #[serde(default)]
        probability: Option<Spanned<f64>>,
        #[serde(default)]
        site: Option<String>,
        #[serde(default)]
        prog: Option<Name>,
    },
    /// The n-th call of a helper or kfunc fails with `ret`.
    Call {
        func: Name,
        nth: Spanned<u64>,
        #[serde(default = "once")]
        times: u64,
        ret: Data,
        #[serde(default)]
        prog: Option<Name>,
    },
    /// A page of user memory is not there.
    UserPage { addr: u64, nth: Spanned<u64> },
    /// The receive ring takes nothing for a while.
    RingFull { nic: Name, from: Spanned<Time>, to: Spanned<Time> },
    /// The n-th timer fires late.
    TimerLate { by: Time, nth: Spanned<u64> },
    /// An interrupt at the n-th safepoint of a program.
    Irq {
        cpu: Spanned<u32>,
        #[serde(default)]
        line: u32,
        safepoint: Spanned<u64>,
        prog: Name,
        /// Counts the points of this name inside kernel paths instead, for example
        /// `bpf_map_update_elem: in the critical section`.
        #[serde(default)]
        inside: Option<Name>,
    },
    /// A non-maskable interrupt there.
    Nmi {
        cpu: Spanned<u32>,
        safepoint: Spanned<u64>,
        prog: Name,
        #[serde(default)]
        inside: Option<Name>,
    },
}

fn one_th() -> Spanned<u64> {
    Spanned::nowhere(1)
}

fn once() -> u64 {
    1
}

/// Who runs when.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// CPUs take turns by virtual time.
    #[default]
    RoundRobin,
    /// Random preemption from that stream.
    Seed(u64),
    /// By hand.
    Steps(Vec<ScheduleStep>),
    /// Written by the search; a mismatch means the file is stale.
    Pinned {
        /// Feeds the other streams.
        seed: u64,
        /// CPU that runs first.
        first: Spanned<u32>,
        /// Places at which another CPU goes on, or another task.
        switches: Vec<Switch>,
    },
}

/// Only that CPU runs until the event, and of its tasks the one that is named.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleStep {
    /// CPU.
    pub cpu: Spanned<u32>,
    /// Task of this CPU that preempts the others wherever their programs let it: at safepoints,
    /// unless preemption is off.
    #[serde(default)]
    pub task: Option<Name>,
    /// Event.
    pub until: Event,
}

/// One place of a pinned schedule.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// CPU that stops.
    pub cpu: Spanned<u32>,
    /// After so many of its safepoints, from 1.
    pub after: Spanned<u64>,
    /// The name of that safepoint: checked.
    pub at: Name,
    /// CPU that goes on.
    pub to: Spanned<u32>,
    /// Task that preempts the one which runs on that CPU.
    #[serde(default)]
    pub task: Option<Name>,
}

impl Switch {
    /// Whether its place is between instructions of a program: of these each has a number of its
    /// own. Places inside kernel paths have that of the one before them.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let (at, between) = (&self.at.v, [": enters ", ": is back in ", ": again at "]);
        at.ends_with(" called")
            || at.ends_with(" returned")
            || between.iter().any(|w| at.contains(w))
    }
}

/// Axes of repetition; the product of all of them is run.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Matrix {
    /// Architectures.
    pub archs: Vec<Spanned<ArchName>>,
    /// CPU counts.
    pub cpus: Option<Spanned<Values>>,
    /// Seeds.
    pub seed: Option<Spanned<Values>>,
    /// Variables `"$name"`.
    pub vars: Names<Spanned<Values>>,
    /// Cells left out: records that name axis values.
    pub except: Vec<Data>,
}

/// A list of values or an inclusive range of integers, as RON text each.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Values(pub Vec<String>);

/// A range longer than this is a mistake.
const VALUES_MAX: i128 = 100_000;

impl Leaf for Values {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        match &node.kind {
            Kind::List(items) => items.iter().map(text_of).collect::<Result<_, _>>().map(Values),
            Kind::Range { from: Some(from), to: Some(to), inclusive } => {
                let bound = |n: &crate::tree::Node| {
                    crate::leaf::int_of(n)
                        .ok_or_else(|| Finding::error(n.span, "a range runs over integers"))
                };
                let (from, to) = (bound(from)?, bound(to)? + i128::from(*inclusive));
                if to - from > VALUES_MAX || to <= from {
                    let message = "this range is empty or has more than 100,000 values";
                    return Err(Finding::error(node.span, message));
                }
                Ok(Values((from..to).map(|n| n.to_string()).collect()))
            }
            _ => Err(Finding::error(
                node.span,
                format!("a list or a range was expected, found {}", node.describe()),
            )
            .hint("write [1, 2, 4] or 1..=20")),
        }
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

fn text_of(node: &crate::tree::Node) -> Result<String, Finding> {
    match &node.kind {
        Kind::Int { negative, value } => Ok(format!("{}{value}", if *negative { "-" } else { "" })),
        Kind::Str(s) => Ok(format!("{s:?}")),
        Kind::Name(n) => Ok(n.clone()),
        Kind::Bool(b) => Ok(b.to_string()),
        _ => Err(Finding::error(node.span, "a number, text or name was expected")),
    }
}

/// A packet given in place, as in expectations.
pub type Packet = Vec<Layer>;
