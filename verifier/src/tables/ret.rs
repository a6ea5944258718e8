//! What a program may return (`check_return_code`).

use super::avail::Kind;
use crate::proto::RetRange;
use bpf::uapi::{AttachType, ProgType};

const fn range(min: i32, max: i32) -> RetRange {
    RetRange::Range { min, max, is32: false }
}

/// The rule for a kind of program.
#[must_use]
pub(super) fn return_range(kind: &Kind<'_>) -> RetRange {
    use AttachType as A;
    let attach = kind.attach.unwrap_or(AttachType::CgroupInetIngress);
    match kind.prog_type {
        ProgType::Kprobe => match attach {
            A::TraceKprobeSession | A::TraceUprobeSession => range(0, 1),
            _ => RetRange::Any,
        },
        ProgType::CgroupSkb => match attach {
            A::CgroupInetEgress => range(0, 3),
            _ => range(0, 1),
        },
        ProgType::CgroupSockAddr => sock_addr(attach),
        ProgType::CgroupSock
        | ProgType::SockOps
        | ProgType::CgroupDevice
        | ProgType::CgroupSysctl
        | ProgType::CgroupSockopt
        | ProgType::SkLookup
        | ProgType::Netfilter => range(0, 1),
        ProgType::Tracing => match attach {
            A::TraceFentry | A::TraceFexit => range(0, 0),
            A::TraceIter => range(0, 1),
            _ => RetRange::Any,
        },
        // Hooks that return an error; those that return a boolean are `Range(0, 1)` there.
        ProgType::Lsm => match attach {
            A::LsmCgroup => range(0, 1),
            _ => RetRange::Range { min: -4095, max: 0, is32: true },
        },
        _ => RetRange::Any,
    }
}

fn sock_addr(attach: AttachType) -> RetRange {
    use AttachType::*;
    match attach {
        CgroupInet4Bind | CgroupInet6Bind => range(0, 3),
        CgroupUdp4Recvmsg
        | CgroupUdp6Recvmsg
        | CgroupUnixRecvmsg
        | CgroupInet4Getpeername
        | CgroupInet6Getpeername
        | CgroupUnixGetpeername
        | CgroupInet4Getsockname
        | CgroupInet6Getsockname
        | CgroupUnixGetsockname => range(1, 1),
        _ => range(0, 1),
    }
}

/// Members of struct_ops that return nothing: R0 need not be set at exit.
pub(super) fn is_void_member(target: &str) -> bool {
    const VOID: &[&str] = &[
        "cong_avoid",
        "init",
        "release",
        "cong_control",
        "set_state",
        "cwnd_event",
        "in_ack_event",
        "pkts_acked",
    ];
    target.strip_prefix("tcp_congestion_ops/").is_some_and(|m| VOID.contains(&m))
}
