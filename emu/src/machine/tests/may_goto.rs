//! `may_goto` as the verifier rewrites it: a loop without an end ends after 250 ms of virtual time,
//! at the same instruction on every architecture, and every register is as the loop left it.

use super::*;

/// `BPF_MAX_TIMED_LOOPS`.
const COUNT: i32 = 0xffff;

/// Counts in R0 until `may_goto` leaves; then R0 plus R1 to R5, which hold 1 to 5.
fn endless() -> Vec<Insn> {
    let ax = Reg::AX.0;
    let keep = |off, imm| Insn::Store { size: Size::DW, dst: Reg::FP, off, src: Src::Imm(imm) };
    let mut v = vec![keep(-16, COUNT), keep(-8, 0), mov(0, 0)];
    v.extend((1..6).map(|r| mov(r, r.into())));
    v.extend([
        load(ax, 10, -16),
        jmp(JmpOp::Eq, ax, 0, 7),
        alu(AluOp::Sub, ax, Src::Imm(1)),
        jmp(JmpOp::Ne, ax, 0, 2),
        mov(ax, -16),
        Insn::Call(Call::Helper(TIMED_MAY_GOTO)),
        store(10, -16, ax),
        alu(AluOp::Add, 0, Src::Imm(1)),
        Insn::Ja { off: -9, long: false },
    ]);
    v.extend((1..6).map(|r| alu(AluOp::Add, 0, Src::Reg(Reg(r)))));
    v.push(Insn::Exit);
    v
}

#[test]
fn a_loop_ends_by_time_everywhere_at_once() {
    let mut seen = Vec::new();
    for &arch in ARCHS {
        let mut m = Machine::new(arch, small(1 << 32)).unwrap();
        let p = load_prog(&mut m, endless(), &[]);
        let began = m.kernel.now(CpuId(0));
        let events = run(&mut m, p, 0);
        let took = m.kernel.now(CpuId(0)) - began;
        let rounds = exit_value(&events).unwrap() - 15;
        // The time is looked at every 65,535 rounds; the round that sees its end is gone through.
        assert_eq!(rounds % (COUNT as u64), 0, "{arch}");
        assert!((250_000_000..252_000_000).contains(&took), "{arch}: {took} ns");
        let called = |e: &Event| matches!(e.kind, EventKind::HelperCall { .. });
        assert!(!events.iter().any(called), "{arch}: no call is seen");
        let said = events.iter().any(|e| {
            matches!(&e.kind, EventKind::Stream { text, .. }
            if text.contains("Timeout detected") && text.contains("_t+0x"))
        });
        assert!(said, "{arch}: {events:?}");
        seen.push((rounds, took));
    }
    assert!(seen.windows(2).all(|s| s[0] == s[1]), "{seen:?}");
}
