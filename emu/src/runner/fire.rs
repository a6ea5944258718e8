//! Tracepoints that the scenario fires itself, and those whose events it asks for.

use bpf::btf::{Btf, Kind as BtfKind};
use kernel_model::CpuId;
use kernel_model::event::Value;
use kernel_model::trace::tracepoint;
use scenarios::leaf::{Data, Is, Leaf, int_of};
use scenarios::schema::{Event, Name};
use scenarios::tree::{Kind, Member, Node};

use super::{Run, RunError};

/// Parameters of a tracepoint with their BTF types.
fn params(btf: &Btf, name: &str) -> Vec<(String, u32)> {
    let Some((_, row)) = tracepoint(name) else { return Vec::new() };
    let typedef = btf.find(&format!("btf_trace_{}", row.name), BtfKind::Typedef);
    let proto = typedef.and_then(|id| btf.func_proto(btf.resolve(id)));
    let types = proto.map_or(Vec::new(), |(_, p)| p.iter().skip(1).map(|p| p.ty).collect());
    row.args.iter().cloned().zip(types).collect()
}

/// The number of an enumerator, with or without the prefix that all of its enum share.
fn enumerator(btf: &Btf, ty: u32, name: &str) -> Option<u64> {
    let id = btf.resolve(ty);
    btf.enumerators(id)
        .find(|(n, _)| *n == name || n.strip_suffix(name).is_some_and(|p| p.ends_with('_')))
        .map(|(_, v)| v)
}

fn members(args: Option<&Data>) -> Result<&[Member], RunError> {
    match args.map(|d| &d.node.kind) {
        None => Ok(&[]),
        Some(Kind::Record(None, members)) => Ok(members),
        Some(Kind::Tuple(items)) if items.is_empty() => Ok(&[]),
        Some(_) => {
            let span = args.map(Data::span).unwrap_or_default();
            Err(RunError::input(span, "arguments are written by name, as in (reason: 2)"))
        }
    }
}

impl Run<'_> {
    /// Fires a tracepoint as the next work of a CPU.
    pub(super) fn fire(
        &mut self,
        name: &Name,
        args: Option<&Data>,
        cpu: u32,
    ) -> Result<(), RunError> {
        let Some((_, row)) = tracepoint(&name.v) else {
            return Err(RunError::input(name.span, format!("no tracepoint {}", name.v)));
        };
        let btf = self.machine.kernel.vmlinux_btf().clone();
        let params = params(&btf, &name.v);
        let given = members(args)?;
        let syscall = row.group == "raw_syscalls";
        for m in given {
            let known = params.iter().any(|p| p.0 == m.name);
            let of_syscall = syscall && matches!(m.name.as_str(), "args" | "id");
            if !(known || of_syscall) {
                let names: Vec<&str> = params.iter().map(|p| p.0.as_str()).collect();
                let message = format!("{} has no argument `{}`", row.name, m.name);
                let finding = scenarios::Finding::error(m.name_span, message);
                let known = format!("known: {}", names.join(", "));
                return Err(RunError::Input(Box::new(finding.hint(known))));
            }
        }
        let mut objects = Vec::new();
        let mut values = Vec::new();
        for (param, ty) in &params {
            let value = match given.iter().find(|m| m.name == *param) {
                Some(m) => self.argument(&btf, *ty, &m.value, &mut objects)?,
                None if syscall && param == "regs" => self.registers(given, &mut objects)?,
                None => 0,
            };
            values.push(value);
        }
        let done = self.machine.kernel.trace_fire(CpuId(cpu), &name.v, &values, &objects);
        done.map_err(|e| RunError::Internal(format!("firing {}: {}", name.v, e.name())))
    }

    /// `pt_regs` of a system call from its number and arguments.
    fn registers(&mut self, given: &[Member], objects: &mut Vec<u64>) -> Result<u64, RunError> {
        let number = given.iter().find(|m| m.name == "id").and_then(|m| int_of(&m.value));
        let mut args = Vec::new();
        if let Some(m) = given.iter().find(|m| m.name == "args") {
            let Kind::List(items) = &m.value.kind else {
                return Err(RunError::input(m.value.span, "a list of numbers is expected"));
            };
            for item in items {
                let value = int_of(item).filter(|_| args.len() < 6);
                let value =
                    value.ok_or_else(|| RunError::input(item.span, "at most six numbers"))?;
                args.push(value as u64);
            }
        }
        let regs = self.machine.kernel.syscall_regs(number.unwrap_or(0) as u64, &args);
        let regs = regs.map_err(|e| RunError::Internal(e.name().to_string()))?;
        objects.push(regs);
        Ok(regs)
    }

    /// One argument: a number, an enumerator, text, or an object by name.
    fn argument(
        &mut self,
        btf: &Btf,
        ty: u32,
        node: &Node,
        objects: &mut Vec<u64>,
    ) -> Result<u64, RunError> {
        let bad = |message: String| RunError::input(node.span, message);
        match &node.kind {
            Kind::Name(n) if n == "NULL" => Ok(0),
            Kind::Bool(b) => Ok(u64::from(*b)),
            Kind::Name(n) => enumerator(btf, ty, n).ok_or_else(|| bad(format!("unknown name {n}"))),
            Kind::Str(text) => {
                let k = &mut self.machine.kernel;
                let at = k.kzalloc(text.len() as u64 + 1, "text of a tracepoint");
                let at = at.map_err(|e| RunError::Internal(e.name().to_string()))?;
                k.mem.write(at, text.as_bytes()).map_err(|e| bad(format!("{e:?}")))?;
                objects.push(at);
                Ok(at)
            }
            Kind::Call(kind, args) => match (kind.as_str(), args.as_slice()) {
                ("Nic", [Node { kind: Kind::Str(n), .. }]) => {
                    let nic = self.machine.kernel.nic_by_name(n);
                    nic.map(|n| n.dev).ok_or_else(|| bad(format!("unknown nic `{n}`")))
                }
                ("Prog", [Node { kind: Kind::Str(n), .. }]) => {
                    let id = self.prog(&Name { v: n.clone(), span: node.span })?;
                    Ok(self.machine.kernel.prog(id).map_or(0, |p| p.addr))
                }
                ("Task", [Node { kind: Kind::Str(n), .. }]) => {
                    let k = &self.machine.kernel;
                    let found = k.cpus.iter().map(|c| c.task).find(|t| k.task_comm(*t) == *n);
                    found.ok_or_else(|| bad(format!("no task is called `{n}`")))
                }
                _ => Err(bad(format!("{kind}(..) is no object of the model"))),
            },
            _ => int_of(node)
                .map(|v| v as u64)
                .ok_or_else(|| bad(format!("expected a number, found {}", node.describe()))),
        }
    }

    /// Whether the arguments of a tracepoint are those of a pattern.
    pub(super) fn args_match(
        &self,
        name: &str,
        pattern: Option<&Data>,
        seen: &[Value],
    ) -> Result<bool, RunError> {
        let btf = self.machine.kernel.vmlinux_btf();
        let params = params(btf, name);
        for m in members(pattern)? {
            let Some(n) = params.iter().position(|p| p.0 == m.name) else {
                let message = format!("{name} has no argument `{}`", m.name);
                return Err(RunError::input(m.name_span, message));
            };
            let Some(Value::Num(found)) = seen.get(n) else { return Ok(false) };
            let matches = self.arg_matches(&m.value, params[n].1, *found)?;
            if !matches {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn arg_matches(&self, node: &Node, ty: u32, found: u64) -> Result<bool, RunError> {
        Ok(match &node.kind {
            Kind::Name(word) if word == "_" => true,
            Kind::Name(word) => {
                let btf = self.machine.kernel.vmlinux_btf();
                enumerator(btf, ty, word) == Some(found)
            }
            Kind::Call(kind, args) => match (kind.as_str(), args.as_slice()) {
                ("Nic", [Node { kind: Kind::Str(n), .. }]) => {
                    self.machine.kernel.nic_by_name(n).is_some_and(|n| n.dev == found)
                }
                ("Not", [one]) => !self.arg_matches(one, ty, found)?,
                ("OneOf", [Node { kind: Kind::List(items), .. }]) => {
                    for item in items {
                        if self.arg_matches(item, ty, found)? {
                            return Ok(true);
                        }
                    }
                    false
                }
                _ => return Err(RunError::input(node.span, format!("{kind}(..) is no pattern"))),
            },
            _ => Is::<u64>::from_node(node)?.matches(&found),
        })
    }

    /// Has the kernel report the tracepoints that the scenario asks for.
    pub(super) fn watch_tracepoints(&mut self) -> Result<(), RunError> {
        let names = super::watch::events(self.s).into_iter().filter_map(|e| match e {
            Event::Tracepoint { name, .. } => Some(name),
            _ => None,
        });
        for name in names {
            let Some((at, _)) = tracepoint(&name.v) else {
                let message = format!("the model has no tracepoint {}", name.v);
                return Err(RunError::input(name.span, message));
            };
            self.machine.kernel.trace_watch(at);
        }
        Ok(())
    }
}
