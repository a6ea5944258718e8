//! A run and its past: where it stands, what happened, and how to get somewhere else.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use bpf::Arch;
use gdb::Debuggee as _;
use kernel_model::{CpuId, ProgId};
use scenarios::Scenario;

use crate::debug::Target;
use crate::debug::monitor::{self, Here};
use crate::machine::Machine;
use crate::runner::trace::{Keep, Slice};
use crate::runner::{RunError, RunOptions, run};

/// Events that are listed; a run may have more.
const EVENTS_MAX: usize = 1_000_000;

/// An event, a line of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) clock_ns: u64,
    pub(super) cpu: u32,
    pub(super) text: String,
}

/// A run that can go anywhere in its time.
pub(super) struct Past<'a> {
    target: Target<'a>,
    /// File and cell.
    pub(super) title: String,
    /// Folder of the file.
    pub(super) dir: PathBuf,
    /// All events of the run, in order.
    pub(super) events: Vec<Line>,
    /// Runs of programs, by their beginning.
    pub(super) slices: Vec<Slice>,
    /// Length of the run in instructions, and in virtual time.
    pub(super) end: u64,
    pub(super) end_ns: u64,
    /// Expectations that do not hold at the end.
    pub(super) failures: Vec<String>,
    /// Events before positions that it stood at.
    counts: BTreeMap<u64, usize>,
    /// Logs of the verifier.
    logs: BTreeMap<ProgId, Option<String>>,
    /// Files of source.
    sources: BTreeMap<String, Vec<String>>,
}

impl<'a> Past<'a> {
    /// Runs once to the end, to know what there is, and stands at the beginning.
    pub(super) fn new(
        s: &'a Scenario,
        arch: Arch,
        opts: &RunOptions,
        title: String,
    ) -> Result<Past<'a>, RunError> {
        let keep = Keep { trace: true, slices: true, ..Keep::default() };
        let outcome = run(s, arch, &RunOptions { keep, ..opts.clone() })?;
        let mut text = String::new();
        if let Some(trace) = outcome.trace {
            let reader = trace.read().map_err(|e| RunError::Internal(e.to_string()))?;
            // A line is some 80 bytes.
            let mut reader = reader.take(EVENTS_MAX as u64 * 80);
            let read = reader.read_to_string(&mut text);
            read.map_err(|e| RunError::Internal(e.to_string()))?;
        }
        let events: Vec<Line> = text.lines().map(line).collect();
        let mut slices = outcome.perfetto;
        slices.sort_by_key(|s| (s.start_ns, s.cpu));
        let ends = slices.iter().map(|s| s.start_ns + s.length_ns);
        let end_ns = ends.chain(events.iter().map(|e| e.clock_ns)).max().unwrap_or(1);
        Ok(Past {
            target: Target::new(s, arch, opts)?,
            title,
            dir: opts.dir.clone(),
            events,
            slices,
            end: outcome.insns,
            end_ns,
            failures: outcome.failures.into_iter().map(|f| f.message).collect(),
            counts: BTreeMap::new(),
            logs: BTreeMap::new(),
            sources: BTreeMap::new(),
        })
    }

    /// The machine where it stands.
    pub(super) fn machine(&self) -> &Machine {
        self.target.machine()
    }

    /// Instructions retired where it stands.
    pub(super) fn position(&self) -> u64 {
        self.target.position().insns
    }

    /// Virtual time where it stands: that of the CPU that is ahead.
    pub(super) fn now_ns(&self) -> u64 {
        self.machine().kernel.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0)
    }

    /// Events before where it stands.
    pub(super) fn happened(&self) -> usize {
        self.machine().event_count().min(self.events.len())
    }

    /// What the monitor says of a CPU.
    pub(super) fn ask(&self, cpu: CpuId, command: &str) -> String {
        let here = Here { machine: self.machine(), cpu };
        match monitor::look(&here, command) {
            Some(Ok(text)) => text,
            Some(Err(e)) => e + "\n",
            None => monitor::unknown(command) + "\n",
        }
    }

    /// The CPU that goes on next.
    pub(super) fn current(&self) -> CpuId {
        CpuId(self.target.current())
    }

    /// Goes to before the BPF instruction with so many before it on all CPUs, or to the end.
    pub(super) fn goto(&mut self, insns: u64) -> Result<(), RunError> {
        // All that is left happens at the end, without instructions.
        let went = match insns >= self.end {
            true => self.target.seek(u64::MAX),
            false => self.target.goto(insns),
        };
        went.map_err(|e| RunError::Internal(e.to_string()))?;
        self.counts.insert(self.position(), self.machine().event_count());
        Ok(())
    }

    /// Goes to the next instruction.
    pub(super) fn next(&mut self) -> Result<(), RunError> {
        self.goto(self.position() + 1)
    }

    /// Goes to the instruction before.
    pub(super) fn previous(&mut self) -> Result<(), RunError> {
        self.goto(self.position().saturating_sub(1))
    }

    /// Goes to where the n-th event, from 1, has just happened.
    pub(super) fn goto_event(&mut self, n: usize) -> Result<(), RunError> {
        let before = self.counts.iter().rev().find(|(_, c)| **c < n).map_or(0, |(at, _)| *at);
        let after = self.counts.range(before..).find(|(_, c)| **c >= n).map(|(at, _)| *at);
        let (mut low, mut high) = (before, after.unwrap_or(self.end));
        while low < high {
            let middle = low + (high - low) / 2;
            self.goto(middle)?;
            if self.machine().event_count() >= n {
                high = middle;
            } else {
                low = (self.position().max(middle) + 1).min(high);
            }
        }
        self.goto(high)
    }

    /// The verifier's log of a program, if it can be had.
    pub(super) fn log(&mut self, prog: ProgId) -> Option<&str> {
        if !self.logs.contains_key(&prog) {
            let log = monitor::state::log_of(&self.machine().kernel, prog).ok();
            self.logs.insert(prog, log);
        }
        self.logs.get(&prog)?.as_deref()
    }

    /// Lines of a file of source: the file beside the scenario, or those that the types know.
    pub(super) fn source(&mut self, prog: ProgId, name: &str) -> &[String] {
        if !self.sources.contains_key(name) {
            let lines = self.read_source(prog, name);
            self.sources.insert(name.to_owned(), lines);
        }
        &self.sources[name]
    }

    fn read_source(&self, prog: ProgId, name: &str) -> Vec<String> {
        if let Ok(text) = std::fs::read_to_string(self.dir.join(name)) {
            return text.lines().map(|l| l.replace('\t', "    ")).collect();
        }
        let Some(p) = self.machine().kernel.prog(prog) else { return Vec::new() };
        let mut out: Vec<String> = Vec::new();
        for l in p.verified.program().lines.iter().filter(|l| l.file_name() == name) {
            let at = l.line as usize;
            out.resize(out.len().max(at), String::new());
            if let Some(slot) = at.checked_sub(1).and_then(|at| out.get_mut(at)) {
                *slot = l.text.replace('\t', "    ");
            }
        }
        out
    }
}

/// A line of the trace: number, clock, CPU, words.
fn line(text: &str) -> Line {
    let mut words = text.trim_start().splitn(2, ' ');
    let rest = words.nth(1).unwrap_or("").trim_start();
    let (clock, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (cpu, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Line {
        clock_ns: clock.parse().unwrap_or(0),
        cpu: cpu.trim_start_matches("cpu").parse().unwrap_or(0),
        text: text.to_owned(),
    }
}
