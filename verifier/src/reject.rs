//! Why a program was not accepted: a value with the kernel's words, never a panic.

use bpf::insn::InsnIdx;

/// Kind of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectKind {
    /// The kernel refuses the program too.
    Unsafe,
    /// A limit was hit (1M instructions, jump sequence, stack): the kernel refuses too.
    Limit,
    /// Not modelled here: no statement about the program.
    Unsupported {
        /// The kernel feature.
        what: String,
        /// Where the kernel does it, e.g. `verifier.c:check_kfunc_call`.
        kernel_ref: &'static str,
    },
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.line())]
pub struct Rejection {
    /// Kind.
    pub kind: RejectKind,
    /// Instruction at which it was found.
    pub insn: Option<InsnIdx>,
    /// The kernel's message, verbatim, without newline.
    pub message: String,
    /// errno of `BPF_PROG_LOAD`, positive.
    pub errno: i32,
    /// The log up to and including the message, by the requested level.
    pub log: String,
    /// Statistics up to the refusal.
    pub stats: crate::verified::Stats,
    /// What was tried beyond the kernel's limits.
    pub beyond: Option<crate::explore::beyond::Report>,
}

/// `EPERM`.
pub const EPERM: i32 = 1;
/// `E2BIG`.
pub const E2BIG: i32 = 7;
/// `ENOMEM`.
pub const ENOMEM: i32 = 12;
/// `EACCES`.
pub const EACCES: i32 = 13;
/// `EFAULT`.
pub const EFAULT: i32 = 14;
/// `EINVAL`.
pub const EINVAL: i32 = 22;
/// `EPROTO`.
pub const EPROTO: i32 = 71;
/// `EOPNOTSUPP`.
pub const EOPNOTSUPP: i32 = 95;
/// `ENOTSUPP`.
pub const ENOTSUPP: i32 = 524;

impl Rejection {
    /// The kernel refuses with this message.
    #[must_use]
    pub fn refuse(errno: i32, message: impl Into<String>) -> Rejection {
        Rejection {
            kind: RejectKind::Unsafe,
            insn: None,
            message: message.into(),
            errno,
            log: String::new(),
            stats: crate::verified::Stats::default(),
            beyond: None,
        }
    }

    /// `-EACCES` with a message.
    #[must_use]
    pub fn access(message: impl Into<String>) -> Rejection {
        Rejection::refuse(EACCES, message)
    }

    /// `-EINVAL` with a message.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Rejection {
        Rejection::refuse(EINVAL, message)
    }

    /// A limit was hit.
    #[must_use]
    pub fn limit(errno: i32, message: impl Into<String>) -> Rejection {
        Rejection { kind: RejectKind::Limit, ..Rejection::refuse(errno, message) }
    }

    /// Not modelled.
    #[must_use]
    pub fn unsupported(what: impl Into<String>, kernel_ref: &'static str) -> Rejection {
        let what = what.into();
        let message = format!("unsupported: {what} ({kernel_ref})");
        let kind = RejectKind::Unsupported { what, kernel_ref };
        Rejection { kind, ..Rejection::refuse(EOPNOTSUPP, message) }
    }

    /// The same at an instruction, unless one is set.
    #[must_use]
    pub fn at(mut self, insn: InsnIdx) -> Rejection {
        self.insn.get_or_insert(insn);
        self
    }

    /// True for [`RejectKind::Unsupported`].
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.kind, RejectKind::Unsupported { .. })
    }

    fn line(&self) -> String {
        match self.insn {
            Some(i) => format!("insn {}: {}", i.0, self.message),
            None => self.message.clone(),
        }
    }
}
