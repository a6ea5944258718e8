//! Call stacks of programs: where they are stored, and as text.
//!
//! The engine unwinds ([`crate::cpu::Cpu::call_stack`]); this says what a place is in the source.
//! Offsets count BPF code, eight bytes an instruction, so that a stack reads the same on every
//! architecture; the kernel's count native code.

use bpf::insn::InsnIdx;

use crate::cpu::{CpuId, Site};
use crate::{Kernel, field, helpers, kfuncs};

/// Which kernel function a program calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// A helper by its number.
    Helper(i32),
    /// A kernel function by its BTF id.
    Kfunc(i32),
}

/// A [`Site`] in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Function of the program.
    pub func: String,
    /// `bpf_prog_<tag>_<function>`, as kallsyms has it.
    pub symbol: String,
    /// Bytes of BPF code from the function's start.
    pub offset: u32,
    /// Bytes of BPF code of the function.
    pub size: u32,
    /// File without its folder, line number, and the line without its indentation.
    pub line: Option<(String, u32, String)>,
}

impl std::fmt::Display for Place {
    /// `func+0x18 file.bpf.c:12: text`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{:#x}", self.func, self.offset)?;
        match &self.line {
            Some((file, n, text)) => write!(f, " {file}:{n}: {text}"),
            None => Ok(()),
        }
    }
}

impl Kernel {
    /// Whether a call acquires something: the engine then stores the call stack before it tells
    /// of the call.
    #[must_use]
    pub fn wants_stack(&self, callee: Callee) -> bool {
        match callee {
            // A map's locks are taken at once when nobody looks at them.
            Callee::Helper(id) if helpers::is_map_op(id) => self.fine,
            Callee::Helper(id) => helpers::acquires(id),
            Callee::Kfunc(id) => kfuncs::acquires(self.config.arch, id),
        }
    }

    /// What a site is in its source; `None` when the program is gone.
    #[must_use]
    pub fn place(&self, site: Site) -> Option<Place> {
        let prog = self.progs.get(&site.prog)?;
        let program = prog.verified.program();
        let n = program.funcs.partition_point(|f| f.start <= site.insn);
        let func = n.checked_sub(1).map(|n| &program.funcs[n]);
        let end = program.funcs.get(n).map_or(program.insns.len(), |f| f.start.idx());
        let start = func.map_or(InsnIdx(0), |f| f.start);
        let name = func.map_or(program.name.as_str(), |f| f.name.as_str());
        let tag: String = prog.tag.iter().map(|b| format!("{b:02x}")).collect();
        let line = program.line_at(site.insn);
        let line = line.map(|l| (l.file_name().to_owned(), l.line, l.text.trim_start().to_owned()));
        Some(Place {
            func: name.to_owned(),
            symbol: format!("bpf_prog_{tag}_{name}"),
            offset: 8 * (site.insn.0 - start.0),
            size: u32::try_from(8 * (end - start.idx())).unwrap_or(u32::MAX),
            line,
        })
    }

    /// A call stack as one line a frame, innermost first.
    #[must_use]
    pub fn stack_lines(&self, stack: &[Site]) -> Vec<String> {
        let line = |s: &Site| self.place(*s).map_or_else(|| s.prog.to_string(), |p| p.to_string());
        stack.iter().map(line).collect()
    }

    /// `bpf_stream_stage_dump_stack` (kernel/bpf/stream.c): who runs on a CPU, and a call stack.
    #[must_use]
    pub(crate) fn dump_stack(&self, cpu: CpuId, stack: &[Site]) -> String {
        let task = self.cpus[cpu.idx()].task;
        let uid = self.get(self.get(task, field!("task_struct", "cred")), field!("cred", "euid"));
        let pid = self.get(task, field!("task_struct", "pid"));
        let (cpu, comm) = (cpu.0, self.task_comm(task));
        let mut out = format!("CPU: {cpu} UID: {uid} PID: {pid} Comm: {comm}\nCall trace:\n");
        for place in stack.iter().filter_map(|s| self.place(*s)) {
            out += &format!("{}+{:#x}/{:#x}\n", place.symbol, place.offset, place.size);
            if let Some((file, n, text)) = place.line {
                out += &format!("  {text} @ {file}:{n}\n");
            }
        }
        out + "\n"
    }
}
