//! Injected faults: from the scenario's list to the kernel's, and whether each happened.

use bpf::insn::helper_name;
use kernel_model::context::Level;
use kernel_model::fault::Kind as Injection;
use kernel_model::{CpuId, Errno, fault, helpers};
use scenarios::Finding;
use scenarios::leaf::{Data, int_of, suggest};
use scenarios::schema::Name;
use scenarios::schema::play::Fault;
use scenarios::tree::Kind;

use super::{Failure, FailureKind, Run, RunError};

/// What a helper is made to return: `NULL`, an errno by name (negative), or a number.
fn ret_value(data: &Data) -> Result<u64, RunError> {
    match &data.node.kind {
        Kind::Name(n) if n == "NULL" => Ok(0),
        Kind::Name(n) => Errno::from_name(n)
            .map(Errno::ret)
            .ok_or_else(|| RunError::input(data.span(), format!("{n} is no errno"))),
        _ => int_of(&data.node)
            .map(|v| v as u64)
            .ok_or_else(|| RunError::input(data.span(), "a number, NULL or an errno is expected")),
    }
}

/// A helper of the kernel, though the model may lack it: then it is never called.
fn helper_exists(func: &Name, short: &str) -> Result<(), RunError> {
    let names = (1..1000).filter_map(helper_name);
    let names: Vec<&str> = names.map(helpers::bare).collect();
    if names.contains(&short) {
        return Ok(());
    }
    let finding = Finding::error(func.span, format!("the kernel has no helper {}", func.v));
    Err(RunError::from(match suggest(short, names.iter().copied()) {
        Some(near) => finding.hint(format!("did you mean bpf_{near}?")),
        None => finding,
    }))
}

impl Run<'_> {
    fn fault_prog(&self, prog: Option<&Name>) -> Result<Option<kernel_model::ProgId>, RunError> {
        prog.map(|p| self.prog(p)).transpose()
    }

    /// Hands the faults to the kernel; occasions count from here.
    pub(super) fn arm_faults(&mut self) -> Result<(), RunError> {
        let boot = self.s.machine.clock.ns;
        for fault in &self.s.faults {
            let (kind, nth, times) = match fault {
                Fault::Alloc { nth, times, site, prog, probability } => {
                    let prog = self.fault_prog(prog.as_ref())?;
                    let limit = if probability.is_some() { u64::MAX } else { 1 };
                    let chance = probability.as_ref().map(|p| fault::chance(p.v));
                    let kind = Injection::Alloc { site: site.clone(), prog, chance };
                    (kind, nth.v, times.unwrap_or(limit))
                }
                Fault::Call { func, nth, times, ret, prog } => {
                    let short = helpers::bare(&func.v).to_string();
                    helper_exists(func, &short)?;
                    let (prog, ret) = (self.fault_prog(prog.as_ref())?, ret_value(ret)?);
                    (Injection::Call { func: short, prog, ret }, nth.v, *times)
                }
                Fault::UserPage { addr, nth } => (Injection::UserPage { addr: *addr }, nth.v, 1),
                Fault::RingFull { nic, from, to } => {
                    let ifindex = self.nic(nic)?;
                    let (from, to) = (boot + from.v.ns, boot + to.v.ns);
                    (Injection::RingFull { ifindex, from, to }, 1, u64::MAX)
                }
                Fault::TimerLate { by, nth } => (Injection::TimerLate { by: by.ns }, nth.v, 1),
                Fault::Irq { cpu, line, safepoint, prog, inside } => {
                    let on = (Level::Hard, cpu.v, *line);
                    (self.interrupt(on, prog, inside.as_ref())?, safepoint.v, 1)
                }
                Fault::Nmi { cpu, safepoint, prog, inside } => {
                    let on = (Level::Nmi, cpu.v, 0);
                    (self.interrupt(on, prog, inside.as_ref())?, safepoint.v, 1)
                }
            };
            self.machine.kernel.faults.add(kind, nth, times);
        }
        Ok(())
    }

    /// An interrupt at points of a program, or at those of a name inside kernel paths.
    fn interrupt(
        &self,
        (level, cpu, line): (Level, u32, u32),
        prog: &Name,
        inside: Option<&Name>,
    ) -> Result<Injection, RunError> {
        if let Some(at) = inside.filter(|at| !at.v.contains(": ")) {
            let finding = Finding::error(at.span, format!("`{}` is no point", at.v));
            let hint = "write \"bpf_map_update_elem: in the critical section\"";
            return Err(finding.hint(hint).into());
        }
        let (cpu, prog, inside) = (CpuId(cpu), self.prog(prog)?, inside.map(|at| at.v.clone()));
        Ok(Injection::Interrupt { level, cpu, line, prog, inside })
    }

    /// A fault that never happened fails the run, except in a sweep: there it ends the sweep.
    pub(super) fn faults_happened(&mut self) {
        if self.sweep {
            return;
        }
        let never: Vec<(&'static str, u64)> = self
            .machine
            .kernel
            .faults
            .list()
            .iter()
            .filter(|f| f.happened == 0)
            .map(|f| (f.kind.name(), f.seen))
            .collect();
        for (name, seen) in never {
            let message = format!("the fault `{name}` never happened; it had {seen} occasions");
            let kind = FailureKind::NotInjected;
            self.failures.push(Failure { kind, ..Failure::new(self.s.span, message) });
        }
    }
}
