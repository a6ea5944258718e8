//! Which events a pattern means.

use kernel_model::{Errno, Event as Happened, EventKind};
use scenarios::leaf::{Data, Is, Leaf};
use scenarios::schema::{Event, Name};
use scenarios::tree::Kind;

use super::data::Difference;
use super::{Run, RunError, wire};

/// Stands for every value that is no verdict of XDP.
pub(super) const XDP_INVALID: u32 = 5;

/// Verdict names by program type, for `ret` patterns and histograms.
const CODES: &[(&str, u32)] = &[
    ("XDP_ABORTED", 0),
    ("XDP_DROP", 1),
    ("XDP_PASS", 2),
    ("XDP_TX", 3),
    ("XDP_REDIRECT", 4),
    ("XDP_INVALID", XDP_INVALID),
    ("TC_ACT_UNSPEC", u32::MAX),
    ("TC_ACT_OK", 0),
    ("TC_ACT_RECLASSIFY", 1),
    ("TC_ACT_SHOT", 2),
    ("TC_ACT_PIPE", 3),
    ("TC_ACT_STOLEN", 4),
    ("TC_ACT_QUEUED", 5),
    ("TC_ACT_REPEAT", 6),
    ("TC_ACT_REDIRECT", 7),
    ("TCX_NEXT", u32::MAX),
    ("TCX_PASS", 0),
    ("TCX_DROP", 2),
    ("TCX_REDIRECT", 7),
];

/// The number of a return code, with or without its prefix, for a program type.
pub(super) fn code(name: &str, xdp: bool) -> Option<u32> {
    let prefixes: &[&str] = if xdp { &["", "XDP_"] } else { &["", "TC_ACT_", "TCX_"] };
    let found = prefixes.iter().find_map(|p| {
        let full = format!("{p}{name}");
        CODES.iter().find(|c| c.0 == full && (c.0.starts_with("XDP_") == xdp))
    });
    found.map(|c| c.1)
}

impl Run<'_> {
    fn is_xdp(&self, prog: kernel_model::ProgId) -> bool {
        let kind = self.machine.kernel.prog(prog).map(kernel_model::Prog::prog_type);
        kind == Some(bpf::uapi::ProgType::Xdp)
    }

    /// Whether a return value is what a pattern says.
    pub(super) fn ret_matches(
        &self,
        pattern: &Data,
        ret: u64,
        prog: Option<kernel_model::ProgId>,
    ) -> Result<bool, RunError> {
        let value = i64::from(ret as u32 as i32);
        match &pattern.node.kind {
            Kind::Name(n) if n == "_" => Ok(true),
            Kind::Name(n) if n == "NULL" => Ok(ret == 0),
            Kind::Name(n) => {
                let code = prog.and_then(|p| code(n, self.is_xdp(p)));
                let errno = Errno::from_name(n).map(|e| -(e as i64));
                match code.map(|c| i64::from(c as i32)).or(errno) {
                    Some(wanted) => Ok(value == wanted),
                    None => {
                        let message = format!("{n} is no return code");
                        Err(RunError::input(pattern.span(), message))
                    }
                }
            }
            _ => Ok(Is::<i64>::from_node(&pattern.node)?.matches(&value)),
        }
    }

    fn prog_is(
        &self,
        wanted: Option<&Name>,
        found: kernel_model::ProgId,
    ) -> Result<bool, RunError> {
        match wanted {
            Some(name) => Ok(self.prog(name)? == found),
            None => Ok(true),
        }
    }

    /// Whether something that happened is an event of that kind.
    // tidy: flat match
    pub(super) fn event_matches(
        &self,
        wanted: &Event,
        happened: &Happened,
    ) -> Result<bool, RunError> {
        Ok(match (wanted, &happened.kind) {
            (Event::Enter { prog, cpu }, EventKind::Enter { prog: found }) => {
                self.prog_is(prog.as_ref(), *found)? && cpu.is_none_or(|c| c == happened.cpu.0)
            }
            (Event::Enter { prog, cpu }, EventKind::TailCall { to, .. }) => {
                self.prog_is(prog.as_ref(), *to)? && cpu.is_none_or(|c| c == happened.cpu.0)
            }
            (Event::Exit { prog, ret }, EventKind::Exit { prog: found, ret: value }) => {
                self.prog_is(prog.as_ref(), *found)?
                    && match ret {
                        Some(r) => self.ret_matches(r, *value, Some(*found))?,
                        None => true,
                    }
            }
            (
                Event::Call { func, prog, nth, ret },
                EventKind::HelperCall { prog: found, name, ret: value, nth: number, .. },
            ) => {
                let named = func.as_ref().is_none_or(|f| bare(&f.v) == bare(name));
                let value = match value {
                    Some(kernel_model::event::Value::Num(n)) => *n,
                    _ => 1,
                };
                named
                    && self.prog_is(prog.as_ref(), *found)?
                    && nth.is_none_or(|n| n == u64::from(*number) + 1)
                    && match ret {
                        Some(r) => self.ret_matches(r, value, None)?,
                        None => true,
                    }
            }
            (Event::Out { on, packet }, EventKind::Out { nic, packet: bytes }) => {
                let there = match on {
                    Some(name) => self.nic(name)? == *nic,
                    None => true,
                };
                there && packet.as_ref().is_none_or(|p| wire::mismatch(p, bytes).is_none())
            }
            (Event::Record { map, value, record }, EventKind::Record { map: found, data }) => {
                self.record_matches(map.as_ref(), value.as_ref(), record.as_ref(), *found, data)?
            }
            (
                Event::Tracepoint { name, args },
                EventKind::Tracepoint { name: found, args: seen },
            ) => {
                let short = name.v.rsplit([':', '/']).next().unwrap_or(&name.v);
                short == *found && self.args_match(found, args.as_ref(), seen)?
            }
            (Event::Injected { fault }, EventKind::Injected { fault: found, .. }) => {
                fault.as_ref().is_none_or(|f| f.v == *found)
            }
            (Event::Drop { reason }, EventKind::Drop { reason: found }) => {
                reason.as_ref().is_none_or(|r| r.v == *found)
            }
            (
                Event::Line { .. }
                | Event::Deadlock { .. }
                | Event::Cancelled { .. }
                | Event::Switch { .. }
                | Event::SchedExit { .. }
                | Event::Stall { .. },
                _,
            ) => return Err(RunError::unsupported(self.s.span, "this kind of event")),
            _ => false,
        })
    }

    fn record_matches(
        &self,
        map: Option<&Name>,
        value: Option<&Data>,
        record: Option<&Name>,
        found: kernel_model::maps::MapId,
        data: &[u8],
    ) -> Result<bool, RunError> {
        let there = match map {
            Some(name) => self.map(name)?.0 == found,
            None => true,
        };
        Ok(there
            && match (value, map) {
                (Some(v), Some(name)) => self.record_differs(name, record, v, data)?.is_none(),
                (Some(v), None) => {
                    let message = "a record's value needs its map";
                    return Err(RunError::input(v.span(), message));
                }
                (None, _) => true,
            })
    }

    /// Whether a record is what is expected, by its BTF type.
    pub(super) fn record_differs(
        &self,
        map: &Name,
        record: Option<&Name>,
        value: &Data,
        bytes: &[u8],
    ) -> Result<Option<Difference>, RunError> {
        let at = self.map(map)?;
        let Some(types) = self.types(at.1) else {
            return Err(RunError::input(value.span(), "the object has no BTF"));
        };
        let consumer = self.s.consumers.iter().find_map(|(_, c)| match c {
            scenarios::schema::Consumer::Ringbuf { map: m, record, .. }
            | scenarios::schema::Consumer::Perf { map: m, record, .. }
                if m.v == map.v =>
            {
                record.as_ref()
            }
            _ => None,
        });
        let own = self.entry(at).value_type;
        let ty = match record.or(consumer) {
            Some(name) => types
                .btf
                .find(&name.v, bpf::btf::Kind::Struct)
                .ok_or_else(|| RunError::input(name.span, format!("no struct {}", name.v)))?,
            None if own != 0 => own,
            None => {
                let message = format!("what struct are the records of {}?", map.v);
                return Err(RunError::Input(Box::new(
                    scenarios::Finding::error(value.span(), message)
                        .hint("name it in the consumer: Ringbuf(map: .., record: \"event\")"),
                )));
            }
        };
        Ok(types.differs(&value.node, ty, bytes)?)
    }
}

/// Name of a helper or kfunc without the prefix that most have.
fn bare(name: &str) -> &str {
    name.strip_prefix("bpf_").unwrap_or(name)
}
