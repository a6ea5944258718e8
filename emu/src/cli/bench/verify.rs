//! Instructions a second of the verifier, beside the verifier in the kernel of this machine: the
//! same programs, in the same run.
//!
//! The kernel's time is its own (`verification time`, log level 4), ours is CPU time of the
//! thread. The library's programs are small; the loop that grows shows what an instruction costs
//! when there are many of them and their states.

use bpf::insn::asm::assemble_insns;
use bpf::insn::{Insn, encode_all};
use bpf::uapi::ProgType;
use bpf::{Endian, Program};
use kernel_model::Kernel;
use verifier::explore::Opts;
use verifier::{CheckReport, Options, check};

use super::super::side::maps_of;
use super::super::target::Target;
use super::super::world::World;
use super::cold::in_tree;
use super::size::LIBRARY;
use super::{Clock, Row, best};
use crate::below::below;
use crate::host::{HostKernel, LoadFor, RawLoad};

/// Trips of the loop. Two branches of each are left for later, and 8192 may be.
const TRIPS: [u32; 3] = [1_000, 2_000, 4_000];
/// Instructions of a trip that compute.
const BODY: usize = 40;

/// Processed instructions and the seconds they took.
#[derive(Clone, Copy, Default)]
struct Pace {
    insns: u64,
    seconds: f64,
}

impl Pace {
    fn rate(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.insns as f64 / self.seconds)
    }

    fn add(&mut self, insns: u32, seconds: f64) {
        self.insns += u64::from(insns);
        self.seconds += seconds;
    }
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let times = if quick { 1 } else { 5 };
    let mut host = HostKernel::open().map_err(|why| eprintln!("without the kernel: {why}")).ok();
    library(times, host.as_mut(), rows)?;
    let env = Kernel::new(kernel_model::Config::default());
    for trips in TRIPS.iter().take(if quick { 1 } else { TRIPS.len() }) {
        let program = program(&walk(*trips))?;
        let options = options(&[], None);
        let (insns, seconds) = timed(times, || check(&program, &env, &options))?;
        let mut theirs = Pace::default();
        if let Some(host) = host.as_mut() {
            let slots = encode_all(&program.insns);
            let bytes: Vec<u8> = slots.iter().flat_map(|s| s.to_bytes(Endian::Little)).collect();
            let load = RawLoad {
                prog_type: program.prog_type as u32,
                insns: &bytes,
                ..RawLoad::default()
            };
            let least = best(times.min(2), || {
                let said = host.load_raw(&load);
                host.close_all();
                theirs.insns = said.stats.insns_processed.into();
                Ok(said.stats.verification_time_us as f64 / 1e6)
            })?;
            theirs.seconds = least;
        }
        let ours = Pace { insns: insns.into(), seconds };
        push(rows, "verifier, a loop with a branch", format!("{insns} insns"), ours, theirs);
    }
    Ok(())
}

fn push(rows: &mut Vec<Row>, what: &str, on: String, ours: Pace, theirs: Pace) {
    let Some(rate) = ours.rate() else { return };
    rows.push(Row {
        part: "verifier",
        what: what.to_owned(),
        on,
        ours: rate,
        unit: "insn/s",
        peer: theirs.rate(),
        peer_name: "kernel of this machine",
    });
}

/// The programs of the library, for this kernel's types where it can be asked.
fn library(
    times: usize,
    mut host: Option<&mut HostKernel>,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let folder = in_tree(LIBRARY).ok_or(format!("no {LIBRARY} here"))?;
    let target = host.as_ref().and_then(|h| Target::host(h.version()));
    let (mut ours, mut theirs, mut programs) = (Pace::default(), Pace::default(), 0);
    let big = |p: &std::path::PathBuf| p.to_string_lossy().ends_with(".eb.bpf.o");
    for path in below(&folder, &[".bpf.o"])?.into_iter().filter(|p| !big(p)) {
        let world = match &target {
            Some(target) => World::open_for(&path, None, target),
            None => World::open(&path, None),
        };
        let Ok(world) = world else { continue };
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let fds = host.as_deref_mut().and_then(|h| maps_of(h, &path, &bytes).ok());
        for def in world.object.programs() {
            let Ok(program) = world.link(def) else { continue };
            let Ok((insns, seconds)) = timed(times, || world.check(&program, quiet())) else {
                continue;
            };
            if let (Some(host), Some(fds)) = (host.as_deref_mut(), &fds) {
                let said =
                    host.load_program(&program, fds, world.object.btf(), &LoadFor::default(), 0);
                let Ok(said) = said else { continue };
                // Programs that this kernel does not load are not compared.
                if said.stats.insns_processed != insns || said.errno != 0 {
                    continue;
                }
                theirs.add(insns, said.stats.verification_time_us as f64 / 1e6);
            }
            ours.add(insns, seconds);
            programs += 1;
        }
        if let Some(host) = host.as_deref_mut() {
            host.close_all();
        }
    }
    push(rows, "verifier, scenario library", format!("{programs} programs"), ours, theirs);
    Ok(())
}

/// Without a log, as the kernel is asked.
fn quiet() -> Opts {
    Opts { log_level: 0, ..Opts::default() }
}

pub(super) fn options<'a>(fd_array: &'a [i32], prog_btf: Option<&'a bpf::btf::Btf>) -> Options<'a> {
    Options { opts: quiet(), fd_array, prog_btf, endian: Endian::Little, ..Options::default() }
}

/// Processed instructions and the least time, of an accepted program.
fn timed(times: usize, verify: impl Fn() -> CheckReport) -> Result<(u32, f64), String> {
    let mut insns = 0;
    let least = best(times, || {
        let clock = Clock::start();
        let report = verify();
        let seconds = clock.seconds();
        report.result.map_err(|r| r.message)?;
        insns = report.stats.insns_processed;
        Ok(seconds)
    })?;
    Ok((insns, least))
}

/// A counted loop in which an unknown number decides what a register holds: the counter is
/// precise, so every trip is walked, and the two ways meet again.
fn walk(trips: u32) -> String {
    let body = "r7 += r0\nr7 &= 255\n".repeat(BODY / 2);
    format!(
        "r6 = {trips}\nr7 = 0\nloop: call 7\nr0 &= 7\nif r0 > 3 goto next\n{body}\
         *(u64 *)(r10 -8) = r7\nnext: r6 += -1\nif r6 != 0 goto loop\nr0 = 0\nexit\n"
    )
}

/// A program of this text.
pub(super) fn program(text: &str) -> Result<Program, String> {
    let insns: Vec<Insn> = assemble_insns(text).map_err(|e| e.to_string())?;
    let text = |s: &str| s.to_owned();
    Ok(Program {
        name: text("walk"),
        section: text("socket"),
        prog_type: ProgType::SocketFilter,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: text("GPL"),
        insns,
        funcs: Vec::new(),
        lines: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_accepted_and_every_trip_is_walked() {
        let env = Kernel::new(kernel_model::Config::default());
        let of = |trips| {
            let p = program(&walk(trips)).unwrap();
            timed(1, || check(&p, &env, &options(&[], None))).unwrap().0
        };
        let (one, two) = (of(100), of(200));
        assert!(two - one >= 100 * 8, "{one} {two}");
    }
}
