//! The reference interpreter: single operations from a table, and what programs do as a whole.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]
use std::sync::Arc;

use bpf::Endian;
use bpf::insn::asm::assemble_insns;
use bpf::insn::generate::{Options, program};
use bpf::insn::{Insn, InsnIdx, Size};
use bpf::interp::{Exit, Fault, Host, Vm};

const BASE: u64 = 0x1000;

/// A stack and nothing else.
struct Stack(Vec<u8>, Endian);

impl Stack {
    fn place(&self, addr: u64, size: Size, write: bool) -> Result<std::ops::Range<usize>, Fault> {
        let fault = Fault::BadAddress { addr, size: size.bytes(), write };
        let start = addr.checked_sub(BASE).ok_or(fault)? as usize;
        let end = start.checked_add(size.bytes() as usize).ok_or(fault)?;
        if end <= self.0.len() { Ok(start..end) } else { Err(fault) }
    }
}

impl Host for Stack {
    fn endian(&self) -> Endian {
        self.1
    }
    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let bytes = &self.0[self.place(addr, size, false)?];
        let fold = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(match self.1 {
            Endian::Little => bytes.iter().rev().fold(0, fold),
            Endian::Big => bytes.iter().fold(0, fold),
        })
    }
    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), Fault> {
        let (at, n) = (self.place(addr, size, true)?, size.bytes() as usize);
        match self.1 {
            Endian::Little => self.0[at].copy_from_slice(&value.to_le_bytes()[..n]),
            Endian::Big => self.0[at].copy_from_slice(&value.to_be_bytes()[8 - n..]),
        }
        Ok(())
    }
}

fn start(code: Vec<Insn>, args: [u64; 5], endian: Endian) -> (Vm, Stack) {
    let size = 8 * 512;
    let vm = Vm::new(Arc::from(code), args, BASE..BASE + size, 100_000);
    (vm, Stack(vec![0; size as usize], endian))
}

fn run(text: &str) -> Exit {
    let (mut vm, mut host) = start(assemble_insns(text).unwrap(), [0; 5], Endian::Little);
    vm.run(&mut host)
}

#[test]
fn table() {
    let value = |t: &str| u64::from_str_radix(t.trim().trim_start_matches("0x"), 16).unwrap();
    for row in include_str!("insn_interp.txt").lines().filter(|l| !l.starts_with('#')) {
        let [r1, r2, insn, want] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("four columns: {row}")
        };
        let code = assemble_insns(&format!("{insn}\nr0 = r1\nexit")).unwrap();
        let args = [value(r1), value(r2), 0, 0, 0];
        let (mut vm, mut host) = start(code, args, Endian::Little);
        assert_eq!(vm.run(&mut host), Exit::Return(value(want)), "{row}");
    }
}

#[test]
fn byte_order_is_the_hosts() {
    let code = "r1 = be32 r1\n*(u32 *)(r10 -4) = r1\nr0 = *(u8 *)(r10 -4)\nexit";
    for (endian, text) in [(Endian::Little, code), (Endian::Big, code)] {
        let (mut vm, mut host) = start(assemble_insns(text).unwrap(), [0x1122_3344; 5], endian);
        assert_eq!(vm.run(&mut host), Exit::Return(0x11), "{endian:?}");
    }
}

#[test]
fn atomics() {
    let head = "*(u64 *)(r10 -8) = -1\nr1 = 7\nr0 = -1\n";
    let cases = [
        ("r1 = atomic_fetch_add((u32 *)(r10 -8), r1)\nr0 = r1\nexit", 0xffff_ffff),
        ("lock *(u64 *)(r10 -8) += r1\nr0 = *(u64 *)(r10 -8)\nexit", 6),
        ("r0 = atomic_cmpxchg((u32 *)(r10 -8), r0, r1)\nexit", 0xffff_ffff),
        ("r0 = atomic64_cmpxchg((u64 *)(r10 -8), r0, r1)\nr0 = *(u64 *)(r10 -8)\nexit", 7),
        ("r0 = 1\nr0 = atomic64_cmpxchg((u64 *)(r10 -8), r0, r1)\nexit", u64::MAX),
        ("r1 = atomic64_xchg((u64 *)(r10 -8), r1)\nr0 = load_acquire((u8 *)(r10 -8))\nexit", 7),
    ];
    for (text, want) in cases {
        assert_eq!(run(&format!("{head}{text}")), Exit::Return(want), "{text}");
    }
}

#[test]
fn functions_keep_callee_saved_registers_and_frames() {
    let text = "r6 = 5\n*(u64 *)(r10 -8) = 9\nr1 = 2\ncall f\nr0 += r6\nr1 = *(u64 *)(r10 -8)\n\
                r0 += r1\nexit\nf:\nr6 = 100\n*(u64 *)(r10 -8) = 1\nr0 = r1\nexit";
    assert_eq!(run(text), Exit::Return(16));
}

#[test]
fn helpers_callbacks_and_tail_calls_leave_the_interpreter() {
    let text = "r6 = 3\nr1 = 1\nr2 = func[f] ll\ncall bpf_loop\nr0 += r6\nexit\nf:\nr6 = 9\n\
                r0 = r1\nr0 += 1\nexit";
    let (mut vm, mut host) = start(assemble_insns(text).unwrap(), [0; 5], Endian::Little);
    let Exit::Helper { id: 181, args } = vm.run(&mut host) else { panic!("bpf_loop is 181") };
    let mut answers = vec![];
    for i in 0..2 {
        vm.call(args[1] as usize, [i, 0, 0, 0, 0]).unwrap();
        answers.push(vm.clone().run(&mut host));
        assert_eq!(vm.run(&mut host), answers[i as usize]);
    }
    assert_eq!(answers, [Exit::Callback(1), Exit::Callback(2)]);
    vm.resume(40);
    assert_eq!(vm.run(&mut host), Exit::Return(43));

    let (mut vm, mut host) =
        start(assemble_insns("call bpf_tail_call\nexit").unwrap(), [0; 5], Endian::Little);
    assert!(matches!(vm.run(&mut host), Exit::Helper { id: 12, .. }));
    vm.tail_call(Arc::from(assemble_insns("r0 = r1\nexit").unwrap()), 77);
    assert_eq!(vm.run(&mut host), Exit::Return(77));
}

#[test]
fn faults_are_values() {
    let fault = |at, fault| Exit::Fault { at: InsnIdx(at), fault };
    assert_eq!(
        run("r1 = 0\nr0 = *(u16 *)(r1 +2)\nexit"),
        fault(1, Fault::BadAddress { addr: 2, size: 2, write: false })
    );
    assert_eq!(run("goto pc+7\nexit"), fault(0, Fault::BadJump(8)));
    assert_eq!(run("goto pc+1\nr1 = 1 ll\nexit"), fault(0, Fault::BadJump(2)));
    assert_eq!(run("r0 = 0"), fault(1, Fault::BadJump(1)));
    assert_eq!(run("f:\ncall f\nexit"), fault(0, Fault::StackOverflow));
    assert_eq!(run("goto pc-1\nexit"), Exit::OutOfFuel);
    assert_eq!(run("r0 = *(u8 *)skb[0]\nexit"), fault(0, Fault::Unsupported("BPF_LD_[ABS|IND]")));
}

/// Generated programs end without a fault, and use no address in their result.
#[test]
fn generated_programs_return() {
    for seed in 0..300 {
        for endian in [Endian::Little, Endian::Big] {
            let code = program(seed, Options { raw_div: seed % 2 == 0, ..Options::default() });
            let (mut vm, mut host) = start(code.clone(), [0; 5], endian);
            let first = vm.run(&mut host);
            assert!(matches!(first, Exit::Return(_)), "seed {seed}: {first:?}");
            let top = BASE + 8 * 512;
            let mut low = Vm::new(Arc::from(code), [0; 5], BASE..top - 64, 100_000);
            low.regs[10] = top - 64;
            assert_eq!(low.run(&mut host), first, "seed {seed}");
        }
    }
}
