//! The CPU layer alone, with a few hand-assembled instructions on each architecture.

use super::selftest::{Pages, TEXT, test_code};
use super::{Access, Accounting, Fuel, Rights, Stop, Vcpu, spec};
use bpf::Arch;

const DATA: u64 = 0xffff_8880_0000_2000;
const STUB: u64 = 0xffff_ffff_a000_0000;
const FUEL: Fuel = Fuel::new(u64::MAX, 1 << 40);

/// `do { args[1] += 1 } while (--args[0]); trap`
fn counting_loop(arch: Arch) -> &'static [u8] {
    match arch {
        Arch::X86_64 => &[0x48, 0xff, 0xc6, 0x48, 0xff, 0xcf, 0x75, 0xf8, 0xcd, 0x40],
        Arch::Arm64 => {
            &[0x21, 0x04, 0x00, 0x91, 0x00, 0x04, 0x00, 0xf1, 0xc1, 0xff, 0xff, 0x54, 1, 0, 0, 0xd4]
        }
        Arch::Riscv64 => {
            &[0x93, 0x85, 0x15, 0x00, 0x13, 0x05, 0xf5, 0xff, 0xe3, 0x1c, 0x05, 0xfe, 0x73, 0, 0, 0]
        }
        Arch::S390x => &[0xa7, 0x3b, 0, 1, 0xa7, 0x2b, 0xff, 0xff, 0xa7, 0x74, 0xff, 0xfc, 0x0a, 0],
    }
}

fn endless(arch: Arch) -> &'static [u8] {
    match arch {
        Arch::X86_64 => &[0xeb, 0xfe],
        Arch::Arm64 => &[0, 0, 0, 0x14],
        Arch::Riscv64 => &[0x6f, 0, 0, 0],
        Arch::S390x => &[0xa7, 0xf4, 0, 0],
    }
}

fn machine(code: &[u8]) -> Pages {
    let mut mem = Pages::new(4);
    mem.map(TEXT, 0, Rights::ReadExec);
    mem.map(STUB, 1, Rights::ReadExec);
    mem.map(DATA, 2, Rights::ReadWrite);
    mem.map(DATA + 0x1000, 3, Rights::Read);
    mem.ram()[..code.len()].copy_from_slice(code);
    mem
}

fn each(f: impl Fn(Arch, bool)) {
    for arch in Arch::ALL {
        for fast in [true, false] {
            f(arch, fast);
        }
    }
}

fn set_args(cpu: &mut Vcpu, args: &[u64]) {
    for (r, v) in cpu.spec().args.into_iter().zip(args) {
        cpu.set_reg(r, *v);
    }
}

#[test]
fn fast_memory_is_used_here() {
    for arch in Arch::ALL {
        assert!(Vcpu::new(arch).unwrap().fast_memory(), "{arch}");
    }
}

#[test]
fn loads_and_stores_reach_the_same_ram_from_two_cpus() {
    each(|arch, fast| {
        let mut mem = machine(test_code(arch, true));
        let (mut a, mut b) =
            (Vcpu::with_mode(arch, fast).unwrap(), Vcpu::with_mode(arch, fast).unwrap());
        set_args(&mut a, &[DATA + 8, 0, 0x0102_0304_0506_0708]);
        let end = |pc| matches!(pc, Ok(Stop::Trap { .. }));
        assert!(end(mem.run(&mut a, Accounting::NONE, FUEL, TEXT)), "{arch}");
        let load = test_code(arch, false);
        mem.ram()[..load.len()].copy_from_slice(load);
        set_args(&mut b, &[DATA + 8, 0, 0]);
        assert!(end(mem.run(&mut b, Accounting::NONE, FUEL, TEXT)), "{arch}");
        let arg2 = spec(arch).args[2];
        assert_eq!(b.reg(arg2), 0x0102_0304_0506_0708, "{arch}");
        let first = mem.ram()[2 * 4096 + 8];
        assert_eq!(first, if arch == Arch::S390x { 1 } else { 8 }, "{arch}");
    });
}

#[test]
fn faults_are_precise_and_recoverable() {
    let cases = [
        (false, 0xffff_9000_1234_5008, Access::Read),
        (false, 8, Access::Read),
        (false, 0x0123_4567_89ab_c008, Access::Read),
        (false, 0x7fff_1234_5678, Access::Read),
        (true, DATA + 0x1010, Access::Write),
        (true, TEXT + 0x100, Access::Write),
        (true, 0xffff_9000_1234_5008, Access::Write),
    ];
    each(|arch, fast| {
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        for (store, addr, access) in cases {
            let mut mem = machine(test_code(arch, store));
            cpu.memory_replaced();
            set_args(&mut cpu, &[addr, 7, 9]);
            let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, TEXT).unwrap();
            assert_eq!(stop, Stop::Denied { pc: TEXT, access, addr }, "{arch} {fast}");
            assert_eq!(cpu.reg(cpu.spec().args[1]), 7, "{arch}: later instruction ran");
            assert_eq!(cpu.reg(cpu.spec().args[2]), 9, "{arch}: destination changed");
            // The program goes on after the access, as an exception table makes it.
            let next = if arch == Arch::X86_64 {
                3
            } else if arch == Arch::S390x {
                6
            } else {
                4
            };
            let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, TEXT + next).unwrap();
            assert!(matches!(stop, Stop::Trap { .. }), "{arch} {stop:?}");
            assert_eq!(cpu.reg(cpu.spec().args[1]), 8, "{arch}");
        }
    });
}

#[test]
fn wild_jumps_and_data_are_not_executed() {
    each(|arch, fast| {
        let mut mem = machine(&[]);
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        for target in [DATA, 0xdead_0000, 0xffff_9000_0000_0000] {
            let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, target).unwrap();
            let want = Stop::Denied { pc: target, access: Access::Fetch, addr: target };
            assert_eq!(stop, want, "{arch} {fast}");
        }
        let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, 0).unwrap();
        assert_eq!(stop, Stop::Denied { pc: 0, access: Access::Fetch, addr: 0 }, "{arch} {fast}");
    });
}

#[test]
fn stub_traps_and_returns() {
    each(|arch, fast| {
        let s = spec(arch);
        let mut mem = machine(&[]);
        mem.ram()[0x1000 + 32..][..s.stub.len()].copy_from_slice(s.stub);
        mem.ram()[0x1000 + 64..][..s.stub.len()].copy_from_slice(s.stub);
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        let back = STUB + 64;
        cpu.set_reg(s.sp, DATA + 0x800);
        match s.link {
            Some(r) => cpu.set_reg(r, back),
            None => mem.ram()[0x2800..0x2808].copy_from_slice(&back.to_le_bytes()),
        }
        let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, STUB + 32).unwrap();
        assert_eq!(stop, Stop::Trap { pc: STUB + 32 }, "{arch}");
        cpu.set_reg(s.ret, 42);
        let stop = mem.run(&mut cpu, Accounting::NONE, FUEL, STUB + 32 + s.stub_ret).unwrap();
        assert_eq!(stop, Stop::Trap { pc: back }, "{arch}");
        assert_eq!(cpu.reg(s.ret), 42);
    });
}

/// An instruction table in which the first byte of each native instruction starts one.
fn per_insn_table(arch: Arch) -> Vec<u64> {
    let starts: &[usize] = match arch {
        Arch::X86_64 => &[0, 3, 6, 8],
        Arch::Arm64 | Arch::Riscv64 => &[0, 4, 8, 12],
        Arch::S390x => &[0, 4, 8, 12],
    };
    (0..=64).map(|i| starts.iter().filter(|&&s| s < i).count() as u64).collect()
}

#[test]
fn retired_counts_are_exact_and_preemption_changes_nothing() {
    each(|arch, fast| {
        let cum = per_insn_table(arch);
        let acct = Accounting { text: TEXT, cum: &cum, lap: 0, points: &[] };
        for quantum in [u64::MAX, 10, 100, 1000] {
            let mut mem = machine(counting_loop(arch));
            let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
            set_args(&mut cpu, &[5000, 0]);
            let fuel = Fuel::new(quantum, u64::MAX);
            let (mut pc, mut stops) = (TEXT, 0);
            loop {
                match mem.run(&mut cpu, acct, fuel, pc).unwrap() {
                    Stop::Fuel => (pc, stops) = (cpu.pc(), stops + 1),
                    Stop::Trap { .. } => break,
                    other => panic!("{arch} {other:?}"),
                }
            }
            assert_eq!(cpu.reg(cpu.spec().args[1]), 5000, "{arch} {quantum}");
            assert_eq!(cpu.retired(), 5000 * 3 + 1, "{arch} {fast} {quantum}");
            assert!(quantum > 10_000 || stops > 10, "{arch} {quantum}: {stops} stops");
        }
    });
}

#[test]
fn a_fault_in_the_middle_of_a_block_is_not_charged_for_its_rest() {
    each(|arch, fast| {
        let mut mem = machine(test_code(arch, false));
        let step = if arch == Arch::X86_64 {
            3
        } else if arch == Arch::S390x {
            6
        } else {
            4
        };
        let cum: Vec<u64> = (0..=64).map(|i| u64::from(i > 0) + u64::from(i > step)).collect();
        let acct = Accounting { text: TEXT, cum: &cum, lap: 0, points: &[] };
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        set_args(&mut cpu, &[8, 0, 0]);
        mem.run(&mut cpu, acct, FUEL, TEXT).unwrap();
        assert_eq!(cpu.retired(), 1, "{arch} {fast}: the faulting one only");
        mem.run(&mut cpu, acct, FUEL, TEXT + step).unwrap();
        assert_eq!(cpu.retired(), 2, "{arch} {fast}");
    });
}

#[test]
fn an_endless_loop_ends_by_fuel() {
    each(|arch, fast| {
        let mut mem = machine(endless(arch));
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        let fuel = Fuel::new(u64::MAX, 10_000);
        assert_eq!(mem.run(&mut cpu, Accounting::NONE, fuel, TEXT).unwrap(), Stop::Fuel, "{arch}");
        assert_eq!(cpu.pc(), TEXT);
    });
}

#[test]
fn changed_code_is_seen_after_code_changed() {
    each(|arch, fast| {
        let mut mem = machine(test_code(arch, true));
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        set_args(&mut cpu, &[DATA, 0, 5]);
        mem.run(&mut cpu, Accounting::NONE, FUEL, TEXT).unwrap();
        let load = test_code(arch, false);
        mem.ram()[..load.len()].copy_from_slice(load);
        cpu.code_changed(TEXT, TEXT + load.len() as u64);
        set_args(&mut cpu, &[DATA, 0, 0]);
        mem.run(&mut cpu, Accounting::NONE, FUEL, TEXT).unwrap();
        assert_eq!(cpu.reg(cpu.spec().args[2]), 5, "{arch} {fast}");
    });
}

#[test]
fn register_files_round_trip() {
    each(|arch, fast| {
        let mut cpu = Vcpu::with_mode(arch, fast).unwrap();
        let mut f = cpu.regs();
        // Where this is a general register, it is what it is.
        cpu.set_this_cpu(0x1111_2222_0000_0004);
        for i in 1..cpu.spec().names.len() {
            f.gprs[i] = 0x1111_2222_0000_0000 + i as u64;
        }
        f.pc = TEXT;
        cpu.set_regs(&f);
        let mut other = Vcpu::with_mode(arch, fast).unwrap();
        other.set_this_cpu(0x1111_2222_0000_0004);
        other.set_regs(&cpu.regs());
        assert_eq!(other.regs().gprs[1..], f.gprs[1..], "{arch}");
        assert_eq!(other.pc(), TEXT, "{arch}");
    });
}
