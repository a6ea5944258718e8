//! From original BPF instructions to native ranges, and what holds in them.
//!
//! An instruction becomes a run of native ones. Up to the end of the first of these nothing has
//! happened; behind it a register that the run writes may hold anything, so a location in it is
//! not given there.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::Image;
use bpf::Arch;
use gimli::write::{Address, Expression, Location, LocationList};
use jit::{FuncMap, InsnRange};

/// Arguments: in place before the prologue, which leaves them alone.
const ARGS: u16 = 0b11_1110;

/// Ranges of an image's code, in bytes from its start.
pub(super) struct Ranges<'a> {
    pub(super) image: &'a Image,
    /// Where the native instructions of an original one are in `image.debug.insns`.
    runs: BTreeMap<u32, Range<usize>>,
}

/// What is to be known of an instruction's registers where a location is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Only the lower half is held, of these; the upper is 0.
    pub(super) low: u16,
    /// Perhaps so, of these.
    pub(super) unsure: u16,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(image: &'a Image) -> Ranges<'a> {
        let mut runs: BTreeMap<u32, Range<usize>> = BTreeMap::new();
        for (n, insn) in image.debug.insns.iter().enumerate() {
            let run = runs.entry(insn.orig.0).or_insert(n..n);
            if run.end == n {
                run.end = n + 1;
            }
        }
        Ranges { image, runs }
    }

    fn run(&self, orig: u32) -> &[InsnRange] {
        self.runs.get(&orig).map_or(&[], |r| &self.image.debug.insns[r.clone()])
    }

    /// Native code of an original instruction; none when it was removed or came to nothing.
    pub(super) fn of(&self, orig: u32) -> Option<Range<u32>> {
        let run = self.run(orig);
        let range = run.first()?.start.0..run.last()?.end.0;
        (!range.is_empty()).then_some(range)
    }

    /// Original instructions that have native code, in order.
    pub(super) fn origs(&self) -> impl Iterator<Item = (u32, Range<u32>)> + '_ {
        self.runs.keys().filter_map(|orig| Some((*orig, self.of(*orig)?)))
    }

    /// The function a native offset is in.
    pub(super) fn func(&self, at: u32) -> Option<&'a FuncMap> {
        let funcs = &self.image.debug.funcs;
        let n = funcs.partition_point(|f| f.start.0 <= at);
        funcs[..n].last().filter(|f| at < f.end.0)
    }

    /// What the registers hold at an original instruction.
    pub(super) fn held(&self, orig: u32) -> Held {
        let first = self.run(orig).first();
        first.map_or(Held { low: 0, unsure: 0 }, |r| Held { low: r.low, unsure: r.unsure })
    }

    /// Where registers, by bit, still hold what they held before an original instruction.
    pub(super) fn settled(&self, orig: u32, regs: u16) -> Option<Range<u32>> {
        let mut range = self.of(orig)?;
        let upset = self.run(orig).iter().find(|r| r.unsettled & regs != 0 && r.start < r.end);
        if let Some(r) = upset {
            range.end = r.first_end.0;
        }
        let func = self.func(range.start)?;
        if range.start == func.body.0 && regs & !ARGS == 0 {
            range.start = func.start.0;
        }
        (!range.is_empty()).then_some(range)
    }

    /// The instruction has the end of the function that other exits jump to: who is here may
    /// have come from another place.
    pub(super) fn is_shared(&self, orig: u32) -> bool {
        let Some(range) = self.of(orig) else { return false };
        let Some(func) = self.func(range.start) else { return false };
        func.exits > 1 && func.epilogue.is_some_and(|at| range.contains(&at.0))
    }

    /// Address of a byte of code.
    pub(super) fn address(&self, at: u32) -> Address {
        Address::Constant(self.image.base + u64::from(at))
    }

    pub(super) fn arch(&self) -> Arch {
        self.image.arch
    }
}

/// A location list under construction: adjacent ranges with the same location are one.
#[derive(Default)]
pub(super) struct Locations {
    entries: Vec<(Range<u32>, Expression)>,
}

impl Locations {
    pub(super) fn push(&mut self, range: Range<u32>, at: Expression) {
        match self.entries.last_mut() {
            Some((last, same)) if last.end == range.start && *same == at => last.end = range.end,
            _ => self.entries.push((range, at)),
        }
    }

    /// Gives what of a range has no location yet this one.
    pub(super) fn fill(&mut self, range: Range<u32>, at: &Expression) {
        let mut taken: Vec<_> = self.entries.iter().map(|e| e.0.clone()).collect();
        taken.sort_by_key(|r| r.start);
        let mut from = range.start;
        for t in taken {
            self.free(from..t.start.min(range.end), at);
            from = from.max(t.end);
        }
        self.free(from..range.end, at);
    }

    fn free(&mut self, range: Range<u32>, at: &Expression) {
        if !range.is_empty() {
            self.entries.push((range, at.clone()));
        }
    }

    pub(super) fn list(self, ranges: &Ranges<'_>) -> LocationList {
        let entry = |(range, data): (Range<u32>, Expression)| Location::StartLength {
            begin: ranges.address(range.start),
            length: u64::from(range.end - range.start),
            data,
        };
        LocationList(self.entries.into_iter().map(entry).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
