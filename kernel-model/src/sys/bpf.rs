//! bpf(2) by tasks: what those hear of it that look at system calls, and LSM programs that decide
//! (`__sys_bpf`, kernel/bpf/syscall.c). The commands themselves are in [`crate::syscall`].

use std::sync::LazyLock;

use bpf::uapi::Cmd;
use bpf::uapi::attr::{KERNEL_ATTR_SIZE, MapDelete, MapElem};
use bpf::uapi::fields::Struct as _;

use super::{Arg, Do, SYSCALLS, SysCall, SysFrame, user};
use crate::cgroup::Atype;
use crate::cpu::{CpuId, Frame};
use crate::maps::{MapCommand, MapId};
use crate::sched::{OpFrame, TaskId};
use crate::syscall::FdObject;
use crate::trace::{Point, function, tracepoint};
use crate::{Errno, Kernel};

type Ret = Result<u64, Errno>;

/// Where a task has the key and the value of a command, behind its attributes.
const KEY: u64 = user::TEXT + 256;
const VALUE: u64 = user::BUFFERS;

/// The hook, and all places on the way to a command.
const HOOK: &str = "bpf_lsm_bpf";
static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
    let points = ["sys_enter", "sys_exit", "sys_enter_bpf", "sys_exit_bpf"];
    let points = points.into_iter().filter_map(tracepoint).map(|p| Point::Tracepoint(p.0));
    let rows = ["sys_bpf", "security_bpf", HOOK].into_iter().filter_map(function).map(|f| f.0);
    points.chain(rows.flat_map(|row| [Point::Entry(row), Point::Exit(row)])).collect()
});

impl Kernel {
    /// Whether anybody looks at calls of bpf(2).
    fn bpf_is_heard(&self) -> bool {
        let of_groups = |row| self.cgroups.enabled(Atype::Lsm(row));
        POINTS.iter().any(|p| self.wanted(*p)) || function(HOOK).is_some_and(|f| of_groups(f.0))
    }

    /// A command of a task, which `command` does, as a system call: its value is that of `command`,
    /// or what programs refused it with.
    pub(crate) fn sys_bpf(
        &mut self,
        task: TaskId,
        attr: impl FnOnce(&mut Kernel) -> Result<(Cmd, Vec<u8>), Errno>,
        command: Frame,
    ) -> Result<Frame, Errno> {
        if !self.bpf_is_heard() {
            return Ok(command);
        }
        let (cmd, attr) = attr(self)?;
        let row = SYSCALLS.iter().position(|r| r.name == "bpf").expect("a row of the table");
        let len = attr.len() as u64;
        let args = vec![Arg::Num(cmd as u64), Arg::Bytes(attr), Arg::Num(len)];
        let mut frame = self.sys_frame(task, &SysCall { row, args })?;
        frame.command = Some(Box::new(command));
        // What a test run returns is not what the call returns.
        frame.todo.push_back(Do::Act(|_, _, f| Ok(f.object)));
        Ok(Frame::Op(Box::new(OpFrame::Sys(Box::new(frame)))))
    }

    /// Attributes of an element command of a task, whose key and value are in its memory.
    pub(crate) fn element_attr(
        &mut self,
        task: TaskId,
        c: &MapCommand,
    ) -> Result<(Cmd, Vec<u8>), Errno> {
        let endian = self.mem.endian();
        let map_fd = self.map_fd(c.map).unwrap_or(0);
        self.task_write(task, KEY, &c.key)?;
        let Some(value) = &c.value else {
            let attr = MapDelete { map_fd, key: KEY };
            return Ok((Cmd::MapDeleteElem, attr.encode(endian).to_vec()));
        };
        self.task_write(task, VALUE, value)?;
        let attr = MapElem { map_fd, key: KEY, value: VALUE, flags: c.flags };
        Ok((Cmd::MapUpdateElem, attr.encode(endian).to_vec()))
    }

    /// The descriptor of a map.
    fn map_fd(&self, id: MapId) -> Option<u32> {
        let found = self.fds.iter().find(|(_, o)| **o == FdObject::Map(id))?;
        Some(found.0.cast_unsigned())
    }
}

/// `__sys_bpf`.
pub(super) fn bpf(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if f.command.is_none() {
        return Err(k.sys_unsupported(cpu, "bpf(2) by its attributes: write Put, Delete, TestRun"));
    }
    let size = f.arg(2);
    let bytes = k.user_read(f.arg(1), size as usize).ok_or(Errno::EFAULT)?;
    let attr = k.kzalloc((KERNEL_ATTR_SIZE as u64).max(size), "bpf_attr")?;
    k.mem.write(attr, &bytes).map_err(|_| Errno::EFAULT)?;
    f.todo.push_back(Do::Free(attr));
    let args = vec![f.arg(0), attr, size, 0];
    f.first([
        Do::Enter("security_bpf", args.clone()),
        Do::Lsm(HOOK, args),
        Do::Exit,
        Do::Call(command),
    ]);
    Ok(0)
}

/// What the call returns of a command's value: an error, or 0.
fn command(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    f.then = Some(|_, _, f, value| {
        f.object = value;
        Ok(if (-4095..0).contains(&(value as i64)) { value } else { 0 })
    });
    Ok(f.command.take().map(|c| *c))
}
