//! Speed of the CPU layer: three hot loops on each architecture, in BPF instructions a second.
//!
//! `cargo run --release -p emu --example mips` (the three workloads of the README's table).

use std::sync::Arc;
use std::time::Instant;

use bpf::Arch;
use bpf::insn::asm::assemble_insns;
use bpf::uapi::ProgType;
use emu::{Config, Machine};
use kernel_model::cpu::Frame;
use kernel_model::{CpuId, Prog, ProgId};
use verifier::testing::{TEST_LAYOUT, assume_verified, bare_program};

/// Twelve ALU instructions a round.
const ALU: &str = "r6 = 0\nr2 = 1\nloop: r2 += 3\nr3 = r2\nr3 <<= 1\nr3 ^= r2\nr4 = r3\nr4 >>= 2\n\
    r4 |= 1\nr5 = r4\nr5 *= 7\nr2 += r5\nr6 += 1\nif r6 != 4000000 goto loop\nr0 = r2\nexit\n";

/// Eight-byte loads and stores through 64 KiB, again and again.
const MEM: &str = "r7 = r1\nr6 = 0\nouter: r2 = r7\nr8 = 0\nloop: r3 = *(u64 *)(r2 +0)\nr3 += 1\n\
    *(u64 *)(r2 +0) = r3\nr4 = *(u64 *)(r2 +8)\nr4 += r3\n*(u64 *)(r2 +8) = r4\nr2 += 16\n\
    r8 += 1\nif r8 != 4096 goto loop\nr6 += 1\nif r6 != 600 goto outer\nr0 = 0\nexit\n";

/// A helper call in every round.
const CALL: &str = "r6 = 0\nloop: call bpf_ktime_get_ns\nr6 += 1\nif r6 != 400000 goto loop\n\
    r0 = 0\nexit\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let work = [("alu", ALU), ("mem", MEM), ("helper", CALL)];
    println!("arch      boot_us   alu_mips   mem_mips   helper_ns   native/bpf: alu mem");
    for arch in Arch::ALL {
        let boot = Instant::now();
        let (mut figures, mut ratios) = (Vec::new(), Vec::new());
        let mut boot_us = 0;
        for (name, text) in work {
            let mut m = Machine::new(arch, Config::default())?;
            let prog = load(&mut m, text)?;
            boot_us = boot_us.max(boot.elapsed().as_micros() * u128::from(name == "alu"));
            let ctx = m.kernel.kzalloc(64 << 10, "buffer").map_err(|e| format!("{e:?}"))?;
            m.kernel.submit(CpuId(0), Frame::Hook { prog, ctx, cookie: 0, free: 0 });
            let start = Instant::now();
            m.run_until_idle()?;
            let secs = start.elapsed().as_secs_f64();
            let insns = m.insns() as f64;
            ratios.push(m.native_insns() as f64 / insns);
            figures.push(if name == "helper" { secs * 1e9 / 4e5 } else { insns / secs / 1e6 });
        }
        let [alu, mem, call] = figures[..] else { continue };
        print!("{:<8} {boot_us:>8} {alu:>10.0} {mem:>10.0} {call:>11.0}", arch.name());
        println!("   {:>11.2} {:.2}", ratios[0], ratios[1]);
    }
    Ok(())
}

fn load(m: &mut Machine, text: &str) -> Result<ProgId, Box<dyn std::error::Error>> {
    let insns = assemble_insns(text)?;
    let program = bare_program("bench", ProgType::Xdp, insns.clone());
    let verified = Arc::new(assume_verified(program, insns, TEST_LAYOUT));
    let addr = m.kernel.kzalloc(256, "bpf_prog").map_err(|e| format!("{e:?}"))?;
    let id = ProgId(1);
    m.kernel.progs.insert(id, Prog::new(id, verified, addr));
    m.compile(id)?;
    Ok(id)
}
