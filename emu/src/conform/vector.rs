//! A vector as a program that the verifier accepts.
//!
//! Only verified programs run, and a verified program returns 32 bits and gets a context. So a
//! vector is put between a prologue, which points r1 at the value of an array map, and an
//! epilogue, which stores all of r0 to another:
//!
//! ```text
//!  r1 = mem; r2 = length │ main, each exit a jump to ─┐ │ out = r0; exit │ other functions
//!                                                     └─►
//! ```

use bpf::Endian;
use bpf::insn::{AluOp, Call, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::program::Program;
use bpf::uapi::ProgType;
use regex::Regex;

use crate::shrink::edit;

/// Index of the map that r0 goes to.
pub const OUT: i32 = 0;
/// Index of the map that r1 points into.
pub const MEM: i32 = 1;
/// The public runner's helper 5: it ends the program when its argument is 0.
const UNWIND: i32 = 5;
/// Slots before and after the main function.
const PROLOGUE: usize = 3;

/// Bytes that may depend on the byte order of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory([Vec<u8>; 2]);

impl Memory {
    /// The same bytes everywhere.
    #[must_use]
    pub fn bytes(bytes: Vec<u8>) -> Memory {
        Memory([bytes.clone(), bytes])
    }

    /// Words of 64 bits, for little- and for big-endian machines.
    #[must_use]
    pub fn words(little: &[u64], big: &[u64]) -> Memory {
        let le = little.iter().flat_map(|w| w.to_le_bytes()).collect();
        Memory([le, big.iter().flat_map(|w| w.to_be_bytes()).collect()])
    }

    /// The bytes on machines of an order.
    #[must_use]
    pub fn of(&self, order: Endian) -> &[u8] {
        &self.0[usize::from(order == Endian::Big)]
    }
}

/// What is expected of a vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// All of r0.
    pub r0: Option<u64>,
    /// Memory at the end.
    pub mem: Option<Memory>,
    /// It must fail, with these words.
    pub error: Option<String>,
    /// The words are a regular expression.
    pub pattern: bool,
    /// It is for machines of one byte order.
    pub order: Option<Endian>,
}

impl Expect {
    /// Whether a failure is the one that is expected.
    #[must_use]
    pub fn says(&self, why: &str) -> bool {
        match &self.error {
            None => false,
            Some(pattern) if self.pattern => Regex::new(pattern).is_ok_and(|r| r.is_match(why)),
            Some(words) => why.contains(words.as_str()),
        }
    }
}

/// A program with its memory and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Slots.
    pub insns: Vec<Insn>,
    /// Line of its file each slot is from.
    pub lines: Vec<u32>,
    /// What r1 points to, r2 bytes; both are 0 without.
    pub mem: Option<Memory>,
    /// Expectation.
    pub expect: Expect,
    /// What was changed so that the verifier takes it.
    pub notes: Vec<String>,
}

impl Vector {
    /// A program as it is written; what the loader of the kernel refuses though RFC 9669 defines
    /// it is put into the form that both take.
    #[must_use]
    pub fn new(insns: Vec<Insn>, lines: Vec<u32>) -> Vector {
        let expect = Expect::default();
        let mut v = Vector { insns, lines, mem: None, expect, notes: Vec::new() };
        v.mask_shifts();
        v.inline_unwind();
        v
    }

    /// RFC 9669, section 4.1: the count of a shift is masked.
    fn mask_shifts(&mut self) {
        let mut masked = false;
        for insn in &mut self.insns {
            let Insn::Alu { width, op, src: Src::Imm(n), .. } = insn else { continue };
            let bits = if *width == Width::W64 { 64 } else { 32 };
            if matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh) && !(0..bits).contains(n) {
                *n &= bits - 1;
                masked = true;
            }
        }
        if masked {
            self.notes.push("immediate shift masked, which the kernel's loader refuses".into());
        }
    }

    fn inline_unwind(&mut self) {
        let main = &self.insns[..main_end(&self.insns)];
        let call = Insn::Call(Call::Helper(UNWIND));
        let mut found = false;
        let mut next = main.iter().position(|i| *i == call);
        while let Some(at) = next {
            found = true;
            let mut p = program(std::mem::take(&mut self.insns));
            p.insns[at] = Insn::Exit;
            let jump = Insn::Jmp {
                width: Width::W64,
                op: JmpOp::Ne,
                dst: Reg::R0,
                src: Src::Imm(0),
                off: 1,
            };
            p = edit::with(&p, at, jump);
            p = edit::with(&p, at, mov(Reg::R0, Src::Reg(Reg::R1)));
            self.insns = p.insns;
            let line = self.lines.get(at).copied().unwrap_or(0);
            self.lines.splice(at..at, [line; 2]);
            let main = &self.insns[..main_end(&self.insns)];
            next = main.iter().position(|i| *i == call);
        }
        if found {
            self.notes.push("helper 5 is the runner's unwind".into());
        }
    }

    /// The program to load.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wrapped(&self) -> Result<Vec<Insn>, String> {
        let end = main_end(&self.insns);
        if end == 0 || self.insns.is_empty() {
            return Err("the main function is called by the program".into());
        }
        let (main, others) = self.insns.split_at(end);
        if !matches!(main.last(), Some(Insn::Exit | Insn::Ja { .. })) {
            return Err("last insn is not an exit or jmp".into());
        }
        let mut out = prologue(self.mem.as_ref().map(|m| m.0[0].len()));
        let epilogue = epilogue();
        for (at, insn) in main.iter().enumerate() {
            out.push(around(insn, at, end, epilogue.len()));
        }
        out.extend(epilogue);
        out.extend(others);
        Ok(out)
    }

    /// Line of a slot of [`Vector::wrapped`].
    #[must_use]
    pub fn line_of(&self, slot: usize) -> Option<u32> {
        self.lines.get(slot.checked_sub(PROLOGUE)?).copied()
    }
}

/// What a verifier says of [`Vector::wrapped`], in the vector's own numbers of instructions.
pub(crate) fn own_numbers(said: &str) -> String {
    let numbers = Regex::new(r"\binsn (\d+)(?: to (\d+))?").expect("it is an expression");
    let own = |n: &str| {
        n.parse().map_or_else(
            |_| n.to_owned(),
            |n: usize| n.checked_sub(PROLOGUE).unwrap_or(n).to_string(),
        )
    };
    let own = |found: &regex::Captures<'_>| match found.get(2) {
        Some(to) => format!("insn {} to {}", own(&found[1]), own(to.as_str())),
        None => format!("insn {}", own(&found[1])),
    };
    numbers.replace_all(said, own).into_owned()
}

/// A program of a vector's instructions.
pub(crate) fn program(insns: Vec<Insn>) -> Program {
    Program {
        name: "vector".into(),
        section: "xdp".into(),
        prog_type: ProgType::Xdp,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: "GPL".into(),
        insns,
        funcs: Vec::new(),
        lines: Vec::new(),
    }
}

fn mov(dst: Reg, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src }
}

/// Where the second function begins, or the end.
fn main_end(insns: &[Insn]) -> usize {
    let target = |(at, insn): (usize, &Insn)| match *insn {
        Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
            usize::try_from(at as i64 + 1 + i64::from(off)).ok()
        }
        _ => None,
    };
    let first = insns.iter().enumerate().filter_map(target).min();
    first.unwrap_or(insns.len()).min(insns.len())
}

fn prologue(len: Option<usize>) -> Vec<Insn> {
    let length = len.unwrap_or(0) as i32;
    let first = match len {
        Some(_) => Imm64::MapIdxValue { idx: MEM, off: 0 },
        None => Imm64::Const(0),
    };
    vec![
        Insn::LdImm64 { dst: Reg::R1, imm: first },
        Insn::LdImm64Hi,
        mov(Reg::R2, Src::Imm(length)),
    ]
}

fn epilogue() -> Vec<Insn> {
    let out = Imm64::MapIdxValue { idx: OUT, off: 0 };
    vec![
        Insn::LdImm64 { dst: Reg::R1, imm: out },
        Insn::LdImm64Hi,
        Insn::Store { size: Size::DW, dst: Reg::R1, off: 0, src: Src::Reg(Reg::R0) },
        mov(Reg::R0, Src::Imm(0)),
        Insn::Exit,
    ]
}

/// An instruction of the main function between prologue and epilogue.
fn around(insn: &Insn, at: usize, end: usize, epilogue: usize) -> Insn {
    let mut insn = *insn;
    match &mut insn {
        Insn::Exit => {
            let off = (end - at - 1) as i32;
            return Insn::Ja { off, long: i16::try_from(off).is_err() };
        }
        Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
            *off = off.wrapping_add(epilogue as i32);
        }
        _ => {}
    }
    insn
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::assemble_insns;

    fn vector(text: &str) -> Vector {
        let insns = assemble_insns(text).unwrap();
        let lines = (1..).take(insns.len()).collect();
        Vector::new(insns, lines)
    }

    #[test]
    fn the_first_instruction_is_0() {
        let said = own_numbers("insn 3: jump out of range from insn 3 to 104");
        assert_eq!(said, "insn 0: jump out of range from insn 0 to 101");
        assert_eq!(own_numbers("insn 13: R1 has no insns"), "insn 10: R1 has no insns");
    }

    #[test]
    fn calls_reach_behind_the_epilogue() {
        let v = vector("call f\nexit\nf:\nr0 = 7\nexit");
        let all = v.wrapped().unwrap();
        assert_eq!(all[3], Insn::Call(Call::Local(6)));
        assert_eq!(all[4], Insn::Ja { off: 0, long: false });
        assert_eq!(all[10], mov(Reg::R0, Src::Imm(7)));
        assert_eq!(v.line_of(4), Some(2));
    }

    #[test]
    fn shifts_are_masked_and_said() {
        let insn = |n| Insn::Alu { width: Width::W32, op: AluOp::Lsh, dst: Reg(1), src: n };
        let v = Vector::new(vec![insn(Src::Imm(-1)), Insn::Exit], vec![1, 2]);
        assert_eq!(v.insns[0], insn(Src::Imm(31)));
        assert_eq!(v.notes.len(), 1);
    }

    #[test]
    fn unwinding_is_an_exit() {
        let v = vector("r1 = 0\ncall bpf_ktime_get_ns#5\nr0 = 2\nexit");
        assert_eq!(v.insns.len(), 6);
        assert_eq!(v.insns[3], Insn::Exit);
        assert_eq!(v.lines, [1, 2, 2, 2, 3, 4]);
    }
}
