//! Packets through descriptor ring, NAPI poll, XDP and tc: how many a second, how that grows with
//! their number and with CPUs, and what the trace of one takes.

use bpf::insn::asm::assemble_insns;
use bpf::uapi::ProgType;
use bpf::{Arch, Program};
use kernel_model::ProgId;
use kernel_model::net::{Dir, NicConfig, Order, SkbFields};

use super::{Clock, Row};
use crate::machine::{Config, Machine};

/// Frames in flight at a time, for each queue.
const BURST: u64 = 64;

/// Passes every frame with an Ethernet header.
const XDP: &str = "r2 = *(u32 *)(r1 +0)\nr3 = *(u32 *)(r1 +4)\nr2 += 14\nr0 = 1\n\
    if r2 > r3 goto out\nr0 = 2\nout: exit\n";
/// Drops it (`TC_ACT_SHOT`).
const TC: &str = "r0 = *(u32 *)(r1 +0)\nr0 = 2\nexit\n";

struct Path {
    machine: Machine,
    nic: u32,
    burst: u64,
}

impl Path {
    fn new(arch: Arch, cpus: u32) -> Result<Path, String> {
        let mut config = Config::default();
        config.kernel.cpus = cpus;
        config.kernel.memory_bytes = (64 << 20) + (u64::from(cpus) << 20);
        let mut m = Machine::new(arch, config).map_err(|e| e.to_string())?;
        let bad = |e: kernel_model::Errno| format!("{e:?}");
        let config = NicConfig { queues: cpus, ..NicConfig::default() };
        let nic = m.kernel.net_add(config).map_err(bad)?;
        let xdp = load(&mut m, "xdp", ProgType::Xdp, XDP)?;
        let tc = load(&mut m, "tc", ProgType::SchedCls, TC)?;
        m.kernel.xdp_attach(nic, Some(xdp)).map_err(bad)?;
        m.kernel.tcx_attach(nic, Dir::Ingress, tc, Order::Last).map_err(bad)?;
        Ok(Path { machine: m, nic, burst: BURST * u64::from(cpus) })
    }

    /// Sends frames of as many flows as there are; seconds.
    fn send(&mut self, count: u64) -> Result<f64, String> {
        let m = &mut self.machine;
        let mut frame = frame();
        let clock = Clock::start();
        for n in 0..count {
            // Another source port, another flow: receive queues by hash.
            let port = (n as u16).wrapping_mul(0x9e37).to_be_bytes();
            frame[34..36].copy_from_slice(&port);
            let taken = m.kernel.net_receive(self.nic, None, &frame, SkbFields::default());
            taken.map_err(|e| format!("frame {n}: {e:?}"))?;
            if (n + 1).is_multiple_of(self.burst) {
                m.run_until_idle().map_err(|e| e.to_string())?;
            }
        }
        m.run_until_idle().map_err(|e| e.to_string())?;
        Ok(clock.seconds())
    }
}

fn load(m: &mut Machine, name: &str, prog_type: ProgType, text: &str) -> Result<ProgId, String> {
    let program = Program {
        name: name.into(),
        section: name.into(),
        prog_type,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: "GPL".into(),
        insns: assemble_insns(text).map_err(|e| e.message)?,
        funcs: Vec::new(),
        lines: Vec::new(),
    };
    let opts = verifier::explore::Opts { log_level: 0, ..Default::default() };
    let (loaded, report) = m.kernel.sys_prog_load(program, &[], None, opts);
    let (_, id) = loaded.ok_or_else(|| format!("{:?}", report.result.err()))?;
    m.compile(id).map_err(|e| e.to_string())?;
    Ok(id)
}

fn frame() -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 50];
    f.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    f.extend([0x23, 0x28, 0, 7, 0, 30, 0, 0]);
    f.resize(64, 0xab);
    f
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    for arch in Arch::ALL {
        let mut path = Path::new(arch, 1)?;
        path.send(1000)?;
        let count = if quick { 10_000 } else { 100_000 };
        let seconds = path.send(count)?;
        rows.push(row("ring, NAPI, XDP and tc", arch.name(), count as f64 / seconds));
    }
    growth(quick, rows)?;
    by_cpus(quick, rows)
}

fn row(what: &str, on: &str, ours: f64) -> Row {
    Row {
        part: "packets",
        what: what.into(),
        on: on.into(),
        ours,
        unit: "packets/s",
        peer: None,
        peer_name: "",
    }
}

/// From a thousand to a million; the peer of each is the first.
fn growth(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let counts: &[u64] =
        if quick { &[1000, 10_000, 100_000] } else { &[1000, 10_000, 100_000, 1_000_000] };
    let mut first = None;
    for count in counts {
        let (rounds, mut seconds) = ((20_000 / count).max(1), 0.0);
        let mut bytes = 0;
        for _ in 0..rounds {
            let mut path = Path::new(Arch::X86_64, 1)?;
            path.send(64)?;
            path.machine.kernel.events.clear();
            seconds += path.send(*count)?;
            bytes = size_of_val(path.machine.events());
        }
        let rate = (rounds * count) as f64 / seconds;
        let peer = *first.get_or_insert(rate);
        let name = "the same with 1,000";
        rows.push(Row {
            peer: Some(peer),
            peer_name: name,
            ..row(&format!("{count} packets, trace kept"), "x86_64", rate)
        });
        if count == counts.last().unwrap_or(&0) {
            let ours = bytes as f64 / *count as f64;
            rows.push(Row {
                unit: "bytes",
                ..row("trace of a packet, without frame contents", "x86_64", ours)
            });
        }
    }
    Ok(())
}

fn by_cpus(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let count = if quick { 10_000 } else { 100_000 };
    let mut first = None;
    for cpus in [1, 4, 16, 64] {
        let mut path = Path::new(Arch::X86_64, cpus)?;
        path.send(20_000)?;
        path.machine.kernel.events.clear();
        let rate = count as f64 / path.send(count)?;
        let peer = *first.get_or_insert(rate);
        let name = "the same on 1 CPU";
        let what = format!("as many queues as CPUs, {cpus} of them");
        rows.push(Row { peer: Some(peer), peer_name: name, ..row(&what, "x86_64", rate) });
    }
    Ok(())
}
