//! What must hold at the end, and what is always checked without being written.

use std::collections::BTreeMap;

use kernel_model::cpu::FaultKind;
use kernel_model::net::check::check_packet;
use kernel_model::{EventKind, ProgId};
use scenarios::Span;
use scenarios::leaf::{Data, Is};
use scenarios::schema::expect::{ListOrder, On, Others};
use scenarios::schema::{Event, Expect, Layer, Name, NamedCounts};
use scenarios::tree::Kind;

use super::data::Difference;
use super::{Failure, Run, RunError, matching, wire};

type Checked = Result<(), RunError>;

impl Run<'_> {
    /// All expectations, then what is always checked.
    pub(super) fn expectations(&mut self) -> Checked {
        let s = self.s;
        // A run that met what is not modelled says nothing about what was expected of it.
        let kinds = self.machine.events().iter().map(|e| &e.kind);
        let mut unsupported = kinds.filter_map(|k| match k {
            EventKind::Fault { fault, .. } => match &fault.kind {
                FaultKind::Unsupported(what) => Some(what.clone()),
                _ => None,
            },
            _ => None,
        });
        if let Some(what) = unsupported.next() {
            return Err(RunError::unsupported(s.span, what));
        }
        for expect in &s.expect {
            self.check(expect)?;
        }
        self.always();
        Ok(())
    }

    fn fail(&mut self, span: Span, message: impl Into<String>) {
        self.failures.push(Failure { message: message.into(), span, fix: None });
    }

    /// A failure with what would be right, where the file says something at all.
    fn fail_fix(&mut self, span: Span, message: impl Into<String>, fix: Option<(Span, String)>) {
        let fix = fix.filter(|(at, _)| at.end > 0);
        self.failures.push(Failure { message: message.into(), span, fix });
    }

    /// A value that is not what was expected.
    fn fail_at(&mut self, what: &str, d: Difference) {
        let fix = d.fix.map(|text| (d.at, text));
        self.fail_fix(d.at, format!("{what}{}", d.why), fix);
    }

    /// One expectation, now.
    // tidy: flat match
    pub(super) fn check(&mut self, expect: &Expect) -> Checked {
        match expect {
            Expect::Verdicts { prog, are } => self.verdicts(prog, are),
            Expect::Packets { on, are, order, rest, skb } => match skb {
                Some(d) => Err(RunError::unsupported(d.span(), "skb in Packets")),
                None => self.packets(on, are, *order, *rest),
            },
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
            Expect::Sequence(events) => self.sequence(events),
            Expect::AnyOrder(events) => self.any_order(events),
            Expect::Count { of, is } => {
                let found = self.indices(of)?.len() as u64;
                self.number(&is.v, found, is.span, "events");
                Ok(())
            }
            Expect::Never(event) => self.never(event),
            Expect::Eventually { event, within, after } => {
                self.eventually(event, within.v.ns, after.as_ref(), within.span)
            }
            Expect::Records { map, are, order, lost, record } => {
                self.records(map, are, *order, record.as_ref())?;
                if let Some(l) = lost {
                    let found = self.lost();
                    self.number(&l.v, found, l.span, "lost records");
                }
                Ok(())
            }
            Expect::Accepted { prog, insns, states, stack } => {
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
            Expect::Stream { prog, .. } => Err(RunError::unsupported(prog.span, "program streams")),
            Expect::Share { task, .. } | Expect::Latency { task, .. } => {
                Err(RunError::unsupported(task.span, "tasks"))
            }
            Expect::Leaks(_) | Expect::Differs { .. } => Ok(()),
        }
    }

    fn number(&mut self, pattern: &Is<u64>, found: u64, span: Span, what: &str) {
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
        let mut found: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
        let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut packet = 0;
        for (event, e) in self.machine.events().iter().enumerate() {
            if let EventKind::Verdict { prog, raw, .. } = &e.kind
                && *prog == id
            {
                packet += 1;
                let raw = *raw as u32;
                let code = if xdp { raw.min(matching::XDP_INVALID) } else { raw };
                let entry = found.entry(code).or_default();
                entry.0 += 1;
                entry.1 = packet;
                let place = format!("packet {packet} (event {})", event + 1);
                places.entry(code).or_default().push(place);
            }
        }
        let mut listed = Vec::new();
        for (name, count) in &are.0 {
            let Some(code) = matching::code(&name.v, xdp) else {
                let message = format!("{} is no return code of {}", name.v, prog.v);
                return Err(RunError::input(name.span, message));
            };
            listed.push(code);
            let n = found.get(&code).map_or(0, |f| f.0);
            if !count.v.matches(&n) {
                let wanted = show(&count.v);
                let all = histogram(&found, xdp);
                let at = place_list(places.get(&code).map_or(&[], Vec::as_slice));
                let (prog, name) = (&prog.v, &name.v);
                let message = format!("{prog}: expected {wanted} {name}, found {n}{at} ({all})");
                self.fail_fix(count.span, message, Some((count.span, n.to_string())));
            }
        }
        let end = are.0.last().map_or(Span::default(), |(_, count)| count.span);
        let end = Span { start: end.end, ..end };
        for (code, (n, last)) in &found {
            if !listed.contains(code) {
                let name = code_name(*code, xdp);
                let message = format!(
                    "{}: {n} packets came to {name}, which is not listed (the last was packet \
                     {last} of this program)",
                    prog.v
                );
                self.fail_fix(prog.span, message, Some((end, format!(", {name}: {n}"))));
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

    fn packets(&mut self, on: &On, are: &[Vec<Layer>], order: ListOrder, rest: Others) -> Checked {
        let ifindex = self.nic(on.nic())?;
        let up = matches!(on, On::Up(_));
        let mut found: Vec<(usize, Vec<u8>)> = Vec::new();
        for (n, e) in self.machine.events().iter().enumerate() {
            match &e.kind {
                EventKind::Out { nic, packet } if !up && *nic == ifindex => {
                    found.push((n, packet.clone()));
                }
                EventKind::Up { nic, packet } if up && *nic == ifindex => {
                    found.push((n, packet.clone()));
                }
                _ => {}
            }
        }
        let span = on.nic().span;
        let find = |name: &str| self.s.packets.get(name).cloned();
        let mut wanted = Vec::new();
        for layers in are {
            let layers = super::packet::resolve(layers, &find, 0);
            wanted.push(layers.map_err(|e| RunError::input(span, e))?);
        }
        match order {
            ListOrder::Exact => self.in_order(&wanted, &found, rest, span),
            ListOrder::Any => self.in_any_order(&wanted, found, rest, span),
        }
        Ok(())
    }

    fn in_order(
        &mut self,
        wanted: &[Vec<Layer>],
        found: &[(usize, Vec<u8>)],
        rest: Others,
        span: Span,
    ) {
        let mut at = 0;
        for (n, layers) in wanted.iter().enumerate() {
            let number = n + 1;
            if rest == Others::Allow {
                match found[at..].iter().position(|f| wire::mismatch(layers, &f.1).is_none()) {
                    Some(skip) => at += skip + 1,
                    None => self.fail(span, format!("packet {number} of the list never came")),
                }
                continue;
            }
            match found.get(at) {
                None => {
                    let n = found.len();
                    self.fail(span, format!("expected packet {number}, only {n} came"));
                    return;
                }
                Some((event, bytes)) => {
                    if let Some(wire::Mismatch { why, fix }) = wire::mismatch(layers, bytes) {
                        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                        let message = format!("packet {number} (event {event}): {why}\n  {hex}");
                        let at = fix.as_ref().map_or(span, |f| f.0);
                        self.fail_fix(at, message, fix);
                    }
                }
            }
            at += 1;
        }
        if rest == Others::Forbid && at < found.len() {
            let (n, event) = (found.len(), found[at].0);
            let message =
                format!("expected {at} packets, {n} came (the first more is event {event})");
            self.fail(span, message);
        }
    }

    fn in_any_order(
        &mut self,
        wanted: &[Vec<Layer>],
        mut found: Vec<(usize, Vec<u8>)>,
        rest: Others,
        span: Span,
    ) {
        for (n, layers) in wanted.iter().enumerate() {
            match found.iter().position(|f| wire::mismatch(layers, &f.1).is_none()) {
                Some(at) => {
                    found.remove(at);
                }
                None => self.fail(span, format!("packet {} of the list never came", n + 1)),
            }
        }
        if rest == Others::Forbid && !found.is_empty() {
            self.fail(span, format!("{} packets came that are not in the list", found.len()));
        }
    }

    /// Summed over CPUs unless one is named.
    fn map_value(&mut self, map: &Name, key: &[u8], cpu: Option<u32>) -> Result<Vec<u8>, RunError> {
        let at = self.map(map)?;
        let m = self.machine.kernel.map(at.0).expect("found by name");
        let (percpu, stride, size) =
            (m.is_percpu(), m.value_stride() as usize, m.def.value_size as usize);
        let all = self
            .machine
            .kernel
            .user_lookup(at.0, key)
            .map_err(|e| RunError::Internal(format!("reading {}: {}", map.v, e.name())))?;
        if !percpu {
            return Ok(all);
        }
        if let Some(cpu) = cpu {
            let from = cpu as usize * stride;
            return Ok(all.get(from..from + size).unwrap_or_default().to_vec());
        }
        let ty = self.entry(at).value_type;
        let endian = self.machine.arch().endian();
        let mut out = vec![0; size];
        let parts: Vec<(usize, usize)> =
            self.types(at.1).map_or(vec![(0, size)], |t| integers(&t, ty, 0));
        for (from, len) in parts {
            let sum = all.chunks(stride).fold(0u64, |n, one| {
                n.wrapping_add(super::data::get_int(&one[from..from + len], endian))
            });
            super::data::put_int(&mut out[from..from + len], sum, endian);
        }
        Ok(out)
    }

    fn has_key(&mut self, map: &Name, key: &[u8]) -> Result<bool, RunError> {
        let at = self.map(map)?;
        Ok(self.machine.kernel.user_lookup(at.0, key).is_ok())
    }

    fn map_has(&mut self, map: &Name, data: &Data, cpu: Option<u32>) -> Checked {
        let Kind::Tuple(items) = &data.node.kind else {
            return Err(RunError::input(data.span(), "(key, value) was expected"));
        };
        let [key, value] = items.as_slice() else {
            return Err(RunError::input(data.span(), "(key, value) was expected"));
        };
        let at = self.map(map)?;
        let bytes = self.key_of(at, key)?;
        if !self.has_key(map, &bytes)? {
            self.fail(key.span, format!("{} has no such key", map.v));
            return Ok(());
        }
        let found = self.map_value(map, &bytes, cpu)?;
        let ty = self.entry(at).value_type;
        let differs = match self.types(at.1) {
            Some(types) if ty != 0 => types.differs(value, ty, &found)?,
            _ => {
                let wanted =
                    super::data::untyped(value, found.len(), self.machine.arch().endian())?;
                (wanted != found).then(|| Difference {
                    why: format!("is {found:02x?}, expected {wanted:02x?}"),
                    at: value.span,
                    fix: None,
                })
            }
        };
        if let Some(d) = differs {
            self.fail_at(&format!("{}: ", map.v), d);
        }
        Ok(())
    }

    fn map_lacks(&mut self, map: &Name, key: &Data) -> Checked {
        let at = self.map(map)?;
        let types = self.types(at.1);
        let ty = self.entry(at).key_type;
        let mut hit = false;
        for bytes in self.machine.kernel.user_keys(at.0) {
            hit |= match &types {
                Some(t) if ty != 0 => t.differs(&key.node, ty, &bytes)?.is_none(),
                _ => false,
            };
        }
        if hit {
            self.fail(key.span(), format!("{} has this key", map.v));
        }
        Ok(())
    }

    fn map_holds(&mut self, map: &Name, list: &[Data]) -> Checked {
        let at = self.map(map)?;
        let found = self.machine.kernel.fifo_values(at.0);
        if found.len() != list.len() {
            let message =
                format!("{} holds {} values, expected {}", map.v, found.len(), list.len());
            self.fail(map.span, message);
        }
        let ty = self.entry(at).value_type;
        for (n, (value, bytes)) in list.iter().zip(&found).enumerate() {
            let differs = match self.types(at.1) {
                Some(types) if ty != 0 => types.differs(&value.node, ty, bytes)?,
                _ => return Err(RunError::input(value.span(), "the values have no BTF type")),
            };
            if let Some(d) = differs {
                self.fail_at(&format!("value {} of {}: ", n + 1, map.v), d);
            }
        }
        Ok(())
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

    /// Positions of the events that match.
    fn indices(&self, wanted: &Event) -> Result<Vec<usize>, RunError> {
        let mut out = Vec::new();
        for (n, e) in self.machine.events().iter().enumerate() {
            if self.event_matches(wanted, e)? {
                out.push(n);
            }
        }
        Ok(out)
    }

    fn sequence(&mut self, events: &[Event]) -> Checked {
        let mut from = 0;
        for (n, wanted) in events.iter().enumerate() {
            match self.indices(wanted)?.into_iter().find(|i| *i >= from) {
                Some(at) => from = at + 1,
                None => {
                    let after = self.around(from);
                    let message = format!("event {} of the sequence did not come{after}", n + 1);
                    let span = event_span(wanted).unwrap_or(self.s.span);
                    self.fail(span, message);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What did happen: the event a search went on from, and those after it.
    fn around(&self, from: usize) -> String {
        let names = super::trace::Names::of(self);
        let events = self.machine.events();
        let line = |n: usize| {
            let text = super::trace::line(&events[n], &names, true);
            format!("\n  event {n}: {}", text.trim().chars().take(100).collect::<String>())
        };
        let before = from.checked_sub(1).map_or(String::new(), |n| {
            format!("\n  the one before it is{}", line(n).replacen("\n ", "", 1))
        });
        let after: String = (from..events.len()).take(4).map(line).collect();
        let after = if after.is_empty() { "\n  nothing".to_owned() } else { after };
        format!("{before}\n  what came after:{after}")
    }

    fn any_order(&mut self, events: &[Event]) -> Checked {
        for (n, wanted) in events.iter().enumerate() {
            if self.indices(wanted)?.is_empty() {
                let span = event_span(wanted).unwrap_or(self.s.span);
                self.fail(span, format!("event {} of the list did not come", n + 1));
            }
        }
        Ok(())
    }

    fn never(&mut self, event: &Event) -> Checked {
        if let Some(at) = self.indices(event)?.first() {
            let names = super::trace::Names::of(self);
            let line = super::trace::line(&self.machine.events()[*at], &names, true);
            let span = event_span(event).unwrap_or(self.s.span);
            self.fail(span, format!("this must not happen, but event {at} is: {}", line.trim()));
        }
        Ok(())
    }

    fn eventually(
        &mut self,
        event: &Event,
        within: u64,
        after: Option<&Event>,
        span: Span,
    ) -> Checked {
        let clock = |n: usize| self.machine.events()[n].clock_ns;
        let start = match after {
            Some(a) => self.indices(a)?.first().map(|n| (clock(*n), *n)),
            None => Some((self.s.machine.clock.ns, 0)),
        };
        let Some((start, from)) = start else {
            self.fail(span, "the event to measure from did not come");
            return Ok(());
        };
        let found = self.indices(event)?.into_iter().find(|n| *n >= from).map(clock);
        match found {
            Some(at) if at - start <= within => {}
            Some(at) => {
                let late = at - start;
                self.fail(
                    span,
                    format!("the event came {late} ns after, expected within {within}"),
                );
            }
            None => {
                let message = format!("the event did not come{}", self.around(from));
                self.fail(span, message);
            }
        }
        Ok(())
    }

    fn records(
        &mut self,
        map: &Name,
        are: &[Data],
        order: ListOrder,
        record: Option<&Name>,
    ) -> Checked {
        let id = self.map(map)?.0;
        let mut found: Vec<Vec<u8>> = if self.consumers.contains(&id.0) {
            self.consumed.get(&id.0).cloned().unwrap_or_default()
        } else {
            let of = |e: &kernel_model::Event| match &e.kind {
                EventKind::Record { map, data } if *map == id => Some(data.clone()),
                _ => None,
            };
            self.machine.events().iter().filter_map(of).collect()
        };
        if found.len() != are.len() {
            let message =
                format!("{}: expected {} records, {} came", map.v, are.len(), found.len());
            self.fail(map.span, message);
        }
        for (n, wanted) in are.iter().enumerate() {
            let candidates = if order == ListOrder::Exact {
                n.min(found.len())..found.len().min(n + 1)
            } else {
                0..found.len()
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
                (Some(_), _) => {}
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

    fn lost(&self) -> u64 {
        let kinds = self.machine.events().iter().map(|e| &e.kind);
        let full =
            |k: &&EventKind| matches!(k, EventKind::Drop { reason } if *reason == "ringbuf full");
        kinds.filter(full).count() as u64
    }

    fn rejected(
        &mut self,
        prog: &Name,
        errno: Option<&Data>,
        log: &[scenarios::Spanned<scenarios::leaf::TextIs>],
        at: Option<&Name>,
    ) -> Checked {
        let short = prog.v.rsplit('/').next().unwrap_or(&prog.v);
        let object = prog.v.split_once('/').map(|p| p.0);
        let found = self
            .objects
            .iter()
            .filter(|o| object.is_none_or(|name| name == o.name))
            .flat_map(|o| &o.refused)
            .find(|(n, _)| n == short)
            .map(|(_, r)| (r.errno, r.log.clone(), r.message.clone()));
        let Some((number, text, message)) = found else {
            self.fail(prog.span, format!("{} was expected to be rejected and was not", prog.v));
            return Ok(());
        };
        if let Some(e) = errno
            && let Kind::Name(name) = &e.node.kind
        {
            let wanted = kernel_model::Errno::from_name(name).map(|e| e as i32);
            if wanted != Some(number) {
                let right =
                    kernel_model::Errno::from_raw(number.abs()).map(|e| e.name().to_owned());
                let fix = right.map(|name| (e.span(), name));
                self.fail_fix(e.span(), format!("errno is {number}: {message}"), fix);
            }
        }
        let all = format!("{text}\n{message}");
        let mut from = 0;
        for part in log {
            match all[from..].find(&part.v.0) {
                Some(n) => from += n + part.v.0.len(),
                None => self.fail(part.span, format!("the log has no such text:\n{text}")),
            }
        }
        if let Some(at) = at {
            return Err(RunError::unsupported(at.span, "`at` in Rejected"));
        }
        Ok(())
    }

    fn budget(
        &mut self,
        prog: &Name,
        insns: &Option<scenarios::Spanned<Is<u64>>>,
        total: &Option<scenarios::Spanned<Is<u64>>>,
    ) -> Checked {
        let id = self.prog(prog)?;
        let runs = self.run_lengths(id);
        let (worst, at) = runs.iter().zip(1..).map(|(n, i)| (*n, i)).max().unwrap_or((0, 0));
        if let Some(p) = insns
            && !p.v.matches(&worst)
        {
            let wanted = show(&p.v);
            let message =
                format!("run {at} of {} took {worst} instructions, expected {wanted}", prog.v);
            self.fail_fix(p.span, message, Some((p.span, format!("..={worst}"))));
        }
        if let Some(p) = total {
            let sum = runs.iter().sum();
            self.number(&p.v, sum, p.span, "instructions in all");
        }
        Ok(())
    }

    /// Instructions of each run: virtual time passes only by them.
    fn run_lengths(&self, id: ProgId) -> Vec<u64> {
        let mut open: BTreeMap<u32, Vec<(ProgId, u64)>> = BTreeMap::new();
        let mut out = Vec::new();
        for e in self.machine.events() {
            let stack = open.entry(e.cpu.0).or_default();
            match &e.kind {
                EventKind::Enter { prog } => stack.push((*prog, e.clock_ns)),
                EventKind::Exit { .. } => {
                    if let Some((prog, start)) = stack.pop()
                        && prog == id
                    {
                        out.push(e.clock_ns - start);
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// Ledger clean, no faults, right lengths and sums of what left.
    fn always(&mut self) {
        let leaks_expected = self.s.expect.iter().any(|e| matches!(e, Expect::Leaks(_)));
        let span = self.s.span;
        let mut found = Vec::new();
        for (n, e) in self.machine.events().iter().enumerate() {
            match &e.kind {
                EventKind::Leak { what } if !leaks_expected => {
                    found.push(format!("event {n}: leak: {what}"));
                }
                EventKind::Fault { fault, .. } => found.push(format!("event {n}: fault: {fault}")),
                EventKind::Out { packet, .. } if !self.sent_malformed => {
                    let wrong = check_packet(packet);
                    found.extend(wrong.iter().map(|w| format!("event {n}: a frame left: {w}")));
                }
                _ => {}
            }
        }
        found.truncate(10);
        found.into_iter().for_each(|m| self.fail(span, m));
    }
}

/// Offsets and sizes of the integers of a type, for sums over CPUs.
fn integers(t: &super::data::Types<'_>, ty: u32, at: usize) -> Vec<(usize, usize)> {
    use bpf::btf::Body;
    let id = t.btf.resolve(ty);
    match t.btf.body(id) {
        Body::Struct { .. } => {
            t.btf.members(id).flat_map(|m| integers(t, m.ty, at + m.byte_off() as usize)).collect()
        }
        Body::Array { elem, nelems, .. } => {
            let size = t.btf.size_of(*elem).unwrap_or(0) as usize;
            (0..*nelems as usize).flat_map(|n| integers(t, *elem, at + n * size)).collect()
        }
        _ => vec![(at, (t.btf.size_of(id).unwrap_or(0) as usize).min(8))],
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

fn code_name(code: u32, xdp: bool) -> String {
    let names: &[&str] = if xdp {
        &["ABORTED", "DROP", "PASS", "TX", "REDIRECT", "INVALID"]
    } else {
        &["OK", "RECLASSIFY", "SHOT", "PIPE", "STOLEN", "QUEUED", "REPEAT", "REDIRECT"]
    };
    match names.get(code as usize) {
        Some(n) => (*n).to_string(),
        None => (code as i32).to_string(),
    }
}

fn histogram(found: &BTreeMap<u32, (u64, usize)>, xdp: bool) -> String {
    let parts: Vec<String> =
        found.iter().map(|(c, (n, _))| format!("{}: {n}", code_name(*c, xdp))).collect();
    if parts.is_empty() { "it never ran".into() } else { format!("all: {}", parts.join(", ")) }
}

/// Where an event names something.
pub(super) fn event_span(event: &Event) -> Option<Span> {
    match event {
        Event::Enter { prog, .. } | Event::Exit { prog, .. } => prog.as_ref().map(|p| p.span),
        Event::Call { func, prog, .. } => func.as_ref().or(prog.as_ref()).map(|p| p.span),
        Event::Out { on, .. } => on.as_ref().map(|p| p.span),
        Event::Record { map, .. } => map.as_ref().map(|p| p.span),
        _ => None,
    }
}

/// Where something happened: the first few places.
fn place_list(places: &[String]) -> String {
    const SHOWN: usize = 4;
    if places.is_empty() {
        return String::new();
    }
    let more = if places.len() > SHOWN { ", ..." } else { "" };
    format!(" at {}{more}", places[..places.len().min(SHOWN)].join(", "))
}
