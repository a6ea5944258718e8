//! Instructions a second: an ALU loop, a loop of loads and stores over 64 KiB, a packet parser.

use bpf::insn::asm::assemble_insns;
use bpf::insn::{Imm64, Insn, encode_all};
use bpf::uapi::{MapType, ProgType};
use bpf::{Arch, Endian, Program};

use super::{Clock, Row, best};
use crate::host::{HostKernel, RawLoad, TestRunIn};
use crate::loader::{Bpf as _, MapCreate};
use crate::machine::{Config, Machine};

/// A workload.
struct Work {
    what: &'static str,
    text: &'static str,
    /// Runs per measurement on an architecture.
    runs: u64,
    /// Per run rather than per second.
    per_run: bool,
}

/// The real kernel under QEMU 7.2 (TCG) on this class of machine, in the order of [`WORK`]:
/// instructions a second of the loops, nanoseconds of the parser. riscv64 had no kernel to try.
pub(super) const QEMU: [(Arch, [f64; 3]); 3] = [
    (Arch::X86_64, [1850e6, 1225e6, 215.0]),
    (Arch::Arm64, [2270e6, 1646e6, 522.0]),
    (Arch::S390x, [43e6, 26e6, 951.0]),
];

const WORK: [Work; 3] = [
    Work { what: "ALU loop, 60,003 instructions", text: ALU, runs: 400, per_run: false },
    Work { what: "load/store loop over 64 KiB", text: MEM, runs: 400, per_run: false },
    Work { what: "packet parser, 25 instructions", text: PARSE, runs: 100_000, per_run: true },
];

const ALU: &str = "r0 = 1\nr1 = 10000\nloop: r0 += 7\nr0 *= 3\nr0 ^= r1\nr0 >>= 1\nr1 += -1\n\
    if r1 != 0 goto loop\nexit\n";

/// `MAP` stands for the address of a map's value.
const MEM: &str = "r2 = 4660 ll\nr4 = 0\nloop: r3 = *(u64 *)(r2 +0)\nr3 += 1\n\
    *(u64 *)(r2 +0) = r3\nr2 += 8\nr4 += 1\nif r4 != 8192 goto loop\nr0 = 0\nexit\n";

/// Ethernet, IPv4, UDP to port 7.
const PARSE: &str = "r2 = *(u32 *)(r1 +0)\nr3 = *(u32 *)(r1 +4)\nr4 = r2\nr4 += 14\n\
    r0 = 2\nif r4 > r3 goto out\nr5 = *(u16 *)(r2 +12)\nr5 = be16 r5\nif r5 != 2048 goto out\n\
    r4 = r2\nr4 += 42\nif r4 > r3 goto out\nr5 = *(u8 *)(r2 +14)\nr5 &= 15\n\
    if r5 != 5 goto out\nr5 = *(u8 *)(r2 +23)\nif r5 != 17 goto out\nr5 = *(u16 *)(r2 +36)\n\
    r5 = be16 r5\nif r5 != 7 goto out\nr5 = *(u8 *)(r2 +22)\nif r5 == 0 goto out\n\
    r5 = *(u16 *)(r2 +38)\nr0 = 1\nout: exit\n";

/// The frame the parser is given.
fn frame() -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 50];
    f.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    f.extend([0x23, 0x28, 0, 7, 0, 30, 0, 0]);
    f.resize(64, 0xab);
    f
}

/// An array of one value of 64 KiB.
fn cells() -> MapCreate {
    MapCreate {
        name: "cells".into(),
        map_type: MapType::Array,
        key_size: 4,
        value_size: 64 << 10,
        max_entries: 1,
        flags: 0,
        numa_node: None,
        map_extra: 0,
        inner: None,
        btf_types: (0, 0),
    }
}

/// The program, with the map value's address filled in.
fn program(text: &str, fd: i32) -> Result<Program, String> {
    let mut insns = assemble_insns(text).map_err(|e| e.message)?;
    for insn in &mut insns {
        if let Insn::LdImm64 { imm, .. } = insn {
            *imm = Imm64::MapValue { fd, off: 0 };
        }
    }
    Ok(Program {
        name: "bench".into(),
        section: "xdp".into(),
        prog_type: ProgType::Xdp,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: "GPL".into(),
        insns,
        funcs: Vec::new(),
        lines: Vec::new(),
    })
}

/// A machine with one workload loaded.
struct Bench {
    machine: Machine,
    prog: i32,
}

/// Runs a command asks for: the trace of so many is kept at a time.
const REPEAT: u64 = 1000;

impl Bench {
    fn new(arch: Arch, text: &str, config: Config) -> Result<Bench, String> {
        let mut m = Machine::new(arch, config).map_err(|e| e.to_string())?;
        let bad = |e: kernel_model::Errno| format!("{e:?}");
        let fd = crate::loader::Bpf::map_create(&mut m.kernel, &cells(), None).map_err(bad)?;
        let opts = verifier::explore::Opts { log_level: 0, ..Default::default() };
        let (loaded, report) = m.kernel.sys_prog_load(program(text, fd)?, &[], None, opts);
        let (prog, id) = loaded.ok_or_else(|| format!("{:?}", report.result.err()))?;
        m.compile(id).map_err(|e| e.to_string())?;
        Ok(Bench { machine: m, prog })
    }

    /// Runs the program as the kernels it is compared with do: by `BPF_PROG_TEST_RUN` with
    /// `repeat`. Seconds, and instructions retired.
    fn run(&mut self, times: u64) -> Result<(f64, u64), String> {
        let m = &mut self.machine;
        let data = frame();
        let (clock, before) = (Clock::start(), m.insns());
        let mut left = times;
        while left > 0 {
            let repeat = left.min(REPEAT);
            left -= repeat;
            m.kernel.events.clear();
            let given = TestRunIn { data: &data, repeat: repeat as u32, ..TestRunIn::default() };
            m.test_run(self.prog, &given).map_err(|e| format!("{e:?}"))?;
        }
        Ok((clock.seconds(), m.insns() - before))
    }
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let mut host = HostKernel::open();
    if let Err(why) = &host {
        eprintln!("the kernel here is no peer: {why}");
    }
    for (n, work) in WORK.iter().enumerate() {
        let runs = if quick { work.runs / 10 } else { work.runs };
        let mut native = None;
        for arch in Arch::ALL {
            let mut bench = Bench::new(arch, work.text, Config::default())?;
            let mut insns = 0;
            let seconds = best(5, || {
                let (seconds, retired) = bench.run(runs)?;
                insns = retired;
                Ok(seconds)
            })?;
            let figure = |s: f64, n: u64, runs: u64| {
                if work.per_run { s * 1e9 / runs as f64 } else { n as f64 / s }
            };
            let reference = QEMU.iter().find(|q| q.0 == arch).map(|q| q.1[n]);
            rows.push(Row {
                part: "speed",
                what: work.what.into(),
                on: arch.name().into(),
                ours: figure(seconds, insns, runs),
                unit: if work.per_run { "ns" } else { "insn/s" },
                peer: reference,
                peer_name: "kernel under QEMU, reference",
            });
            if arch == Arch::X86_64
                && let Ok(host) = &mut host
            {
                let ns = on_host(host, work, runs.min(20_000) as u32)?;
                native = Some(figure(ns / 1e9, insns / runs, 1));
            }
        }
        let ours = rows.iter().rev().find(|r| r.on == "x86_64").map(|r| (r.ours, r.unit));
        if let (Some(peer), Some((ours, unit))) = (native, ours) {
            rows.push(Row {
                part: "speed",
                what: work.what.into(),
                on: "x86_64".into(),
                ours,
                unit,
                peer: Some(peer),
                peer_name: "kernel of this machine, native",
            });
        }
    }
    exit_checks(quick, rows)
}

/// The memory path with and without Unicorn's exit check after each access (`unicorn/private.rs`).
fn exit_checks(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let runs = if quick { 10 } else { 100 };
    for arch in Arch::ALL {
        let rate = |exit_checks| {
            let config = Config { exit_checks, ..Config::default() };
            let mut bench = Bench::new(arch, MEM, config)?;
            let mut insns = 0;
            let seconds = best(5, || {
                let (seconds, retired) = bench.run(runs)?;
                insns = retired;
                Ok(seconds)
            })?;
            Ok::<f64, String>(insns as f64 / seconds)
        };
        rows.push(Row {
            part: "speed",
            what: "load/store loop without the exit check of each access".into(),
            on: arch.name().into(),
            ours: rate(false)?,
            unit: "insn/s",
            peer: Some(rate(true)?),
            peer_name: "with it, as Unicorn is shipped",
        });
    }
    Ok(())
}

/// Nanoseconds a run takes natively.
fn on_host(host: &mut HostKernel, work: &Work, repeat: u32) -> Result<f64, String> {
    let fd = host.map_create(&cells(), None).map_err(|e| format!("{e:?}"))?;
    let program = program(work.text, fd)?;
    let slots = encode_all(&program.insns);
    let insns: Vec<u8> = slots.iter().flat_map(|s| s.to_bytes(Endian::Little)).collect();
    let load = RawLoad { prog_type: ProgType::Xdp as u32, insns: &insns, ..RawLoad::default() };
    let verdict = host.load_raw(&load);
    let prog = verdict.fd.ok_or_else(|| format!("the kernel says: {}", verdict.log))?;
    let frame = frame();
    let given = TestRunIn { data: &frame, data_out: 256, repeat, ..TestRunIn::default() };
    let ns = best(5, || {
        let ran = host.test_run(prog, &given).map_err(|e| format!("{e:?}"))?;
        Ok(f64::from(ran.duration_ns))
    });
    host.close_all();
    ns
}
