//! What a program costs before it runs: compiling it, beside the JIT in the kernel of this machine;
//! and the memory of a CPU that it runs on.
//!
//! The kernel does not say how long its JIT takes. Of a program of one function it runs after
//! verification: the time of the load without the verifier's own (`verification time`, log level
//! 4) has the JIT in it and what is the same for each program, which a program of two instructions
//! shows and which is taken off, of ours as well. Of programs of several functions nothing can be
//! told.

use std::path::Path;
use std::time::Instant;

use bpf::Arch;
use kernel_model::Kernel;
use verifier::{Verified, verify};

use super::super::side::maps_of;
use super::cold::in_tree;
use super::size::{LIBRARY, accepted};
use super::verify::{options, program};
use super::{Row, best};
use crate::below::below;
use crate::host::{HostKernel, HostVerdict, LoadFor};
use crate::unicorn::Vcpu;

/// CPUs whose memory is measured together.
const VCPUS: u64 = 8;
/// Bytes of a page of this machine, as `statm` counts.
const PAGE_BYTES: u64 = 4096;

/// Sums over programs.
#[derive(Default)]
struct Sums {
    programs: usize,
    slots: usize,
    ours_ns: f64,
    theirs_ns: f64,
}

pub(super) fn measure(
    quick: bool,
    objects: Option<&Path>,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let times = if quick { 2 } else { 7 };
    let library = in_tree(LIBRARY).ok_or(format!("no {LIBRARY} here"))?;
    let unavailable = |why: &_| eprintln!("without the kernel's JIT: {why}");
    let mut host = HostKernel::open().inspect_err(unavailable).ok();
    let env = Kernel::new(kernel_model::Config::default());
    let smallest = verify(program("r0 = 0\nexit\n")?, &env, &options(&[], None));
    let smallest = smallest.map_err(|r| r.message)?;
    for (what, folder) in [("scenario library", Some(library.as_path())), ("objects", objects)] {
        let Some(folder) = folder else { continue };
        for arch in Arch::ALL {
            let mut sums = Sums::default();
            let theirs = host.as_mut().map_or(Ok(0.0), |h| fixed(h, times * 5))?;
            let fixed = Fixed { ours: compiled(&smallest, arch, times * 5)?, theirs };
            for path in below(folder, &[".bpf.o"])? {
                let host = host.as_mut().filter(|_| arch == Arch::X86_64);
                object(host, &path, arch, (times, fixed), &mut sums)?;
            }
            if sums.programs > 0 {
                report(what, arch, &sums, rows);
            }
        }
    }
    memory(rows)
}

/// What is the same for each program, in nanoseconds.
#[derive(Clone, Copy)]
struct Fixed {
    ours: f64,
    theirs: f64,
}

/// Nanoseconds of compiling a program.
fn compiled(v: &Verified, arch: Arch, times: usize) -> Result<f64, String> {
    best(times, || {
        let began = Instant::now();
        std::hint::black_box(jit::compile(v, arch));
        Ok(began.elapsed().as_nanos() as f64)
    })
}

/// The kernel's time of a load without its verifier's.
fn rest_ns(v: &HostVerdict) -> f64 {
    v.load_ns as f64 - v.stats.verification_time_us as f64 * 1e3
}

/// What of it is the same for each program.
fn fixed(host: &mut HostKernel, times: usize) -> Result<f64, String> {
    let least = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    best(times, || {
        let load = crate::host::RawLoad { prog_type: 1, insns: &least, ..Default::default() };
        let v = host.load_raw(&load);
        host.close_all();
        Ok(rest_ns(&v))
    })
}

/// Compiles the programs of an object that are compared: with the kernel, those of one function.
fn object(
    mut host: Option<&mut HostKernel>,
    path: &Path,
    arch: Arch,
    (times, fixed): (usize, Fixed),
    sums: &mut Sums,
) -> Result<(), String> {
    let Some((world, programs)) = accepted(path, arch) else { return Ok(()) };
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let fds = host.as_deref_mut().and_then(|h| maps_of(h, path, &bytes).ok());
    for (_, verified) in programs {
        if let (Some(host), Some(fds)) = (host.as_deref_mut(), &fds) {
            let (program, btf) = (verified.program(), world.object.btf());
            let mut refused = verified.subprogs().len() > 1;
            let theirs = best(times, || {
                if refused {
                    return Ok(0.0);
                }
                let v = host.load_program(program, fds, btf, &LoadFor::default(), 0);
                let Some((fd, v)) = v.ok().and_then(|v| Some((v.fd?, v))) else {
                    refused = true;
                    return Ok(0.0);
                };
                host.close(fd);
                Ok(rest_ns(&v))
            })?;
            if refused {
                continue;
            }
            sums.theirs_ns += (theirs - fixed.theirs).max(0.0);
        }
        sums.ours_ns += (compiled(&verified, arch, times)? - fixed.ours).max(0.0);
        sums.programs += 1;
        sums.slots += verified.len();
    }
    if let Some(host) = host {
        host.close_all();
    }
    Ok(())
}

fn report(what: &str, arch: Arch, sums: &Sums, rows: &mut Vec<Row>) {
    let each = |ns: f64| ns / sums.programs as f64;
    let (programs, slots) = (sums.programs, sums.slots);
    rows.push(Row {
        part: "compile",
        what: format!("compiling a program, {what} ({programs}, {slots} slots)"),
        on: arch.to_string(),
        ours: each(sums.ours_ns),
        unit: "ns",
        peer: (sums.theirs_ns > 0.0).then(|| each(sums.theirs_ns)),
        peer_name: "kernel's JIT, from its load",
    });
}

/// Resident bytes of this process.
fn resident() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/statm").map_err(|e| e.to_string())?;
    let pages = text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    Ok(pages.ok_or("statm has no second field")? * PAGE_BYTES)
}

/// What a CPU of each architecture adds to the process.
fn memory(rows: &mut Vec<Row>) -> Result<(), String> {
    for arch in Arch::ALL {
        // What all of them share is there before.
        let first = Vcpu::new(arch).map_err(|e| e.to_string())?;
        let before = resident()?;
        let made: Result<Vec<Vcpu>, _> = (0..VCPUS).map(|_| Vcpu::new(arch)).collect();
        let made = made.map_err(|e| e.to_string())?;
        let bytes = resident()?.saturating_sub(before) / VCPUS;
        drop((first, made));
        rows.push(Row {
            part: "compile",
            what: "memory of a CPU, as made".to_owned(),
            on: arch.to_string(),
            ours: bytes as f64 / f64::from(1 << 20),
            unit: "MiB",
            peer: None,
            peer_name: "",
        });
    }
    Ok(())
}
