//! Where a value comes from: backwards along the failing path.

use bpf::Program;
use bpf::insn::{AluOp, Call, Imm64, Insn, Reg, Src, helper_name};

use super::trace::Step;

/// One station of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) insn: u32,
    pub(crate) what: String,
}

/// Stations shown.
const LINKS: usize = 8;

/// The register a message is about.
pub(crate) fn register_of(message: &str) -> Option<Reg> {
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|w| {
        let n: u8 = w.strip_prefix('R')?.parse().ok()?;
        (n <= 10).then_some(Reg(n))
    })
}

/// A reference that is not released names where it was acquired.
pub(crate) fn of_reference(message: &str) -> Vec<Link> {
    let at = message.split("alloc_insn=").nth(1).and_then(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    });
    at.map(|insn| Link { insn, what: "acquired here, not released on this path".into() })
        .into_iter()
        .collect()
}

/// What is looked for: a register or a slot of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Reg(Reg),
    Slot(i16),
}

/// What an instruction does to what is looked for.
enum Found {
    /// Nothing.
    No,
    /// It goes on with something else, or with the same.
    On(Wanted, String),
    /// It begins here.
    End(String),
}

/// State of a register in what the log says changed.
fn state(step: &Step, reg: Reg) -> Option<&str> {
    let name = format!("R{}=", reg.0);
    let at = step.changed.find(&name)?;
    let rest = &step.changed[at + name.len()..];
    let mut depth = 0i32;
    let ends = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0 && c == ' '
    };
    Some(&rest[..rest.find(ends).unwrap_or(rest.len())])
}

fn called(id: i32) -> String {
    helper_name(id)
        .map_or_else(|| format!("helper {id}"), |n| format!("bpf_{}", n.trim_start_matches("bpf_")))
}

/// What a call means for a register.
fn of_call(call: &Call, reg: Reg, step: &Step) -> Found {
    let name = match call {
        Call::Helper(id) => called(*id),
        Call::Kfunc { btf_id, .. } => format!("the kernel function {btf_id}"),
        // The value goes on inside the function, or comes from the caller.
        Call::Local(_) => return Found::No,
    };
    if reg != Reg::R0 {
        return Found::End(format!("r{} is not readable after the call of {name}", reg.0));
    }
    let null = state(step, reg).is_some_and(|s| s.contains("or_null"));
    let fails = if null { ", which can fail: it may be NULL" } else { "" };
    Found::End(format!("r0 is what {name} returned{fails}"))
}

fn of_insn(insn: &Insn, wanted: Wanted, step: &Step) -> Found {
    let Wanted::Reg(reg) = wanted else { return of_store(insn, wanted) };
    let here = format!("r{}", reg.0);
    match *insn {
        Insn::Alu { op: AluOp::Mov, dst, src: Src::Reg(src), .. } if dst == reg => {
            Found::On(Wanted::Reg(src), format!("{here} is a copy of r{}", src.0))
        }
        Insn::Alu { op: AluOp::Mov, dst, src: Src::Imm(v), .. } if dst == reg => {
            Found::End(format!("{here} is the constant {v}"))
        }
        Insn::Alu { dst, src, .. } if dst == reg => {
            let with = match src {
                Src::Reg(r) => format!("r{}", r.0),
                Src::Imm(v) => v.to_string(),
            };
            let now = state(step, reg).map_or(String::new(), |s| format!(": {s}"));
            Found::On(wanted, format!("{here} is changed by {with}{now}"))
        }
        Insn::MovSx { dst, src, bits, .. } if dst == reg => Found::On(
            Wanted::Reg(src),
            format!("{here} is r{} sign-extended from {bits} bits", src.0),
        ),
        Insn::Load { dst, src, off, .. } if dst == reg && src == Reg::FP => {
            Found::On(Wanted::Slot(off), format!("{here} is read from the stack at fp{off:+}"))
        }
        Insn::Load { dst, src, off, .. } if dst == reg => {
            let now = state(step, reg).map_or(String::new(), |s| format!(": {s}"));
            Found::End(format!("{here} is read from memory at r{}{off:+}{now}", src.0))
        }
        Insn::LdImm64 { dst, imm } if dst == reg => Found::End(match imm {
            Imm64::Const(v) => format!("{here} is the constant {v:#x}"),
            Imm64::Func(_) => format!("{here} is the address of a function"),
            Imm64::BtfId { .. } => format!("{here} is the address of a kernel variable"),
            _ => format!("{here} is a map, or the address of its value"),
        }),
        Insn::Neg { dst, .. } | Insn::End { dst, .. } if dst == reg => {
            Found::On(wanted, format!("{here} is negated or has its bytes swapped"))
        }
        Insn::Jmp { dst, src, .. } if dst == reg || src == Src::Reg(reg) => {
            let now = state(step, reg).map_or(String::new(), |s| format!(": {s}"));
            Found::On(wanted, format!("{here} is compared{now}"))
        }
        Insn::Call(ref call) if reg.0 <= 5 => of_call(call, reg, step),
        _ => Found::No,
    }
}

fn of_store(insn: &Insn, wanted: Wanted) -> Found {
    let Wanted::Slot(slot) = wanted else { return Found::No };
    match *insn {
        Insn::Store { dst, off, src, .. } if dst == Reg::FP && off == slot => match src {
            Src::Reg(r) => Found::On(Wanted::Reg(r), format!("stored to fp{slot:+} from r{}", r.0)),
            Src::Imm(v) => Found::End(format!("the constant {v} is stored to fp{slot:+}")),
        },
        _ => Found::No,
    }
}

/// The history of a register at the end of a path, latest station first.
pub(crate) fn of_register(program: &Program, path: &[Step], reg: Reg) -> Vec<Link> {
    let mut links = Vec::new();
    let mut wanted = Wanted::Reg(reg);
    let Some((last, before)) = path.split_last() else { return links };
    let mut frame = last.frame;
    for step in before.iter().rev() {
        // A function that returned is looked into for R0 alone, a caller for arguments.
        let argument = matches!(wanted, Wanted::Reg(r) if (1..=5).contains(&r.0));
        let returned = wanted == Wanted::Reg(Reg::R0);
        match step.frame.cmp(&frame) {
            std::cmp::Ordering::Less if argument => frame = step.frame,
            std::cmp::Ordering::Greater if returned => frame = step.frame,
            std::cmp::Ordering::Equal => {}
            _ => continue,
        }
        let Some(insn) = program.insns.get(step.insn as usize) else { continue };
        match of_insn(insn, wanted, step) {
            Found::No => {}
            Found::On(next, what) => {
                links.push(Link { insn: step.insn, what });
                wanted = next;
            }
            Found::End(what) => {
                links.push(Link { insn: step.insn, what });
                return shorten(links);
            }
        }
    }
    shorten(links)
}

/// The first stations and the origin.
fn shorten(mut links: Vec<Link>) -> Vec<Link> {
    links.dedup();
    if links.len() > LINKS {
        let origin = links.split_off(links.len() - 2);
        links.truncate(LINKS - 2);
        links.extend(origin);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};

    fn path(n: u32) -> Vec<Step> {
        (0..n).map(|insn| Step { insn, ..Step::default() }).collect()
    }

    #[test]
    fn through_the_stack() {
        let text = "r3 = 7\n*(u64 *)(r10 -8) = r3\nr4 = *(u64 *)(r10 -8)\nr4 += r1\nr0 = *(u8 *)(r4 +0)\nexit";
        let program = assemble(text, &NoSymbols).unwrap().progs.remove(0);
        let links = of_register(&program, &path(5), Reg(4));
        let at: Vec<u32> = links.iter().map(|l| l.insn).collect();
        assert_eq!(at, [3, 2, 1, 0], "{links:?}");
        assert!(links[3].what.contains("constant 7"));
    }

    #[test]
    fn registers_and_references_of_messages() {
        assert_eq!(register_of("R2 invalid mem access 'scalar'"), Some(Reg(2)));
        assert_eq!(register_of("At program exit the register R0 has"), Some(Reg(0)));
        assert_eq!(register_of("unreachable insn 3"), None);
        let links = of_reference("Unreleased reference id=2 alloc_insn=17");
        assert_eq!(links[0].insn, 17);
    }
}
