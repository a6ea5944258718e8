//! What must hold at the end, and what is always checked without being written.

use std::collections::BTreeMap;

use scenarios::leaf::{Data, Is, Leaf as _, suggest};
use scenarios::schema::expect::{ListOrder, On, Others};
use scenarios::schema::{Event, Expect, Name, NamedCounts};
use scenarios::tree::Kind;
use scenarios::{Finding, Span};

use super::data::Difference;
use super::streams::Wanted;
use super::watch::{Code, Eventually, Item, Packets};
use super::{Failure, FailureKind, Run, RunError, matching};

/// Places of a verdict that are shown.
pub(super) const PLACES: usize = 4;
/// Failures of one run beyond which no more are told: a `Check` may stand in an `Every`.
const FAILURES_MAX: usize = 200;

pub(super) type Checked = Result<(), RunError>;

impl Run<'_> {
    /// All expectations, then what is always checked.
    pub(super) fn expectations(&mut self) -> Checked {
        let s = self.s;
        // A run that met what is not modelled says nothing about what was expected of it.
        if let Some(what) = self.watch.unsupported.take() {
            return Err(RunError::unsupported(s.span, what));
        }
        for expect in &s.expect {
            self.check(expect)?;
        }
        let ops = std::mem::take(&mut self.watch.ops);
        ops.into_iter().for_each(|f| self.tell(f));
        self.always();
        Ok(())
    }

    pub(super) fn fail(&mut self, span: Span, message: impl Into<String>) {
        self.fail_fix(span, message, None);
    }

    fn tell(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_MAX && !self.failures.iter().any(|f| same(f, &failure)) {
            self.failures.push(failure);
        }
    }

    /// A failure with what would be right, where the file says something at all.
    fn fail_fix(&mut self, span: Span, message: impl Into<String>, fix: Option<(Span, String)>) {
        let fix = fix.filter(|(at, _)| at.end > 0);
        let at = Some(self.machine.insns());
        self.tell(Failure { at, fix, ..Failure::new(span, message.into()) });
    }

    /// A value that is not what was expected.
    pub(super) fn fail_at(&mut self, what: &str, d: Difference) {
        let fix = d.fix.map(|text| (d.at, text));
        self.fail_fix(d.at, format!("{what}{}", d.why), fix);
    }

    /// One expectation, now.
    // tidy: flat match
    pub(super) fn check(&mut self, expect: &Expect) -> Checked {
        match expect {
            Expect::Verdicts { prog, are } => self.verdicts(prog, are),
            Expect::Packets { on, .. } => {
                self.packets(on, expect);
                Ok(())
            }
            Expect::Drops { are } => {
                for (name, _) in &are.0 {
                    if !kernel_model::net::is_drop_reason(&name.v) {
                        let message = format!("{} is no reason for a drop", name.v);
                        return Err(RunError::input(name.span, message));
                    }
                }
                self.drops(are);
                Ok(())
            }
            Expect::Map { map, has, lacks, holds, len, cpu } => {
                has.iter().try_for_each(|d| self.map_has(map, d, cpu.as_ref().map(|c| c.v)))?;
                lacks.iter().try_for_each(|d| self.map_lacks(map, d))?;
                if let Some(list) = holds {
                    self.map_holds(map, list)?;
                }
                match len {
                    Some(l) => {
                        let id = self.map(map)?.0;
                        let found = self.machine.kernel.map_len(id);
                        let what = format!("elements of {}", map.v);
                        self.number(&l.v, found, l.span, &what);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            Expect::Global { name, is } => self.global_is(name, is),
            Expect::Sequence(_)
            | Expect::AnyOrder(_)
            | Expect::Count { .. }
            | Expect::Never(_)
            | Expect::Eventually { .. }
            | Expect::Latency { .. } => {
                let watch = std::mem::take(&mut self.watch);
                if let Some(item) = watch.item(expect) {
                    self.events(expect, item);
                }
                self.watch = watch;
                Ok(())
            }
            Expect::Records { map, are, order, rest, lost, record } => {
                let default = match order {
                    ListOrder::Exact => Others::Forbid,
                    ListOrder::Any => Others::Allow,
                };
                let rule = (*order, rest.unwrap_or(default));
                self.records(map, are, rule, record.as_ref())?;
                if let Some(l) = lost {
                    let found = self.watch.lost;
                    self.number(&l.v, found, l.span, "lost records");
                }
                Ok(())
            }
            Expect::Accepted { prog, insns, states, stack } => {
                // Its rejection is told already, with the reason.
                if self.refused(prog).is_some() {
                    return Ok(());
                }
                let id = self.prog(prog)?;
                let p = self.machine.kernel.prog(id).expect("found by name");
                let stats = *p.verified.stats();
                let counts = [
                    (insns, stats.insns_processed, "instructions processed"),
                    (states, stats.total_states, "states"),
                    (stack, stats.stack_depth, "bytes of stack"),
                ];
                for (pattern, found, what) in counts {
                    if let Some(p) = pattern {
                        self.number(&p.v, found.into(), p.span, what);
                    }
                }
                Ok(())
            }
            Expect::Rejected { prog, errno, log, at, archs } => {
                let here = self.machine.arch().name();
                if archs.is_empty() || archs.iter().any(|a| a.v.name() == here) {
                    self.rejected(prog, errno.as_ref(), log, at.as_ref())
                } else {
                    Ok(())
                }
            }
            Expect::Budget { prog, insns, total } => self.budget(prog, insns, total),
            Expect::Stream { prog, of, has, lacks, bytes } => {
                self.stream(prog, &Wanted { of: *of, has, lacks, bytes: bytes.as_ref() })
            }
            Expect::Share { task, is } => {
                for (name, permille) in self.shares(task) {
                    self.number(&is.v, permille, is.span, &format!("permille of a CPU for {name}"));
                }
                Ok(())
            }
            Expect::Leaks(_) | Expect::Differs { .. } => Ok(()),
        }
    }

    pub(super) fn number(&mut self, pattern: &Is<u64>, found: u64, span: Span, what: &str) {
        if !pattern.matches(&found) {
            let wanted = show(pattern);
            let message = format!("expected {wanted} {what}, found {found}");
            self.fail_fix(span, message, Some((span, found.to_string())));
        }
    }

    fn verdicts(&mut self, prog: &Name, are: &NamedCounts) -> Checked {
        let id = self.prog(prog)?;
        let kind = self.machine.kernel.prog(id).map(kernel_model::Prog::prog_type);
        let xdp = kind == Some(bpf::uapi::ProgType::Xdp);
        let found = self.watch.verdicts.get(&id).cloned().unwrap_or_default();
        let mut listed = Vec::new();
        for (name, count) in &are.0 {
            let Some(code) = matching::code(&name.v, xdp) else {
                let message = format!("{} is no return code of {}", name.v, prog.v);
                let all = if xdp { 0..=matching::XDP_INVALID } else { 0..=matching::TC_UNKNOWN };
                let known: Vec<&str> = all.map(|c| code_name(c, xdp)).collect();
                let finding = Finding::error(name.span, message);
                return Err(RunError::from(match suggest(&name.v, known.iter().copied()) {
                    Some(near) => finding.hint(format!("did you mean {near}?")),
                    None => finding.hint(format!("known: {}", known.join(", "))),
                }));
            };
            listed.push(code);
            let n = found.get(&code).map_or(0, |f| f.count);
            if !count.v.matches(&n) {
                let wanted = show(&count.v);
                let all = histogram(&found, xdp);
                let at = place_list(found.get(&code));
                let (prog, name) = (&prog.v, &name.v);
                let message = format!("{prog}: expected {wanted} {name}, found {n}{at} ({all})");
                let fix = Some((count.span, n.to_string()));
                let at = when(found.get(&code));
                self.tell(Failure { at, fix, ..Failure::new(count.span, message) });
            }
        }
        let end = are.0.last().map_or(Span::default(), |(_, count)| count.span);
        let end = Span { start: end.end, ..end };
        for (code, seen) in &found {
            if !listed.contains(code) {
                let (name, n, last) = (code_name(*code, xdp), seen.count, seen.last_packet);
                let message = format!(
                    "{}: {n} packets came to {name}, which is not listed (the last was packet \
                     {last} of this program)",
                    prog.v
                );
                let fix = Some((end, format!(", {name}: {n}")));
                let at = when(Some(seen));
                self.tell(Failure { at, fix, ..Failure::new(prog.span, message) });
            }
        }
        Ok(())
    }

    /// Packets by the kernel's reason for dropping them.
    fn drops(&mut self, are: &NamedCounts) {
        let found = self.machine.kernel.net.drops.clone();
        let all: Vec<String> = found.iter().map(|(r, n)| format!("{r}: {n}")).collect();
        let all = if all.is_empty() { "nothing was dropped".into() } else { all.join(", ") };
        for (name, count) in &are.0 {
            let n = found.get(name.v.as_str()).copied().unwrap_or(0);
            if !count.v.matches(&n) {
                let wanted = show(&count.v);
                let message = format!("expected {wanted} drops by {}, found {n} ({all})", name.v);
                self.fail(count.span, message);
            }
        }
        for (reason, n) in &found {
            if !are.0.iter().any(|(name, _)| name.v == *reason) {
                let span = are.0.first().map_or(self.s.span, |(name, _)| name.span);
                self.fail(span, format!("{n} packets dropped by {reason}, which is not listed"));
            }
        }
    }

    fn packets(&mut self, on: &On, expect: &Expect) {
        let span = on.nic().span;
        let mut told = Vec::new();
        if let Some(Item::Packets(p)) = self.watch.item(expect) {
            let here = |f: &Failure| Failure {
                span: if f.span == Span::default() { span } else { f.span },
                ..f.clone()
            };
            told.extend(p.failures.iter().map(here));
            let more = missing_or_more(p).into_iter();
            let at = (p.more.0 > 0).then_some(p.more.2);
            told.extend(more.map(|message| Failure { at, ..Failure::new(span, message) }));
        }
        told.into_iter().for_each(|f| self.tell(f));
    }

    fn global_is(&mut self, name: &Name, is: &Data) -> Checked {
        let (map, object, ty, range) = self.global(name)?;
        let all = self.machine.kernel.user_lookup(map, &[0; 4]).unwrap_or_default();
        let bytes = all.get(range).unwrap_or_default().to_vec();
        let Some(types) = self.types(object) else { return Ok(()) };
        let differs = types.differs(&is.node, ty, &bytes)?;
        if let Some(d) = differs {
            self.fail_at(&format!("{}: ", name.v), d);
        }
        Ok(())
    }

    /// What is expected of events.
    fn events(&mut self, expect: &Expect, item: &Item<'_>) {
        let at = |event: &Event| event_span(event).unwrap_or(self.s.span);
        match (expect, item) {
            (Expect::Count { is, .. }, Item::Count { count, last, .. }) => {
                let line = last.as_ref().map_or(String::new(), |l| format!(" (the last: {})", l.1));
                if !is.v.matches(count) {
                    let wanted = show(&is.v);
                    let message = format!("expected {wanted} events, found {count}{line}");
                    let kind = last.as_ref().map_or(FailureKind::Expectation, |l| l.0);
                    let (at, fix) = (Some(self.machine.insns()), (is.span, count.to_string()));
                    let fix = Some(fix).filter(|f| f.0.end > 0);
                    self.tell(Failure { kind, at, fix, ..Failure::new(is.span, message) });
                }
            }
            (Expect::Sequence(events), Item::Sequence { met, around, .. }) => {
                if let Some(wanted) = events.get(*met) {
                    let (n, around) = (met + 1, around.show());
                    let message = format!("event {n} of the sequence did not come{around}");
                    self.fail(at(wanted), message);
                }
            }
            (Expect::AnyOrder(events), Item::AnyOrder { met, .. }) => {
                for (n, (wanted, _)) in events.iter().zip(met).enumerate().filter(|e| !*e.1.1) {
                    let span = event_span(wanted).unwrap_or(self.s.span);
                    self.fail(span, format!("event {} of the list did not come", n + 1));
                }
            }
            (Expect::Never(event), Item::Never { first: Some((kind, line, when)), .. }) => {
                let (message, span) = (format!("this must not happen, but {line}"), at(event));
                let (kind, at) = (*kind, Some(*when));
                self.tell(Failure { kind, at, ..Failure::new(span, message) });
            }
            (Expect::Eventually { within, .. }, Item::Eventually(it)) => {
                self.eventually(within.v.ns, it, within.span);
            }
            (Expect::Latency { task, wakeup, percentile }, Item::Latency { waited, .. }) => {
                self.latency(task, waited, wakeup, *percentile)
            }
            _ => {}
        }
    }

    fn eventually(&mut self, within: u64, it: &Eventually<'_>, span: Span) {
        let Some(start) = it.start else {
            self.fail(span, "the event to measure from did not come");
            return;
        };
        match &it.came {
            Some((at, _)) if at - start <= within => {}
            Some((at, line)) => {
                let late = at - start;
                let message = format!("expected within {within} ns, came after {late} ns: {line}");
                self.fail(span, message);
            }
            None => {
                let message = format!("the event did not come{}", it.around.show());
                self.fail(span, message);
            }
        }
    }

    fn records(
        &mut self,
        map: &Name,
        are: &[Data],
        (order, rest): (ListOrder, Others),
        record: Option<&Name>,
    ) -> Checked {
        let id = self.map(map)?.0;
        let mut found: Vec<Vec<u8>> = if self.consumers.contains(&id.0) {
            self.consumed.get(&id.0).cloned().unwrap_or_default()
        } else {
            self.watch.records.get(&id.0).cloned().unwrap_or_default()
        };
        let more = rest == Others::Allow && found.len() > are.len();
        if found.len() != are.len() && !more {
            let message =
                format!("{}: expected {} records, {} came", map.v, are.len(), found.len());
            self.fail(map.span, message);
        }
        let mut from = 0;
        for (n, wanted) in are.iter().enumerate() {
            let candidates = match (order, rest) {
                (ListOrder::Exact, Others::Forbid) => n.min(found.len())..found.len().min(n + 1),
                (ListOrder::Exact, Others::Allow) => from..found.len(),
                (ListOrder::Any, _) => 0..found.len(),
            };
            let mut why = None;
            let mut hit = None;
            for at in candidates {
                why = self.record_differs(map, record, wanted, &found[at])?;
                if why.is_none() {
                    hit = Some(at);
                    break;
                }
            }
            match (hit, why) {
                (Some(at), _) if order == ListOrder::Any => {
                    found.remove(at);
                }
                (Some(at), _) => from = at + 1,
                (None, Some(d)) if order == ListOrder::Exact => {
                    self.fail_at(&format!("record {} of {}: ", n + 1, map.v), d);
                }
                (None, _) => {
                    let message = format!("record {} of {} did not come", n + 1, map.v);
                    self.fail(wanted.span(), message);
                }
            }
        }
        Ok(())
    }

    fn rejected(
        &mut self,
        prog: &Name,
        errno: Option<&Data>,
        log: &[scenarios::Spanned<scenarios::leaf::TextIs>],
        at: Option<&Name>,
    ) -> Checked {
        let found = self.refused(prog).map(|r| &r.rejection);
        let found = found.map(|r| (r.errno, r.log.clone(), r.message.clone()));
        let Some((number, text, message)) = found else {
            self.fail(prog.span, format!("{} was expected to be rejected and was not", prog.v));
            return Ok(());
        };
        if let Some(e) = errno {
            let known = |n: i32| kernel_model::Errno::from_raw(n.abs()).map(|e| e.name());
            let right = match &e.node.kind {
                Kind::Name(name) if name == "_" => true,
                Kind::Name(name) => known(number) == Some(name.as_str()),
                _ => Is::<i64>::from_node(&e.node)?.matches(&i64::from(number.abs())),
            };
            if !right {
                let fix = known(number).map(|name| (e.span(), name.to_owned()));
                let name = known(number).map_or(String::new(), |n| format!(" ({n})"));
                let message = format!("errno is {}{name}: {message}", number.abs());
                self.fail_fix(e.span(), message, fix);
            }
        }
        let all = format!("{text}\n{message}");
        let shown = if text.is_empty() { &message } else { &text };
        let mut from = 0;
        for part in log {
            match all[from..].find(&part.v.0) {
                Some(n) => from += n + part.v.0.len(),
                None => self.fail(part.span, format!("the log has no such text:\n{shown}")),
            }
        }
        if let Some(at) = at {
            self.rejected_at(prog, at);
        }
        Ok(())
    }

    /// Whether a program was rejected at `file.bpf.c:17`, or at an instruction, `insn 12`.
    fn rejected_at(&mut self, prog: &Name, at: &Name) {
        let Some(r) = self.refused(prog) else { return };
        let name = |l: &str| l.rsplit('/').next().unwrap_or(l).to_owned();
        let insn = r.rejection.insn.map(|i| format!("insn {}", i.0));
        let line = r.rejection.insn.and_then(|i| super::state::source_line(&r.lines, i));
        let line = line.map(|(file, n)| format!("{file}:{n}"));
        if [&insn, &line].into_iter().flatten().any(|place| *place == name(&at.v)) {
            return;
        }
        let fix = line.or(insn).map(|text| (at.span, format!("{text:?}")));
        let place = fix.as_ref().map_or("no instruction", |f| &f.1);
        let message = format!("{} was rejected at {place}: {}", prog.v, r.rejection.message);
        self.fail_fix(at.span, message, fix);
    }

    fn budget(
        &mut self,
        prog: &Name,
        insns: &Option<scenarios::Spanned<Is<u64>>>,
        total: &Option<scenarios::Spanned<Is<u64>>>,
    ) -> Checked {
        let id = self.prog(prog)?;
        let runs = self.watch.runs.get(&id).copied().unwrap_or_default();
        let (worst, at) = (runs.worst, runs.worst_at);
        if let Some(p) = insns
            && !p.v.matches(&worst)
        {
            let wanted = show(&p.v);
            let message =
                format!("run {at} of {} took {worst} instructions, expected {wanted}", prog.v);
            self.fail_fix(p.span, message, Some((p.span, format!("..={worst}"))));
        }
        if let Some(p) = total {
            self.number(&p.v, runs.total, p.span, "instructions in all");
        }
        Ok(())
    }

    /// Ledger clean, no faults, right lengths and sums of what left.
    fn always(&mut self) {
        let lists = self.s.expect.iter().filter_map(|e| match e {
            Expect::Leaks(list) => Some(list),
            _ => None,
        });
        let allowed: Vec<_> = lists.flatten().collect();
        let (span, watch) = (self.s.span, &mut self.watch);
        let mut found = std::mem::take(&mut watch.leaks);
        let missing = allowed.iter().filter(|a| !found.iter().any(|(_, l, _)| l.contains(&a.v)));
        let missing: Vec<_> = missing.map(|a| (a.span, a.v.clone())).collect();
        found.retain(|(_, leak, _)| !allowed.iter().any(|a| leak.contains(&a.v)));
        found.append(&mut watch.faults);
        if !self.sent_malformed {
            found.append(&mut watch.frames);
        }
        found.truncate(super::watch::TOLD);
        found.into_iter().for_each(|(kind, m, at)| {
            self.tell(Failure { kind, at: Some(at), ..Failure::new(span, m) });
        });
        for (at, text) in missing {
            self.fail(at, format!("nothing leaked that says \"{text}\""));
        }
    }
}

/// Packets of a list that did not come, and packets that came besides.
fn missing_or_more(p: &Packets<'_>) -> Vec<String> {
    let (wanted, met, came, (more, first, _)) = (p.wanted(), p.met, p.came, p.more);
    let never = |n: usize| format!("packet {} of the list never came ({came} came)", n + 1);
    match p.rule() {
        (ListOrder::Exact, Others::Forbid) if met < wanted => {
            vec![format!("expected packet {}, only {came} came", met + 1)]
        }
        (ListOrder::Exact, Others::Forbid) if more > 0 => {
            vec![format!(
                "expected {wanted} packets, {came} came (the first more is event {first})"
            )]
        }
        (ListOrder::Exact, Others::Forbid) => Vec::new(),
        (ListOrder::Exact, Others::Allow) => {
            (met < wanted).then(|| never(met)).into_iter().collect()
        }
        (ListOrder::Any, rest) => {
            let mut out: Vec<String> = (0..wanted).filter(|n| !p.found[*n]).map(never).collect();
            if rest == Others::Forbid && more > 0 {
                let first = format!("the first is event {first}");
                out.push(format!("{more} packets came that are not in the list ({first})"));
            }
            out
        }
    }
}

fn show(pattern: &Is<u64>) -> String {
    match pattern {
        Is::Value(v) => v.to_string(),
        Is::Any => "any number of".into(),
        Is::Range(Some(a), Some(b)) => format!("{a}..={b}"),
        Is::Range(Some(a), None) => format!("{a} or more"),
        Is::Range(None, Some(b)) => format!("at most {b}"),
        Is::Range(None, None) | Is::Bad => "?".into(),
        Is::OneOf(list) => list.iter().map(show).collect::<Vec<_>>().join(" or "),
        Is::Not(p) => format!("not {}", show(p)),
    }
}

fn code_name(code: u32, xdp: bool) -> &'static str {
    let names: &[&str] = if xdp {
        &["ABORTED", "DROP", "PASS", "TX", "REDIRECT", "INVALID"]
    } else {
        &[
            "OK",
            "RECLASSIFY",
            "SHOT",
            "PIPE",
            "STOLEN",
            "QUEUED",
            "REPEAT",
            "REDIRECT",
            "TRAP",
            "UNKNOWN",
        ]
    };
    names.get(code as usize).unwrap_or(&"UNSPEC")
}

fn histogram(found: &BTreeMap<u32, Code>, xdp: bool) -> String {
    let one = |(c, seen): (&u32, &Code)| format!("{}: {}", code_name(*c, xdp), seen.count);
    let parts: Vec<String> = found.iter().map(one).collect();
    if parts.is_empty() { "it never ran".into() } else { format!("all: {}", parts.join(", ")) }
}

/// Where an event names something.
pub(super) fn event_span(event: &Event) -> Option<Span> {
    match event {
        Event::Enter { prog, .. } | Event::Exit { prog, .. } => prog.as_ref().map(|p| p.span),
        Event::Call { func, prog, .. } => func.as_ref().or(prog.as_ref()).map(|p| p.span),
        Event::Out { on, .. } => on.as_ref().map(|p| p.span),
        Event::Record { map, .. } => map.as_ref().map(|p| p.span),
        Event::Line { at } => Some(at.span),
        Event::Tracepoint { name, .. } => Some(name.span),
        Event::Drop { reason } => reason.as_ref().map(|p| p.span),
        Event::Injected { fault } => fault.as_ref().map(|p| p.span),
        Event::Memory { prog, object, .. } => prog.as_ref().or(object.as_ref()).map(|p| p.span),
        Event::Race { on, prog } => on.as_ref().or(prog.as_ref()).map(|p| p.span),
        Event::RcuStall { prog, .. } => prog.as_ref().map(|p| p.span),
        _ => None,
    }
}

/// Said already, of whatever time.
fn same(a: &Failure, b: &Failure) -> bool {
    (&a.message, a.span, &a.fix) == (&b.message, b.span, &b.fix)
}

/// Instructions before the first of them.
fn when(seen: Option<&Code>) -> Option<u64> {
    seen.and_then(|s| s.first.first()).map(|(_, _, at)| *at)
}

/// Where something happened: the first few places.
fn place_list(seen: Option<&Code>) -> String {
    let Some(seen) = seen else { return String::new() };
    let one = |(packet, event, _): &(usize, usize, u64)| format!("packet {packet} (event {event})");
    let shown: Vec<String> = seen.first.iter().take(PLACES).map(one).collect();
    let more = if seen.first.len() > PLACES { ", ..." } else { "" };
    format!(" at {}{more}", shown.join(", "))
}
