//! Element commands of user space as kernel paths: a process that writes or deletes an element
//! takes the locks that a program takes, and waits for them as one does (`bpf_map_update_value`,
//! `map_delete_elem` in kernel/bpf/syscall.c, 6.18).
//!
//! While it is in a map, probes and perf event programs of its CPU are missed
//! (`bpf_disable_instrumentation`).

use super::MapId;
use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::helpers::Ret;
use crate::lock::path::Do;
use crate::sched::OpFrame;
use crate::{Errno, EventKind, Kernel};

/// `BPF_MAP_UPDATE_ELEM`, or `BPF_MAP_DELETE_ELEM` without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCommand {
    /// Map.
    pub map: MapId,
    /// Key.
    pub key: Vec<u8>,
    /// Value as user space has it: of all CPUs for per-CPU maps.
    pub value: Option<Vec<u8>>,
    /// `BPF_ANY`, `BPF_NOEXIST`, `BPF_EXIST`, `BPF_F_LOCK`.
    pub flags: u64,
}

/// A command in progress.
#[derive(Clone, Debug)]
pub struct CommandFrame {
    command: MapCommand,
    /// The kernel's copies of key and value.
    copies: Option<[u64; 2]>,
    /// Nobody waits for the result: a failure is told.
    alone: bool,
}

/// What it is called where a lock is waited for.
const fn func(command: &MapCommand) -> &'static str {
    match command.value {
        Some(_) => "bpf_map_update_value",
        None => "map_delete_elem",
    }
}

impl Kernel {
    /// A command as a path that has not begun.
    pub(crate) fn map_command(command: MapCommand) -> Frame {
        let frame = CommandFrame { command, copies: None, alone: false };
        Frame::Op(Box::new(OpFrame::Map(Box::new(frame))))
    }

    /// A command of a process outside the scenario's tasks, on a CPU: done at once when the locks
    /// that it needs are free. Otherwise it waits for them behind what the CPU does, and a note
    /// in the trace tells when it fails.
    ///
    /// # Errors
    /// As [`Kernel::user_update`] and [`Kernel::user_delete`].
    pub fn user_command(&mut self, cpu: CpuId, command: MapCommand) -> Result<(), Errno> {
        if self.command_waits(cpu, &command) {
            let frame = CommandFrame { command, copies: None, alone: true };
            self.submit(cpu, Frame::Op(Box::new(OpFrame::Map(Box::new(frame)))));
            return Ok(());
        }
        let MapCommand { map, key, value, flags } = command;
        match value {
            Some(value) => self.user_update(map, &key, &value, flags),
            None => self.user_delete(map, &key),
        }
    }

    fn command_waits(&mut self, cpu: CpuId, c: &MapCommand) -> bool {
        let plan = self.command_plan(cpu, c).unwrap_or_default();
        let locks = plan.iter().filter_map(|d| match d {
            Do::Take { any, .. } => Some(any.iter().map(|(lock, _)| *lock)),
            _ => None,
        });
        locks.flatten().any(|l| self.locks.queues.words.get(&self.mem, l).is_ok_and(|w| w != 0))
    }

    /// Locks of a command.
    fn command_plan(&mut self, cpu: CpuId, c: &MapCommand) -> Result<Vec<Do>, Errno> {
        let map = self.maps.get(&c.map).ok_or(Errno::EBADF)?;
        if c.key.len() != map.def.key_size as usize || map.frozen {
            return Ok(Vec::new());
        }
        Ok(match c.value {
            Some(_) => self.update_locks(cpu, c.map, &c.key, c.flags),
            None => self.delete_locks(c.map, &c.key),
        })
    }

    pub(crate) fn command_step(
        &mut self,
        cpu: CpuId,
        mut f: Box<CommandFrame>,
        input: Input,
    ) -> Flow {
        if let Input::Return(ret) = input {
            return self.command_end(cpu, &f, ret);
        }
        let begun = self.command_begin(cpu, &mut f);
        match begun.unwrap_or_else(|e| Ret::Val(e.ret())) {
            Ret::Val(ret) => self.command_end(cpu, &f, ret),
            Ret::Fault(fault) => Flow::Fault(fault),
            Ret::Frame(child) => Flow::Call { frame: Frame::Op(Box::new(OpFrame::Map(f))), child },
        }
    }

    /// `___bpf_copy_key`, `kvmemdup_bpfptr`, and then the map.
    fn command_begin(&mut self, cpu: CpuId, f: &mut CommandFrame) -> Result<Ret, Errno> {
        let c = &f.command;
        let value = c.value.clone().unwrap_or_default();
        let key = self.command_copy(&c.key, "map key")?;
        let copied = self.command_copy(&value, "map value");
        f.copies = Some([key, *copied.as_ref().unwrap_or(&0)]);
        let args = [self.maps[&c.map].addr, key, copied?, c.flags, value.len() as u64];
        // bpf_disable_instrumentation
        self.cpus[cpu.idx()].prog_active = true;
        let plan = self.command_plan(cpu, c)?;
        let body = if c.value.is_some() { update_now } else { delete_now };
        Ok(self.under_locks(cpu, (func(c), args), body, |_| Ok(plan)))
    }

    fn command_copy(&mut self, bytes: &[u8], what: &'static str) -> Result<u64, Errno> {
        let at = self.kzalloc(bytes.len().max(1) as u64, what)?;
        self.mem.write(at, bytes).map_err(|_| Errno::EFAULT)?;
        Ok(at)
    }

    fn command_end(&mut self, cpu: CpuId, f: &CommandFrame, ret: u64) -> Flow {
        if let Some(copies) = f.copies {
            self.cpus[cpu.idx()].prog_active = false;
            copies.into_iter().filter(|at| *at != 0).for_each(|at| self.kfree(at, "bpf(2)"));
        }
        if f.alone && ret != 0 {
            let name = self.maps.get(&f.command.map).map_or("a map", |m| &m.def.name);
            let errno = Errno::from_ret(ret).map_or("an error", Errno::name);
            let text = format!("{} of {name} by user space: {errno}", func(&f.command));
            self.emit(cpu, EventKind::Note { topic: "map", text });
        }
        Flow::Done(ret)
    }
}

/// The map and key of a call of a body.
fn map_and_key(k: &Kernel, map: u64, key: u64) -> Option<(MapId, Vec<u8>)> {
    let id = k.map_at(map)?;
    let size = k.maps.get(&id)?.def.key_size as usize;
    Some((id, k.mem.read_vec(key, size).ok()?))
}

fn update_now(k: &mut Kernel, _: CpuId, [map, key, value, flags, len]: [u64; 5]) -> Ret {
    let Some((id, key)) = map_and_key(k, map, key) else { return Ret::Val(Errno::EBADF.ret()) };
    match k.mem.read_vec(value, len as usize) {
        Ok(value) => k.user_update(id, &key, &value, flags).map(|()| 0).into(),
        Err(fault) => Ret::Fault(fault.into()),
    }
}

fn delete_now(k: &mut Kernel, _: CpuId, [map, key, ..]: [u64; 5]) -> Ret {
    let Some((id, key)) = map_and_key(k, map, key) else { return Ret::Val(Errno::EBADF.ret()) };
    k.user_delete(id, &key).map(|()| 0).into()
}
