//! Which helpers a program may call: `get_func_proto` as measured.

use super::avail_table::{SETS, UNMEASURED, VARIANTS};
use super::struct_ops::{self, Helpers};
use bpf::Program;
use bpf::uapi::{AttachType, ProgType};

/// `prog_flags`: may sleep.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// Helpers for which `bpf_base_func_proto` asks for `CAP_BPF`: locks, timers, per-CPU objects,
/// callbacks, dynptrs, cgroup storage.
#[rustfmt::skip]
pub(super) const NEED_BPF: &[i32] = &[
    80, 93, 94, 118, 123, 153, 154, 164, 169, 170, 171, 172, 181, 194,
    197, 198, 199, 200, 201, 202, 203, 209, 210, 211,
];
/// Helpers for which it asks for `CAP_PERFMON` (what reads or shows kernel memory), and
/// `bpf_sk_base_func_proto` (`bpf_skc_to_*`).
#[rustfmt::skip]
pub(super) const NEED_PERFMON: &[i32] = &[
    6, 35, 112, 113, 114, 115, 136, 137, 138, 139, 140, 149, 158, 165, 175, 177, 178, 196,
];

/// Bits by helper id.
type Bits = [u64; 4];

/// What one kind of program may call.
#[derive(Debug)]
pub(super) struct AvailSet {
    pub(super) yes: Bits,
    pub(super) sleep: Bits,
    pub(super) probe: Bits,
    pub(super) func_ip: Bits,
}

/// A measured kind of program.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) prog_type: ProgType,
    pub(super) attach: u32,
    pub(super) sleepable: bool,
    pub(super) target: &'static str,
    pub(super) set: u8,
}

/// Answer for one helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Avail {
    /// May be called.
    Yes,
    /// "helper call might sleep in a non-sleepable prog".
    MightSleep,
    /// "program of this type cannot use helper NAME#ID".
    No,
    /// "helper call is not allowed in probe" (`allowed` callback of the prototype).
    NotInProbe,
    /// "func NAME#ID supported only for fentry/fexit/fmod_ret programs" and its kin, `ENOTSUPP`.
    FuncIp,
}

/// The kind of program that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind<'a> {
    /// Program type.
    pub(super) prog_type: ProgType,
    /// `expected_attach_type`.
    pub(super) attach: Option<AttachType>,
    /// `BPF_F_SLEEPABLE`.
    pub(super) sleepable: bool,
    /// `iter/task`, `tp_btf/sched_switch`, `tcp_congestion_ops/init`; `None` otherwise.
    pub(super) target: Option<&'a str>,
}

impl Kind<'_> {
    /// The kind a program is of. Targets are those of the section name.
    #[must_use]
    pub(super) fn of(program: &Program) -> Kind<'_> {
        let target = match program.prog_type {
            ProgType::Tracing => Some(program.section.as_str()),
            ProgType::StructOps => program.attach_to.as_deref(),
            _ => None,
        };
        Kind {
            prog_type: program.prog_type,
            attach: program.attach_type,
            sleepable: program.flags & BPF_F_SLEEPABLE != 0,
            target,
        }
    }

    /// `expected_attach_type` as a number, after `bpf_prog_load_fixup_attach_type`.
    #[must_use]
    pub(super) fn attach_raw(&self) -> u32 {
        match (self.prog_type, self.attach.map_or(0, |a| a as u32)) {
            (ProgType::CgroupSock, 0) => AttachType::CgroupInetSockCreate as u32,
            (ProgType::SkReuseport, 0) => AttachType::SkReuseportSelect as u32,
            (_, raw) => raw,
        }
    }

    /// fentry, fexit and fmod_ret: entered through a trampoline.
    #[must_use]
    pub(super) fn is_trampoline(&self) -> bool {
        use AttachType::{ModifyReturn, TraceFentry, TraceFexit};
        matches!(self.attach, Some(TraceFentry | TraceFexit | ModifyReturn))
    }
}

/// `bpf_get_local_storage`, `bpf_get_retval`, `bpf_set_retval`.
const COMMON_TO_CGROUPS: [i32; 3] = [81, 186, 187];

fn has(bits: &Bits, id: i32) -> bool {
    usize::try_from(id).is_ok_and(|n| n < 256 && bits[n / 64] >> (n % 64) & 1 == 1)
}

/// `bpf_base_func_proto`: what a netfilter program may call.
fn base(kind: &Kind<'_>) -> Option<&'static AvailSet> {
    let name = kind.target?.split('/').next()?;
    let ops = struct_ops::ops(name).filter(|_| kind.prog_type == ProgType::StructOps)?;
    (ops.helpers == Helpers::Base).then_some(())?;
    let found = VARIANTS.iter().find(|v| v.prog_type == ProgType::Netfilter)?;
    SETS.get(usize::from(found.set))
}

/// The closest measured kind: exact, else without the target, else of the type at all.
fn set_of(kind: &Kind<'_>) -> Option<&'static AvailSet> {
    if let Some(set) = base(kind) {
        return Some(set);
    }
    let attach = kind.attach_raw();
    let of_type = || VARIANTS.iter().filter(|v| v.prog_type == kind.prog_type);
    let matching = |v: &&Variant| v.attach == attach && v.sleepable == kind.sleepable;
    let exact = |v: &&Variant| matching(v) && kind.target.is_some_and(|t| t == v.target);
    let found = of_type()
        .find(exact)
        .or_else(|| of_type().find(|v| kind.target.is_some_and(|t| t == v.target)))
        .or_else(|| of_type().find(matching))
        .or_else(|| of_type().find(|v| v.attach == attach))
        .or_else(|| of_type().next())?;
    SETS.get(usize::from(found.set))
}

/// Whether a program of this kind may call the helper. `None` for kinds no table knows (`ext`,
/// `lirc_mode2`).
#[must_use]
pub(super) fn helper_avail(kind: &Kind<'_>, id: i32) -> Option<Avail> {
    let lsm = kind.prog_type == ProgType::Lsm;
    if lsm || (kind.prog_type == ProgType::Tracing && kind.is_trampoline()) {
        return Some(unmeasured(kind, id, lsm));
    }
    let set = set_of(kind)?;
    Some(if has(&set.yes, id) {
        Avail::Yes
    } else if has(&set.sleep, id) {
        // The measured kind that is closest may be one that does not sleep.
        if kind.sleepable { Avail::Yes } else { Avail::MightSleep }
    } else if has(&set.probe, id) {
        Avail::NotInProbe
    } else if has(&set.func_ip, id) {
        Avail::FuncIp
    } else {
        Avail::No
    })
}

/// LSM hooks and trampolines: what `tp_btf` may call, plus what 6.12 lists for them.
fn unmeasured(kind: &Kind<'_>, id: i32, lsm: bool) -> Avail {
    let tp_btf = Kind {
        prog_type: ProgType::Tracing,
        attach: Some(AttachType::TraceRawTp),
        sleepable: false,
        target: Some("tp_btf/sched_switch"),
    };
    // `cgroup_common_func_proto`, which `bpf_lsm_func_proto` asks first.
    if kind.attach == Some(AttachType::LsmCgroup) && COMMON_TO_CGROUPS.contains(&id) {
        return Avail::Yes;
    }
    let base = helper_avail(&tp_btf, id).unwrap_or(Avail::No);
    let listed =
        UNMEASURED.iter().any(|r| i32::from(r.0) == id && if lsm { r.1 || r.2 } else { r.2 });
    match base {
        Avail::MightSleep if kind.sleepable => Avail::Yes,
        // check_get_func_ip: what is entered through a trampoline has one.
        Avail::FuncIp if !lsm => Avail::Yes,
        Avail::No | Avail::FuncIp if listed => Avail::Yes,
        other => other,
    }
}
