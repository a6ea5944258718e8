//! The machine with programs that no verifier saw: what native code may do wrong is a fault.

use super::*;
use bpf::insn::{AluOp, Call, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::uapi::ProgType;
use kernel_model::cpu::Frame;
use kernel_model::mem::GuestMemory;
use kernel_model::{EventKind, Prog};
use std::sync::Arc;
use verifier::testing::{Assume, TEST_LAYOUT, bare_program};
use verifier::verified::MemClass;

const ARCHS: &[Arch] = &Arch::ALL;
/// `bpf_ktime_get_ns`.
const KTIME: i32 = 5;

fn alu(op: AluOp, dst: u8, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op, dst: Reg(dst), src }
}

fn mov(dst: u8, imm: i32) -> Insn {
    alu(AluOp::Mov, dst, Src::Imm(imm))
}

fn jmp(op: JmpOp, dst: u8, imm: i32, off: i16) -> Insn {
    Insn::Jmp { width: Width::W64, op, dst: Reg(dst), src: Src::Imm(imm), off }
}

fn load(dst: u8, src: u8, off: i16) -> Insn {
    Insn::Load { size: Size::DW, sext: false, dst: Reg(dst), src: Reg(src), off }
}

fn store(dst: u8, off: i16, src: u8) -> Insn {
    Insn::Store { size: Size::DW, dst: Reg(dst), off, src: Src::Reg(Reg(src)) }
}

fn small(insns_max: u64) -> Config {
    let kernel = kernel_model::Config { memory_bytes: 8 << 20, ..Default::default() };
    Config { kernel, run_insns_max: insns_max, ..Config::default() }
}

fn machine(arch: Arch) -> Machine {
    Machine::new(arch, small(1_000_000)).unwrap()
}

/// Loads a program that nothing proved; loads marked `probe` may fault.
fn load_prog(m: &mut Machine, insns: Vec<Insn>, probe: &[u32]) -> ProgId {
    let p = bare_program("t", ProgType::Xdp, insns.clone());
    let mut a = Assume::new(p, insns).layout(TEST_LAYOUT).zext_where_read();
    for at in probe {
        a = a.fact(bpf::insn::InsnIdx(*at), |f| f.mem = MemClass::Probe);
    }
    place(m, a.build())
}

/// Places a program as the next one.
fn place(m: &mut Machine, verified: verifier::Verified) -> ProgId {
    let id = ProgId(m.kernel.progs.len() as u32 + 1);
    let addr = m.kernel.kzalloc(256, "bpf_prog").unwrap();
    let prog = Prog::new(id, Arc::new(verified), addr);
    m.kernel.progs.insert(id, prog);
    m.compile(id).unwrap();
    id
}

fn submit(m: &mut Machine, cpu: u32, prog: ProgId, ctx: u64) {
    m.kernel.submit(CpuId(cpu), Frame::Hook { prog, ctx, cookie: 0, free: 0 });
}

/// Runs one program on CPU 0; its events.
fn run(m: &mut Machine, prog: ProgId, ctx: u64) -> Vec<Event> {
    let from = m.events().len();
    submit(m, 0, prog, ctx);
    m.run_until_idle().unwrap();
    m.events()[from..].to_vec()
}

fn exit_value(events: &[Event]) -> Option<u64> {
    events.iter().find_map(|e| match e.kind {
        EventKind::Exit { ret, .. } => Some(ret),
        _ => None,
    })
}

fn fault_of(events: &[Event]) -> Option<&Fault> {
    events.iter().find_map(|e| match &e.kind {
        EventKind::Fault { fault, .. } => Some(fault),
        _ => None,
    })
}

/// Counts to `n` in r6 and calls a helper in every round.
fn helper_loop(n: i32) -> Vec<Insn> {
    vec![
        mov(6, 0),
        Insn::Call(Call::Helper(KTIME)),
        alu(AluOp::Add, 6, Src::Imm(1)),
        jmp(JmpOp::Ne, 6, n, -3),
        alu(AluOp::Mov, 0, Src::Reg(Reg(6))),
        Insn::Exit,
    ]
}

#[test]
fn helper_calls_return_and_clocks_agree_on_all_architectures() {
    let mut traces = Vec::new();
    for &arch in ARCHS {
        let mut m = machine(arch);
        let p = load_prog(&mut m, helper_loop(50), &[]);
        let events = run(&mut m, p, 0);
        assert_eq!(exit_value(&events), Some(50), "{arch}");
        assert_eq!(m.kernel.cpus[0].retired, 1 + 50 * 3 + 2, "{arch}");
        traces.push(events);
    }
    assert!(traces.windows(2).all(|t| t[0] == t[1]));
}

#[test]
fn memory_reaches_the_kernel_and_back() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let at = m.kernel.kzalloc(64, "test").unwrap();
        m.kernel.mem.write_u64(at, 41).unwrap();
        let insns = vec![
            load(2, 1, 0),
            alu(AluOp::Add, 2, Src::Imm(1)),
            store(1, 8, 2),
            mov(0, 0),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        run(&mut m, p, at);
        assert_eq!(m.kernel.mem.read_u64(at + 8), Ok(42), "{arch}");
    }
}

#[test]
fn probed_loads_give_zero_and_others_are_faults() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let insns =
            vec![mov(2, 7), load(2, 1, 16), alu(AluOp::Mov, 0, Src::Reg(Reg(2))), Insn::Exit];
        let p = load_prog(&mut m, insns.clone(), &[1]);
        for bad in [0, 0xffff_9000_0000_0000] {
            assert_eq!(exit_value(&run(&mut m, p, bad)), Some(0), "{arch}");
        }
        let q = load_prog(&mut m, insns, &[]);
        let events = run(&mut m, q, 0xffff_9000_0000_0000);
        let va = 0xffff_9000_0000_0010;
        let kind = FaultKind::Memory { va, access: kernel_model::mem::Access::Read };
        let want = Fault { kind, at: Some((q, bpf::insn::InsnIdx(1))) };
        assert_eq!(fault_of(&events), Some(&want), "{arch}");
        assert_eq!(exit_value(&run(&mut m, p, 0)), Some(0), "{arch}: goes on after a fault");
    }
}

#[test]
fn endless_loops_stack_overflows_and_writes_to_text_are_faults() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let endless = load_prog(&mut m, vec![Insn::Ja { off: -1, long: false }, Insn::Exit], &[]);
        let events = run(&mut m, endless, 0);
        let kind = &fault_of(&events).unwrap().kind;
        assert!(matches!(kind, FaultKind::Watchdog { insns } if *insns >= 1_000_000), "{kind}");

        let deep = vec![store(10, -8, 1), Insn::Call(Call::Local(-2)), Insn::Exit];
        let deep = load_prog(&mut m, deep, &[]);
        let events = run(&mut m, deep, 0);
        let kind = &fault_of(&events).unwrap().kind;
        assert!(matches!(kind, FaultKind::Stack { .. }), "{arch}: {kind}");

        let text = m.text().progs()[0].base;
        let poke = load_prog(&mut m, vec![mov(2, 0), store(1, 0, 2), Insn::Exit], &[]);
        let events = run(&mut m, poke, text);
        let kind = FaultKind::Memory { va: text, access: kernel_model::mem::Access::Write };
        assert_eq!(fault_of(&events).unwrap().kind, kind, "{arch}");
    }
}

#[test]
fn a_wild_tail_call_is_a_fault() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        // A prog array of one slot whose program claims an entry in data.
        let array = m.kernel.kzalloc(512, "bpf_array").unwrap();
        let prog = m.kernel.kzalloc(256, "bpf_prog").unwrap();
        let at = |off: i16| u64::from(off.unsigned_abs());
        m.kernel.mem.write_u32(array + at(TEST_LAYOUT.array_max_entries), 1).unwrap();
        m.kernel.mem.write_u64(array + at(TEST_LAYOUT.array_value), prog).unwrap();
        m.kernel.mem.write_u64(prog + at(TEST_LAYOUT.prog_bpf_func), array).unwrap();
        let insns = vec![
            Insn::LdImm64 { dst: Reg(2), imm: Imm64::Const(array) },
            Insn::LdImm64Hi,
            mov(3, 0),
            Insn::Call(Call::Helper(12)),
            mov(0, 0),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns.clone(), &[]);
        let events = run(&mut m, p, 0);
        let kind = &fault_of(&events).unwrap().kind;
        let fetch = kernel_model::mem::Access::Fetch;
        assert!(matches!(kind, FaultKind::Memory { access, .. } if *access == fetch), "{kind}");

        // With a real entry it is a tail call, noticed and counted.
        let q = load_prog(&mut m, vec![mov(0, 9), Insn::Exit], &[]);
        let entry = m.kernel.entry_of(q);
        m.kernel.mem.write_u64(prog + at(TEST_LAYOUT.prog_bpf_func), entry).unwrap();
        let before = m.kernel.cpus[0].retired;
        let events = run(&mut m, p, 0);
        assert_eq!(exit_value(&events), Some(9), "{arch}");
        let tails: Vec<_> =
            events.iter().filter(|e| e.kind == EventKind::TailCall { from: p, to: q }).collect();
        assert_eq!(tails.len(), 1, "{arch}");
        let ran = m.kernel.cpus[0].retired - before;
        assert_eq!(ran, 3 + 2, "{arch}: ld_imm64, mov, call; mov, exit");
    }
}

#[test]
fn snapshots_restore_to_the_same_future() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let at = m.kernel.kzalloc(64, "test").unwrap();
        let insns = vec![
            mov(6, 0),
            alu(AluOp::Mov, 7, Src::Reg(Reg(1))),
            Insn::Call(Call::Helper(KTIME)),
            load(2, 7, 0),
            alu(AluOp::Add, 2, Src::Imm(3)),
            store(7, 0, 2),
            alu(AluOp::Add, 6, Src::Imm(1)),
            jmp(JmpOp::Ne, 6, 40, -6),
            alu(AluOp::Mov, 0, Src::Reg(Reg(2))),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        submit(&mut m, 0, p, at);
        let mut snaps = Vec::new();
        while m.step(CpuId(0)).unwrap() {
            snaps.push(m.snapshot());
        }
        let end = (m.events().to_vec(), m.kernel.mem.read_u64(at), m.kernel.cpus[0].retired);
        assert_eq!(end.1, Ok(120), "{arch}");
        for s in [snaps.len() / 2, 0, snaps.len() - 2, 5] {
            m.restore(&snaps[s]);
            m.run_until_idle().unwrap();
            let again = (m.events().to_vec(), m.kernel.mem.read_u64(at), m.kernel.cpus[0].retired);
            assert!(end == again, "{arch}: from snapshot {s}");
        }
    }
}

#[test]
fn two_cpus_share_memory_and_alternate_by_virtual_time() {
    let mut ends = Vec::new();
    for &arch in ARCHS {
        let mut m = machine(arch);
        let at = m.kernel.kzalloc(64, "test").unwrap();
        // 2000 times: call a helper, then add to the shared cell without atomics.
        let insns = vec![
            mov(6, 0),
            alu(AluOp::Mov, 7, Src::Reg(Reg(1))),
            Insn::Call(Call::Helper(KTIME)),
            load(2, 7, 0),
            alu(AluOp::Add, 2, Src::Imm(1)),
            store(7, 0, 2),
            alu(AluOp::Add, 6, Src::Imm(1)),
            jmp(JmpOp::Ne, 6, 2000, -6),
            mov(0, 0),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        submit(&mut m, 0, p, at);
        submit(&mut m, 1, p, at);
        m.run_until_idle().unwrap();
        assert_eq!(m.kernel.mem.read_u64(at), Ok(4000), "{arch}");
        let order: Vec<u32> = m.events().iter().map(|e| e.cpu.0).collect();
        let switches = order.windows(2).filter(|w| w[0] != w[1]).count();
        assert!(switches > 10, "{arch}: {switches} switches");
        ends.push(m.events().to_vec());
    }
    assert!(ends.windows(2).all(|t| t[0] == t[1]), "the interleaving is the same everywhere");
}

/// Memory of the oracle: a stack at the bottom of the model's address space.
struct OracleStack(GuestMemory);

impl bpf::interp::Host for OracleStack {
    fn endian(&self) -> bpf::Endian {
        self.0.endian()
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, bpf::interp::Fault> {
        let bad = bpf::interp::Fault::BadAddress { addr, size: size.bytes(), write: false };
        self.0.read_uint(addr, size.bytes()).map_err(|_| bad)
    }

    fn store(&mut self, addr: u64, size: Size, v: u64) -> Result<(), bpf::interp::Fault> {
        let bad = bpf::interp::Fault::BadAddress { addr, size: size.bytes(), write: true };
        self.0.write_uint(addr, size.bytes(), v).map_err(|_| bad)
    }
}

/// R0 and instructions retired, by the reference interpreter.
fn oracle(insns: &[Insn], endian: bpf::Endian) -> (u64, u64) {
    let stack = kernel_model::layout::DIRECT_MAP..kernel_model::layout::DIRECT_MAP + 0x8000;
    let mut host = OracleStack(GuestMemory::new(0, endian));
    let mut vm = bpf::interp::Vm::new(Arc::from(insns), [0; 5], stack, 1_000_000);
    match vm.run(&mut host) {
        bpf::interp::Exit::Return(r0) => (r0 & 0xffff_ffff, vm.retired),
        other => panic!("{other:?}"),
    }
}

#[test]
fn generated_programs_agree_with_the_interpreter_in_result_and_count() {
    let opts = bpf::insn::generate::Options::default();
    for &arch in ARCHS {
        let mut m = machine(arch);
        for seed in 0..150 {
            let insns = bpf::insn::generate::program(seed, opts);
            let (r0, retired) = oracle(&insns, arch.endian());
            let p = load_prog(&mut m, insns, &[]);
            let before = m.kernel.cpus[0].retired;
            let placed = m.text().progs().last().unwrap().clone();
            let starts = crate::engine::native_starts(&placed.compiled);
            assert_eq!(starts.len(), placed.compiled.native_insns as usize, "{arch} seed {seed}");
            let events = run(&mut m, p, 0);
            assert_eq!(exit_value(&events), Some(r0), "{arch} seed {seed}: {events:?}");
            assert_eq!(m.kernel.cpus[0].retired - before, retired, "{arch} seed {seed}");
        }
    }
}

#[test]
fn native_registers_are_those_of_the_compiler() {
    for &arch in ARCHS {
        let (s, f) = (crate::unicorn::spec(arch), jit::facts(arch));
        assert_eq!(s.bpf.map(|r| r.0), f.regs.map(|r| r.num), "{arch}");
        assert_eq!(s.ret.0, f.ret.num, "{arch}");
    }
}

/// Steps until the program's first helper call is answered, then makes the kernel call back.
fn call_back(m: &mut Machine, prog: ProgId, args: [u64; 5]) {
    submit(m, 0, prog, 0);
    m.step(CpuId(0)).unwrap();
    assert!(matches!(m.lanes[0].next, Some(Step::Resume { .. })));
    let placed = m.text().progs().last().unwrap();
    let func_addr = placed.base + u64::from(placed.compiled.debug.funcs[1].start.0);
    let frame = kernel_model::cpu::ProgFrame::callback(prog, func_addr, args);
    m.lanes[0].next = Some(Step::Enter(frame.entry));
    m.kernel.cpus[0].frames.push(Frame::Prog(frame));
}

#[test]
fn callbacks_run_above_the_program_that_waits() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        // main: r6 to r9 live over the call; the callback uses them and the stack.
        let insns = vec![
            mov(6, 500),
            mov(9, 4000),
            store(10, -8, 6),
            Insn::LdImm64 { dst: Reg(2), imm: Imm64::Func(6) },
            Insn::LdImm64Hi,
            Insn::Call(Call::Helper(KTIME)),
            load(1, 10, -8),
            alu(AluOp::Add, 0, Src::Reg(Reg(6))),
            alu(AluOp::Add, 0, Src::Reg(Reg(9))),
            Insn::Exit,
            // callback(r1): *(fp - 8) = r1; r6 = r1; r0 = *(fp - 8) + 30
            store(10, -8, 1),
            alu(AluOp::Mov, 6, Src::Reg(Reg(1))),
            mov(9, 0),
            load(0, 10, -8),
            alu(AluOp::Add, 0, Src::Imm(30)),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        call_back(&mut m, p, [7, 0, 0, 0, 0]);
        // A snapshot in the middle of a callback is as good as any.
        let snap = m.snapshot();
        for _ in 0..2 {
            m.run_until_idle().unwrap();
            assert_eq!(exit_value(m.events()), Some(37 + 500 + 4000), "{arch}");
            assert_eq!(m.kernel.cpus[0].retired, 9 + 6, "{arch}");
            m.restore(&snap);
        }
    }
}

#[test]
fn a_fault_in_a_callback_ends_the_whole_run() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let insns = vec![
            Insn::LdImm64 { dst: Reg(2), imm: Imm64::Func(4) },
            Insn::LdImm64Hi,
            Insn::Call(Call::Helper(KTIME)),
            mov(0, 1),
            Insn::Exit,
            load(0, 1, 0),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        call_back(&mut m, p, [8, 0, 0, 0, 0]);
        m.run_until_idle().unwrap();
        assert_eq!(exit_value(m.events()), None, "{arch}");
        let fault = fault_of(m.events()).unwrap();
        assert_eq!(fault.at, Some((p, bpf::insn::InsnIdx(5))), "{arch}: {fault}");
        assert!(m.lanes[0].contexts.is_empty() && m.kernel.is_idle(CpuId(0)), "{arch}");
    }
}

/// Runs a program that slot 0 of a prog array of two holds; what it left in its context.
fn tail_prog(arch: Arch, build: impl Fn(u64) -> Vec<Insn>) -> (u64, Vec<Event>) {
    let mut m = machine(arch);
    let array = m.kernel.kzalloc(512, "bpf_array").unwrap();
    let cell = m.kernel.kzalloc(64, "cell").unwrap();
    let at = |off: i16| u64::from(off.unsigned_abs());
    m.kernel.mem.write_u32(array + at(TEST_LAYOUT.array_max_entries), 2).unwrap();
    let p = load_prog(&mut m, build(array), &[]);
    let prog = m.kernel.progs[&p].addr;
    m.kernel.mem.write_u64(array + at(TEST_LAYOUT.array_value), prog).unwrap();
    let entry = m.kernel.progs[&p].entry;
    assert!(entry != 0);
    m.kernel.mem.write_u64(prog + at(TEST_LAYOUT.prog_bpf_func), entry).unwrap();
    let ev = run(&mut m, p, cell);
    (m.kernel.mem.read_u64(cell).unwrap(), ev)
}

/// `bpf_tail_call(r1, array, index)`.
fn tc(array: u64, index: i32) -> Vec<Insn> {
    vec![
        Insn::LdImm64 { dst: Reg(2), imm: Imm64::Const(array) },
        Insn::LdImm64Hi,
        mov(3, index),
        Insn::Call(Call::Helper(12)),
    ]
}

#[test]
fn thirty_three_tail_calls_succeed_in_any_mix_with_subprograms() {
    for &arch in ARCHS {
        for index in [0, 1, 2, -1] {
            let (n, ev) = tail_prog(arch, |a| {
                let mut v = vec![
                    load(2, 1, 0),
                    alu(AluOp::Add, 2, Src::Imm(1)),
                    store(1, 0, 2),
                    mov(0, 77),
                ];
                v.extend(tc(a, index));
                v.push(Insn::Exit);
                v
            });
            assert_eq!((n, exit_value(&ev)), (if index == 0 { 34 } else { 1 }, Some(77)), "{ev:?}");
        }
        // main: cell++; call sub; call sub; exit.  sub: tail call, r0 = 5, exit
        let (n, ev) = tail_prog(arch, |a| {
            let mut v = vec![
                alu(AluOp::Mov, 6, Src::Reg(Reg(1))),
                load(2, 1, 0),
                alu(AluOp::Add, 2, Src::Imm(1)),
                store(1, 0, 2),
                store(10, -8, 6),
                Insn::Call(Call::Local(5)),
                load(1, 10, -8),
                Insn::Call(Call::Local(3)),
                alu(AluOp::Mov, 0, Src::Reg(Reg(6))),
                alu(AluOp::Sub, 0, Src::Reg(Reg(6))),
                Insn::Exit,
            ];
            v.push(alu(AluOp::Mov, 7, Src::Reg(Reg(1))));
            v.push(store(10, -16, 1));
            v.extend(tc(a, 0));
            v.extend([mov(0, 5), Insn::Exit]);
            v
        });
        assert_eq!((n, exit_value(&ev)), (34, Some(0)), "{arch} {:?}", ev.last());
    }
}

#[test]
fn bpf_loop_calls_back_through_the_kernel() {
    let mut first = None;
    for &arch in ARCHS {
        let mut m = machine(arch);
        let insns = vec![
            mov(6, 0),
            store(10, -8, 6),
            mov(1, 100),
            Insn::LdImm64 { dst: Reg(2), imm: Imm64::Func(7) },
            Insn::LdImm64Hi,
            alu(AluOp::Mov, 3, Src::Reg(Reg(10))),
            mov(4, 0),
            Insn::Call(Call::Helper(181)),
            load(1, 10, -8),
            alu(AluOp::Add, 0, Src::Reg(Reg(1))),
            Insn::Exit,
            // callback(index, fp): *(fp - 8) += index; return index == 49
            load(3, 2, -8),
            alu(AluOp::Add, 3, Src::Reg(Reg(1))),
            store(2, -8, 3),
            mov(0, 0),
            jmp(JmpOp::Ne, 1, 49, 1),
            mov(0, 1),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, insns, &[]);
        let events = run(&mut m, p, 0);
        assert_eq!(exit_value(&events), Some(50 + 49 * 50 / 2), "{arch}: {events:?}");
        let end = (events, m.kernel.cpus[0].retired);
        assert!(*first.get_or_insert(end.clone()) == end, "{arch}");
    }
}

#[test]
fn a_far_function_is_reached_with_its_arguments() {
    // Beyond what one instruction reaches on any architecture, as a module's functions may be.
    const FAR: u64 = 0xffff_8000_1000_0040;
    for &arch in ARCHS {
        let far = jit::CAPABILITIES.iter().find(|c| c.hook == "bpf_jit_supports_far_kfunc_call");
        if !far.unwrap().has(arch) {
            continue;
        }
        let mut m = machine(arch);
        let call = Insn::Call(Call::Kfunc { btf_id: 1, off: 0 });
        let p = load_prog(&mut m, vec![mov(1, 7), mov(2, 9), call, call, Insn::Exit], &[]);
        let compiled = m.text.prog(p).unwrap().compiled.clone();
        let base = 0xffff_ffff_a100_0000;
        let code = jit::link(&compiled, base, |_| FAR);
        assert!(code.len() > compiled.code.len(), "{arch}: through a veneer");
        for (va, bytes) in [(base, code), (FAR, crate::unicorn::spec(arch).stub.to_vec())] {
            let page = va & !0xfff;
            let phys = m.kernel.alloc.pages(&mut m.kernel.mem, 1).unwrap();
            m.kernel.mem.map(page, phys, kernel_model::mem::Perms::RX);
            m.kernel.mem.poke(va, &bytes).unwrap();
        }
        m.kernel.set_prog_code(p, base, 0);
        let events = run(&mut m, p, 0);
        // The trap of a stub that is none of the kernel's stops the run where it is.
        let kind = &fault_of(&events).unwrap().kind;
        assert_eq!(*kind, FaultKind::Illegal { pc: FAR }, "{arch}");
        let vcpu = &m.slots[0].as_ref().unwrap().vcpu;
        let args = vcpu.spec().args.map(|r| vcpu.reg(r));
        assert_eq!(args[..2], [7, 9], "{arch}");
    }
}

/// A program that nothing checked reads or writes an object that was freed.
#[test]
fn an_access_to_a_freed_object_is_found_at_the_access_with_both_sites() {
    use kernel_model::alloc::Wrong;
    for &arch in ARCHS {
        for insn in [load(0, 1, 24), store(1, 24, 1)] {
            let mut m = machine(arch);
            let at = m.kernel.kzalloc(4096, "big element").unwrap();
            m.kernel.kfree(at, "its end");
            let p = load_prog(&mut m, vec![insn, mov(0, 0), Insn::Exit], &[]);
            let events = run(&mut m, p, at);
            let fault = fault_of(&events).unwrap_or_else(|| panic!("{arch}: {events:?}"));
            let FaultKind::Memcheck(report) = &fault.kind else { panic!("{arch}: {fault}") };
            assert_eq!((report.wrong, report.addr), (Wrong::UseAfterFree, at + 24), "{arch}");
            let freed = report.freed.as_ref().map(|s| s.what);
            assert_eq!((report.allocated.what, freed), ("big element", Some("its end")));
            assert_eq!(fault.at, Some((p, bpf::insn::InsnIdx(0))), "{arch}");
            let text = fault.to_string();
            assert!(text.contains("big element") && text.contains("its end"), "{text}");
        }
    }
}

mod guarded;
mod laps;
mod may_goto;
mod points;
mod throw;
