//! `rcu`, `refs`.

use std::fmt::Write as _;

use kernel_model::cpu::CpuId;
use kernel_model::rcu::Flavor;

use super::{Here, Reply, names, no_more};

/// Things held that are shown.
const SHOWN: usize = 64;

/// `rcu`.
pub(super) fn rcu(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let k = here.kernel();
    let mut out = String::new();
    for flavor in Flavor::ALL {
        let (now, next) = k.rcu.waiting(flavor);
        let _ = writeln!(out, "{}", flavor.name());
        for s in (0..k.config.cpus).filter_map(|cpu| k.rcu.section(CpuId(cpu), flavor)) {
            let (by, since) = (s.by, s.since_ns);
            let prog = s.prog.map_or(String::new(), |p| format!(" ({})", names::prog_name(k, p)));
            let _ = writeln!(out, "  CPU {} reads: {by}{prog} since {since} ns", s.cpu.0);
        }
        match k.rcu.grace_period(flavor) {
            Some((number, started, holders)) => {
                let _ = writeln!(
                    out,
                    "  grace period {number} since {started} ns; {now} objects wait for its end"
                );
                for s in holders {
                    let _ = writeln!(out, "    held by {s}");
                }
            }
            None => out.push_str("  no grace period is in progress\n"),
        }
        if next > 0 {
            let _ = writeln!(out, "  {next} objects wait for the next one");
        }
    }
    Ok(out)
}

/// `refs`.
pub(super) fn refs(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let k = here.kernel();
    let mut all: Vec<_> = k.ledger.iter().collect();
    all.sort_by_key(|(.., h)| h.order);
    let mut out = String::new();
    for (kind, at, h) in all.iter().take(SHOWN) {
        let by = h.prog.map_or_else(|| "the kernel".to_owned(), |p| names::prog_name(k, p));
        let name = k.object_name(*at).map_or(String::new(), |n| format!(" ({n})"));
        let (what, cpu, ns) = (h.what, h.cpu.0, h.clock_ns);
        let _ = writeln!(out, "{kind:?} {at:#x}{name}: {what} by {by} on CPU {cpu} at {ns} ns");
        for line in k.stack_lines(&h.stack) {
            let _ = writeln!(out, "    {line}");
        }
    }
    if all.len() > SHOWN {
        let _ = writeln!(out, "and {} more", all.len() - SHOWN);
    }
    if out.is_empty() {
        out.push_str("nothing is held\n");
    }
    Ok(out)
}
