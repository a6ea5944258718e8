//! Every loop of the abstract walk ends: the proof that stands for the kernel's million.
//!
//! The walk leaves a finite graph: kept states, and between them the pieces of path that were
//! walked, those that ended in a kept state included. A concrete run follows it for ever or ends.
//! If for ever, then from some point on it stays in one strongly connected part and takes each of
//! that part's edges again and again (edges it takes finitely often are dropped). So a part is
//! harmless when some of its edges can only be taken finitely often; without them it falls apart,
//! and the same is asked of what is left. A part that has no such edge is not known to end.
//!
//! Edges that can only be taken finitely often:
//! - `may_goto` goes on: the frame has a budget (`BPF_MAX_LOOPS`) that nothing refills, provided
//!   the part never leaves that frame, for a new frame has a new budget.
//! - An iterator is advanced: the kernel's iterators are finite, provided the part does not start
//!   that iterator anew nor leave its frame.
//! - A helper enters its callback: it does so at most `BPF_MAX_LOOPS` times, or once for each
//!   element, provided that the part never returns from that call of the helper.
//! - A counter goes up (or down): a number that is in one place at each state of the part, which
//!   each edge changes by adding something from a range of one sign, without wrapping, and which
//!   some edges change by at least one. Those edges are the finite ones: a number of 64 or 32 bits
//!   that only grows cannot grow for ever. That no addition wraps is seen from the ranges of the
//!   states at both ends, which hold for every run (see [`super`]): what started at most at the
//!   largest number less the step cannot wrap, nor can what ends at no less than the step. This is
//!   the argument of scalar evolution: start, step and a bound that is checked on each trip.
//!
//! Trips that a counter bounds are counted, and more than [`TRIPS_MAX`] are no end that anyone
//! lives to see.
//!
//! Paths under speculation are left out: the processor ends them.

use std::collections::{BTreeMap, BTreeSet};

use bpf::insn::{AluOp, Call, Insn, InsnIdx, Reg, Size, Src, Width};

use super::super::ver::{R, Ver};
use super::report::LoopEnd;
use super::{Loc, Place, widen};
use crate::domain::reg::{IterState, Obj, RegState};
use crate::domain::stack::SlotType;
use crate::domain::state::{Hist, VState};
use crate::marks::hit;
use crate::reject::{E2BIG, Rejection};

/// Most trips: a counter of 32 bits may run through, one of 64 bits may not.
const TRIPS_MAX: i128 = 1 << 33;

/// A piece of path between two states.
struct Edge<'a> {
    from: u32,
    to: u32,
    /// The state where the piece ends, with its history.
    end: &'a VState,
    /// The state at that end as it was walked to, before it was generalised.
    reached: &'a VState,
    /// The last instruction of the piece, and whether it was still to be executed.
    last: u32,
    open: bool,
    facts: Facts,
}

/// What happens on an edge.
#[derive(Default)]
struct Facts {
    /// The outermost frame that something returned to; frames above it are gone.
    returned_to: Option<usize>,
    /// Frames in which `may_goto` went on.
    may_goto: BTreeSet<usize>,
    /// Iterators, by frame and slot: advanced, and started.
    advanced: BTreeSet<(usize, usize)>,
    started: BTreeSet<(usize, usize)>,
    /// Calls of helpers, by instruction and frame: callback entered, returned from.
    entered: BTreeSet<(u32, usize)>,
    left: BTreeSet<(u32, usize)>,
}

/// One instruction of a piece of path, seen from its end.
struct Step<'h> {
    at: u32,
    hist: Option<&'h Hist>,
    /// What was executed next.
    next: Option<u32>,
    /// Frame before and after.
    before: usize,
    after: usize,
}

/// In which order a number grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    U64,
    S64,
    U32,
    S32,
}

impl Order {
    fn wide(self) -> bool {
        matches!(self, Order::U64 | Order::S64)
    }

    fn all(self) -> (i128, i128) {
        match self {
            Order::U64 => (0, u64::MAX.into()),
            Order::S64 => (i64::MIN.into(), i64::MAX.into()),
            Order::U32 => (0, u32::MAX.into()),
            Order::S32 => (i32::MIN.into(), i32::MAX.into()),
        }
    }

    fn of(self, r: &RegState) -> (i128, i128) {
        let b = &r.b;
        match self {
            Order::U64 => (b.umin.into(), b.umax.into()),
            Order::S64 => (b.smin.into(), b.smax.into()),
            Order::U32 => (b.u32_min.into(), b.u32_max.into()),
            Order::S32 => (b.s32_min.into(), b.s32_max.into()),
        }
    }
}

/// Where a number at the end of a piece was at its beginning, and what was added since.
#[derive(Clone, Copy)]
struct Origin {
    loc: Loc,
    added: (i128, i128),
}

/// A number that grows: where it is at each state, and by how much each edge changes it.
struct Counter {
    order: Order,
    places: BTreeMap<u32, Loc>,
    added: Vec<(i128, i128)>,
}

impl Ver<'_> {
    /// After a walk: refuses when a loop of it is not known to end.
    pub(in super::super) fn loops_end(&mut self) -> R {
        if !self.abstracts() {
            return Ok(());
        }
        let (mut ends, mut endless) = (Vec::new(), Vec::new());
        let edges = self.graph();
        let all: Vec<usize> = (0..edges.len()).collect();
        self.prove(&edges, &all, &mut ends, &mut endless);
        drop(edges);
        let at = endless.first().map(|i| self.kept[*i as usize].state.insn_idx);
        self.note_loops(ends);
        let Some(b) = &mut self.beyond else { return Ok(()) };
        b.edges.clear();
        b.endless = endless;
        match at {
            None => Ok(()),
            Some(at) => {
                hit!("ends: not known");
                let m = format!("the loop at insn {at} is not known to end");
                Err(Box::new(Rejection::limit(E2BIG, m).at(InsnIdx(at))))
            }
        }
    }

    /// All edges between states of loops.
    fn graph(&self) -> Vec<Edge<'_>> {
        let mut edges = Vec::new();
        for (to, k) in (0u32..).zip(&self.kept) {
            let st = &k.state;
            let Some(from) = st.parent.filter(|_| !st.speculative && self.in_loop(st)) else {
                continue;
            };
            let before = k.past.as_ref().and_then(|p| p.before.as_ref());
            let (last, reached) = (st.last_insn_idx, before.unwrap_or(st));
            let facts = Facts::default();
            edges.push(Edge { from, to, end: st, reached, last, open: false, facts });
        }
        for e in self.beyond.iter().flat_map(|b| &b.edges) {
            let (st, to) = (&e.state, e.to);
            let Some(from) = st.parent else { continue };
            let (last, facts) = (st.insn_idx, Facts::default());
            edges.push(Edge { from, to, end: st, reached: st, last, open: true, facts });
        }
        for e in &mut edges {
            e.facts = self.facts(e);
        }
        edges
    }

    /// Walks a piece of path back to its beginning, until `each` says that it is enough.
    fn back<'e>(&self, e: &'e Edge<'_>, mut each: impl FnMut(&Step<'e>) -> bool) {
        let (st, mut depth) = (e.end, e.end.curframe());
        let (mut i, mut n, mut skip) = (e.last, st.hist.len(), e.open);
        let mut next = if e.open { None } else { Some(st.insn_idx) };
        loop {
            let hist = n.checked_sub(1).map(|k| &st.hist[k]).filter(|h| h.idx == i);
            if !skip {
                let before = self.frame_before(i, next, depth);
                let go_on = each(&Step { at: i, hist, next, before, after: depth });
                if !go_on {
                    return;
                }
                depth = before;
            }
            skip = false;
            next = Some(i);
            if i == st.first_insn_idx && (n == 0 || (n == 1 && st.hist[0].idx == i)) {
                return;
            }
            match hist {
                Some(h) => {
                    i = h.prev_idx;
                    n -= 1;
                }
                None => match i.checked_sub(1) {
                    Some(before) => i = before,
                    None => return,
                },
            }
        }
    }

    /// The frame an instruction was executed in, from that after it.
    fn frame_before(&self, at: u32, next: Option<u32>, after: usize) -> usize {
        match *self.insn(at) {
            Insn::Exit => after + 1,
            Insn::Call(_) if self.enters(at, next) => after.saturating_sub(1),
            _ => after,
        }
    }

    /// A call that led into a function of the program.
    fn enters(&self, at: u32, next: Option<u32>) -> bool {
        let (Insn::Call(call), Some(next)) = (*self.insn(at), next) else { return false };
        match call {
            Call::Local(off) => next == (at as i32 + 1).wrapping_add(off) as u32 && next != at + 1,
            Call::Helper(_) | Call::Kfunc { .. } => {
                self.input.cfg.calls_callback[at as usize] && next != at + 1
            }
        }
    }

    fn facts(&self, e: &Edge<'_>) -> Facts {
        let mut f = Facts::default();
        self.back(e, |s| {
            let callback = self.input.cfg.calls_callback[s.at as usize];
            match self.insn(s.at) {
                Insn::Exit => {
                    let to = f.returned_to.map_or(s.after, |t| t.min(s.after));
                    f.returned_to = Some(to);
                }
                Insn::MayGoto { off } if *off != 0 && s.next == Some(s.at + 1) => {
                    f.may_goto.insert(s.before);
                }
                Insn::Call(_) if callback && self.enters(s.at, s.next) => {
                    f.entered.insert((s.at, s.before));
                }
                Insn::Call(_) if callback => {
                    f.left.insert((s.at, s.before));
                }
                // Beyond the limits, starting an iterator says in which slot.
                Insn::Call(Call::Kfunc { .. }) => {
                    let slot = s.hist.and_then(|h| h.flags.stack);
                    f.started.extend(slot.map(|(f, s)| (usize::from(f), usize::from(s))));
                }
                _ => {}
            }
            true
        });
        let from = &self.kept[e.from as usize].state;
        if self.input.cfg.iter_next[from.insn_idx as usize] {
            f.advanced = advanced(from, e.reached);
        }
        f
    }

    /// Tells whether all parts of a graph end; adds why, or the states of a part that may not.
    fn prove(
        &self,
        edges: &[Edge<'_>],
        among: &[usize],
        ends: &mut Vec<LoopEnd>,
        endless: &mut Vec<u32>,
    ) {
        for part in parts(edges, among) {
            let finite = self.bounded_at_run_time(edges, &part).or_else(|| {
                let (finite, why) = self.counted(edges, &part)?;
                ends.push(why);
                Some(finite)
            });
            match finite {
                Some(finite) => {
                    let left: Vec<usize> =
                        part.into_iter().filter(|e| !finite.contains(e)).collect();
                    self.prove(edges, &left, ends, endless);
                }
                None => {
                    let nodes: BTreeSet<u32> = part.iter().map(|e| edges[*e].to).collect();
                    endless.extend(nodes);
                }
            }
            if !endless.is_empty() {
                return;
            }
        }
    }

    /// Edges that the kernel lets happen a bounded number of times.
    fn bounded_at_run_time(&self, edges: &[Edge<'_>], part: &[usize]) -> Option<BTreeSet<usize>> {
        let facts = || part.iter().map(|e| &edges[*e].facts);
        let stays = |frame: usize| facts().all(|f| f.returned_to.is_none_or(|t| t >= frame));
        let started = |i: &(usize, usize)| facts().any(|f| f.started.contains(i));
        let left = |c: &(u32, usize)| facts().any(|f| f.left.contains(c));
        let finite = |e: &&usize| {
            let f = &edges[**e].facts;
            if f.may_goto.iter().any(|d| stays(*d)) {
                hit!("ends: may_goto");
            } else if f.advanced.iter().any(|i| stays(i.0) && !started(i)) {
                hit!("ends: an iterator");
            } else if f.entered.iter().any(|c| stays(c.1) && !left(c)) {
                hit!("ends: a callback");
            } else {
                return false;
            }
            true
        };
        let found: BTreeSet<usize> = part.iter().filter(finite).copied().collect();
        (!found.is_empty()).then_some(found)
    }

    /// Edges on which a counter moves, and what it says about the loop.
    fn counted(&self, edges: &[Edge<'_>], part: &[usize]) -> Option<(BTreeSet<usize>, LoopEnd)> {
        let widened = |n: u32| self.kept[n as usize].past.as_ref().map_or(0, |p| p.widened.len());
        let nodes = part.iter().map(|e| edges[*e].to);
        let first = nodes.max_by_key(|n| (widened(*n), std::cmp::Reverse(*n)))?;
        let st = &self.kept[first as usize].state;
        let mut best: Option<(BTreeSet<usize>, LoopEnd)> = None;
        for loc in scalars(st) {
            for order in [Order::U64, Order::S64, Order::U32, Order::S32] {
                let Some(c) = self.counter(edges, part, (first, loc), order) else { continue };
                let Some((finite, end)) = self.growth(edges, part, &c, (first, loc)) else {
                    continue;
                };
                if best.as_ref().is_none_or(|(_, b)| end.trips < b.trips) {
                    best = Some((finite, end));
                }
            }
        }
        best
    }

    /// Follows a number back over all edges of a part.
    fn counter(
        &self,
        edges: &[Edge<'_>],
        part: &[usize],
        (first, loc): (u32, Loc),
        order: Order,
    ) -> Option<Counter> {
        let mut c = Counter { order, places: BTreeMap::from([(first, loc)]), added: Vec::new() };
        c.added = vec![(0, 0); part.len()];
        let mut into: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (n, e) in part.iter().enumerate() {
            into.entry(edges[*e].to).or_default().push(n);
        }
        let mut work = vec![first];
        while let Some(node) = work.pop() {
            let loc = c.places[&node];
            for n in into.get(&node).into_iter().flatten() {
                let e = &edges[part[*n]];
                let o = self.origin(e, loc, order.wide())?;
                c.added[*n] = o.added;
                match c.places.insert(e.from, o.loc) {
                    None => work.push(e.from),
                    Some(known) if known != o.loc => return None,
                    Some(_) => {}
                }
            }
        }
        Some(c)
    }

    /// The edges on which a counter moves, if it only ever moves one way and never wraps.
    fn growth(
        &self,
        edges: &[Edge<'_>],
        part: &[usize],
        c: &Counter,
        (first, loc): (u32, Loc),
    ) -> Option<(BTreeSet<usize>, LoopEnd)> {
        let (least, most) = c.order.all();
        let range = |st: &VState, loc: Loc| {
            widen::at(st, loc).filter(|r| r.is_scalar()).map(|r| c.order.of(r))
        };
        let up = c.added.iter().all(|a| a.0 >= 0);
        if !up && c.added.iter().any(|a| a.1 > 0) {
            return None;
        }
        let (mut finite, mut step) = (BTreeSet::new(), most - least);
        let mut span = (most, least);
        for (e, a) in part.iter().zip(&c.added) {
            let edge = &edges[*e];
            let from = range(&self.kept[edge.from as usize].state, c.places[&edge.from])?;
            let to = range(edge.reached, c.places[&edge.to])?;
            let far = if up { a.1 } else { -a.0 };
            let stays = match up {
                true => from.1 + far <= most || to.0 - least >= far,
                false => from.0 - far >= least || most - to.1 >= far,
            };
            if far > most - least || !stays {
                return None;
            }
            let least_step = if up { a.0 } else { -a.1 };
            if least_step > 0 {
                finite.insert(*e);
                step = step.min(least_step);
                // Values from which the counter moves on: what it moved to is no more than that.
                span = (span.0.min(to.0), span.1.max(to.1));
            }
        }
        let trips = (span.1 - span.0).max(0) / step.max(1) + 1;
        if finite.is_empty() {
            return None;
        }
        if trips > TRIPS_MAX {
            hit!("ends: too many trips");
            return None;
        }
        match up {
            true => hit!("ends: a counter up"),
            false => hit!("ends: a counter down"),
        }
        let end = LoopEnd {
            insn: self.kept[first as usize].state.insn_idx,
            counter: loc.to_string(),
            down: !up,
            step: u64::try_from(step).unwrap_or(u64::MAX),
            trips: u64::try_from(trips).unwrap_or(u64::MAX),
        };
        Some((finite, end))
    }

    /// Where the number at `loc` at the end of an edge comes from; none when it is not a number of
    /// the beginning with something added. `wide`: all 64 bits, not just the low half.
    fn origin(&self, e: &Edge<'_>, loc: Loc, wide: bool) -> Option<Origin> {
        let mut o = Some(Origin { loc, added: (0, 0) });
        self.back(e, |s| {
            o = o.and_then(|o| self.one_back(s, o, wide));
            o.is_some()
        });
        o
    }

    /// One instruction of [`Ver::origin`].
    fn one_back(&self, s: &Step<'_>, mut o: Origin, wide: bool) -> Option<Origin> {
        let frame = s.before as u8;
        let is = |r: Reg| o.loc == Loc { frame, place: Place::Reg(r.0) };
        let reg = |r: Reg| Loc { frame, place: Place::Reg(r.0) };
        let fits = |w: Width| !wide || w == Width::W64;
        let slot = s.hist.and_then(|h| h.flags.stack);
        let slot = slot.map(|(f, n)| Loc { frame: f, place: Place::Slot(n) });
        match *self.insn(s.at) {
            Insn::Alu { width, op, dst, src } if is(dst) => {
                if !fits(width) {
                    return None;
                }
                let sign = match op {
                    AluOp::Add => 1,
                    AluOp::Sub => -1,
                    AluOp::Mov => {
                        let Src::Reg(from) = src else { return None };
                        o.loc = reg(from);
                        return Some(o);
                    }
                    _ => return None,
                };
                let (lo, hi) = match src {
                    Src::Imm(k) => (k.into(), k.into()),
                    Src::Reg(r) if r == dst => return None,
                    Src::Reg(_) => {
                        hit!("ends: by a register");
                        self.operand(s.at, wide)?
                    }
                };
                let (lo, hi) = if sign > 0 { (lo, hi) } else { (-hi, -lo) };
                o.added = (o.added.0 + lo, o.added.1 + hi);
                Some(o)
            }
            Insn::Load { size, sext, dst, .. } if is(dst) => {
                o.loc = slot.filter(|_| !sext && self.whole(size, wide))?;
                Some(o)
            }
            Insn::Store { size, src, .. } if Some(o.loc) == slot => match src {
                Src::Reg(r) if self.whole(size, wide) => {
                    hit!("ends: through a slot");
                    o.loc = reg(r);
                    Some(o)
                }
                _ => None,
            },
            Insn::StoreRelease { .. } | Insn::Atomic { .. } if Some(o.loc) == slot => None,
            Insn::Atomic { src, .. } if is(src) || is(Reg::R0) => None,
            Insn::Neg { dst, .. }
            | Insn::MovSx { dst, .. }
            | Insn::End { dst, .. }
            | Insn::LoadAcquire { dst, .. }
            | Insn::LdImm64 { dst, .. }
            | Insn::MovPercpu { dst, .. }
            | Insn::AddrSpaceCast { dst, .. }
                if is(dst) =>
            {
                None
            }
            Insn::LdAbs { .. } | Insn::LdInd { .. } if scratch(&o, s.before) => None,
            Insn::Callx { .. } => None,
            Insn::Call(_) => self.call_back(s, o),
            Insn::Exit => self.exit_back(s, o),
            _ => Some(o),
        }
    }

    /// Over a call: its registers are gone, or are the arguments of the function it led into.
    fn call_back(&self, s: &Step<'_>, mut o: Origin) -> Option<Origin> {
        if s.before == s.after {
            return (!scratch(&o, s.before)).then_some(o);
        }
        if usize::from(o.loc.frame) != s.after {
            return (!scratch(&o, s.before)).then_some(o);
        }
        let local = matches!(self.insn(s.at), Insn::Call(Call::Local(_)));
        match o.loc.place {
            Place::Reg(1..=5) if local => {
                hit!("ends: through a function");
                o.loc.frame = s.before as u8;
                Some(o)
            }
            _ => None,
        }
    }

    /// Over a return: r0 is the function's.
    fn exit_back(&self, s: &Step<'_>, mut o: Origin) -> Option<Origin> {
        if !scratch(&o, s.after) {
            return Some(o);
        }
        let callback = s.next.is_some_and(|n| self.input.cfg.calls_callback[n as usize]);
        if callback || o.loc.place != Place::Reg(0) {
            return None;
        }
        o.loc.frame = s.before as u8;
        Some(o)
    }

    /// What the register operand of an instruction was on all visits.
    fn operand(&self, at: u32, wide: bool) -> Option<(i128, i128)> {
        let seen = self.beyond.as_ref()?.seen.get(&at)?;
        Some(match wide {
            true => (seen.wide.0.into(), seen.wide.1.into()),
            false => (seen.low.0.into(), seen.low.1.into()),
        })
    }

    /// An access that moves all bits of the number. The low half of a slot is not where its first
    /// four bytes are on a big-endian machine.
    fn whole(&self, size: Size, wide: bool) -> bool {
        size == Size::DW || (!wide && !self.big_endian && size == Size::W)
    }
}

/// r0 to r5 of a frame: a call leaves nothing there.
fn scratch(o: &Origin, frame: usize) -> bool {
    usize::from(o.loc.frame) == frame && matches!(o.loc.place, Place::Reg(0..=5))
}

/// Iterators that were advanced from one state to another.
fn advanced(from: &VState, to: &VState) -> BTreeSet<(usize, usize)> {
    let depth = |st: &VState, f: usize, n: usize| {
        let slot = st.frames.get(f)?.stack.get(n).filter(|s| s.types[0] == SlotType::Iter)?;
        match slot.reg.obj {
            Obj::Iter { state: IterState::Active, depth } => Some(depth),
            _ => None,
        }
    };
    let slots =
        from.frames.iter().enumerate().flat_map(|(f, x)| (0..x.stack.len()).map(move |n| (f, n)));
    slots
        .filter(|(f, n)| depth(from, *f, *n).is_some_and(|d| depth(to, *f, *n) > Some(d)))
        .collect()
}

/// Scalars of a state.
fn scalars(st: &VState) -> Vec<Loc> {
    let mut all = Vec::new();
    for (f, frame) in st.frames.iter().enumerate() {
        let regs = (0..10u8).filter(|r| frame.regs[usize::from(*r)].is_scalar());
        let slots = (0..frame.stack.len()).filter(|n| frame.stack[*n].is_scalar_spill());
        let places = regs.map(Place::Reg).chain(slots.map(|n| Place::Slot(n as u8)));
        all.extend(places.map(|place| Loc { frame: f as u8, place }));
    }
    all
}

/// Strongly connected parts of a graph that have a cycle, as lists of their inner edges. Tarjan's
/// algorithm without recursion.
fn parts(edges: &[Edge<'_>], among: &[usize]) -> Vec<Vec<usize>> {
    let mut succ: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for e in among.iter().map(|e| &edges[*e]) {
        succ.entry(e.from).or_default().push(e.to);
        succ.entry(e.to).or_default();
    }
    let mut part_of: BTreeMap<u32, u32> = BTreeMap::new();
    let (mut pre, mut low): (BTreeMap<u32, u32>, BTreeMap<u32, u32>) = Default::default();
    let (mut stack, mut count) = (Vec::new(), 0);
    for root in succ.keys() {
        if pre.contains_key(root) {
            continue;
        }
        let mut walk = vec![(*root, 0)];
        while let Some((n, k)) = walk.pop() {
            if k == 0 {
                let order = pre.len() as u32;
                pre.insert(n, order);
                low.insert(n, order);
                stack.push(n);
            } else {
                let done = succ[&n][k - 1];
                if !part_of.contains_key(&done) {
                    let l = low[&n].min(low[&done]);
                    low.insert(n, l);
                }
            }
            if let Some(next) = succ[&n].get(k) {
                walk.push((n, k + 1));
                if !pre.contains_key(next) {
                    walk.push((*next, 0));
                }
            } else if low[&n] == pre[&n] {
                while let Some(m) = stack.pop() {
                    part_of.insert(m, count);
                    if m == n {
                        break;
                    }
                }
                count += 1;
            }
        }
    }
    let mut found: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for e in among {
        let (a, b) = (part_of[&edges[*e].from], part_of[&edges[*e].to]);
        if a == b {
            found.entry(a).or_default().push(*e);
        }
    }
    found.into_values().collect()
}
