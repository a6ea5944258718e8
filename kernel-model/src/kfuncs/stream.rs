//! Text of programs (kernel/bpf/stream.c).

use super::{KfuncRow, row};
use crate::cpu::CpuId;
use crate::helpers::{Ret, bprintf, read_args, read_text};
use crate::stream::StreamId;
use crate::{Errno, Kernel};

/// The rows.
pub(super) const ROWS: &[KfuncRow] = &[row("bpf_stream_vprintk_impl", 5, vprintk)];

/// `aux__prog` is the program that calls, which the model knows by itself.
fn vprintk(k: &mut Kernel, cpu: CpuId, [id, fmt, args, len, _]: [u64; 5]) -> Ret {
    let Some(id) = StreamId::from_raw(id as u32) else { return Err(Errno::ENOENT).into() };
    let Some(prog) = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog) else {
        return Err(Errno::ENOENT).into();
    };
    let args = match read_args(k, args, len) {
        Ok(Ok(args)) => args,
        Ok(Err(e)) => return Err(e).into(),
        Err(fault) => return Ret::Fault(fault),
    };
    let text = match read_text(k, fmt) {
        Ok(fmt) => bprintf(k, &fmt, &args),
        Err(fault) => return Ret::Fault(fault),
    };
    text.and_then(|text| k.stream_print(cpu, prog, id, &text)).into()
}
