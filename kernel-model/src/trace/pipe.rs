//! `trace_pipe`: what `bpf_trace_printk` wrote, as far as the buffer keeps it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cpu::CpuId;
use crate::{Kernel, field};

/// Lines that are kept, the last ones; the kernel's buffer is counted in bytes.
const LINES_MAX: usize = 4096;

/// A line of the trace buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `current->comm` and its process id.
    pub task: (String, u32),
    /// CPU.
    pub cpu: CpuId,
    /// Virtual time.
    pub clock_ns: u64,
    /// As written, without its new line.
    pub text: String,
}

/// As `trace_print_context` of kernel/trace/trace_output.c writes it, without the flags.
impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((comm, pid), cpu, text) = (&self.task, self.cpu.0, &self.text);
        let (s, us) = (self.clock_ns / 1_000_000_000, self.clock_ns / 1000 % 1_000_000);
        write!(f, "{comm:>16}-{pid:<7} [{cpu:03}] {s:5}.{us:06}: bpf_trace_printk: {text}")
    }
}

/// The buffer. Snapshots share it.
#[derive(Clone, Default)]
pub(crate) struct Pipe(Arc<VecDeque<Line>>);

/// What was written is trace, not state.
impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl Kernel {
    /// `bpf_trace_printk` wrote a text.
    pub(crate) fn trace_write(&mut self, cpu: CpuId, text: &str) {
        let c = &self.cpus[cpu.idx()];
        let pid = self.get(c.task, field!("task_struct", "pid")) as u32;
        let (task, clock_ns) = ((self.task_comm(c.task), pid), c.clock_ns);
        let text = text.trim_end_matches('\n').to_owned();
        let lines = Arc::make_mut(&mut self.trace_pipe.0);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line { task, cpu, clock_ns, text });
    }

    /// Lines of the trace buffer, the oldest first.
    pub fn trace_pipe(&self) -> impl ExactSizeIterator<Item = &Line> {
        self.trace_pipe.0.iter()
    }
}
