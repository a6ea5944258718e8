//! Runs of `BPF_PROG_TEST_RUN` that follow each other without the kernel in between: nothing that
//! can be seen differs from runs that it starts one by one.

use super::*;
use crate::host::TestRunIn;
use crate::machine::path::PathLog;
use bpf::insn::generate::{Options, program};
use kernel_model::syscall::FdObject;
use kernel_model::types::field;

/// Descriptor that the tests give a program.
const FD: i32 = 40;

/// `r6 = data; r7 = *(u8 *)r6 + 1; *(u8 *)r6 = r7`: r7 is the number of the run.
fn count() -> Vec<Insn> {
    let data = i16::try_from(field("xdp_buff", "data").off).unwrap();
    let (size, sext) = (Size::B, false);
    vec![
        load(6, 1, data),
        Insn::Load { size, sext, dst: Reg(7), src: Reg(6), off: 0 },
        alu(AluOp::Add, 7, Src::Imm(1)),
        Insn::Store { size, dst: Reg(6), off: 0, src: Src::Reg(Reg(7)) },
    ]
}

fn with(mut head: Vec<Insn>, tail: impl IntoIterator<Item = Insn>) -> Vec<Insn> {
    head.extend(tail);
    head
}

/// What is seen of a test run: events, clocks, and how much native code ran.
type Seen = (Vec<Event>, Vec<u64>, u64);

/// Runs `repeat` times, with another CPU that has work too. `laps` as usual, or one by one: a path
/// log that notes nothing asks for that.
fn seen(arch: Arch, laps: bool, repeat: u32, build: &dyn Fn(&mut Machine) -> ProgId) -> Seen {
    let mut m = Machine::new(arch, small(2000)).unwrap();
    let p = build(&mut m);
    let other = load_prog(&mut m, helper_loop(300), &[]);
    submit(&mut m, 1, other, 0);
    m.kernel.fds.insert(FD, FdObject::Prog(p));
    if !laps {
        m.log_path(PathLog::new(0..0));
    }
    let given = TestRunIn { data: &[0; 64], data_out: 64, repeat, ..TestRunIn::default() };
    let ran = m.test_run(FD, &given).map(|out| (out.retval, out.duration_ns, out.data));
    let entry = m.kernel.mem.read_u64(stack_top(0) - 8).unwrap();
    assert_eq!(entry == m.kernel.entry_of(p), laps, "{arch}: the lap stub was armed");
    assert!(ran.is_ok() || fault_of(m.events()).is_some(), "{arch}: {ran:?}");
    let clocks = m.kernel.cpus.iter().flat_map(|c| [c.clock_ns, c.retired]).collect();
    (m.events().to_vec(), clocks, m.native_insns())
}

fn same_on(arch: Arch, what: &str, build: &dyn Fn(&mut Machine) -> ProgId) -> Vec<Event> {
    let (laps, one) = (seen(arch, true, 50, build), seen(arch, false, 50, build));
    assert_eq!(laps, one, "{what} on {arch}");
    laps.0
}

fn same_seen(what: &str, build: &dyn Fn(&mut Machine) -> ProgId) -> Vec<Event> {
    let mut traces: Vec<_> = ARCHS.iter().map(|arch| same_on(*arch, what, build)).collect();
    assert!(traces.windows(2).all(|t| t[0] == t[1]), "{what}: equal on all architectures");
    traces.remove(0)
}

fn exits(events: &[Event], prog: u32) -> Vec<u64> {
    let ret = |e: &Event| match e.kind {
        EventKind::Exit { prog: p, ret } if p == ProgId(prog) => Some(ret),
        _ => None,
    };
    events.iter().filter_map(ret).collect()
}

/// Goes round r7 times.
fn rounds() -> [Insn; 2] {
    [alu(AluOp::Sub, 7, Src::Imm(1)), jmp(JmpOp::Ne, 7, 0, -2)]
}

#[test]
fn results_clocks_and_traces_are_those_of_single_runs() {
    let events = same_seen("a loop of another length in each run", &|m| {
        let tail = [alu(AluOp::Mov, 0, Src::Reg(Reg(7)))].into_iter().chain(rounds());
        load_prog(m, with(with(count(), tail), [Insn::Exit]), &[])
    });
    assert_eq!(exits(&events, 1), (1..=50).collect::<Vec<_>>());
}

#[test]
fn helper_calls_and_faults_that_are_fixed_up_come_at_their_time() {
    same_seen("a helper in every third run", &|m| {
        let tail = [
            alu(AluOp::Mod, 7, Src::Imm(3)),
            jmp(JmpOp::Ne, 7, 0, 1),
            Insn::Call(Call::Helper(KTIME)),
            alu(AluOp::Mov, 0, Src::Reg(Reg(7))),
            Insn::Exit,
        ];
        load_prog(m, with(count(), tail), &[])
    });
    same_seen("a probed load of nothing in every fifth run", &|m| {
        let tail = [
            mov(0, 1),
            alu(AluOp::Mov, 8, Src::Reg(Reg(7))),
            alu(AluOp::Mod, 8, Src::Imm(5)),
            jmp(JmpOp::Ne, 8, 0, 1),
            load(0, 8, 8),
        ];
        let insns = with(count(), tail.into_iter().chain(rounds()).chain([Insn::Exit]));
        load_prog(m, insns, &[8])
    });
}

#[test]
fn tail_calls_belong_to_the_run_that_made_them() {
    let events = same_seen("a tail call in each run", &|m| {
        let array = m.kernel.kzalloc(512, "bpf_array").unwrap();
        let at = |off: i16| u64::from(off.unsigned_abs());
        m.kernel.mem.write_u32(array + at(TEST_LAYOUT.array_max_entries), 2).unwrap();
        let insns = with(with(count(), tc(array, 0)), [mov(0, 1), Insn::Exit]);
        let p = load_prog(m, insns, &[]);
        let q = load_prog(m, vec![mov(0, 9), Insn::Exit], &[]);
        let (prog, entry) = (m.kernel.progs[&q].addr, m.kernel.entry_of(q));
        m.kernel.mem.write_u64(array + at(TEST_LAYOUT.array_value), prog).unwrap();
        m.kernel.mem.write_u64(prog + at(TEST_LAYOUT.prog_bpf_func), entry).unwrap();
        p
    });
    assert_eq!(exits(&events, 2), [9; 50]);
}

#[test]
fn each_run_has_its_own_watchdog() {
    let events = same_seen("the seventh run does not end", &|m| {
        let tail = [
            mov(0, 0),
            mov(8, 100),
            alu(AluOp::Sub, 8, Src::Imm(1)),
            jmp(JmpOp::Ne, 8, 0, -2),
            jmp(JmpOp::Eq, 7, 7, -1),
            Insn::Exit,
        ];
        load_prog(m, with(count(), tail), &[])
    });
    assert_eq!(exits(&events, 1).len(), 6);
    let kind = &fault_of(&events).unwrap().kind;
    assert!(matches!(kind, FaultKind::Watchdog { .. }), "{kind}");
}

#[test]
fn generated_programs_do_the_same() {
    for seed in 0..20 {
        let insns = program(seed, Options { len: 60, ..Options::default() });
        for &arch in ARCHS {
            same_on(arch, &format!("seed {seed}"), &|m| load_prog(m, insns.clone(), &[]));
        }
    }
}
