//! Which events a pattern means.

use kernel_model::alloc::Wrong;
use kernel_model::cpu::{CancelledBy, FaultKind};
use kernel_model::event::UpFields;
use kernel_model::helpers::bare;
use kernel_model::sched::is_named;
use kernel_model::{CpuId, Errno, Event as Happened, EventKind};
use scenarios::leaf::{Data, Is, Leaf};
use scenarios::schema::expect::DeadlockKind;
use scenarios::schema::expect::Misuse;
use scenarios::schema::packet::HexBytes;
use scenarios::schema::{Event, Layer, Name};
use scenarios::tree::{Kind, Node};
use scenarios::{Finding, Span, Spanned};

use super::data::Difference;
use super::packet::{self, Captures as _};
use super::{Run, RunError, wire};

/// Stands for every value that is no verdict of XDP.
pub(super) const XDP_INVALID: u32 = 5;

/// Stands for every value that is no verdict of tc.
pub(super) const TC_UNKNOWN: u32 = 9;

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
    ("TC_ACT_TRAP", 8),
    ("TC_ACT_UNKNOWN", TC_UNKNOWN),
    ("TCX_NEXT", u32::MAX),
    ("TCX_PASS", 0),
    ("TCX_DROP", 2),
    ("TCX_REDIRECT", 7),
];

/// What a result counts as.
pub(super) fn verdict(raw: u32, xdp: bool) -> u32 {
    match (xdp, raw) {
        (true, _) => raw.min(XDP_INVALID),
        (false, u32::MAX) => raw,
        (false, _) => raw.min(TC_UNKNOWN),
    }
}

/// The number of a return code, with or without its prefix, for a program type.
pub(super) fn code(name: &str, xdp: bool) -> Option<u32> {
    let prefixes: &[&str] = if xdp { &["", "XDP_"] } else { &["", "TC_ACT_", "TCX_"] };
    let found = prefixes.iter().find_map(|p| {
        let full = format!("{p}{name}");
        CODES.iter().find(|c| c.0 == full && (c.0.starts_with("XDP_") == xdp))
    });
    found.map(|c| c.1)
}

/// Whether something happened on the CPU that is asked for.
fn on(wanted: Option<&Spanned<u32>>, cpu: CpuId) -> bool {
    wanted.is_none_or(|w| w.v == cpu.0)
}

/// The number of a result; a pointer into stack or text is some number other than 0.
fn raw(value: kernel_model::event::Value) -> u64 {
    match value {
        kernel_model::event::Value::Num(n) => n,
        _ => 1,
    }
}

impl Run<'_> {
    pub(super) fn is_xdp(&self, prog: kernel_model::ProgId) -> bool {
        let kind = self.machine.kernel.prog(prog).map(kernel_model::Prog::prog_type);
        kind == Some(bpf::uapi::ProgType::Xdp)
    }

    /// Whether a return value is what a pattern says.
    pub(super) fn ret_matches(
        &self,
        pattern: &Node,
        ret: u64,
        prog: Option<kernel_model::ProgId>,
    ) -> Result<bool, RunError> {
        self.value_matches(pattern, i64::from(ret as u32 as i32), prog)
    }

    /// Whether a number, a return value as it is or one of a system call, is what a pattern says.
    pub(super) fn value_matches(
        &self,
        pattern: &Node,
        value: i64,
        prog: Option<kernel_model::ProgId>,
    ) -> Result<bool, RunError> {
        match &pattern.kind {
            Kind::Name(n) if n == "_" => Ok(true),
            Kind::Name(n) if n == "NULL" => Ok(value == 0),
            Kind::Name(n) => {
                let code = prog.and_then(|p| code(n, self.is_xdp(p)));
                let errno = Errno::from_name(n).map(|e| -(e as i64));
                match code.map(|c| i64::from(c as i32)).or(errno) {
                    Some(wanted) => Ok(value == wanted),
                    None => {
                        let message = format!("{n} is no return code");
                        Err(RunError::input(pattern.span, message))
                    }
                }
            }
            Kind::Call(n, args) if n == "Not" && args.len() == 1 => {
                Ok(!self.value_matches(&args[0], value, prog)?)
            }
            Kind::Call(n, args) if n == "OneOf" && args.len() == 1 => {
                let Kind::List(items) = &args[0].kind else {
                    return Err(RunError::input(pattern.span, "OneOf takes a list"));
                };
                for item in items {
                    if self.value_matches(item, value, prog)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(Is::<i64>::from_node(pattern)?.matches(&value)),
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
                self.prog_is(prog.as_ref(), *found)? && on(cpu.as_ref(), happened.cpu)
            }
            (Event::Enter { prog, cpu }, EventKind::TailCall { to, .. }) => {
                self.prog_is(prog.as_ref(), *to)? && on(cpu.as_ref(), happened.cpu)
            }
            (Event::Exit { prog, ret }, EventKind::Exit { prog: found, ret: value }) => {
                self.prog_is(prog.as_ref(), *found)?
                    && match ret {
                        Some(r) => self.ret_matches(&r.node, *value, Some(*found))?,
                        None => true,
                    }
            }
            (
                Event::Call { func, prog, nth, ret },
                EventKind::HelperCall { prog: found, name, ret: value, nth: number, .. },
            ) => {
                func.as_ref().is_none_or(|f| bare(&f.v) == bare(name))
                    && self.prog_is(prog.as_ref(), *found)?
                    && nth.is_none_or(|n| n == u64::from(*number) + 1)
                    && match (ret, value) {
                        (Some(r), Some(value)) => self.ret_matches(&r.node, raw(*value), None)?,
                        (Some(_), None) => false,
                        (None, _) => true,
                    }
            }
            (
                Event::Call { func, prog, nth, ret: Some(r) },
                EventKind::HelperReturn { prog: found, name, ret: value, nth: number },
            ) => {
                func.as_ref().is_none_or(|f| bare(&f.v) == bare(name))
                    && self.prog_is(prog.as_ref(), *found)?
                    && nth.is_none_or(|n| n == u64::from(*number) + 1)
                    && self.ret_matches(&r.node, raw(*value), None)?
            }
            (Event::Out { on, packet }, EventKind::Out { nic, packet: bytes }) => {
                let there = match on {
                    Some(name) => self.nic(name)? == *nic,
                    None => true,
                };
                there
                    && match packet {
                        Some(p) if named(p) => {
                            let layers = self.expected_layers(p, *nic, self.s.span)?;
                            wire::mismatch(&layers, bytes).is_none()
                        }
                        Some(p) => wire::mismatch(p, bytes).is_none(),
                        None => true,
                    }
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
            (Event::Cancelled { prog, by }, EventKind::Cancelled { prog: found, by: cause }) => {
                self.prog_is(prog.as_ref(), *found)? && by.is_none_or(|b| cause_of(b) == *cause)
            }
            (Event::Memory { kind, prog, object }, EventKind::Fault { prog: found, fault }) => {
                let FaultKind::Memcheck(report) = &fault.kind else { return Ok(false) };
                let program = report.at.prog.or(*found);
                kind.is_none_or(|k| misuse(k) == report.wrong)
                    && object.as_ref().is_none_or(|o| o.v == report.allocated.what)
                    && match (prog, program) {
                        (Some(name), Some(id)) => self.prog(name)? == id,
                        (wanted, _) => wanted.is_none(),
                    }
            }
            (Event::Race { on, prog }, EventKind::Race(race)) => {
                let wanted = prog.as_ref().map(|p| self.prog(p)).transpose()?;
                let sides = [&race.first, &race.second];
                let is_one = |p| sides.iter().any(|s| s.at.is_some_and(|at| at.0 == p));
                on.as_ref().is_none_or(|n| n.v == race.on) && wanted.is_none_or(is_one)
            }
            (Event::RcuStall { cpu, prog }, EventKind::RcuStall(stall)) => {
                let wanted = prog.as_ref().map(|p| self.prog(p)).transpose()?;
                stall
                    .holders
                    .iter()
                    .any(|(s, _)| on(cpu.as_ref(), s.cpu) && (wanted.is_none() || s.prog == wanted))
            }
            (
                Event::Deadlock { kind, lock, holding, cpu },
                EventKind::Deadlock { kind: found, lock: wanted, holding: held, .. },
            ) => {
                let held = held.as_deref().unwrap_or_default();
                kind.is_none_or(|k| kind_of(k) == *found)
                    && on(cpu.as_ref(), happened.cpu)
                    && lock.as_ref().is_none_or(|l| self.is_lock(&l.v, wanted))
                    && holding.as_ref().is_none_or(|l| self.is_lock(&l.v, held))
            }
            (Event::LockOrder { lock, holding }, EventKind::LockOrder(order)) => {
                order.pairs.iter().any(|(held, wanted)| {
                    lock.as_ref().is_none_or(|l| self.is_lock(&l.v, wanted))
                        && holding.as_ref().is_none_or(|l| self.is_lock(&l.v, held))
                })
            }
            (Event::Drop { reason }, EventKind::Drop { reason: found }) => {
                reason.as_ref().is_none_or(|r| r.v == *found)
            }
            (Event::Switch { cpu, from, to }, EventKind::Switch { from: left, to: came, .. }) => {
                let is = |name: &Option<Name>, found: &str| {
                    name.as_ref().is_none_or(|n| is_named(found, &n.v))
                };
                on(cpu.as_ref(), happened.cpu) && is(from, left) && is(to, came)
            }
            (Event::Stall { task }, EventKind::Stall { task: found, .. }) => {
                task.as_ref().is_none_or(|n| is_named(found, &n.v))
            }
            (Event::Line { at }, EventKind::Note { topic, text }) => {
                *topic == crate::machine::path::LINE && at.v == *text
            }
            _ => false,
        })
    }

    /// Whether a lock's name is that of a scenario, where an object's name may stand before it.
    fn is_lock(&self, wanted: &str, found: &str) -> bool {
        let short = wanted.split_once('.').filter(|(o, _)| self.s.objects.get(o).is_some());
        wanted == found || short.is_some_and(|(_, name)| name == found)
    }

    /// Layers of an expected packet: what stands for others is replaced.
    pub(super) fn expected_layers(
        &self,
        layers: &[Layer],
        nic: u32,
        span: Span,
    ) -> Result<Vec<Layer>, RunError> {
        let find = |name: &str| self.s.packets.get(name).cloned();
        let bad = |e| RunError::input(span, e);
        let mut out = packet::resolve(layers, &find, 0).map_err(bad)?;
        let defaults = super::load::addresses(&self.machine, nic);
        for layer in &mut out {
            if let Layer::Pcap { file, frame, from } = layer {
                let bytes = self.captures.frame(&file.v, frame.v, &defaults);
                let bytes = bytes.map_err(|e| RunError::input(file.span, e))?;
                let from = bytes.get(*from as usize..).unwrap_or_default();
                *layer = Layer::Hex(HexBytes(from.to_vec()));
            }
        }
        Ok(out)
    }

    /// What differs of the sk_buff of a packet that went up.
    pub(super) fn skb_differs(
        &self,
        wanted: &Data,
        skb: &UpFields,
    ) -> Result<Option<String>, RunError> {
        let Kind::Record(None, members) = &wanted.node.kind else {
            return Err(RunError::input(wanted.span(), "(mark: 1, ..) was expected"));
        };
        for m in members {
            let found = match m.name.as_str() {
                "mark" => u64::from(skb.mark),
                "priority" => u64::from(skb.priority),
                "vlan" => u64::from(skb.vlan),
                "hash" => u64::from(skb.hash),
                "tstamp" => skb.tstamp,
                "meta" => {
                    let meta = HexBytes::from_node(hex(&m.value))?.0;
                    if meta != skb.meta {
                        let (is, not) = (&skb.meta, meta);
                        return Ok(Some(format!("meta is {is:02x?}, expected {not:02x?}")));
                    }
                    continue;
                }
                _ => {
                    let message = format!("an sk_buff here has no `{}`", m.name);
                    let finding = Finding::error(m.name_span, message);
                    let known = "known: mark, priority, vlan, hash, tstamp, meta";
                    return Err(finding.hint(known).into());
                }
            };
            if !Is::<u64>::from_node(&m.value)?.matches(&found) {
                return Ok(Some(format!("{} of the sk_buff is {found}", m.name)));
            }
        }
        Ok(None)
    }

    /// Says which events have no machinery yet, and has those reported that are asked for.
    pub(super) fn watch_lines(&mut self) -> Result<(), RunError> {
        for event in super::watch::events(self.s) {
            let what = match event {
                Event::Line { at } => {
                    self.watch_line(at)?;
                    continue;
                }
                Event::SchedExit { .. } => "sched_ext",
                _ => continue,
            };
            return Err(RunError::unsupported(self.s.span, what));
        }
        Ok(())
    }

    fn watch_line(&mut self, at: &Name) -> Result<(), RunError> {
        let bad = |m: String, hint: String| RunError::from(Finding::error(at.span, m).hint(hint));
        let place = at.v.rsplit_once(':').and_then(|(f, n)| Some((f, n.parse::<u32>().ok()?)));
        let Some((file, number)) = place else {
            let message = format!("`{}` is no line of source", at.v);
            return Err(bad(message, "write \"file.bpf.c:17\"".to_owned()));
        };
        let (mut found, mut known) = (Vec::new(), std::collections::BTreeSet::new());
        for p in self.machine.kernel.progs() {
            let mut last = 0;
            for l in &p.verified.program().lines {
                if l.file == file || l.file.ends_with(&format!("/{file}")) {
                    known.insert(l.line);
                    if l.line == number && last != number {
                        found.push((p.id, l.insn));
                    }
                }
                last = l.line;
            }
        }
        if found.is_empty() {
            let known: Vec<String> = known.iter().map(u32::to_string).collect();
            let message = format!("no instruction of a program comes from {}", at.v);
            let known = match known.is_empty() {
                true => format!("no program comes from {file}"),
                false => format!("lines with instructions: {}", known.join(", ")),
            };
            return Err(bad(message, known));
        }
        for (prog, insn) in found {
            self.machine.watch_line(prog, insn, &at.v);
        }
        Ok(())
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
            None => match types.record(&value.node, bytes.len()) {
                Ok(Some(ty)) => ty,
                // A record of another kind.
                Ok(None) => {
                    let why = format!("is {} bytes of another kind", bytes.len());
                    return Ok(Some(Difference { why, at: value.span(), fix: None }));
                }
                Err(names) => return Err(which_record(map, value, &names)),
            },
        };
        Ok(types.differs(&value.node, ty, bytes)?)
    }
}

fn cause_of(by: scenarios::schema::expect::CancelledBy) -> CancelledBy {
    use scenarios::schema::expect::CancelledBy as By;
    match by {
        By::Watchdog => CancelledBy::Watchdog,
        By::Throw => CancelledBy::Throw,
        By::Request => CancelledBy::Request,
        By::Fault => CancelledBy::Fault,
        By::MayGoto => CancelledBy::MayGoto,
    }
}

fn misuse(kind: Misuse) -> Wrong {
    match kind {
        Misuse::UseAfterFree => Wrong::UseAfterFree,
        Misuse::OutsideSection => Wrong::OutsideSection,
        Misuse::OutOfBounds => Wrong::OutOfBounds,
        Misuse::DoubleFree => Wrong::DoubleFree,
        Misuse::InvalidFree => Wrong::InvalidFree,
        Misuse::Overwritten => Wrong::Overwritten,
    }
}

fn kind_of(kind: DeadlockKind) -> kernel_model::lock::DeadlockKind {
    match kind {
        DeadlockKind::Aa => kernel_model::lock::DeadlockKind::Aa,
        DeadlockKind::Abba => kernel_model::lock::DeadlockKind::Abba,
        DeadlockKind::Timeout => kernel_model::lock::DeadlockKind::Timeout,
    }
}

/// Records whose type nothing says.
fn which_record(map: &Name, value: &Data, names: &[&str]) -> RunError {
    let message = format!("what struct are the records of {}?", map.v);
    let finding = scenarios::Finding::error(value.span(), message);
    let hint = match names {
        [] => "no struct of the object has these members; `struct event *unused \
               __attribute__((unused));` keeps one in it"
            .to_owned(),
        names => {
            format!("say which: record: {:?} in its consumer, or as: .. here", names.join("|"))
        }
    };
    RunError::from(finding.hint(hint))
}

/// Whether layers stand for those of another packet or of a capture.
fn named(layers: &[Layer]) -> bool {
    layers.iter().any(|l| matches!(l, Layer::Like(_) | Layer::Pcap { .. }))
}

/// The text of `Hex("..")`, or the text itself.
fn hex(node: &Node) -> &Node {
    match &node.kind {
        Kind::Call(name, args) if name == "Hex" && args.len() == 1 => &args[0],
        _ => node,
    }
}
