//! Instruction vectors, a line each: one instruction, the registers and memory before and after.
//! What is not named must not change, so a leaf that clobbers a register shows.
//!
//! ```text
//! r0 = *(u8 *)(r9 +0) | m0=0xc390a5adf6f0cbbb | le: r0=0xbb | be: r0=0xc3
//! ```

use bpf::Endian;
use bpf::insn::asm::assemble_insns;
use bpf::insn::{Imm64, Insn, Reg, Size, Src};

use super::vector::{Expect, Memory, Vector};

/// Registers r0-r8, and doublewords at r9.
const REGS: usize = 9;
const CELLS: usize = 8;

/// A state: registers, then memory.
type State = [u64; REGS + CELLS];

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// File and line, with the text.
    pub name: String,
    /// Line of the file.
    pub line: u32,
    text: String,
    before: State,
    after: Vec<(Option<Endian>, String)>,
}

/// What registers and memory hold when a vector does not say.
fn pattern() -> State {
    std::array::from_fn(|i| 0x1111_1111_2222_2222u64.wrapping_mul(i as u64 + 1) ^ 0xf0 << 56)
}

fn apply(state: &mut State, text: &str) -> Result<(), String> {
    for item in text.split_whitespace().filter(|i| *i != "-") {
        let bad = || format!("\"{item}\" is not a register or cell with a value");
        let (place, value) = item.split_once('=').ok_or_else(bad)?;
        let value = match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => value.parse(),
        };
        let number = place.get(1..).and_then(|n| n.parse::<usize>().ok()).ok_or_else(bad)?;
        let at = match place.as_bytes()[0] {
            b'r' => number,
            b'm' => REGS + number / 8,
            _ => return Err(bad()),
        };
        *state.get_mut(at).ok_or_else(bad)? = value.map_err(|_| bad())?;
    }
    Ok(())
}

/// All vectors of a file.
///
/// # Errors
/// The first that is none, with its place.
pub fn parse(file: &str, text: &str) -> Result<Vec<Line>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(n, l)| line(l).map_err(|e| format!("{file}:{n}: {e}")).map(|v| named(v, file, n)))
        .collect()
}

fn named(v: Line, file: &str, n: u32) -> Line {
    Line { name: format!("{file}:{n}: {}", v.text), line: n, ..v }
}

fn line(l: &str) -> Result<Line, String> {
    // `|` is an operator too: a column's bar is followed by a state.
    let mut columns: Vec<&str> = l.split(" | ").map(str::trim).collect();
    if columns.len() < 3 {
        return Err("instruction | before | after".into());
    }
    let text = columns.remove(0).to_owned();
    let mut before = pattern();
    apply(&mut before, columns.remove(0))?;
    let after = columns.into_iter().map(|c| match (c.strip_prefix("le:"), c.strip_prefix("be:")) {
        (Some(c), _) => (Some(Endian::Little), c.to_owned()),
        (_, Some(c)) => (Some(Endian::Big), c.to_owned()),
        _ => (None, c.to_owned()),
    });
    Ok(Line { name: String::new(), line: 0, text, before, after: after.collect() })
}

impl Line {
    /// The program: loads the registers, executes, stores them behind the cells.
    ///
    /// # Errors
    /// The instruction does not assemble.
    pub fn program(&self) -> Result<Vec<Insn>, String> {
        let constant = |(r, v): (u8, &u64)| {
            [Insn::LdImm64 { dst: Reg(r), imm: Imm64::Const(*v) }, Insn::LdImm64Hi]
        };
        self.around((0..).zip(&self.before[..REGS]).flat_map(constant))
    }

    /// The instruction behind what loads the registers, and before what stores them.
    fn around(&self, load: impl Iterator<Item = Insn>) -> Result<Vec<Insn>, String> {
        let mut insns = vec![Insn::Alu {
            width: bpf::insn::Width::W64,
            op: bpf::insn::AluOp::Mov,
            dst: Reg(9),
            src: Src::Reg(Reg(1)),
        }];
        insns.extend(load);
        let body = if self.text.contains(" taken") {
            // What follows a plain jump is reached from elsewhere, or no verifier would take it.
            let back = if self.text.starts_with("goto") { "if r2 == 81 goto missed\n" } else { "" };
            format!(
                "{}\nmissed: r0 = 0\ngoto end\ntaken: r0 = 1\n{back}end: r9 = r9\nexit\n",
                self.text
            )
        } else {
            format!("{}\nexit\n", self.text)
        };
        insns.extend(assemble_insns(&body).map_err(|e| format!("{}: {e:?}", self.name))?);
        insns.pop();
        for r in 0..REGS as u8 {
            let off = 8 * (CELLS as i16 + i16::from(r));
            insns.push(Insn::Store { size: Size::DW, dst: Reg(9), off, src: Src::Reg(Reg(r)) });
        }
        insns.push(Insn::Exit);
        Ok(insns)
    }

    /// The buffer at the start.
    #[must_use]
    pub fn cells(&self) -> Vec<u64> {
        let mut cells = self.before[REGS..].to_vec();
        cells.resize(CELLS + REGS, 0);
        cells
    }

    /// The buffer at the end.
    ///
    /// # Errors
    /// A state after that is none.
    pub fn expected(&self, endian: Endian) -> Result<Vec<u64>, String> {
        let mut state = self.before;
        for (order, text) in &self.after {
            if order.is_none_or(|o| o == endian) {
                apply(&mut state, text).map_err(|e| format!("{}: {e}", self.name))?;
            }
        }
        let (regs, memory) = state.split_at(REGS);
        Ok([memory, regs].concat())
    }

    /// The line as a vector. Registers come from memory: of a constant the verifier knows too much
    /// to leave the instruction as it is.
    ///
    /// # Errors
    /// As for [`Line::program`] and [`Line::expected`].
    pub fn vector(&self) -> Result<Vector, String> {
        let load = |r: u8| {
            let off = 8 * (CELLS as i16 + REGS as i16 + i16::from(r));
            Insn::Load { size: Size::DW, sext: false, dst: Reg(r), src: Reg(9), off }
        };
        let insns = self.around((0..REGS as u8).map(load))?;
        let lines = vec![self.line; insns.len()];
        let mut v = Vector::new(insns, lines);
        let with = |cells: Vec<u64>| [cells.as_slice(), &self.before[..REGS]].concat();
        let before = with(self.cells());
        v.mem = Some(Memory::words(&before, &before));
        let [little, big] = [Endian::Little, Endian::Big].map(|e| self.expected(e).map(with));
        let mem = Some(Memory::words(&little?, &big?));
        v.expect = Expect { mem, ..Expect::default() };
        Ok(v)
    }
}
