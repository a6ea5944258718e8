//! The semantic pass: names, order, patterns where values belong. Collects all findings.

use crate::leaf::{Data, Time, suggest};
use crate::schema::expect::On;
use crate::schema::machine::{Attach, RouteKind};
use crate::schema::{Action, Event, Expect, Layer, Name, Scenario, Step};
use crate::span::{Finding, Span, Spanned};

mod schedule;
mod tasks;

/// Repetitions of a step: an hour of wall time at the least.
const TIMES_MAX: u64 = 100_000_000;
/// Packets of a generator.
const PACKETS_MAX: u64 = 1_000_000_000;

/// What the objects contain; implemented by whoever has loaded them.
pub trait Objects {
    /// Names of the programs of an object, or `None` when it is not at hand.
    fn programs(&self, object: &str) -> Option<Vec<String>>;
    /// Names of its maps.
    fn maps(&self, object: &str) -> Option<Vec<String>>;
    /// Names of its global variables.
    fn globals(&self, object: &str) -> Option<Vec<String>>;
    /// Checks a key or value against the BTF of a map.
    fn check_data(&self, _map: &str, _data: &crate::leaf::Data, _key: bool) -> Vec<Finding> {
        Vec::new()
    }
    /// Checks a value against the BTF of a global variable.
    fn check_global(&self, _global: &str, _data: &crate::leaf::Data) -> Vec<Finding> {
        Vec::new()
    }
}

/// Objects that are not at hand: names inside them are not checked.
#[derive(Clone, Copy, Debug)]
pub struct NoObjects;

impl Objects for NoObjects {
    fn programs(&self, _: &str) -> Option<Vec<String>> {
        None
    }
    fn maps(&self, _: &str) -> Option<Vec<String>> {
        None
    }
    fn globals(&self, _: &str) -> Option<Vec<String>> {
        None
    }
}

/// Checks what reading alone cannot.
#[must_use]
pub fn validate(s: &Scenario, objects: &dyn Objects) -> Vec<Finding> {
    validate_cell(s, objects, None)
}

/// As [`validate`], for a cell of the matrix that has so many CPUs.
#[must_use]
pub fn validate_cell(s: &Scenario, objects: &dyn Objects, cpus: Option<u32>) -> Vec<Finding> {
    let mut check = Check { s, objects, cpus, found: Vec::new() };
    check.machine();
    check.objects_given();
    s.attach.iter().for_each(|a| check.attach(a));
    check.packets();
    check.timeline();
    check.schedule();
    check.tasks();
    check.starts_and_ends();
    check.faults();
    s.expect.iter().for_each(|e| check.expect(e));
    s.consumers.iter().filter_map(|(_, c)| c.map()).for_each(|m| check.map(m));
    check.found
}

struct Check<'a> {
    s: &'a Scenario,
    objects: &'a dyn Objects,
    cpus: Option<u32>,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn unknown(&mut self, what: &str, name: &Name, known: &[String]) {
        let finding = Finding::error(name.span, format!("unknown {what} `{}`", name.v));
        self.found.push(match suggest(&name.v, known.iter().map(String::as_str)) {
            Some(s) => finding.hint(format!("did you mean `{s}`?")),
            None if known.is_empty() => finding.hint(format!("no {what} is defined")),
            None => finding.hint(format!("known: {}", known.join(", "))),
        });
    }

    fn one_of<'n>(&mut self, what: &str, name: &Name, known: impl Iterator<Item = &'n str>) {
        let known: Vec<String> = known.map(str::to_string).collect();
        if !known.contains(&name.v) {
            self.unknown(what, name, &known);
        }
    }

    fn nic(&mut self, name: &Name) {
        let s = self.s;
        self.one_of("nic", name, s.machine.nics.names());
    }

    fn queue(&mut self, nic: &Name, queue: Option<&Spanned<u32>>) {
        let queues = self.s.machine.nics.get(&nic.v).map(|n| &n.queues);
        if let (Some(queue), Some(queues)) = (queue, queues)
            && queue.v >= queues.v
        {
            let message = format!("queue {} does not exist: {} has {}", queue.v, nic.v, queues.v);
            let finding = Finding::error(queue.span, message);
            self.found.push(finding.also(queues.span, "number of queues"));
        }
    }

    fn packet(&mut self, name: &Name) {
        let s = self.s;
        self.one_of("packet", name, s.packets.names());
    }

    /// A CPU exists in this cell of the matrix, or in one of them.
    fn cpu(&mut self, cpu: u32, span: Span) {
        let axis = self.s.matrix.as_ref().and_then(|m| m.cpus.as_ref());
        let (all, given) = match axis {
            Some(a) => (a.v.0.iter().filter_map(|v| v.parse().ok()).max(), a.span),
            None => (Some(self.s.machine.cpus.v), self.s.machine.cpus.span),
        };
        let cpus = self.cpus.or(all).unwrap_or(u32::MAX);
        if cpu >= cpus {
            let message = format!("CPU {cpu} does not exist: the machine has {cpus}");
            self.found.push(Finding::error(span, message).also(given, "number of CPUs"));
        }
    }

    fn some_cpu(&mut self, cpu: Option<&Spanned<u32>>) {
        cpu.iter().for_each(|c| self.cpu(c.v, c.span));
    }

    /// A name inside an object, as `name` or `object/name`.
    fn in_objects(
        &mut self,
        what: &str,
        name: &Name,
        list: impl Fn(&dyn Objects, &str) -> Option<Vec<String>>,
    ) {
        let (within, short) = match name.v.split_once('/') {
            Some((object, short)) if self.s.objects.get(object).is_some() => (Some(object), short),
            _ => (None, name.v.as_str()),
        };
        let mut known = Vec::new();
        let mut hits = 0;
        for object in self.s.objects.names() {
            if within.is_some_and(|w| w != object) {
                continue;
            }
            let Some(names) = list(self.objects, object) else { return };
            hits += names.iter().filter(|n| *n == short).count();
            known.extend(names);
        }
        if hits == 0 {
            self.unknown(what, name, &known);
        } else if hits > 1 {
            let message = format!("`{}` is in {hits} objects", name.v);
            self.found.push(Finding::error(name.span, message).hint("write \"object/name\""));
        }
    }

    fn prog(&mut self, name: &Name) {
        self.in_objects("program", name, |o, n| o.programs(n));
    }

    /// An element that user space writes.
    fn put(&mut self, map: &Name, key: &Data, value: &Data) {
        self.map(map);
        for (data, is_key) in [(key, true), (value, false)] {
            let found = self.objects.check_data(&map.v, data, is_key);
            self.found.extend(found);
        }
    }

    fn map(&mut self, name: &Name) {
        self.in_objects("map", name, |o, n| o.maps(n));
    }

    fn machine(&mut self) {
        let m = &self.s.machine;
        let positive = [(&m.cpus, 256, "cpus"), (&m.llcs, 256, "llcs")];
        for (n, max, what) in positive {
            if n.v == 0 || n.v > max {
                self.found.push(Finding::error(n.span, format!("{what} is 1..={max}")));
            }
        }
        if let Some(axis) = self.s.matrix.as_ref().and_then(|m| m.cpus.as_ref())
            && !axis.v.0.iter().all(|v| v.parse().is_ok_and(|n: u32| (1..=256).contains(&n)))
        {
            self.found.push(Finding::error(axis.span, "cpus is 1..=256"));
        }
        for (name, nic) in m.nics.iter() {
            nic.irqs.iter().for_each(|cpu| self.cpu(cpu.v, cpu.span));
            if let Some(extra) = nic.irqs.get(nic.queues.v as usize) {
                let (nic, queues) = (&name.v, nic.queues.v);
                let message = format!("queue {queues} does not exist: {nic} has {queues}");
                let hint = "one CPU for each queue";
                self.found.push(Finding::error(extra.span, message).hint(hint));
            }
            if let Some(peer) = &nic.peer {
                self.nic(peer);
            }
            if nic.queues.v == 0 || nic.queues.v > 64 {
                self.found.push(Finding::error(nic.queues.span, "queues is 1..=64"));
            }
            if !nic.ring.v.is_power_of_two() || nic.ring.v < 2 || nic.ring.v > 65536 {
                let message = "ring is a power of two, 2..=65536";
                self.found.push(Finding::error(nic.ring.span, message));
            }
            if !(68..=65535).contains(&nic.mtu.v) {
                self.found.push(Finding::error(nic.mtu.span, "mtu is 68..=65535"));
            }
        }
        self.routes();
    }

    fn routes(&mut self) {
        let m = &self.s.machine;
        for route in &m.routes {
            if let Some(nic) = &route.nic {
                self.nic(nic);
            } else if matches!(route.kind, RouteKind::Unicast | RouteKind::Local) {
                let message = "a route that delivers packets has a nic";
                self.found.push(Finding::error(route.to.span, message));
            }
        }
        for neighbour in &m.neighbours {
            self.nic(&neighbour.nic);
        }
        for nic in m.sockets.iter().filter_map(|s| s.nic.as_ref()) {
            self.nic(nic);
        }
    }

    fn objects_given(&mut self) {
        for (name, object) in self.s.objects.iter() {
            match (&object.file, &object.asm) {
                (None, None) => {
                    let message = format!("object \"{}\" has neither file nor asm", name.v);
                    self.found.push(Finding::error(name.span, message));
                }
                (Some(f), Some(a)) => {
                    let message = "an object has a file or asm, not both";
                    self.found.push(Finding::error(a.span, message).also(f.span, "file"));
                }
                _ => {}
            }
            for (map, entries) in object.maps.iter() {
                self.map_of(&name.v, map);
                for (key, value) in entries {
                    let key = self.objects.check_data(&map.v, key, true);
                    self.found.extend(key);
                    let value = self.objects.check_data(&map.v, value, false);
                    self.found.extend(value);
                }
            }
            object.resize.iter().for_each(|(map, _)| self.map_of(&name.v, map));
            for (global, value) in object.globals.iter() {
                match self.objects.globals(&name.v) {
                    Some(known) if !known.contains(&global.v) => {
                        self.unknown("global", global, &known);
                    }
                    _ => self.global_is(global, value),
                }
            }
        }
    }

    fn global_is(&mut self, global: &Name, value: &crate::leaf::Data) {
        let found = self.objects.check_global(&global.v, value);
        self.found.extend(found);
    }

    fn map_of(&mut self, object: &str, map: &Name) {
        if let Some(known) = self.objects.maps(object)
            && !known.contains(&map.v)
        {
            self.unknown("map", map, &known);
        }
    }

    fn attach(&mut self, attach: &Attach) {
        if let Some(prog) = attach.prog() {
            self.prog(prog);
        }
        if let Some(nic) = attach.nic() {
            self.nic(nic);
        }
        if let Attach::Uprobe { task, .. } | Attach::UprobeMulti { task, .. } = attach {
            self.task(task);
        }
    }

    fn packets(&mut self) {
        let s = self.s;
        for (_, layers) in s.packets.iter() {
            self.sent(layers);
        }
        for (_, flow) in s.flows.iter() {
            self.times(&flow.packets, PACKETS_MAX, "packets");
            self.sent(&flow.like);
        }
    }

    fn sent(&mut self, layers: &[Layer]) {
        for (n, layer) in layers.iter().enumerate() {
            for span in layer.patterns() {
                let message = "a pattern cannot be sent";
                self.found.push(Finding::error(span, message).hint("give one value"));
            }
            match layer {
                Layer::Rest => {
                    let span = self.s.span;
                    self.found.push(Finding::error(span, "Rest is for expected packets only"));
                }
                Layer::Like(name) => self.packet(name),
                Layer::Cut(size) if n + 1 != layers.len() => {
                    self.found.push(Finding::error(size.span, "Cut is the last layer"));
                }
                _ => {}
            }
            self.required(layers, layer);
        }
    }

    /// Fields that a sent packet cannot do without, unless `Like` brings them.
    fn required(&mut self, layers: &[Layer], layer: &Layer) {
        if layers.iter().any(|l| matches!(l, Layer::Like(_))) {
            return;
        }
        let missing = match layer {
            Layer::Ip4 { src: None, .. } => Some("src of Ip4"),
            Layer::Ip4 { dst: None, .. } => Some("dst of Ip4"),
            Layer::Ip6 { src: None, .. } => Some("src of Ip6"),
            Layer::Ip6 { dst: None, .. } => Some("dst of Ip6"),
            Layer::Udp { dport: None, .. } => Some("dport of Udp"),
            Layer::Tcp { dport: None, .. } => Some("dport of Tcp"),
            Layer::Sctp { dport: None, .. } => Some("dport of Sctp"),
            Layer::Icmp { kind: None, .. } => Some("type of Icmp"),
            Layer::Vlan { id: None, .. } => Some("id of Vlan"),
            _ => None,
        };
        if let Some(what) = missing {
            let owner = self.s.packets.iter().find(|(_, l)| std::ptr::eq(l.as_slice(), layers));
            let span = owner.map_or(self.s.span, |(name, _)| name.span);
            let message = format!("{what} is needed to send this packet");
            self.found.push(Finding::error(span, message));
        }
    }

    fn timeline(&mut self) {
        let s = self.s;
        let until = &s.machine.until;
        let mut last: Option<(u64, Span)> = None;
        for step in &s.timeline {
            let at = match step {
                Step::At(t, _) => {
                    if let Some((before, span)) = last
                        && t.v.ns < before
                    {
                        let message = "this step comes before the one above it";
                        let finding = Finding::error(t.span, message);
                        self.found.push(finding.also(span, "the step above"));
                    }
                    Some((t.v.ns, t.span))
                }
                Step::After(t, _) => Some((last.map_or(0, |l| l.0).saturating_add(t.v.ns), t.span)),
                Step::Every { from, period, times, .. } => {
                    self.times(times, TIMES_MAX, "times");
                    let span = if from.span.end > 0 { from.span } else { period.span };
                    Some((from.v.ns, span))
                }
                Step::When(event, _) => {
                    self.event(event);
                    None
                }
            };
            if let Some((ns, span)) = at {
                if ns > until.v.ns {
                    let finding = Finding::error(span, "this step comes after the end of the run");
                    self.found.push(ends(finding, until));
                }
                self.cut(step, ns, until);
                if !matches!(step, Step::Every { .. }) {
                    last = Some((ns, span));
                }
            }
            self.action(step.action());
        }
    }

    /// What is repeated so often that the run ends before.
    fn cut(&mut self, step: &Step, at: u64, until: &Spanned<Time>) {
        let (period, times) = match step {
            Step::Every { period, times, .. } => (period.v.ns, times),
            Step::At(_, Action::Send { times: Some(times), gap, .. })
            | Step::After(_, Action::Send { times: Some(times), gap, .. }) => (gap.ns, times),
            _ => return,
        };
        let left = until.v.ns.saturating_sub(at);
        let done = left.checked_div(period).map_or(u64::MAX, |n| n.saturating_add(1));
        if at <= until.v.ns && done < times.v {
            let message = format!("the run ends after {done} of these {} times", times.v);
            self.found.push(ends(Finding::warning(times.span, message), until));
        }
    }

    /// How often something happens: a run that never ends is a mistake.
    fn times(&mut self, n: &Spanned<u64>, max: u64, what: &str) {
        if n.v > max {
            self.found.push(Finding::error(n.span, format!("{what} is at most {max}")));
        }
    }

    // tidy: flat match
    fn action(&mut self, action: &Action) {
        match action {
            Action::Send { packet, on, times, queue, .. } => {
                self.packet(packet);
                self.nic(on);
                self.queue(on, queue.as_ref());
                times.iter().for_each(|n| self.times(n, TIMES_MAX, "times"));
            }
            Action::Play { flows, on } => {
                let s = self.s;
                self.one_of("flows", flows, s.flows.names());
                self.nic(on);
            }
            Action::Replay { on, .. } => self.nic(on),
            Action::TestRun { prog, packet, cpu, .. } => {
                self.prog(prog);
                self.cpu(cpu.v, cpu.span);
                if let Some(p) = packet {
                    self.packet(p);
                }
            }
            Action::ReadIter { prog, map, task, .. } => {
                self.prog(prog);
                map.iter().for_each(|m| self.map(m));
                task.iter().for_each(|t| self.task(t));
            }
            Action::Put { map, key, value } => self.put(map, key, value),
            Action::Delete { map, .. } => self.map(map),
            Action::Set { global, to } => {
                self.in_objects("global", global, |o, n| o.globals(n));
                self.global_is(global, to);
            }
            Action::Link { nic, .. } => self.nic(nic),
            Action::Irq { cpu, .. } | Action::Nmi { cpu } => self.cpu(cpu.v, cpu.span),
            Action::Start(task) | Action::Kill(task) => self.task(task),
            Action::Load(object) => self.one_of("object", object, self.s.objects.names()),
            Action::Attach(attach) => self.attach(attach),
            Action::Detach(prog) | Action::Cancel { prog } => self.prog(prog),
            Action::Check(expect) => self.expect(expect),
            Action::Fire { cpu, .. } => self.cpu(cpu.v, cpu.span),
            Action::Snapshot(_) => {}
        }
    }

    // tidy: flat match
    fn event(&mut self, event: &Event) {
        self.some_cpu(event.cpu());
        match event {
            Event::Enter { prog: Some(p), .. }
            | Event::Exit { prog: Some(p), .. }
            | Event::Call { prog: Some(p), .. }
            | Event::Memory { prog: Some(p), .. }
            | Event::RcuStall { prog: Some(p), .. }
            | Event::Race { prog: Some(p), .. }
            | Event::Cancelled { prog: Some(p), .. } => self.prog(p),
            Event::Out { on: Some(nic), .. } => self.nic(nic),
            Event::Record { map: Some(map), .. } => self.map(map),
            Event::Switch { .. } | Event::Stall { .. } => self.event_tasks(event),
            _ => {}
        }
    }

    // tidy: flat match
    fn expect(&mut self, expect: &Expect) {
        match expect {
            Expect::Drops { .. } => {}
            Expect::Verdicts { prog, .. }
            | Expect::Stream { prog, .. }
            | Expect::Accepted { prog, .. }
            | Expect::Budget { prog, .. } => self.prog(prog),
            Expect::Rejected { prog, .. } => self.prog(prog),
            Expect::Packets { on, .. } => match on {
                On::Out(nic) | On::Up(nic) => self.nic(nic),
            },
            Expect::Map { map, cpu, has, .. } => {
                self.map(map);
                self.some_cpu(cpu.as_ref());
                for data in has {
                    self.pair(map, data);
                }
            }
            Expect::Records { map, .. } => self.map(map),
            Expect::Global { name, is } => {
                self.in_objects("global", name, |o, n| o.globals(n));
                self.global_is(name, is);
            }
            Expect::Sequence(events) | Expect::AnyOrder(events) => {
                events.iter().for_each(|e| self.event(e));
            }
            Expect::Count { of, .. } => self.event(of),
            Expect::Never(event) => self.event(event),
            Expect::Eventually { event, after, .. } => {
                self.event(event);
                after.iter().for_each(|e| self.event(e));
            }
            Expect::Share { task, .. } => self.task(task),
            Expect::Latency { task, percentile, .. } => {
                self.task(task);
                self.percentile(*percentile, task.span);
            }
            Expect::Leaks(_) | Expect::Differs { .. } => {}
        }
    }

    /// `(key, value)` of an expected map element.
    fn pair(&mut self, map: &Name, data: &crate::leaf::Data) {
        if let crate::tree::Kind::Tuple(items) = &data.node.kind
            && let [key, value] = items.as_slice()
        {
            let data = |n: &crate::tree::Node| crate::leaf::Data { node: n.clone() };
            let found = self.objects.check_data(&map.v, &data(key), true);
            self.found.extend(found);
            let found = self.objects.check_data(&map.v, &data(value), false);
            self.found.extend(found);
        }
    }
}

/// A finding about a time, with where the run ends.
fn ends(finding: Finding, until: &Spanned<Time>) -> Finding {
    if until.span.end > 0 {
        finding.also(until.span, "the run ends here")
    } else {
        finding.hint("the run ends after \"1s\" unless machine.until says more")
    }
}
