//! `BPF_PROG_TEST_RUN` on the running kernel, and what programs wrote to their streams.

use bpf::uapi::Cmd;
use bpf::uapi::attr::{StreamRead, TestRun};
use bpf::uapi::fields::Struct;
use kernel_model::Errno;
use kernel_model::stream::StreamId;

use super::door::{self, Buf};
use super::{ENDIAN, HostKernel, attr_bytes};
use crate::loader::Fd;

/// What a test run is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRunIn<'a> {
    /// The packet, for program types that have one.
    pub data: &'a [u8],
    /// The context, for program types that let it be set.
    pub ctx: &'a [u8],
    /// Room for the packet afterwards.
    pub data_out: usize,
    /// Room for the context afterwards.
    pub ctx_out: usize,
    /// Runs; 0 is 1.
    pub repeat: u32,
    /// `BPF_F_TEST_*`.
    pub flags: u32,
    /// CPU, with `BPF_F_TEST_RUN_ON_CPU`.
    pub cpu: u32,
}

/// What it gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestRunOut {
    /// The program's return value.
    pub retval: u32,
    /// Average time of a run.
    pub duration_ns: u32,
    /// The packet.
    pub data: Vec<u8>,
    /// The context.
    pub ctx: Vec<u8>,
}

/// Offsets in the attributes.
const DATA_SIZE_IN: usize = 8;
const DATA_SIZE_OUT: usize = 12;
const DATA_IN: usize = 16;
const DATA_OUT: usize = 24;
const CTX_SIZE_IN: usize = 40;
const CTX_SIZE_OUT: usize = 44;
const CTX_IN: usize = 48;
const CTX_OUT: usize = 56;

/// Offset of `stream_buf` and `stream_buf_len`.
const STREAM_BUF: usize = 0;
const STREAM_BUF_LEN: usize = 8;
/// Pages that a stream may hold (`BPF_STREAM_MAX_CAPACITY`, 100,000 bytes), rounded up.
const STREAM_BYTES_MAX: usize = 1 << 17;

impl HostKernel {
    /// Runs a loaded program.
    ///
    /// # Errors
    /// The kernel's; `ENOTSUPP` for program types that cannot be run this way.
    pub fn test_run(&self, prog: Fd, given: &TestRunIn<'_>) -> Result<TestRunOut, Errno> {
        if !self.fds.contains_key(&prog) {
            return Err(Errno::EBADF);
        }
        let attr = TestRun {
            prog_fd: prog.cast_unsigned(),
            repeat: given.repeat,
            flags: given.flags,
            cpu: given.cpu,
            ..TestRun::default()
        };
        let (mut data, mut ctx) = (vec![0; given.data_out], vec![0; given.ctx_out]);
        let mut bytes = attr_bytes(&attr);
        // A syscall program's context is written where it was read.
        let mut ctx_in = given.ctx.to_vec();
        let bufs = vec![
            Buf::input(DATA_IN, given.data).sized(DATA_SIZE_IN),
            Buf::output(CTX_IN, &mut ctx_in).sized(CTX_SIZE_IN),
            Buf::output(DATA_OUT, &mut data).sized(DATA_SIZE_OUT),
            Buf::output(CTX_OUT, &mut ctx).sized(CTX_SIZE_OUT),
        ];
        door::bpf(Cmd::ProgTestRun, &mut bytes, bufs)
            .map_err(|e| Errno::from_raw(e).unwrap_or(Errno::EIO))?;
        let out = TestRun::decode(&bytes, ENDIAN);
        data.truncate(out.data_size_out as usize);
        ctx.truncate(out.ctx_size_out as usize);
        if given.ctx_out == 0 {
            ctx = ctx_in;
        }
        Ok(TestRunOut { retval: out.retval, duration_ns: out.duration, data, ctx })
    }

    /// What a program has written to a stream and nobody has read.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` of one that has no streams.
    pub fn stream(&self, prog: Fd, id: StreamId) -> Result<String, Errno> {
        if !self.fds.contains_key(&prog) {
            return Err(Errno::EBADF);
        }
        let attr = StreamRead {
            prog_fd: prog.cast_unsigned(),
            stream_id: id as u32,
            ..StreamRead::default()
        };
        let mut text = vec![0; STREAM_BYTES_MAX];
        let buf = Buf::output(STREAM_BUF, &mut text).sized(STREAM_BUF_LEN);
        door::bpf(Cmd::ProgStreamReadByFd, &mut attr_bytes(&attr), vec![buf])
            .map_err(|e| Errno::from_raw(e).unwrap_or(Errno::EIO))?;
        // Texts have no zeroes.
        text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
