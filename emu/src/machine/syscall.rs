//! bpf(2) of the machine: the kernel's commands, with an engine for those that run programs.

use bpf::uapi::Cmd;
use bpf::uapi::attr::TestRun;
use bpf::uapi::fields::Struct;
use kernel_model::iter::IterId;
use kernel_model::syscall::test_run::Ticket;
use kernel_model::syscall::{SysError, SysResult, UserMemory, UserSpace};

use super::{Machine, MachineError};
use crate::host::{TestRunIn, TestRunOut};

/// A test run that has begun.
#[derive(Clone, Debug)]
pub struct TestCall {
    ticket: Ticket,
    bytes: Vec<u8>,
    user: UserSpace,
}

impl TestCall {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

fn internal(e: &MachineError) -> SysError {
    SysError::unsupported(e.to_string())
}

impl Machine {
    /// bpf(2), as [`kernel_model::Kernel::bpf`]: a loaded program is compiled, a test run runs.
    /// `BPF_PROG_TEST_RUN` lets the CPUs run until it has ended, and they have no other work but
    /// that of tasks.
    ///
    /// # Errors
    /// The kernel's errno, or what is not modelled.
    pub fn bpf(&mut self, cmd: u32, attr: &mut [u8], user: &mut dyn UserMemory) -> SysResult {
        if cmd == Cmd::ProgTestRun as u32 {
            let ticket = self.kernel.test_run_start(attr, user)?;
            (self.in_call, self.closed) = (true, true);
            let ran = self.run_call(|k| k.test_run_ended(ticket));
            (self.in_call, self.closed) = (false, false);
            ran.map_err(|e| internal(&e))?;
            return self.kernel.test_run_finish(ticket, attr, user);
        }
        let ret = self.kernel.bpf(cmd, attr, user)?;
        if cmd == Cmd::ProgLoad as u32 {
            let prog = self.kernel.fd_prog(ret)?;
            self.compile(prog).map_err(|e| internal(&e))?;
        }
        Ok(ret)
    }

    /// `BPF_PROG_TEST_RUN` of a loaded program, as the running kernel's
    /// [`crate::host::HostKernel::test_run`].
    ///
    /// # Errors
    /// The kernel's errno, or what is not modelled.
    pub fn test_run(&mut self, prog: i32, given: &TestRunIn<'_>) -> Result<TestRunOut, SysError> {
        let (mut bytes, mut user) = self.test_run_call(prog, given);
        self.bpf(Cmd::ProgTestRun as u32, &mut bytes, &mut user)?;
        Ok(self.test_run_out(&bytes, &user))
    }

    /// Begins what [`Machine::test_run`] does.
    ///
    /// # Errors
    /// As for that.
    pub fn test_run_begin(
        &mut self,
        prog: i32,
        given: &TestRunIn<'_>,
    ) -> Result<TestCall, SysError> {
        let (bytes, user) = self.test_run_call(prog, given);
        let ticket = self.kernel.test_run_start(&bytes, &user)?;
        Ok(TestCall { ticket, bytes, user })
    }

    /// Runs until a test run has ended, or a debugger stops it: it goes on from there.
    ///
    /// # Errors
    /// [`MachineError::Paused`], and what goes wrong inside.
    pub fn test_run_on(&mut self, call: &TestCall) -> Result<(), MachineError> {
        self.in_call = true;
        let ran = self.run_call(|k| k.test_run_ended(call.ticket));
        self.in_call = matches!(ran, Err(MachineError::Paused));
        ran
    }

    /// Runs until a read of an iterator has ended, or a debugger stops it.
    ///
    /// # Errors
    /// As for [`Machine::test_run_on`].
    pub fn iter_read_on(&mut self, iter: IterId) -> Result<(), MachineError> {
        self.in_call = true;
        let ran = self.run_call(|k| k.iter_read_ended(iter));
        self.in_call = matches!(ran, Err(MachineError::Paused));
        ran
    }

    /// What a test run that has ended gives back.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn test_run_end(&mut self, mut call: TestCall) -> Result<TestRunOut, SysError> {
        self.kernel.test_run_finish(call.ticket, &mut call.bytes, &mut call.user)?;
        Ok(self.test_run_out(&call.bytes, &call.user))
    }

    /// The call as user space makes it.
    fn test_run_call(&self, prog: i32, given: &TestRunIn<'_>) -> (Vec<u8>, UserSpace) {
        let endian = self.arch().endian();
        let mut user = UserSpace::new();
        let (data_out, ctx_out) = (user.room(given.data_out), user.room(given.ctx_out));
        let a = TestRun {
            prog_fd: prog.cast_unsigned(),
            data_size_in: given.data.len() as u32,
            data_size_out: given.data_out as u32,
            data_in: user.put(given.data),
            data_out,
            repeat: given.repeat,
            ctx_size_in: given.ctx.len() as u32,
            ctx_size_out: given.ctx_out as u32,
            ctx_in: user.put(given.ctx),
            ctx_out,
            flags: given.flags,
            cpu: given.cpu,
            ..TestRun::default()
        };
        (a.encode(endian).to_vec(), user)
    }

    fn test_run_out(&self, bytes: &[u8], user: &UserSpace) -> TestRunOut {
        let a = TestRun::decode(bytes, self.arch().endian());
        let out = &a;
        let cut = |at: u64, len: u32| {
            let b = user.bytes(at);
            b[..b.len().min(len as usize)].to_vec()
        };
        // A syscall program's context is written where it was read.
        let ctx = if a.ctx_out == 0 { user.bytes(a.ctx_in).to_vec() } else { Vec::new() };
        TestRunOut {
            retval: out.retval,
            duration_ns: out.duration,
            data: cut(a.data_out, out.data_size_out),
            ctx: if a.ctx_out == 0 { ctx } else { cut(a.ctx_out, out.ctx_size_out) },
        }
    }
}
