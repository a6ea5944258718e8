//! The instruction vectors of `tests/corpus/vectors`: one instruction, the registers and memory
//! before and after. What is not named must not change, so a leaf that clobbers a register shows.

use bpf::Endian;
use bpf::insn::asm::assemble_insns;
use bpf::insn::{Imm64, Insn, Reg, Size, Src};

use super::engine::Cells;

/// Registers r0-r8, and doublewords at r9.
const REGS: usize = 9;
const CELLS: usize = 8;

/// A state: registers, then memory.
type State = [u64; REGS + CELLS];

/// One line.
pub(crate) struct Vector {
    /// File and line, with the text.
    pub(crate) name: String,
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
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Vector>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|(n, l)| line(l).map_err(|e| format!("{file}:{n}: {e}")).map(|v| named(v, file, n)))
        .collect()
}

fn named(v: Vector, file: &str, n: usize) -> Vector {
    Vector { name: format!("{file}:{n}: {}", v.text), ..v }
}

fn line(l: &str) -> Result<Vector, String> {
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
    Ok(Vector { name: String::new(), text, before, after: after.collect() })
}

impl Vector {
    /// The program: loads the registers, executes, stores them behind the cells.
    pub(crate) fn program(&self) -> Result<Vec<Insn>, String> {
        let mut insns = vec![Insn::Alu {
            width: bpf::insn::Width::W64,
            op: bpf::insn::AluOp::Mov,
            dst: Reg(9),
            src: Src::Reg(Reg(1)),
        }];
        for (r, v) in (0u8..).zip(&self.before[..REGS]) {
            insns.push(Insn::LdImm64 { dst: Reg(r), imm: Imm64::Const(*v) });
            insns.push(Insn::LdImm64Hi);
        }
        let body = if self.text.contains(" taken") {
            format!("{}\nr0 = 0\ngoto end\ntaken: r0 = 1\nend: r9 = r9\nexit\n", self.text)
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
    pub(crate) fn cells(&self) -> Cells {
        let mut cells = self.before[REGS..].to_vec();
        cells.resize(CELLS + REGS, 0);
        cells
    }

    /// The buffer at the end.
    pub(crate) fn expected(&self, endian: Endian) -> Result<Cells, String> {
        let mut state = self.before;
        for (order, text) in &self.after {
            if order.is_none_or(|o| o == endian) {
                apply(&mut state, text).map_err(|e| format!("{}: {e}", self.name))?;
            }
        }
        let (regs, memory) = state.split_at(REGS);
        Ok([memory, regs].concat())
    }
}
