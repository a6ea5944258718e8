//! The target itself, and its memory.

use gdbstub::common::Tid;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::single_register_access::SingleRegisterAccessOps;
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::exec_file::ExecFileOps;
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::libraries::LibrariesOps;
use gdbstub::target::ext::memory_map::MemoryMapOps;
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::TargetDescriptionXmlOverrideOps;
use gdbstub::target::ext::thread_extra_info::ThreadExtraInfoOps;
use gdbstub::target::{Target, TargetError, TargetResult};

use super::registers::{Of, Registers};
use super::{NO_MEMORY, Session, tid};
use crate::DebugError;
use crate::arch::GdbArch;

impl<A: GdbArch> Target for Session<'_, A> {
    type Arch = Of<A>;
    type Error = DebugError;

    fn base_ops(&mut self) -> BaseOps<'_, Of<A>, DebugError> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_memory_map(&mut self) -> Option<MemoryMapOps<'_, Self>> {
        Some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        Some(self)
    }

    fn support_libraries(&mut self) -> Option<LibrariesOps<'_, Self>> {
        Some(self)
    }
}

impl<A: GdbArch> MultiThreadBase for Session<'_, A> {
    fn read_registers(&mut self, regs: &mut Registers<A>, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid)?;
        self.looked_at = cpu;
        // gdb asks for what it does not know: it has seen where a monitor command moved us.
        self.pending = self.pending.take().filter(|s| matches!(s, crate::Stop::Library { .. }));
        *regs = Registers::of(&self.debuggee.regs(cpu));
        Ok(())
    }

    fn write_registers(&mut self, regs: &Registers<A>, tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid)?;
        let before = Registers::<A>::of(&self.debuggee.regs(cpu));
        for (reg, value) in regs.changed(&before) {
            self.set(cpu, reg, value)?;
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let cpu = self.cpu(tid)?;
        match self.debuggee.read(cpu, addr, data).min(data.len()) {
            0 if !data.is_empty() => Err(TargetError::Errno(NO_MEMORY)),
            n => Ok(n),
        }
    }

    fn write_addrs(&mut self, addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid)?;
        // gdb asks so whether there is binary writing at all.
        if data.is_empty() {
            return Ok(());
        }
        self.debuggee.write(cpu, addr, data).map_err(|_| TargetError::Errno(NO_MEMORY))
    }

    /// The one gdb looks at comes first: gdbstub takes it for "any".
    fn list_active_threads(&mut self, each: &mut dyn FnMut(Tid)) -> Result<(), DebugError> {
        let cpus = self.debuggee.cpus();
        let first = self.looked_at.min(cpus.saturating_sub(1));
        each(tid(first));
        (0..cpus).filter(|c| *c != first).for_each(|c| each(tid(c)));
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, DebugError> {
        Ok(self.cpu(tid).is_ok())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}
