//! Small objects share pages: what is freed is found at the access, and its neighbours are not.

use super::*;
use bpf::insn::AtomicOp;
use kernel_model::alloc::Wrong;

/// Two objects on one page, of which the second was freed.
fn neighbours(m: &mut Machine) -> (u64, u64) {
    let [live, freed] = [0, 1].map(|_| m.kernel.kzalloc(64, "element").unwrap());
    assert_eq!(live & !0xfff, freed & !0xfff);
    m.kernel.kfree_rcu(freed, "its end");
    (live, freed)
}

fn atomic(op: AtomicOp) -> Insn {
    Insn::Atomic { size: Size::DW, op, dst: Reg(1), off: 16, src: Reg(2) }
}

#[test]
fn a_freed_neighbour_is_found_at_the_access() {
    for &arch in ARCHS {
        for insn in [load(0, 1, 8), store(1, 8, 1), atomic(AtomicOp::Add)] {
            let mut m = machine(arch);
            let (_, freed) = neighbours(&mut m);
            let p = load_prog(&mut m, vec![mov(2, 1), insn, mov(0, 0), Insn::Exit], &[]);
            let events = run(&mut m, p, freed);
            let fault = fault_of(&events).unwrap_or_else(|| panic!("{arch}: {events:?}"));
            let FaultKind::Memcheck(r) = &fault.kind else { panic!("{arch}: {fault}") };
            assert_eq!(r.wrong, Wrong::UseAfterFree, "{arch}");
            assert_eq!(r.freed.as_ref().map(|s| s.what), Some("its end"));
        }
    }
}

/// Each kind of access, on the page of the freed object, does what it does elsewhere.
#[test]
fn accesses_to_its_neighbours_are_as_ever() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let (live, _) = neighbours(&mut m);
        let program = vec![
            mov(2, 5),
            mov(0, 9),
            store(1, 8, 2),
            atomic(AtomicOp::Add),
            atomic(AtomicOp::FetchAdd),
            mov(2, 3),
            atomic(AtomicOp::Xchg),
            mov(0, 3),
            atomic(AtomicOp::Cmpxchg),
            atomic(AtomicOp::Xor),
            load(3, 1, 16),
            load(4, 1, 8),
            alu(AluOp::Mov, 0, Src::Reg(Reg(3))),
            alu(AluOp::Add, 0, Src::Reg(Reg(4))),
            alu(AluOp::Add, 0, Src::Reg(Reg(2))),
            Insn::Exit,
        ];
        let p = load_prog(&mut m, program, &[]);
        let insns = m.insns();
        let events = run(&mut m, p, live);
        // 10 was exchanged for 3, 3 for 10, and 10 ^ 10 is 0; 5 is beside it and 10 was fetched.
        assert_eq!(exit_value(&events), Some(15), "{arch}: {events:?}");
        assert_eq!(m.insns() - insns, 16, "{arch}");
    }
}

/// A load that may fail reads what is there, and is told of.
#[test]
fn a_load_that_may_fail_goes_on() {
    for &arch in ARCHS {
        let mut m = machine(arch);
        let (_, freed) = neighbours(&mut m);
        let p = load_prog(&mut m, vec![load(0, 1, 8), Insn::Exit], &[0]);
        let events = run(&mut m, p, freed);
        assert_eq!(exit_value(&events), Some(0x6b6b_6b6b), "{arch}");
        let FaultKind::Memcheck(r) = &fault_of(&events).unwrap().kind else { panic!() };
        assert_eq!((r.wrong, r.addr), (Wrong::UseAfterFree, freed + 8), "{arch}");
    }
}
