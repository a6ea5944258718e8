//! What is wrong with a run, and of which kind it is.

use kernel_model::EventKind;
use kernel_model::cpu::FaultKind;
use scenarios::Span;
use serde::{Deserialize, Serialize};

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// An expectation does not hold.
    Expectation,
    /// A program or the kernel did what it must not.
    Fault,
    /// CPUs wait for each other.
    Deadlock,
    /// Two accesses without an order between them.
    Race,
    /// Something acquired was not released.
    Leak,
    /// Something does not go on.
    Stall,
    /// The architectures do not agree.
    Divergence,
    /// A fault that is injected never had its occasion.
    NotInjected,
}

impl FailureKind {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Expectation => "an expectation that does not hold",
            FailureKind::Fault => "a fault",
            FailureKind::Deadlock => "a deadlock",
            FailureKind::Race => "a race",
            FailureKind::Leak => "a leak",
            FailureKind::Stall => "a stall",
            FailureKind::Divergence => "architectures that differ",
            FailureKind::NotInjected => "a fault that never happened",
        }
    }

    /// What an event is that is wrong in itself; of others, that it was not expected.
    #[must_use]
    pub fn of(event: &EventKind) -> FailureKind {
        match event {
            EventKind::Leak { .. } => FailureKind::Leak,
            EventKind::Race(_) => FailureKind::Race,
            EventKind::RcuStall(_) => FailureKind::Stall,
            EventKind::Deadlock { .. } => FailureKind::Deadlock,
            EventKind::Fault { fault, .. } => match fault.kind {
                FaultKind::Deadlock(_) => FailureKind::Deadlock,
                _ => FailureKind::Fault,
            },
            _ => FailureKind::Expectation,
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind.
    pub kind: FailureKind,
    /// What was expected, and what happened, at which packet or event.
    pub message: String,
    /// The expectation.
    pub span: Span,
    /// BPF instructions that were retired when it came to light; `None` at the end of the run.
    pub at: Option<u64>,
    /// What would be right in its place: a span of the file and the text that holds there.
    pub fix: Option<(Span, String)>,
}

impl Failure {
    /// An expectation that does not hold at the end of the run.
    pub(super) fn new(span: Span, message: String) -> Failure {
        Failure { kind: FailureKind::Expectation, message, span, at: None, fix: None }
    }
}
