//! `progs`.

use std::fmt::Write as _;

use kernel_model::syscall::LinkTarget;
use kernel_model::{Kernel, Prog};

use super::{Here, Reply, no_more};

/// Where a program is attached.
fn attached(k: &Kernel, p: &Prog) -> Vec<String> {
    let mut out = Vec::new();
    for nic in k.net.nics.values() {
        let name = &nic.config.name;
        if nic.xdp == Some(p.id) {
            out.push(format!("{name} xdp"));
        }
        for (hook, dir) in [(&nic.ingress, "ingress"), (&nic.egress, "egress")] {
            if hook.tcx.iter().chain(&hook.clsact).any(|id| *id == p.id) {
                out.push(format!("{name} {dir}"));
            }
        }
    }
    let traced = k.links.values().filter(|l| l.prog == p.id);
    for link in traced {
        if let LinkTarget::Trace { attach, .. } = link.target {
            out.push(attach.name().to_owned());
        }
    }
    out
}

/// `progs`.
pub(super) fn list(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let (k, at) = (here.kernel(), here.at());
    let mut out = String::new();
    let _ = writeln!(
        out,
        "  {:>3} {:<20} {:<12} {:>6} {:>6} {:>8} {:>18}  attached",
        "id", "name", "type", "insns", "runs", "time ns", "native code"
    );
    for p in k.progs() {
        let mark = if at.is_some_and(|a| a.prog == p.id) { '*' } else { ' ' };
        let (insns, to) = (p.verified.program().insns.len(), attached(k, p).join(", "));
        let line = format!(
            "{mark} {:>3} {:<20} {:<12} {insns:>6} {:>6} {:>8} {:>#18x}  {to}",
            p.id.0,
            p.name(),
            p.prog_type().name(),
            p.run_cnt,
            p.run_time_ns,
            p.entry,
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    Ok(out)
}
