//! What happens when: steps in order of time, between them the machine runs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use kernel_model::maps::{MapCommand, MapId};
use kernel_model::net::SkbFields;
use kernel_model::net::check::check_packet;
use kernel_model::{CpuId, EventKind, ProgId};
use scenarios::leaf::{Is, Rate, Time};
use scenarios::schema::{Action, Consumer, Flows, Layer, Name, Step, play};
use scenarios::tree::Kind;

use super::captures::Frame;
use super::packet::{self, Captures};
use super::{Mark, Run, RunError, flows, load};

/// What user space reads at its pace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    /// A ring buffer.
    Ring(u32),
    /// Both streams of a program.
    Streams(ProgId),
}

/// Something that happens again.
#[derive(Clone, Debug)]
pub(super) enum Source<'a> {
    Act(&'a Action),
    Frame {
        nic: u32,
        queue: Option<u32>,
        bytes: Vec<u8>,
        given: SkbFields,
        left: u64,
        gap: u64,
    },
    Flow {
        flows: &'a Flows,
        pick: Rc<flows::Pick>,
        nic: u32,
        done: u64,
        /// When the next frame comes, in nanoseconds with their fractions.
        next: f64,
    },
    Capture {
        file: &'a Name,
        nic: u32,
        pace: play::Pace,
        pick: Option<&'a Is<u64>>,
        next: usize,
        start: u64,
        given: SkbFields,
    },
    Every {
        act: &'a Action,
        period: u64,
        left: u64,
    },
    Consume {
        from: Reader,
        gap: u64,
    },
    /// User space writes a user ring buffer.
    Produce {
        map: u32,
        sample: Vec<u8>,
        gap: u64,
    },
}

/// Events of the machine beyond which they are looked at, and dropped.
const EVENTS_MAX: usize = 4096;

/// What is to come, by time and order in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan<'a> {
    queue: BTreeMap<(u64, u64), Source<'a>>,
    /// Sources so far: a later one comes after those of equal time.
    seq: u64,
    /// Only consumers are left: the machine runs to its end, unless a `When` step has more.
    idle: bool,
}

fn given(skb: Option<&play::SkbFields>) -> SkbFields {
    skb.map_or(SkbFields::default(), |s| SkbFields {
        mark: s.mark,
        priority: s.priority,
        vlan: s.vlan,
        hash: s.hash,
        tstamp: s.tstamp,
    })
}

impl<'a> Run<'a> {
    /// Runs to the end.
    pub(super) fn timeline(&mut self) -> Result<(), RunError> {
        let boot = self.s.machine.clock.ns;
        let until = self.s.machine.until.v.ns;
        loop {
            self.go_on_testing()?;
            self.go_on_reading()?;
            let next = self.plan.queue.first_key_value().map(|(k, _)| *k);
            let Some((at, order)) = next.filter(|n| n.0 <= until && !self.plan.idle) else {
                // Nothing but a `When` step can have more.
                if !self.run_to(boot + until)? {
                    break;
                }
                self.plan.idle = false;
                continue;
            };
            if self.run_to(boot + at)? {
                continue;
            }
            let Some((_, source)) = self.plan.queue.pop_first() else { break };
            if let Some(progress) = &self.progress {
                progress.store(at.saturating_mul(1000) / until.max(1), Ordering::Relaxed);
            }
            self.machine.kernel.advance_to(boot + at);
            self.plan.seq += 1;
            if let Some((next, source)) = self.happen(at, source)? {
                // The same place in the file keeps its rank among equal times.
                self.plan.queue.insert((next, order), source);
            }
            let mut left = self.plan.queue.values();
            self.plan.idle = left.all(|s| matches!(s, Source::Consume { .. }));
        }
        for (event, _) in std::mem::take(&mut self.whens) {
            let span = super::expect::event_span(event).unwrap_or(self.s.span);
            let message = "the event of this When(..) never came".to_string();
            self.failures.push(super::Failure::new(span, message));
        }
        self.schedule_done()?;
        for map in self.consumers.clone() {
            while self.consume(map) {}
        }
        Ok(())
    }

    /// Runs to a time, or to the event of a `When` step, whose action is then done; true when
    /// there was one.
    fn run_to(&mut self, clock: u64) -> Result<bool, RunError> {
        loop {
            if self.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed)) {
                return Err(RunError::Paused);
            }
            self.checkpoint(self.every.unwrap_or(0))?;
            if self.whens.is_empty() && self.steps.0.is_empty() {
                // With checkpoints, every turn is a chance for one.
                let events_max = if self.every.is_some() { 0 } else { EVENTS_MAX };
                let more = self.machine.run_some(clock, events_max);
                let more = more.map_err(|e| self.stopped(e))?;
                if self.machine.events().len() > events_max {
                    self.drain()?;
                }
                if !more {
                    return Ok(false);
                }
                continue;
            }
            // What a step does is looked at when it is over.
            while self.machine.held().is_none() && self.seen < self.machine.events().len() {
                let n = self.seen;
                self.seen += 1;
                self.schedule_step(n)?;
                if self.when(n)? {
                    return Ok(true);
                }
            }
            if self.seen > EVENTS_MAX {
                self.drain()?;
            }
            let seen = self.seen;
            let more = self.machine.run_until_event(clock, seen);
            if !more.map_err(|e| self.stopped(e))? {
                return Ok(false);
            }
        }
    }

    /// Does what the first `When` step that matches an event says.
    fn when(&mut self, n: usize) -> Result<bool, RunError> {
        let mut hit = None;
        for (at, (wanted, _)) in self.whens.iter().enumerate() {
            let event = &self.machine.events()[n];
            if self.event_matches(wanted, event)? {
                hit = Some(at);
                break;
            }
        }
        let Some(at) = hit else { return Ok(false) };
        let (_, action) = self.whens.remove(at);
        // Other steps on the same event are next.
        self.seen = n;
        let event = &self.machine.events()[n];
        let now = self.machine.kernel.now(event.cpu).saturating_sub(self.s.machine.clock.ns);
        self.act(now, action)?;
        Ok(true)
    }

    /// Lists what the file says will happen.
    pub(super) fn plan(&mut self) -> Result<(), RunError> {
        let s = self.s;
        let mut last = 0u64;
        for step in &s.timeline {
            self.plan.seq += 1;
            match step {
                Step::At(t, act) => {
                    last = t.v.ns;
                    self.plan.queue.insert((last, self.plan.seq), Source::Act(act));
                }
                Step::After(t, act) => {
                    last = last.saturating_add(t.v.ns);
                    self.plan.queue.insert((last, self.plan.seq), Source::Act(act));
                }
                Step::Every { period, from, times, act } => {
                    let source = Source::Every { act, period: period.v.ns, left: times.v };
                    self.plan.queue.insert((from.v.ns, self.plan.seq), source);
                }
                Step::When(event, act) => self.whens.push((event, act)),
            }
        }
        for (_, consumer) in s.consumers.iter() {
            let every = |r: Rate| (1e9 / r.per_second).round().max(1.0) as u64;
            match consumer {
                Consumer::Ringbuf { map, rate, start, .. } => {
                    self.plan.seq += 1;
                    let id = self.map(map)?.0;
                    let gap = rate.map_or(1000, every);
                    let (key, from) = ((start.ns, self.plan.seq), Reader::Ring(id.0));
                    self.plan.queue.insert(key, Source::Consume { from, gap });
                }
                Consumer::UserRingbuf { map, rate, send, record } => {
                    self.plan.seq += 1;
                    let sample = self.sample_bytes(map, send, record.as_ref())?;
                    let (map, gap) = (self.map(map)?.0.0, every(*rate));
                    let source = Source::Produce { map, sample, gap };
                    self.plan.queue.insert((0, self.plan.seq), source);
                }
                Consumer::Stream { prog, rate } => {
                    self.plan.seq += 1;
                    let from = Reader::Streams(self.prog(prog)?);
                    let gap = rate.map_or(1_000_000, every);
                    let source = Source::Consume { from, gap };
                    self.plan.queue.insert((0, self.plan.seq), source);
                }
                Consumer::Perf { .. } => {}
            }
        }
        Ok(())
    }

    /// One source's turn; when it comes again, and as what.
    fn happen(
        &mut self,
        at: u64,
        source: Source<'a>,
    ) -> Result<Option<(u64, Source<'a>)>, RunError> {
        Ok(match source {
            Source::Act(act) => {
                self.act(at, act)?;
                None
            }
            Source::Every { act, period, left } => {
                self.act(at, act)?;
                let next = at.saturating_add(period);
                (left > 1).then(|| (next, Source::Every { act, period, left: left - 1 }))
            }
            Source::Frame { nic, queue, bytes, given, left, gap } => {
                self.arrive(nic, queue, &bytes, given);
                let left = left - 1;
                let again = Source::Frame { nic, queue, bytes, given, left, gap };
                (left > 0).then_some((at.saturating_add(gap), again))
            }
            Source::Flow { flows, pick, nic, done, next } => {
                let bytes = self.flow_frame(flows, &pick, nic, done)?;
                let rate = flows.rate.v;
                let units = if rate.bits { 8.0 * bytes as f64 } else { 1.0 };
                let (done, next) = (done + 1, next + units * 1e9 / rate.per_second);
                let again = Source::Flow { flows, pick, nic, done, next };
                (done < flows.packets.v).then_some((next as u64, again))
            }
            Source::Capture { .. } => self.capture_frame(at, source)?,
            Source::Consume { from, gap } => {
                match from {
                    Reader::Ring(map) => drop(self.consume(map)),
                    Reader::Streams(prog) => self.consume_streams(prog),
                }
                Some((at.saturating_add(gap), Source::Consume { from, gap }))
            }
            Source::Produce { map, sample, gap } => {
                // A producer that finds no room drops its sample.
                let _full = self.machine.kernel.user_ring_put(MapId(map), &sample);
                Some((at.saturating_add(gap), Source::Produce { map, sample, gap }))
            }
        })
    }

    /// User space takes one record; false when there is none.
    fn consume(&mut self, map: u32) -> bool {
        let id = MapId(map);
        let Some(record) = self.machine.kernel.ring_consume(id) else { return false };
        self.consumed.entry(map).or_default().push(record);
        true
    }

    fn arrive(&mut self, nic: u32, queue: Option<u32>, bytes: &[u8], given: SkbFields) {
        self.sent += 1;
        self.sent_malformed |= !check_packet(bytes).is_empty();
        // A frame that hardware drops is counted and in the trace.
        let _dropped = self.machine.kernel.net_receive(nic, queue, bytes, given);
    }

    /// Bytes of layers as they arrive at a nic.
    pub(super) fn packet_bytes(
        &self,
        layers: &[Layer],
        nic: u32,
        span: scenarios::Span,
    ) -> Result<Vec<u8>, RunError> {
        let find = |name: &str| self.s.packets.get(name).cloned();
        let bad = |e| RunError::input(span, e);
        let layers = packet::resolve(layers, &find, 0).map_err(bad)?;
        let defaults = load::addresses(&self.machine, nic);
        packet::build(&layers, &defaults, &self.captures).map_err(bad)
    }

    /// The next frame of a generator; its length.
    fn flow_frame(
        &mut self,
        f: &Flows,
        pick: &flows::Pick,
        nic: u32,
        n: u64,
    ) -> Result<usize, RunError> {
        let flow = pick.flow(&mut self.machine.kernel, n);
        let layers = pick.layers(f, flow);
        let mut bytes = self.packet_bytes(&layers, nic, f.count.span)?;
        if let Some(size) = flows::size(&mut self.machine.kernel, f)
            && size > bytes.len()
        {
            let mut layers = layers;
            let fill = scenarios::leaf::Bytes { n: (size - bytes.len()) as u64 };
            layers.push(Layer::Zeros(scenarios::Spanned::nowhere(fill)));
            bytes = self.packet_bytes(&layers, nic, f.count.span)?;
        }
        self.arrive(nic, None, &bytes, SkbFields::default());
        Ok(bytes.len())
    }

    fn capture_frame(
        &mut self,
        at: u64,
        source: Source<'a>,
    ) -> Result<Option<(u64, Source<'a>)>, RunError> {
        let Source::Capture { file, nic, pace, pick, mut next, start, given } = source else {
            unreachable!("called for captures alone")
        };
        let frames = self.captures.frames(&file.v).map_err(|e| RunError::input(file.span, e))?;
        let wanted = |n: usize| pick.is_none_or(|p| p.matches(&(n as u64 + 1)));
        if let Some(frame) = frames.get(next) {
            if wanted(next) {
                let bytes = frame.arriving(&load::addresses(&self.machine, nic));
                self.arrive(nic, None, &bytes, given);
            }
            next += 1;
        }
        while next < frames.len() && !wanted(next) {
            next += 1;
        }
        let Some(Frame { at: time, .. }) = frames.get(next) else { return Ok(None) };
        let when = match pace {
            play::Pace::Captured => start.saturating_add(*time).max(at),
            play::Pace::Gap(Time { ns }) => at.saturating_add(ns),
            play::Pace::Flat => at,
        };
        Ok(Some((when, Source::Capture { file, nic, pace, pick, next, start, given })))
    }

    // tidy: flat match
    fn act(&mut self, at: u64, action: &'a Action) -> Result<(), RunError> {
        self.plan.seq += 1;
        let key = (at, self.plan.seq);
        match action {
            Action::Send { .. } => self.send(action, key),
            Action::Play { flows, on } => self.play(flows, on, key),
            Action::Replay { pcap, on, pace, frames, skb } => {
                let nic = self.nic(on)?;
                let given = given(skb.as_ref());
                let source = Source::Capture {
                    file: pcap,
                    nic,
                    pace: *pace,
                    pick: frames.as_ref(),
                    next: 0,
                    start: at,
                    given,
                };
                self.plan.queue.insert(key, source);
                Ok(())
            }
            Action::Put { map, key, value } => self.put(map, &key.node, &value.node),
            Action::Delete { map, key } => self.delete(map, key),
            Action::Set { global, to } => self.set_global(global, to),
            Action::Link { nic, up } => {
                let ifindex = self.nic(nic)?;
                if let Some(n) = self.machine.kernel.net.nics.get_mut(&ifindex) {
                    n.up = *up;
                }
                Ok(())
            }
            Action::Load(object) => self.load(object),
            Action::Attach(attach) => self.attach(attach),
            Action::Detach(prog) => self.detach(prog),
            Action::Check(expect) => {
                self.drain()?;
                self.check(expect)
            }
            Action::Snapshot(name) => self.mark(name),
            Action::TestRun { .. } => self.test_run(action),
            Action::ReadIter { .. } => self.read_iter(action),
            Action::Cancel { prog } => self.cancel(prog),
            Action::Fire { tracepoint, args, cpu } => self.fire(tracepoint, args.as_ref(), cpu.v),
            Action::Irq { cpu, line } => {
                self.machine.kernel.irq(CpuId(cpu.v), *line);
                Ok(())
            }
            Action::Nmi { cpu } => {
                self.machine.kernel.nmi(CpuId(cpu.v));
                Ok(())
            }
            Action::Start(task) => self.each_task(task, kernel_model::Kernel::task_start),
            Action::Kill(task) => self.each_task(task, kernel_model::Kernel::task_kill),
        }
    }

    /// The first frame of a `Send` comes now.
    fn send(&mut self, action: &'a Action, key: (u64, u64)) -> Result<(), RunError> {
        let Action::Send { packet, on, queue, times, gap, skb } = action else {
            unreachable!("called for Send alone")
        };
        let nic = self.nic(on)?;
        let layers = self.s.packets.get(&packet.v).cloned().unwrap_or_default();
        let bytes = self.packet_bytes(&layers, nic, packet.span)?;
        let left = times.as_ref().map_or(1, |t| t.v);
        let (queue, given) = (queue.as_ref().map(|q| q.v), given(skb.as_ref()));
        if left > 0 {
            let source = Source::Frame { nic, queue, bytes, given, left, gap: gap.ns };
            self.plan.queue.insert(key, source);
        }
        Ok(())
    }

    /// A point to go back to, which the trace shows.
    fn mark(&mut self, name: &Name) -> Result<(), RunError> {
        let note = EventKind::Note { topic: "snapshot", text: name.v.clone() };
        self.machine.kernel.emit(CpuId(0), note);
        self.drain()?;
        if self.keep_marks {
            let (events, at) = (self.watch.count, self.machine.snapshot());
            self.marks.push(Mark { name: name.v.clone(), events, at });
        }
        Ok(())
    }

    /// Flows begin now, at their rate.
    fn play(&mut self, flows: &'a Name, on: &Name, key: (u64, u64)) -> Result<(), RunError> {
        let nic = self.nic(on)?;
        let Some(f) = self.s.flows.get(&flows.v) else {
            return Err(RunError::input(flows.span, "unknown flows"));
        };
        let find = |name: &str| self.s.packets.get(name).cloned();
        let like = packet::resolve(&f.like, &find, 0);
        let like = like.map_err(|e| RunError::input(flows.span, e))?;
        let pick = Rc::new(flows::Pick::new(f, like));
        if let Some(name) = pick.idle(f) {
            let message = format!("{name} of `vary` is in no layer of \"{}\"", flows.v);
            return Err(RunError::input(f.count.span, message));
        }
        let source = Source::Flow { flows: f, pick, nic, done: 0, next: key.0 as f64 };
        if f.packets.v > 0 {
            self.plan.queue.insert(key, source);
        }
        Ok(())
    }

    fn delete(&mut self, map: &Name, key: &scenarios::leaf::Data) -> Result<(), RunError> {
        let at = self.map(map)?;
        let key_bytes = self.deleted_key(at, key)?;
        let command = MapCommand { map: at.0, key: key_bytes, value: None, flags: 0 };
        let done = self.machine.kernel.user_command(CpuId(0), command);
        done.map_err(|e| RunError::input(key.span(), format!("deleting: {}", e.name())))
    }

    /// A key, or `()` for the next element of a map without keys.
    pub(super) fn deleted_key(
        &self,
        at: (MapId, usize, usize),
        key: &scenarios::leaf::Data,
    ) -> Result<Vec<u8>, RunError> {
        match key.node.kind {
            Kind::Tuple(ref items) if items.is_empty() => Ok(Vec::new()),
            _ => self.key_of(at, &key.node),
        }
    }
}

impl Captures for &dyn Captures {
    fn frame(&self, file: &str, n: u32, d: &packet::Defaults) -> Result<Vec<u8>, String> {
        (**self).frame(file, n, d)
    }
}
