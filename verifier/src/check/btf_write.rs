//! Members of kernel structures that programs may write: `btf_struct_access` of the program type.

use bpf::btf::Kind;
use bpf::uapi::ProgType;

use crate::btf::BtfSrc;
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no};
use crate::reject::EACCES;

/// A structure some programs may write parts of.
struct Writable {
    /// Structures with this layout.
    types: &'static [&'static str],
    /// Members, and whether parts of one may be written; all of it when empty.
    members: &'static [(&'static str, bool)],
    /// Structure that offsets are reported for.
    name: &'static str,
    /// Message for other structures.
    other: &'static str,
}

const ONLY_READ: &str = "only read is supported";

/// `nf_conntrack_btf_struct_access`.
const CONNTRACK: Writable = Writable {
    types: &["nf_conn", "nf_conn___init"],
    members: &[("mark", false)],
    name: "nf_conn",
    other: ONLY_READ,
};

/// `bpf_dummy_ops_btf_struct_access`.
const DUMMY: Writable = Writable {
    types: &["bpf_dummy_ops_state"],
    members: &[],
    name: "bpf_dummy_ops_state",
    other: "only access to bpf_dummy_ops_state is supported",
};

/// `bpf_tcp_ca_btf_struct_access`.
const TCP_CA: Writable = Writable {
    types: &["tcp_sock"],
    members: &[
        ("sk_pacing_rate", false),
        ("sk_pacing_status", false),
        ("icsk_ca_priv", true),
        ("icsk_ack.pending", false),
        ("snd_cwnd", false),
        ("snd_cwnd_cnt", false),
        ("snd_cwnd_stamp", false),
        ("snd_ssthresh", false),
        ("ecn_flags", false),
        ("app_limited", false),
    ],
    name: "tcp_sock",
    other: ONLY_READ,
};

impl Ver<'_> {
    /// The table of the program; `None` when nothing may be written.
    fn write_table(&self) -> Option<&'static Writable> {
        match self.prog_type() {
            ProgType::SchedCls | ProgType::SchedAct | ProgType::Xdp => Some(&CONNTRACK),
            ProgType::StructOps => match self.ops_name() {
                "bpf_dummy_ops" => Some(&DUMMY),
                "tcp_congestion_ops" => Some(&TCP_CA),
                _ => None,
            },
            _ => None,
        }
    }

    /// `env->ops->btf_struct_access` of a write. False: the program type has none.
    pub(super) fn write_hook(&self, p: &RegState, off: i32, size: u32) -> R<bool> {
        let Some(w) = self.write_table() else { return Ok(false) };
        let name = self.btf_name(p.btf, p.btf_id);
        if p.btf != BtfSrc::Vmlinux || !w.types.contains(&name) {
            return no(EACCES, w.other);
        }
        let btf = self.btf_of(p.btf);
        let (begin, end) = (i64::from(off), i64::from(off) + i64::from(size));
        let whole = btf.and_then(|b| b.size_of(p.btf_id)).unwrap_or(0);
        if w.members.is_empty() {
            if end > i64::from(whole) {
                return no(EACCES, format!("write access at off {off} with size {size}"));
            }
            return Ok(true);
        }
        let found = w.members.iter().find_map(|(m, parts)| {
            let (from, to) = self.member_range(p.btf_id, m)?;
            let inside = *parts && i64::from(from) < begin && begin < i64::from(to);
            (i64::from(from) == begin || inside).then_some(to)
        });
        let Some(stop) = found else {
            return no(EACCES, format!("no write support to {} at off {off}", w.name));
        };
        if end > i64::from(stop) {
            let m = format!("beyond the member of {} ended at {stop}", w.name);
            return no(EACCES, format!("write access at off {off} with size {size} {m}"));
        }
        Ok(true)
    }

    /// Begin and end of a member, looked for in the structures that come first in this one.
    fn member_range(&self, ty: u32, path: &str) -> Option<(u32, u32)> {
        let btf = self.input.env.btf()?;
        let mut ty = ty;
        loop {
            let mut at = (0, ty);
            let found = path.split('.').all(|part| match btf.member(at.1, part) {
                Some(m) => {
                    at = (at.0 + m.bit_off / 8, m.ty);
                    true
                }
                None => false,
            });
            if found {
                return Some((at.0, at.0 + btf.size_of(at.1)?));
            }
            let first = btf.members(ty).next()?;
            ty = btf.resolve(first.ty);
            if first.bit_off != 0 || btf.kind(ty) != Kind::Struct {
                return None;
            }
        }
    }

    /// The structure of a struct_ops program's member.
    pub(crate) fn ops_name(&self) -> &str {
        let target = self.input.program.attach_to.as_deref().unwrap_or_default();
        target.split('/').next().unwrap_or_default()
    }
}
