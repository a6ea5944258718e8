//! Everything observable, as typed events: the trace.
//!
//! Events are comparable between architectures: pointers into stacks and program text, whose
//! values depend on native code, are replaced by what they point at, and registers that a
//! helper does not read are not recorded.

use std::sync::Arc;

use crate::context::Level;
use crate::cpu::{CancelledBy, CpuId, Fault};
use crate::layout::{PROG_TEXT, PROG_TEXT_END, VMALLOC, VMALLOC_OBJECTS};
use crate::lock::DeadlockKind;
use crate::maps::MapId;
use crate::prog::ProgId;
use crate::stream::StreamId;

/// A register value that means the same on every architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number or a pointer into kernel objects, which have equal addresses everywhere.
    Num(u64),
    /// A pointer into a vCPU's stack.
    Stack,
    /// A pointer into program text.
    Text,
}

impl Value {
    /// Classifies a register.
    #[must_use]
    pub fn of(raw: u64) -> Value {
        match raw {
            VMALLOC..VMALLOC_OBJECTS => Value::Stack,
            PROG_TEXT..PROG_TEXT_END => Value::Text,
            _ => Value::Num(raw),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Num(v) if *v < 10_000 => write!(f, "{v}"),
            Value::Num(v) if (*v as i64) < 0 && (*v as i64) > -4096 => write!(f, "{}", *v as i64),
            Value::Num(v) => write!(f, "{v:#x}"),
            Value::Stack => f.write_str("stack"),
            Value::Text => f.write_str("text"),
        }
    }
}

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Virtual time of the CPU.
    pub clock_ns: u64,
    /// BPF instructions that the CPU has retired. Unlike its clock it stands still while the CPU
    /// waits.
    pub retired: u64,
    /// BPF instructions that all CPUs have retired: where a debugger finds it.
    pub at: u64,
    /// CPU.
    pub cpu: CpuId,
    /// What the CPU was in.
    pub level: Level,
    /// What happened.
    pub kind: EventKind,
}

/// What the stack above sees of an sk_buff besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields of struct sk_buff")]
pub struct UpFields {
    pub mark: u32,
    pub priority: u32,
    /// `vlan_tci`, 0 without a tag.
    pub vlan: u16,
    pub hash: u32,
    pub tstamp: u64,
    /// Metadata that XDP put in front of the frame.
    pub meta: Vec<u8>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A program starts.
    Enter {
        /// Program.
        prog: ProgId,
    },
    /// A program ended; `ret` is R0.
    Exit {
        /// Program.
        prog: ProgId,
        /// Return value.
        ret: u64,
    },
    /// A callback of a program starts (`bpf_loop`, `bpf_for_each_map_elem`, timers).
    Callback {
        /// Program.
        prog: ProgId,
        /// Helper that calls it.
        helper: &'static str,
        /// How often it was called before, in this helper call.
        nth: u32,
    },
    /// A helper was called and returned.
    HelperCall {
        /// Calling program.
        prog: ProgId,
        /// Name without `bpf_`.
        name: &'static str,
        /// The arguments it has.
        args: Vec<Value>,
        /// Result; `None` when it comes later, as a `HelperReturn`.
        ret: Option<Value>,
        /// Number of the call in this run of the program, from 0.
        nth: u32,
    },
    /// A helper that called back, or waited, returned.
    HelperReturn {
        /// Calling program.
        prog: ProgId,
        /// Name without `bpf_`.
        name: &'static str,
        /// Result.
        ret: Value,
        /// Number of the call.
        nth: u32,
    },
    /// One program replaced another by a tail call.
    TailCall {
        /// Caller.
        from: ProgId,
        /// New program.
        to: ProgId,
    },
    /// An element was written, by a program or user space.
    MapUpdate {
        /// Map.
        map: MapId,
        /// Key, numbers in big-endian so that they print alike.
        key: Vec<u8>,
        /// Value, likewise.
        value: Vec<u8>,
    },
    /// An element went away.
    MapDelete {
        /// Map.
        map: MapId,
        /// Key.
        key: Vec<u8>,
    },
    /// What the kernel did with a verdict.
    Verdict {
        /// Program.
        prog: ProgId,
        /// E.g. `XDP_DROP`.
        name: &'static str,
        /// The raw value.
        raw: u64,
    },
    /// A frame left a device.
    Out {
        /// `ifindex`.
        nic: u32,
        /// Bytes on the wire.
        packet: Vec<u8>,
    },
    /// A frame went up the stack.
    Up {
        /// `ifindex`.
        nic: u32,
        /// Bytes.
        packet: Vec<u8>,
        /// Of its sk_buff.
        skb: Box<UpFields>,
    },
    /// A ring buffer or perf record was made visible to user space.
    Record {
        /// Map.
        map: MapId,
        /// Payload as the program wrote it (guest byte order).
        data: Vec<u8>,
    },
    /// A record or packet was lost.
    Drop {
        /// Kernel reason, e.g. `ringbuf full`.
        reason: &'static str,
    },
    /// A fault of the scenario happened.
    Injected {
        /// Kind, e.g. `alloc`.
        fault: &'static str,
        /// What failed.
        what: String,
    },
    /// A tracepoint that someone listens to.
    Tracepoint {
        /// Name.
        name: &'static str,
        /// Arguments.
        args: Vec<Value>,
    },
    /// `bpf_trace_printk`.
    Print {
        /// Formatted text.
        text: String,
    },
    /// A text was put into a program's stream, or a report of the kernel about the program.
    Stream {
        /// Program.
        prog: ProgId,
        /// Which.
        id: StreamId,
        /// The text.
        text: String,
    },
    /// A program run, or a loop of it, ends before its time.
    Cancelled {
        /// Program.
        prog: ProgId,
        /// What did it.
        by: CancelledBy,
    },
    /// A CPU goes from one task to another.
    Switch {
        /// Name of the task that ran, `swapper/N` when the CPU was idle.
        from: Arc<str>,
        /// Name of the task that runs now.
        to: Arc<str>,
        /// How long it waited since it was woken, when that is what it waited for.
        waited: Option<u64>,
    },
    /// A task waits too long for a CPU.
    Stall {
        /// Its name.
        task: Arc<str>,
        /// Nanoseconds.
        waited: u64,
        /// Where its program was when it was preempted, if it was.
        at: Option<crate::cpu::Site>,
    },
    /// An operation of a task's script that has a result is complete.
    Op {
        /// Name of the task.
        task: Arc<str>,
        /// Which of its script, from 0.
        op: u32,
        /// The result; `None` when the program was cancelled.
        ret: Option<u64>,
    },
    /// A program was stopped or the kernel found corruption.
    Fault {
        /// Program, if one was running.
        prog: Option<ProgId>,
        /// What.
        fault: Fault,
    },
    /// A deferred free ran after its grace period.
    RcuFree {
        /// Number of objects.
        objects: u32,
    },
    /// Two accesses that nothing orders.
    Race(Box<crate::race::Race>),
    /// A grace period takes too long.
    RcuStall(Box<crate::rcu::Stall>),
    /// An attempt to take a lock was given up.
    Deadlock {
        /// How it was found.
        kind: DeadlockKind,
        /// The lock that was wanted.
        lock: String,
        /// One that this CPU holds and that is part of it.
        holding: Option<String>,
        /// All that is known.
        report: Box<crate::lock::report::Report>,
    },
    /// Locks were taken in an order that could have deadlocked, and did not.
    LockOrder(Box<crate::lock::Order>),
    /// Something acquired was never released.
    Leak {
        /// What, with where it was acquired.
        what: String,
    },
    /// An event of a subsystem without fields of its own here.
    Note {
        /// Subsystem.
        topic: &'static str,
        /// Text.
        text: String,
    },
}
