//! What cases cover: the forms of instructions, the shapes of native code that each takes on an
//! architecture, helpers and kfuncs, operations on maps by their type, and the rules of the
//! verifier that refused something ([`verifier::messages`]).
//!
//! A shape is the mnemonics that an instruction became, in order: two cases with the same shape
//! went the same way through the emitter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bpf::Arch;
use bpf::insn::disasm::{NoNames, disasm};
use bpf::insn::generate::{Rng, any_insn};
use bpf::insn::{Call, Imm64, Insn, InsnIdx, Reg, Src};
use bpf::uapi::MapType;
use jit::Compiled;
use verifier::{Verified, messages};

use crate::native::disassemble;

/// Draws that show every form there is: some 200, each drawn hundreds of times.
const DRAWS: u32 = 100_000;

/// What was covered.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    forms: BTreeMap<String, Form>,
    calls: BTreeMap<String, u64>,
    maps: BTreeMap<String, u64>,
    rules: BTreeMap<&'static str, u64>,
}

/// Of one form: programs that have it, and its shapes by architecture.
#[derive(Clone, Debug, Default)]
struct Form {
    programs: u64,
    shapes: [BTreeSet<String>; Arch::ALL.len()],
}

/// An instruction without what does not make it another form; none for second slots.
fn form(insn: &Insn) -> Option<String> {
    let mut insn = *insn;
    let operand = |s: Src| if matches!(s, Src::Imm(_)) { Src::Imm(1) } else { Src::Reg(Reg::R2) };
    match &mut insn {
        Insn::LdImm64Hi => return None,
        Insn::Call(Call::Helper(_)) => return Some("call helper".into()),
        Insn::Call(Call::Kfunc { .. }) => return Some("call kfunc".into()),
        Insn::Call(Call::Local(off)) => *off = 1,
        Insn::LdImm64 { imm, .. } if !matches!(imm, Imm64::Const(_)) => {
            let text = format!("{imm:?}");
            let kind: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
            return Some(format!("r1 = {kind} ll"));
        }
        Insn::LdImm64 { dst, imm } => (*dst, *imm) = (Reg::R1, Imm64::Const(1)),
        Insn::Alu { dst, src, .. } => (*dst, *src) = (Reg::R1, operand(*src)),
        Insn::Jmp { dst, src, off, .. } => (*dst, *src, *off) = (Reg::R1, operand(*src), 1),
        Insn::Neg { dst, .. } | Insn::End { dst, .. } => *dst = Reg::R1,
        Insn::MovSx { dst, src, .. }
        | Insn::AddrSpaceCast { dst, src, .. }
        | Insn::MovPercpu { dst, src } => (*dst, *src) = (Reg::R1, Reg::R2),
        Insn::Load { dst, src, off, .. }
        | Insn::LoadAcquire { dst, src, off, .. }
        | Insn::StoreRelease { dst, src, off, .. }
        | Insn::Atomic { dst, src, off, .. } => (*dst, *src, *off) = (Reg::R1, Reg::R2, 0),
        Insn::Store { dst, off, src, .. } => (*dst, *off, *src) = (Reg::R1, 0, operand(*src)),
        Insn::LdAbs { imm, .. } => *imm = 0,
        Insn::LdInd { src, imm, .. } => (*src, *imm) = (Reg::R2, 0),
        Insn::Ja { off, .. } => *off = 1,
        Insn::MayGoto { off } => *off = 1,
        Insn::Gotox { dst } | Insn::Callx { dst } => *dst = Reg::R1,
        _ => {}
    }
    Some(disasm(&insn, &NoNames))
}

/// All forms that decode.
fn all_forms() -> BTreeSet<String> {
    let mut rng = Rng(1);
    (0..DRAWS).filter_map(|_| form(&any_insn(&mut rng))).collect()
}

impl Coverage {
    /// A program as it is written.
    pub fn program(&mut self, insns: &[Insn]) {
        let forms: BTreeSet<String> = insns.iter().filter_map(form).collect();
        for f in forms {
            self.forms.entry(f).or_default().programs += 1;
        }
        for insn in insns {
            let name = match insn {
                Insn::Call(Call::Helper(_)) => disasm(insn, &NoNames),
                Insn::Call(Call::Kfunc { btf_id, .. }) => format!("call kfunc {btf_id}"),
                _ => continue,
            };
            *self.calls.entry(name).or_default() += 1;
        }
    }

    /// Operations on maps, whose types are given by index: calls with a map as first argument, as
    /// far as it is set on the straight way there.
    pub fn map_calls(&mut self, insns: &[Insn], types: &[MapType]) {
        let mut first: Option<MapType> = None;
        for insn in insns {
            match insn {
                Insn::LdImm64 { dst: Reg::R1, imm: Imm64::MapIdx(n) } => {
                    first = usize::try_from(*n).ok().and_then(|n| types.get(n)).copied();
                }
                Insn::Call(Call::Helper(_)) => {
                    if let Some(t) = first.take() {
                        let name = format!("{} on {}", disasm(insn, &NoNames), t.name());
                        *self.maps.entry(name).or_default() += 1;
                    }
                }
                Insn::Alu { dst: Reg::R1, .. }
                | Insn::Load { dst: Reg::R1, .. }
                | Insn::Call(_) => {
                    first = None;
                }
                _ => {}
            }
        }
    }

    /// Native code of a program.
    pub fn native(&mut self, arch: Arch, v: &Verified, code: &Compiled) {
        // What cannot be shown has no shape.
        let Ok(shown) = disassemble(arch, &code.code, 0) else { return };
        for range in &code.debug.insns {
            let within = |n: &&crate::native::Native| (range.start.0..range.end.0).contains(&n.at);
            let names = shown
                .iter()
                .filter(within)
                .map(|n| n.text.split_whitespace().next().unwrap_or_default());
            let shape = names.collect::<Vec<_>>().join(" ");
            if let Some(f) = form(v.insn(InsnIdx(range.insn.0)).0) {
                self.forms.entry(f).or_default().shapes[arch as usize].insert(shape);
            }
        }
    }

    /// What the verifier said of a program that it refused: the message, of a line or several, and
    /// the log, which has what led to it.
    pub fn refused(&mut self, message: &str, log: &str) {
        // Instructions and source lines are not what is said of them.
        let said = log.lines().filter(|l| !l.starts_with(|c: char| c.is_ascii_digit() || c == ';'));
        let rules: BTreeSet<_> = message.lines().chain(said).filter_map(messages::of).collect();
        for rule in rules {
            *self.rules.entry(rule).or_default() += 1;
        }
    }

    /// The report, columns with tabs between them.
    #[must_use]
    pub fn text(&self) -> String {
        let all = all_forms();
        let covered = |f: &&String| self.forms.get(*f).is_some_and(|f| f.programs > 0);
        let n = all.iter().filter(covered).count();
        let shapes: [usize; Arch::ALL.len()] =
            std::array::from_fn(|a| self.forms.values().map(|f| f.shapes[a].len()).sum());
        let of = all.len();
        let mut out = format!("# {n} of {of} forms of instructions; shapes of native code:");
        for (arch, n) in Arch::ALL.iter().zip(shapes) {
            let _ = write!(out, " {arch} {n}");
        }
        out += "\nform\tprograms";
        for arch in Arch::ALL {
            let _ = write!(out, "\t{arch}");
        }
        out.push('\n');
        let made = self.forms.keys().filter(|f| !all.contains(*f));
        for f in all.iter().chain(made) {
            let none = Form::default();
            let found = self.forms.get(f).unwrap_or(&none);
            let _ = write!(out, "{f}\t{}", found.programs);
            for shapes in &found.shapes {
                let _ = write!(out, "\t{}", shapes.len());
            }
            out.push('\n');
        }
        let _ = writeln!(out, "\n# {} helpers and kfuncs\ncall\ttimes", self.calls.len());
        self.calls.iter().for_each(|(c, n)| out += &format!("{c}\t{n}\n"));
        let _ = writeln!(out, "\n# {} operations on maps\noperation\ttimes", self.maps.len());
        self.maps.iter().for_each(|(m, n)| out += &format!("{m}\t{n}\n"));
        let (n, of) = (self.rules.len(), messages::all().count());
        let never = messages::all().filter_map(messages::unreachable).count();
        let _ = writeln!(out, "\n# {n} of {of} rules of the verifier, {never} that nothing breaks");
        let _ = writeln!(out, "rule\trejections\tfile\twhy no program breaks it");
        for (file, rule) in messages::grouped() {
            let times = self.rules.get(rule).unwrap_or(&0);
            let why = messages::unreachable(rule).unwrap_or_default();
            let _ = writeln!(out, "{rule}\t{times}\t{file}\t{why}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::assemble_insns;

    #[test]
    fn forms_differ_by_what_encodings_do() {
        let forms = |t: &str| -> Vec<String> {
            assemble_insns(t).unwrap().iter().filter_map(form).collect()
        };
        assert_eq!(forms("r3 += r7\nr5 += r5"), ["r1 += r2", "r1 += r2"]);
        assert_eq!(forms("r3 += 77\nw3 += 8"), ["r1 += 1", "w1 += 1"]);
        assert_eq!(forms("r9 = 0x1122334455 ll"), ["r1 = 0x1 ll"]);
        assert!(all_forms().len() > 150);
    }

    #[test]
    fn what_is_not_covered_is_in_the_report() {
        let mut c = Coverage::default();
        c.program(&assemble_insns("r0 = 7\nexit").unwrap());
        c.refused("a state\nR3 !read_ok", "0: (95) exit\nR0 !read_ok\nR0 leaks addr into mem");
        let r1 = Insn::LdImm64 { dst: Reg::R1, imm: Imm64::MapIdx(1) };
        c.map_calls(&[r1, Insn::Call(Call::Helper(1))], &[MapType::Array, MapType::Hash]);
        let text = c.text();
        assert!(text.contains("\nexit\t1\t0\t0\t0\t0\n"), "{text}");
        assert!(text.contains("\nr1 += r2\t0\t"), "{text}");
        assert!(text.starts_with("# 2 of "), "{text}");
        assert!(text.contains("\nR{} !read_ok\t1\t") && text.contains("\n# 2 of "), "{text}");
        assert!(text.contains("map_lookup_elem#1 on hash\t1\n"), "{text}");
    }
}
