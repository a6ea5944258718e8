//! Code buffer of one size pass: bytes, labels, branch sites, relocations, faulting instructions.
//!
//! **The problem.** A branch is short when its target is near, but how near it is depends on how
//! long the branches between are. **The method.** Every branch *site* has a form, 0 at first (the
//! shortest). A pass emits all code with the forms it was given; afterwards each use of a label is
//! patched, and a site whose displacement does not fit moves to the next form. Passes repeat until
//! all fit; what growing sites push out of reach is foreseen, so that two passes mostly do.
//! **Why it ends.** Forms only grow, there are finitely many, and a pass that grows none is the
//! last. **What leaves must keep.** A leaf asks for as many sites, in the same order, on every
//! pass.

use crate::{FrameChange, NativeOff, Reloc, RelocKind};

/// A place in the code, bound once per pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) u32);

/// Writes a displacement (target minus start of the instruction) into the instruction that starts
/// the slice; false when it does not fit this form.
pub(crate) type Patch = fn(&mut [u8], i64) -> bool;

/// A branch whose encoding is chosen by distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    index: u32,
    /// 0 is the shortest encoding.
    pub(crate) form: u8,
}

/// Instruction sequences longer than this do not exist on any architecture.
const FORM_MAX: u8 = 3;

const UNBOUND: u32 = u32::MAX;

#[derive(Debug)]
struct Use {
    at: u32,
    label: Label,
    site: u32,
    patch: Patch,
}

/// Code of one pass.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    code: Vec<u8>,
    insns: u32,
    labels: Vec<u32>,
    /// Labels that exist from the start.
    given: usize,
    uses: Vec<Use>,
    forms: Vec<u8>,
    sites: u32,
    relocs: Vec<Reloc>,
    fault: Option<NativeOff>,
    frame: Vec<(NativeOff, FrameChange)>,
    /// End of the first native instruction since it was taken; 0 before there is one.
    first_end: u32,
    /// [`crate::isa::Isa::frame_bytes`] of the function being emitted.
    frame_bytes: u32,
}

impl Buffer {
    /// An empty buffer for about so many bytes, with the first `labels` labels allocated.
    pub(crate) fn new(labels: usize, bytes: usize) -> Buffer {
        let code = Vec::with_capacity(bytes);
        Buffer { code, labels: vec![UNBOUND; labels], given: labels, ..Buffer::default() }
    }

    /// Empty again, with the forms of the last pass.
    pub(crate) fn restart(&mut self) {
        self.code.clear();
        self.labels.truncate(self.given);
        self.labels.fill(UNBOUND);
        self.uses.clear();
        self.relocs.clear();
        (self.insns, self.sites) = (0, 0);
    }

    /// Appends one native instruction.
    pub(crate) fn put(&mut self, insn: &[u8]) {
        self.code.extend_from_slice(insn);
        self.insns += 1;
        if self.first_end == 0 {
            self.first_end = self.here().0;
        }
    }

    /// Appends one native instruction kept as a little-endian word (arm64, riscv64).
    pub(crate) fn put_u32(&mut self, insn: u32) {
        self.put(&insn.to_le_bytes());
    }

    /// Appends a compressed instruction (riscv64).
    pub(crate) fn put_u16(&mut self, insn: u16) {
        self.put(&insn.to_le_bytes());
    }

    /// Where the next instruction goes.
    pub(crate) fn here(&self) -> NativeOff {
        NativeOff(u32::try_from(self.code.len()).expect("a program's code is below 4 GiB"))
    }

    /// A fresh label.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(UNBOUND);
        Label(u32::try_from(self.labels.len() - 1).expect("labels fit u32"))
    }

    /// Binds a label to the current place.
    pub(crate) fn bind(&mut self, label: Label) {
        let slot = &mut self.labels[label.0 as usize];
        assert!(*slot == UNBOUND, "a label is bound once");
        *slot = u32::try_from(self.code.len()).expect("a program's code is below 4 GiB");
    }

    /// Opens the next branch site.
    pub(crate) fn site(&mut self) -> Site {
        let index = self.sites;
        self.sites += 1;
        if self.forms.len() < self.sites as usize {
            self.forms.push(0);
        }
        Site { index, form: self.forms[index as usize] }
    }

    /// The *next* instruction put refers to `label`; `patch` writes its displacement.
    pub(crate) fn refer(&mut self, site: Site, label: Label, patch: Patch) {
        self.uses.push(Use { at: self.here().0, label, site: site.index, patch });
    }

    /// The *next* instruction (pair) put is a call to be linked by the loader.
    pub(crate) fn reloc(&mut self, kind: RelocKind) {
        self.relocs.push(Reloc { at: self.here(), kind });
    }

    /// The *next* instruction put is the one of this BPF instruction that may fault.
    pub(crate) fn mark_fault(&mut self) {
        self.fault = Some(self.here());
    }

    /// Takes the mark of [`Buffer::mark_fault`].
    pub(crate) fn take_fault(&mut self) -> Option<NativeOff> {
        self.fault.take()
    }

    /// Begins a function with so many bytes of native stack.
    pub(crate) fn enter(&mut self, frame_bytes: u32) {
        self.frame_bytes = frame_bytes;
    }

    /// What [`Buffer::enter`] was told.
    pub(crate) fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// Where the caller's frame is has changed with the instruction last put.
    pub(crate) fn frame(&mut self, change: FrameChange) {
        self.frame.push((self.here(), change));
    }

    /// Takes what [`Buffer::frame`] collected.
    pub(crate) fn take_frame(&mut self) -> Vec<(NativeOff, FrameChange)> {
        std::mem::take(&mut self.frame)
    }

    /// End of the first native instruction that was put since the last call; here if there is none.
    pub(crate) fn take_first_end(&mut self) -> NativeOff {
        let end = std::mem::take(&mut self.first_end);
        if end == 0 { self.here() } else { NativeOff(end) }
    }

    /// Patches every use. A site that does not fit has the next form for the next pass, and so has
    /// one that fits no longer when those before it have grown by `growth` bytes each, the fewest
    /// there are: a pass saved for what the next would find.
    pub(crate) fn resolve(&mut self, growth: u32) -> bool {
        let labels = &self.labels;
        let target = |u: &Use| {
            let target = labels[u.label.0 as usize];
            assert!(target != UNBOUND, "every label used is bound");
            target
        };
        let uses = &self.uses;
        let code = &mut self.code;
        let mut patch = |u: &Use, disp: i64| (u.patch)(&mut code[u.at as usize..], disp);
        let short = |u: &Use| !patch(u, i64::from(target(u)) - i64::from(u.at));
        let mut grown: Vec<bool> = uses.iter().map(short).collect();
        if !grown.contains(&true) {
            return true;
        }
        // Uses are in the order of the code.
        let to: Vec<usize> =
            uses.iter().map(|u| uses.partition_point(|o| o.at < target(u))).collect();
        let mut before = vec![0u32; uses.len() + 1];
        loop {
            for (i, g) in grown.iter().enumerate() {
                before[i + 1] = before[i] + if *g { growth } else { 0 };
            }
            let mut more = false;
            for (i, u) in uses.iter().enumerate() {
                if grown[i] {
                    continue;
                }
                let there = i64::from(target(u)) + i64::from(before[to[i]]);
                let out = !patch(u, there - i64::from(u.at) - i64::from(before[i]));
                more |= out;
                grown[i] = out;
            }
            if !more {
                break;
            }
        }
        for (u, _) in uses.iter().zip(&grown).filter(|(_, g)| **g) {
            let form = &mut self.forms[u.site as usize];
            assert!(*form < FORM_MAX, "the longest form reaches everywhere");
            *form += 1;
        }
        false
    }

    /// What the last pass made.
    pub(crate) fn finish(self) -> Finished {
        Finished { code: self.code, insns: self.insns, relocs: self.relocs }
    }
}

/// Output of the last pass.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Vec<u8>,
    pub(crate) insns: u32,
    pub(crate) relocs: Vec<Reloc>,
}

/// One encoded instruction of up to 15 bytes; what variable-length encoders return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    bytes: [u8; 16],
    len: u8,
}

impl Code {
    /// No bytes yet.
    pub(crate) const fn new() -> Code {
        Code { bytes: [0; 16], len: 0 }
    }

    /// From the first byte on.
    pub(crate) fn of(bytes: &[u8]) -> Code {
        Code::new().with(bytes)
    }

    /// With more bytes behind.
    #[must_use]
    pub(crate) fn with(mut self, bytes: &[u8]) -> Code {
        let from = usize::from(self.len);
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len().to_le_bytes()[0];
        self
    }
}

impl std::ops::Deref for Code {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
