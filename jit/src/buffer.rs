//! Code buffer: bytes, labels, branches, relocations, faulting instructions.
//!
//! **The problem.** A branch is short when its target is near, but how near it is depends on how
//! long the branches between are. **The method.** Code is put once, every branch in its shortest
//! [`Form`]. [`Buffer::finish`] then looks at the branches alone: one whose displacement does not
//! fit takes its next form, until all fit; what lies between them is copied to where it comes to
//! be, and [`Moves`] says where that is. **Why it ends.** Forms only grow, there are finitely many,
//! and a round that grows none is the last. **Why it is the shortest.** A branch grows only when
//! those that must be long already push its target out of reach.

use crate::{FrameChange, NativeOff, Reloc, RelocKind};

/// A place in the code, bound once per pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) u32);

const UNBOUND: u32 = u32::MAX;

/// Writes a displacement (target minus start of the code) into the code of a form, which starts the
/// slice; false when it does not fit.
pub(crate) type Patch = fn(&mut [u8], i64) -> bool;

/// Makes the code of the next longer form from that of this one.
type Lengthen = fn(&[u8]) -> Code;

/// One way to refer to a label, and the next longer one.
#[derive(Debug)]
pub(crate) struct Form {
    patch: Patch,
    bytes: u8,
    insns: u8,
    longer: Option<(Lengthen, &'static Form)>,
}

impl Form {
    /// The only one, or the longest: so many bytes in so many instructions.
    pub(crate) const fn of(patch: Patch, bytes: u8, insns: u8) -> Form {
        Form { patch, bytes, insns, longer: None }
    }

    /// With a longer one.
    pub(crate) const fn or(self, make: Lengthen, longer: &'static Form) -> Form {
        Form { longer: Some((make, longer)), ..self }
    }
}

#[derive(Debug)]
struct Use {
    at: u32,
    label: Label,
    /// As it was put.
    put: &'static Form,
    /// As it has to be.
    form: &'static Form,
    /// Its code, when that is another form.
    code: Code,
}

impl Use {
    /// Bytes that it is longer than it was put.
    fn grown(&self) -> u32 {
        u32::from(self.form.bytes - self.put.bytes)
    }

    /// Writes the displacement; false when the form had to be a longer one.
    fn reach(&mut self, put: &mut [u8], disp: i64) -> bool {
        let own = !self.code.is_empty();
        let code = if own { self.code.bytes() } else { &mut put[self.at as usize..] };
        if (self.form.patch)(code, disp) {
            return true;
        }
        let (make, form) = self.form.longer.expect("the longest form reaches everywhere");
        self.code = make(code);
        self.form = form;
        false
    }
}

/// Code being put.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    code: Vec<u8>,
    insns: u32,
    labels: Vec<u32>,
    /// In the order of the code.
    uses: Vec<Use>,
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
        Buffer { code, labels: vec![UNBOUND; labels], ..Buffer::default() }
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

    /// The *next* code put, of this form, refers to `label`.
    pub(crate) fn refer(&mut self, label: Label, form: &'static Form) {
        self.uses.push(Use { at: self.here().0, label, put: form, form, code: Code::new() });
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

    /// Every branch in the shortest form that reaches, and where everything went.
    pub(crate) fn finish(mut self) -> (Finished, Moves) {
        self.lengthen();
        let mut moves = Moves::default();
        let grown = |u: &&Use| u.grown() > 0;
        for u in self.uses.iter().filter(grown) {
            moves.at.push(u.at);
            moves.by.push(moves.by.last().unwrap_or(&0) + u.grown());
            self.insns += u32::from(u.form.insns - u.put.insns);
        }
        let Some(growth) = moves.by.last() else {
            let Buffer { code, insns, relocs, .. } = self;
            return (Finished { code, insns, relocs }, moves);
        };
        let mut code = Vec::with_capacity(self.code.len() + *growth as usize);
        let mut from = 0;
        for u in self.uses.iter().filter(grown) {
            code.extend_from_slice(&self.code[from..u.at as usize]);
            code.extend_from_slice(&u.code);
            from = u.at as usize + usize::from(u.put.bytes);
        }
        code.extend_from_slice(&self.code[from..]);
        for r in &mut self.relocs {
            r.at = moves.to(r.at);
        }
        (Finished { code, insns: self.insns, relocs: self.relocs }, moves)
    }

    /// Gives every use a form that reaches its label, and patches it.
    fn lengthen(&mut self) {
        let Buffer { uses, labels, code, .. } = self;
        let target = |u: &Use| {
            let target = labels[u.label.0 as usize];
            assert!(target != UNBOUND, "every label used is bound");
            target
        };
        let mut all = true;
        for u in uses.iter_mut() {
            all &= u.reach(code, i64::from(target(u)) - i64::from(u.at));
        }
        if all {
            return;
        }
        // How many uses are before each one's target.
        let to: Vec<usize> =
            uses.iter().map(|u| uses.partition_point(|o| o.at < target(u))).collect();
        let mut before = vec![0u32; uses.len() + 1];
        while !all {
            for (i, u) in uses.iter().enumerate() {
                before[i + 1] = before[i] + u.grown();
            }
            all = true;
            for (i, u) in uses.iter_mut().enumerate() {
                let there = i64::from(target(u)) + i64::from(before[to[i]]);
                all &= u.reach(code, there - i64::from(u.at) - i64::from(before[i]));
            }
        }
    }
}

/// Output of [`Buffer::finish`].
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Vec<u8>,
    pub(crate) insns: u32,
    pub(crate) relocs: Vec<Reloc>,
}

/// Where code went when the branches before it grew.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Starts of the branches that grew, in order.
    at: Vec<u32>,
    /// What is behind each of them moved by so much.
    by: Vec<u32>,
    /// Branches before the offset asked for last: the next is mostly near.
    near: usize,
}

impl Moves {
    /// Nothing went anywhere.
    pub(crate) fn none(&self) -> bool {
        self.at.is_empty()
    }

    /// Where this is now. The start of a branch stays its start.
    pub(crate) fn to(&mut self, off: NativeOff) -> NativeOff {
        while self.at.get(self.near).is_some_and(|at| *at < off.0) {
            self.near += 1;
        }
        while self.near > 0 && self.at[self.near - 1] >= off.0 {
            self.near -= 1;
        }
        let by = self.near.checked_sub(1).map_or(0, |n| self.by[n]);
        NativeOff(off.0 + by)
    }
}

/// The instruction that starts the slice, kept as a little-endian word.
pub(crate) fn word(code: &[u8]) -> u32 {
    u32::from_le_bytes([code[0], code[1], code[2], code[3]])
}

/// Up to 16 bytes of code: what variable-length encoders return, and a branch in a longer form.
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

    /// Instructions kept as little-endian words.
    pub(crate) fn words(words: &[u32]) -> Code {
        Code::new().with_words(words)
    }

    /// With more such instructions behind.
    #[must_use]
    pub(crate) fn with_words(self, words: &[u32]) -> Code {
        words.iter().fold(self, |code, word| code.with(&word.to_le_bytes()))
    }

    /// From the first byte on.
    pub(crate) fn of(bytes: &[u8]) -> Code {
        Code::new().with(bytes)
    }

    /// To be patched.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
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
