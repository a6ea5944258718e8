//! What expectations ask of the trace, kept up while events come: of a run of a million packets
//! counts are kept, and the first places, not the events.

use std::collections::BTreeMap;
use std::rc::Rc;

use kernel_model::cpu::FaultKind;
use kernel_model::net::check::check_packet;
use kernel_model::state_hash::{self, Times};
use kernel_model::{Event as Happened, EventKind, ProgId};
use scenarios::Scenario;
use scenarios::leaf::Data;
use scenarios::schema::expect::{ListOrder, On, Others};
use scenarios::schema::{Event, Expect, Layer, Step};

use super::trace::{self, Names, Recorder};
use super::{Failure, FailureKind, Run, RunError, wire};

/// Findings of one kind beyond which no more are told.
pub(super) const TOLD: usize = 10;
/// Events shown after the place at which a search stopped.
const CONTEXT: usize = 4;
/// Characters shown of an event.
const CLIPPED: usize = 100;

/// Packets and events of one return code.
#[derive(Clone, Debug, Default)]
pub(super) struct Code {
    pub count: u64,
    /// Packet of this program, event, and instructions before it, of the first few.
    pub first: Vec<(usize, usize, u64)>,
    pub last_packet: usize,
}

/// Lengths of the runs of a program, in instructions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Runs {
    pub count: u64,
    pub total: u64,
    pub worst: u64,
    /// Which of them was the worst, from 1.
    pub worst_at: u64,
    /// Events between which that was.
    pub worst_events: (usize, usize),
    pub best: u64,
}

/// A run in progress.
#[derive(Clone, Copy, Debug)]
struct Open {
    prog: ProgId,
    /// Instructions of its CPU when it began.
    start: u64,
    /// Instructions of runs that came between: tracing programs, interrupts.
    within: u64,
    /// Number of the event.
    event: usize,
}

/// What came before and after a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    before: Option<String>,
    after: Vec<String>,
}

impl Context {
    fn from(line: String) -> Context {
        Context { before: Some(line), after: Vec::new() }
    }

    fn push(&mut self, line: impl FnOnce() -> String) {
        if self.after.len() < CONTEXT {
            self.after.push(line());
        }
    }

    /// For the end of a message.
    pub(super) fn show(&self) -> String {
        let before = self.before.iter().map(|l| format!("\n  the one before it is {l}"));
        let after: String = self.after.iter().map(|l| format!("\n  {l}")).collect();
        let after = if after.is_empty() { "\n  nothing".to_owned() } else { after };
        format!("{}\n  what came after:{after}", before.collect::<String>())
    }
}

/// What is wrong with an event, and instructions before it.
pub(super) type Found = (FailureKind, String, u64);

/// An event: its number, and instructions before it.
type Place = (usize, u64);

/// Packets of a list, as far as they have come.
#[derive(Clone, Debug)]
pub(super) struct Packets<'a> {
    nic: u32,
    up: bool,
    wanted: Rc<Vec<Vec<Layer>>>,
    skb: Option<&'a Data>,
    order: ListOrder,
    rest: Others,
    /// With an exact order: packets that came or were found.
    pub met: usize,
    /// Without: which of the list were found.
    pub found: Vec<bool>,
    pub came: usize,
    /// Not in the list, the event of the first, and instructions before it.
    pub more: (usize, usize, u64),
    pub failures: Vec<Failure>,
}

/// The part of one expectation.
#[derive(Clone, Debug)]
pub(super) enum Item<'a> {
    Count { of: &'a Event, count: u64, last: Option<(FailureKind, String)> },
    Sequence { events: &'a [Event], met: usize, around: Context },
    AnyOrder { events: &'a [Event], met: Vec<bool> },
    Never { event: &'a Event, first: Option<Found> },
    Eventually(Eventually<'a>),
    Latency { task: &'a str, waited: Vec<u64> },
    Packets(Packets<'a>),
}

/// See [`Expect::Eventually`].
#[derive(Clone, Debug)]
pub(super) struct Eventually<'a> {
    event: &'a Event,
    after: Option<&'a Event>,
    /// Time to measure from.
    pub start: Option<u64>,
    pub came: Option<(u64, String)>,
    pub around: Context,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch<'a> {
    /// Events so far; they are numbered from 1.
    pub count: usize,
    items: Vec<(&'a Expect, Item<'a>)>,
    pub verdicts: BTreeMap<ProgId, BTreeMap<u32, Code>>,
    packets: BTreeMap<ProgId, usize>,
    pub runs: BTreeMap<ProgId, Runs>,
    /// Entered and not left, by CPU.
    open: BTreeMap<u32, Vec<Open>>,
    /// Records of the maps that are asked for.
    pub records: BTreeMap<u32, Vec<Vec<u8>>>,
    pub lost: u64,
    /// What is always wrong, the first of it.
    pub leaks: Vec<Found>,
    pub faults: Vec<Found>,
    pub frames: Vec<Found>,
    /// Operations of tasks with another result than was said.
    pub ops: Vec<Failure>,
    /// What is told of a run besides: reports of deadlocks.
    pub notes: Vec<String>,
    /// The scenario asks for deadlocks.
    deadlocks: bool,
    /// The first thing that is not modelled.
    pub unsupported: Option<String>,
    pub recorder: Recorder,
}

/// Program, instruction and source line of a fault, as far as they are known.
fn place(run: &Run<'_>, fault: &kernel_model::Fault) -> String {
    match fault.at {
        // A report of the allocator says it itself.
        Some((prog, insn)) if !matches!(fault.kind, FaultKind::Memcheck(_)) => {
            format!(" in {}", run.machine.kernel.source_of(prog, insn))
        }
        _ => String::new(),
    }
}

/// Whether a deadlock was found, or ended a program.
fn is_deadlock(kind: &EventKind) -> bool {
    FailureKind::of(kind) == FailureKind::Deadlock
}

/// Whether a scenario asks for data races.
pub(super) fn names_races(s: &Scenario) -> bool {
    events(s).into_iter().any(|e| matches!(e, Event::Race { .. }))
}

/// Every event that a scenario asks for.
pub(super) fn events(s: &Scenario) -> Vec<&Event> {
    let steps = s.timeline.iter().filter_map(of_step);
    steps.chain(expectations(s).into_iter().flat_map(of_expect)).collect()
}

fn of_step(step: &Step) -> Option<&Event> {
    match step {
        Step::When(event, _) => Some(event),
        _ => None,
    }
}

fn of_expect(e: &Expect) -> Vec<&Event> {
    match e {
        Expect::Sequence(list) | Expect::AnyOrder(list) => list.iter().collect(),
        Expect::Count { of, .. } => vec![of],
        Expect::Never(event) => vec![event],
        Expect::Eventually { event, after, .. } => [event].into_iter().chain(after).collect(),
        _ => Vec::new(),
    }
}

/// Every expectation of a scenario: those of the end and those of `Check` steps.
fn expectations(s: &Scenario) -> Vec<&Expect> {
    let checks = s.timeline.iter().map(Step::action).filter_map(|a| match a {
        scenarios::schema::Action::Check(e) => Some(&**e),
        _ => None,
    });
    s.expect.iter().chain(checks).collect()
}

impl<'a> Watch<'a> {
    /// For a run that is about to begin.
    pub(super) fn new(run: &Run<'a>, recorder: Recorder) -> Result<Watch<'a>, RunError> {
        let deadlocks = events(run.s).iter().any(|e| matches!(e, Event::Deadlock { .. }));
        let mut watch = Watch { recorder, deadlocks, ..Watch::default() };
        for e in expectations(run.s) {
            if let Expect::Records { map, .. } = e {
                watch.records.insert(run.map(map)?.0.0, Vec::new());
            }
            if let Some(item) = item(run, e)? {
                watch.items.push((e, item));
            }
        }
        Ok(watch)
    }

    /// Hash of how far all expectations are, without times and texts.
    pub(super) fn progress_hash(&self) -> u64 {
        let items: Vec<_> = self.items.iter().map(|(_, item)| item.far()).collect();
        let verdicts = self.verdicts.values().flat_map(|codes| codes.values().map(|c| c.count));
        let runs = self.runs.values().map(|r| r.count);
        let counts: Vec<u64> = verdicts.chain(runs).collect();
        let wrong = [self.leaks.len(), self.faults.len(), self.frames.len()];
        let all = (items, counts, wrong, &self.records, self.lost, &self.unsupported);
        state_hash::of(&all, Times::LeftOut)
    }

    /// What is known for an expectation.
    pub(super) fn item(&self, e: &Expect) -> Option<&Item<'a>> {
        self.items.iter().find(|(at, _)| std::ptr::eq(*at, e)).map(|(_, item)| item)
    }

    /// The next event.
    pub(super) fn see(&mut self, run: &Run<'a>, e: &Happened) -> Result<(), RunError> {
        self.count += 1;
        self.recorder.write(self.count, e).map_err(|e| RunError::input(run.s.span, e))?;
        self.tally(run, e);
        self.always(run, e)?;
        if let EventKind::Op { task, op, ret } = &e.kind
            && self.ops.len() < TOLD
        {
            let failed = run.op_result(task, *op, *ret, self.count)?;
            self.ops.extend(failed.map(|f| Failure { at: Some(e.at), ..f }));
        }
        if let EventKind::Deadlock { report, .. } = &e.kind
            && self.notes.len() < TOLD
        {
            self.notes.push(report.to_string());
        }
        let shown = Shown { number: self.count, event: e, names: &self.recorder.names };
        self.items.iter_mut().try_for_each(|(_, item)| item.see(run, e, &shown))
    }

    /// Counts that several expectations share.
    fn tally(&mut self, run: &Run<'_>, e: &Happened) {
        match &e.kind {
            EventKind::Verdict { prog, raw, .. } => {
                let packet = self.packets.entry(*prog).or_default();
                *packet += 1;
                let raw = super::matching::verdict(*raw as u32, run.is_xdp(*prog));
                let code = self.verdicts.entry(*prog).or_default().entry(raw).or_default();
                code.count += 1;
                code.last_packet = *packet;
                // One more than is shown says that there are more.
                if code.first.len() <= super::expect::PLACES {
                    code.first.push((*packet, self.count, e.at));
                }
            }
            EventKind::Enter { prog } => {
                let run = Open { prog: *prog, start: e.retired, within: 0, event: self.count };
                self.open.entry(e.cpu.0).or_default().push(run);
            }
            EventKind::Exit { .. } => {
                let open = self.open.entry(e.cpu.0).or_default();
                let Some(Open { prog, start, within, event }) = open.pop() else { return };
                let whole = e.retired - start;
                if let Some(below) = open.last_mut() {
                    below.within += whole;
                }
                let (runs, length) = (self.runs.entry(prog).or_default(), whole - within);
                runs.count += 1;
                runs.total += length;
                runs.best = if runs.count == 1 { length } else { runs.best.min(length) };
                if length >= runs.worst {
                    (runs.worst, runs.worst_at) = (length, runs.count);
                    runs.worst_events = (event, self.count);
                }
            }
            EventKind::Record { map, data } => {
                if let Some(list) = self.records.get_mut(&map.0) {
                    list.push(data.clone());
                }
            }
            EventKind::Drop { reason } if *reason == "ringbuf full" => self.lost += 1,
            _ => {}
        }
    }

    /// What is checked without being written.
    fn always(&mut self, run: &Run<'_>, e: &Happened) -> Result<(), RunError> {
        let n = self.count;
        let (list, text) = match &e.kind {
            EventKind::Leak { what } => (&mut self.leaks, format!("event {n}: leak: {what}")),
            EventKind::Fault { .. } | EventKind::RcuStall(_) | EventKind::Race(_)
                if is_expected(run, e)? =>
            {
                return Ok(());
            }
            EventKind::Race(race) => (&mut self.faults, format!("event {n}: data race: {race}")),
            EventKind::RcuStall(stall) => {
                (&mut self.faults, format!("event {n}: rcu stall: {stall}"))
            }
            // Whoever asks for deadlocks says how many there may be.
            EventKind::Deadlock { .. } | EventKind::Fault { .. }
                if self.deadlocks && is_deadlock(&e.kind) =>
            {
                return Ok(());
            }
            EventKind::Deadlock { .. } => {
                let text = trace::line(e, &self.recorder.names, true);
                (&mut self.faults, format!("event {n}: {}", text.trim()))
            }
            EventKind::Fault { fault, .. } => {
                if let FaultKind::Unsupported(what) = &fault.kind {
                    self.unsupported.get_or_insert_with(|| what.clone());
                }
                (&mut self.faults, format!("event {n}: fault: {fault}{}", place(run, fault)))
            }
            EventKind::Out { packet, .. } if !run.sent_malformed && self.frames.len() < TOLD => {
                let wrong = check_packet(packet);
                let said = |w| (FailureKind::Fault, format!("event {n}: a frame left: {w}"), e.at);
                let wrong = wrong.iter().map(said);
                self.frames.extend(wrong);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if list.len() < TOLD {
            list.push((FailureKind::of(&e.kind), text, e.at));
        }
        Ok(())
    }
}

/// Whether a finding is one that the scenario waits for: then it is no failure.
fn is_expected(run: &Run<'_>, e: &Happened) -> Result<bool, RunError> {
    let never = |e: &&Expect| matches!(e, Expect::Never(_));
    let wanted = expectations(run.s).into_iter().filter(|e| !never(e)).flat_map(of_expect);
    let steps = run.s.timeline.iter().filter_map(of_step);
    for event in wanted.chain(steps) {
        if matches!(event, Event::Memory { .. } | Event::RcuStall { .. } | Event::Race { .. })
            && run.event_matches(event, e)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an expectation asks of events, if it does.
fn item<'a>(run: &Run<'a>, e: &'a Expect) -> Result<Option<Item<'a>>, RunError> {
    Ok(Some(match e {
        Expect::Count { of, .. } => Item::Count { of, count: 0, last: None },
        Expect::Sequence(events) => Item::Sequence { events, met: 0, around: Context::default() },
        Expect::AnyOrder(events) => Item::AnyOrder { events, met: vec![false; events.len()] },
        Expect::Never(event) => Item::Never { event, first: None },
        Expect::Eventually { event, after, .. } => Item::Eventually(Eventually {
            event,
            after: after.as_ref(),
            start: after.is_none().then_some(run.s.machine.clock.ns),
            came: None,
            around: Context::default(),
        }),
        Expect::Latency { task, .. } => Item::Latency { task: &task.v, waited: Vec::new() },
        Expect::Packets { on, are, order, rest, skb } => {
            let span = on.nic().span;
            let nic = run.nic(on.nic())?;
            let resolved = are.iter().map(|l| run.expected_layers(l, nic, span));
            let wanted = resolved.collect::<Result<Vec<_>, _>>()?;
            Item::Packets(Packets {
                nic,
                up: matches!(on, On::Up(_)),
                found: vec![false; wanted.len()],
                wanted: Rc::new(wanted),
                skb: skb.as_ref(),
                order: *order,
                rest: *rest,
                met: 0,
                came: 0,
                more: (0, 0, 0),
                failures: Vec::new(),
            })
        }
        _ => return Ok(None),
    }))
}

/// An event as text, where it is needed.
struct Shown<'e> {
    number: usize,
    event: &'e Happened,
    names: &'e Names,
}

impl Shown<'_> {
    fn line(&self) -> String {
        let text = trace::line(self.event, self.names, true);
        let text: String = text.trim().chars().take(CLIPPED).collect();
        format!("event {}: {text}", self.number)
    }
}

impl<'a> Item<'a> {
    /// How far it is.
    fn far(&self) -> Vec<usize> {
        match self {
            Item::Count { count, .. } => vec![*count as usize],
            Item::Sequence { met, .. } => vec![*met],
            Item::AnyOrder { met, .. } => met.iter().map(|m| usize::from(*m)).collect(),
            Item::Never { first, .. } => vec![usize::from(first.is_some())],
            // Times are left out.
            Item::Latency { .. } => Vec::new(),
            Item::Eventually(e) => {
                vec![usize::from(e.start.is_some()), usize::from(e.came.is_some())]
            }
            Item::Packets(p) => {
                let found = p.found.iter().map(|f| usize::from(*f));
                found.chain([p.met, p.came, p.more.0, p.failures.len()]).collect()
            }
        }
    }

    fn see(&mut self, run: &Run<'a>, e: &Happened, shown: &Shown<'_>) -> Result<(), RunError> {
        match self {
            Item::Count { of, count, last } => {
                if run.event_matches(of, e)? {
                    *count += 1;
                    *last = Some((FailureKind::of(&e.kind), shown.line()));
                }
            }
            Item::Sequence { events, met, around } => match events.get(*met) {
                Some(wanted) if run.event_matches(wanted, e)? => {
                    *met += 1;
                    *around = Context::from(shown.line());
                }
                Some(_) => around.push(|| shown.line()),
                None => {}
            },
            Item::AnyOrder { events, met } => {
                for (wanted, met) in events.iter().zip(met).filter(|(_, met)| !**met) {
                    *met = run.event_matches(wanted, e)?;
                }
            }
            Item::Never { event, first } => {
                if first.is_none() && run.event_matches(event, e)? {
                    *first = Some((FailureKind::of(&e.kind), shown.line(), e.at));
                }
            }
            Item::Eventually(it) => it.see(run, e, shown)?,
            Item::Latency { task, waited } => {
                if let EventKind::Switch { to, waited: Some(ns), .. } = &e.kind
                    && kernel_model::sched::is_named(to, task)
                {
                    waited.push(*ns);
                }
            }
            Item::Packets(it) => it.see(run, e, (shown.number, e.at))?,
        }
        Ok(())
    }
}

impl Eventually<'_> {
    fn see(&mut self, run: &Run<'_>, e: &Happened, shown: &Shown<'_>) -> Result<(), RunError> {
        if self.start.is_none()
            && let Some(after) = self.after
            && run.event_matches(after, e)?
        {
            self.start = Some(e.clock_ns);
            self.around = Context::from(shown.line());
        }
        if self.start.is_some() && self.came.is_none() {
            if run.event_matches(self.event, e)? {
                self.came = Some((e.clock_ns, shown.line()));
            } else {
                self.around.push(|| shown.line());
            }
        }
        Ok(())
    }
}

impl Packets<'_> {
    fn see(&mut self, run: &Run<'_>, e: &Happened, place: Place) -> Result<(), RunError> {
        let (bytes, skb) = match &e.kind {
            EventKind::Out { nic, packet } if !self.up && *nic == self.nic => (packet, None),
            EventKind::Up { nic, packet, skb } if self.up && *nic == self.nic => {
                (packet, Some(&**skb))
            }
            _ => return Ok(()),
        };
        self.came += 1;
        if let (Some(wanted), Some(skb)) = (self.skb, skb)
            && self.failures.len() < TOLD
            && let Some(why) = run.skb_differs(wanted, skb)?
        {
            let message = format!("packet {} (event {}): {why}", self.came, place.0);
            let (span, at) = (wanted.span(), Some(place.1));
            self.failures.push(Failure { at, ..Failure::new(span, message) });
        }
        match (self.order, self.rest) {
            (ListOrder::Exact, Others::Forbid) => self.exact(bytes, place),
            (ListOrder::Exact, Others::Allow) => {
                let next = self.wanted.get(self.met);
                if next.is_some_and(|l| wire::mismatch(l, bytes).is_none()) {
                    self.met += 1;
                }
            }
            (ListOrder::Any, _) => {
                let open = (0..self.wanted.len()).filter(|n| !self.found[*n]);
                let mut hit = open.filter(|n| wire::mismatch(&self.wanted[*n], bytes).is_none());
                match hit.next() {
                    Some(n) => self.found[n] = true,
                    None => self.one_more(place),
                }
            }
        }
        Ok(())
    }

    fn one_more(&mut self, (event, at): Place) {
        if self.more.0 == 0 {
            (self.more.1, self.more.2) = (event, at);
        }
        self.more.0 += 1;
    }

    fn exact(&mut self, bytes: &[u8], (event, at): Place) {
        let Some(layers) = self.wanted.get(self.met) else { return self.one_more((event, at)) };
        self.met += 1;
        if self.failures.len() < TOLD
            && let Some(wire::Mismatch { why, fix }) = wire::mismatch(layers, bytes)
        {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let message = format!("packet {} (event {event}): {why}\n  {hex}", self.met);
            // Without a place of its own it is that of the list.
            let span = fix.as_ref().map_or_else(scenarios::Span::default, |f| f.0);
            self.failures.push(Failure { at: Some(at), fix, ..Failure::new(span, message) });
        }
    }

    /// How many are expected.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.len()
    }

    pub(super) fn rule(&self) -> (ListOrder, Others) {
        (self.order, self.rest)
    }
}
