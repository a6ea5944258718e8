//! `stack`: the BPF stack of a program, slot by slot.

use std::fmt::Write as _;

use kernel_model::Kernel;

use super::{Here, Reply, no_more, number, state};

/// `stack [FRAME]`.
pub(super) fn stack(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let frames = here.machine.stack_frames(here.cpu);
    here.site()?;
    let chosen = match args {
        [] => 0,
        [n, more @ ..] => {
            no_more(more)?;
            let n = usize::try_from(number(n)?).unwrap_or(usize::MAX);
            if n >= frames.len() {
                return Err(format!("there are {} frames, numbered from 0", frames.len()));
            }
            n
        }
    };
    let f = &frames[chosen];
    let place = k.place(f.site).map(|p| p.to_string()).unwrap_or_default();
    let mut out = format!("#{chosen} {place}\n");
    let Some(fp) = f.fp else {
        out.push_str("  its frame is not made yet\n");
        return Ok(out);
    };
    let prog = k.prog(f.site.prog).ok_or("the program is gone")?;
    let depth = prog.verified.subprogs().get(f.func).map_or(0, |s| s.stack_depth);
    if depth == 0 {
        out.push_str("  the function uses no stack\n");
        return Ok(out);
    }
    let regs = here.machine.bpf_regs(here.cpu).filter(|_| chosen == 0);
    let known = state::log_of(k, f.site.prog).ok();
    let known = known.and_then(|log| state::state_of(&log, f.site.insn, regs));
    slots(k, fp, depth, known.as_deref().unwrap_or(""), &mut out);
    Ok(out)
}

/// Eight bytes a line, from the frame pointer down.
fn slots(k: &Kernel, fp: u64, depth: u32, known: &str, out: &mut String) {
    for n in 1..=u64::from(depth.div_ceil(8)) {
        let name = format!("fp-{}", n * 8);
        let word = k.mem.read_u64(fp - n * 8);
        let word = word.map_or_else(|_| "not there".to_owned(), |w| format!("{w:#018x}"));
        let kind = state::value(known, &name).map_or("not written on this path", kind_of);
        let line = format!("  {name:<7} {word}  {kind}");
        let text = state::value(known, &name).filter(|v| kind_of(v) == "spill" || v.len() > 8);
        let _ = match text {
            Some(text) => writeln!(out, "{line}: {text}"),
            None => writeln!(out, "{}", line.trim_end()),
        };
    }
}

/// The kind of a slot by what the log calls it: eight letters, or a register.
fn kind_of(value: &str) -> &'static str {
    let letters = |set: &str| value.len() == 8 && value.chars().all(|c| set.contains(c));
    match value {
        _ if letters("0") => "zero",
        _ if letters("m") => "misc",
        _ if letters("f") => "irq flag",
        _ if letters("m0?r") => "mixed (m misc, 0 zero, ? unwritten)",
        v if v.starts_with("dynptr_") => "dynptr",
        v if v.starts_with("iter_") => "iterator",
        _ => "spill",
    }
}
