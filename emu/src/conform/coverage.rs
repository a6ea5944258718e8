//! What cases cover: the forms of instructions, the shapes of native code that each takes on an
//! architecture, helpers and kfuncs, operations on maps by their type, and the rules of the
//! verifier that refused something ([`verifier::messages`]).
//!
//! A shape is the mnemonics that an instruction became, in order: two cases with the same shape
//! went the same way through the emitter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bpf::Arch;
use bpf::Program;
use bpf::btf::Btf;
use bpf::insn::asm::{NoSymbols, assemble};
use bpf::insn::disasm::{NoNames, disasm};
use bpf::insn::generate::{Rng, any_insn};
use bpf::insn::{AluOp, Call, Imm64, Insn, InsnIdx, Reg, Src};
use bpf::uapi::MapType;
use jit::Compiled;
use verifier::proto::ArgBase;
use verifier::tables::{self, Availability};
use verifier::{Verified, messages, takes_map};

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
    }

    /// Calls of a program that is accepted, of kernel functions by their names in the kernel's
    /// types, and of helpers on maps, whose types are given by index, as far as the map is set on
    /// the straight way there.
    pub fn calls(&mut self, insns: &[Insn], btf: Option<&Btf>, types: &[MapType]) {
        let mut held = [None::<MapType>; 12];
        for insn in insns {
            match *insn {
                Insn::LdImm64 { dst, imm: Imm64::MapIdx(n) } => {
                    held[dst.idx()] = usize::try_from(n).ok().and_then(|n| types.get(n)).copied();
                }
                Insn::Alu { op: AluOp::Mov, dst, src: Src::Reg(src), .. } => {
                    held[dst.idx()] = held[src.idx()];
                }
                Insn::Call(call) => {
                    self.call(call, btf, &held);
                    held[..=5].fill(None);
                }
                _ => {
                    if let Some(r) = insn.result() {
                        held[r.idx()] = None;
                    }
                }
            }
        }
    }

    fn call(&mut self, call: Call, btf: Option<&Btf>, held: &[Option<MapType>]) {
        let name = match call {
            Call::Helper(id) => {
                let map = map_argument(id).and_then(|at| held[at]);
                if let Some(ty) = map {
                    *self.maps.entry(operation(id, ty)).or_default() += 1;
                }
                helper(id)
            }
            Call::Kfunc { btf_id, off: 0 } => match btf.zip(u32::try_from(btf_id).ok()) {
                Some((btf, id)) => btf.name(id).to_owned(),
                None => return,
            },
            _ => return,
        };
        *self.calls.entry(name).or_default() += 1;
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
        let calls: Rows =
            callable().into_iter().map(|id| (helper(id), none_of(id, None))).collect();
        out += &counted("calls of what test runs may call", "call", &self.calls, calls);
        out += &counted("operations on maps", "operation", &self.maps, operations());
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

/// What there is, and why no case has it, where that is so.
type Rows = BTreeMap<String, &'static str>;

/// What was counted, and what of all there is was not.
fn counted(what: &str, column: &str, counts: &BTreeMap<String, u64>, all: Rows) -> String {
    let n = all.keys().filter(|a| counts.contains_key(*a)).count();
    let never = all.values().filter(|why| !why.is_empty()).count();
    let mut out = format!("\n# {n} of {} {what}, {never} that no case has\n", all.len());
    let _ = writeln!(out, "{column}\ttimes\twhy no case has it");
    let mut rows = counts.clone();
    all.keys().for_each(|a| _ = rows.entry(a.clone()).or_default());
    for (name, times) in rows {
        let why = all.get(&name).copied().unwrap_or_default();
        let _ = writeln!(out, "{name}\t{times}\t{why}");
    }
    out
}

/// Why no case calls a helper, on maps of a type where one is named. A test compares it with what
/// the corpus has.
#[rustfmt::skip]
const NO_CASE: &[(&[i32], Option<MapType>, &str)] = &[
    // bpf_skb_output, bpf_xdp_output.
    (&[111, 121], None, "the packet is an argument of a traced function: not of a test run's"),
    // bpf_inode_storage_get, bpf_inode_storage_delete.
    (&[145, 146], Some(MapType::InodeStorage), "programs of LSM have no test run"),
    (&[1, 2, 3], Some(MapType::Arena), "its keys have no bytes, and a read of none is refused"),
    (&[111, 121], Some(MapType::PerfEventArray), "the packet is an argument of a traced function"),
];

fn none_of(id: i32, ty: Option<MapType>) -> &'static str {
    let row = NO_CASE.iter().find(|(ids, of, _)| ids.contains(&id) && *of == ty);
    row.map_or("", |row| row.2)
}

/// Sections of programs that `BPF_PROG_TEST_RUN` runs.
const TEST_RUN: &[&str] = &[
    "socket",
    "tc",
    "xdp",
    "cgroup_skb/ingress",
    "lwt_xmit",
    "flow_dissector",
    "sk_lookup",
    "raw_tp/sys_enter",
    "syscall",
    "netfilter",
];

/// `bpf_timer_init`.
const TIMER_INIT: i32 = 169;

/// A helper as instructions show it.
fn helper(id: i32) -> String {
    disasm(&Insn::Call(Call::Helper(id)), &NoNames)
}

/// Helpers that the model has and a program of these may call.
fn callable() -> BTreeSet<i32> {
    let program = |section: &&str| {
        let text = format!("; prog {section} p\nexit");
        assemble(&text, &NoSymbols).ok().and_then(|mut a| a.progs.pop())
    };
    let programs: Vec<Program> = TEST_RUN.iter().filter_map(program).collect();
    let may = |id: &i32| {
        let may = |p| {
            matches!(tables::helper_available(p, *id), Availability::Yes | Availability::Sleepable)
        };
        programs.iter().any(may)
    };
    let modelled = kernel_model::helpers::modelled().map(|h| h.0);
    modelled.filter(|id| *id < tables::HELPER_MAX).filter(may).collect()
}

/// The register a helper has a map in.
fn map_argument(id: i32) -> Option<usize> {
    let proto = tables::helper(id)?;
    proto.args.iter().position(|a| a.base == ArgBase::ConstMapPtr).map(|at| at + 1)
}

fn operation(id: i32, ty: MapType) -> String {
    format!("{} on {}", helper(id), ty.name())
}

/// Helpers on maps of every type that they take and the model has.
fn operations() -> Rows {
    let types = kernel_model::maps::types();
    // A timer is a field of a value: its map is not what is worked on.
    let with_map = |id: &i32| map_argument(*id).is_some() && *id != TIMER_INIT;
    let ids: Vec<i32> = kernel_model::helpers::modelled().map(|h| h.0).filter(with_map).collect();
    let of = |ty| {
        let taking = ids.iter().filter(move |id| takes_map(**id, ty));
        taking.map(move |id| (operation(*id, ty), none_of(*id, Some(ty))))
    };
    types.flat_map(of).collect()
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
        c.calls(&[r1, Insn::Call(Call::Helper(1))], None, &[MapType::Array, MapType::Hash]);
        let text = c.text();
        assert!(text.contains("\ncall bpf_redirect_map#51 on devmap\t0\t\n"), "{text}");
        assert!(text.contains("\ncall bpf_ktime_get_ns#5\t0\t\n"), "{text}");
        assert!(text.contains("\nexit\t1\t0\t0\t0\t0\n"), "{text}");
        assert!(text.contains("\nr1 += r2\t0\t"), "{text}");
        assert!(text.starts_with("# 2 of "), "{text}");
        assert!(text.contains("\nR{} !read_ok\t1\t") && text.contains("\n# 2 of "), "{text}");
        assert!(text.contains("map_lookup_elem#1 on hash\t1\t\n"), "{text}");
    }
}
