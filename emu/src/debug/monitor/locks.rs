//! `locks`, `lock-order`.

use std::fmt::Write as _;

use kernel_model::cpu::CpuId;
use kernel_model::lock::Taking;

use super::{Here, Reply, no_more};

/// `locks`.
pub(super) fn held(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let k = here.kernel();
    let mut out = String::new();
    for cpu in (0..k.config.cpus).map(CpuId) {
        let party = k.lock_party(cpu);
        if party.wants.is_some() || !party.holds.is_empty() {
            let _ = writeln!(out, "CPU {}\n{party}", cpu.0);
        }
    }
    if out.is_empty() {
        out.push_str("no CPU has a lock or waits for one\n");
    }
    Ok(out)
}

/// `lock-order`.
pub(super) fn order(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let k = here.kernel();
    let place = |t: &Taking| {
        let line = k.stack_lines(&t.stack).into_iter().next();
        line.map_or_else(|| t.func.to_owned(), |l| format!("{} in {l}", t.func))
    };
    let mut out = String::new();
    for (held, wanted, edge) in k.lock_orders() {
        let (first, then) = (place(&edge.held), place(&edge.wanted));
        let _ =
            writeln!(out, "{held} -> {wanted}\n  holds {held}: {first}\n  wants {wanted}: {then}");
    }
    if out.is_empty() {
        out.push_str("no lock was wanted by a CPU that had another\n");
    }
    for danger in k.lock_dangers() {
        let _ = writeln!(out, "{}", k.danger_text(&danger));
    }
    Ok(out)
}
