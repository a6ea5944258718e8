//! `bpf_throw` out of three frames: the stack is unwound to the program's caller on every
//! architecture, with the caller's registers as they were.

use super::*;
use bpf::btf::Kind;
use verifier::verified::SubprogFacts;

/// main writes R6 to R9 and calls two functions deep; the inner one does too, and throws R1 when
/// its argument is not 0. The last function is the exception callback, when there is one.
fn insns(throw: i32) -> Vec<Insn> {
    let call = |off| Insn::Call(Call::Local(off));
    let fill = |v: i32| (6..10).map(move |r| mov(r, v + i32::from(r)));
    let mut v: Vec<Insn> = fill(100).collect();
    v.extend([alu(AluOp::Mov, 1, Src::Reg(Reg(1))), call(1), Insn::Exit]);
    // 7: outer
    v.extend(fill(200));
    v.extend([store(10, -8, 6), call(1), Insn::Exit]);
    // 14: inner
    v.extend(fill(300));
    v.extend([
        store(10, -16, 7),
        jmp(JmpOp::Ne, 1, 0, 2),
        mov(0, 5),
        Insn::Exit,
        Insn::Call(Call::Kfunc { btf_id: throw, off: 0 }),
        Insn::Exit,
        // 24: callback
        store(10, -8, 1),
        load(0, 10, -8),
        alu(AluOp::Add, 0, Src::Imm(1)),
        mov(6, 1),
        mov(9, 2),
        Insn::Exit,
    ]);
    v
}

fn throwing(m: &mut Machine, callback: bool) -> ProgId {
    let throw = m.kernel.vmlinux_btf().find("bpf_throw", Kind::Func).unwrap().cast_signed();
    let mut insns = insns(throw);
    // Entered by nothing but the exception, it is found as a function by a call that never is.
    let at = insns.len() as i32;
    insns.extend([Insn::Call(Call::Local(24 - at - 1)), Insn::Exit]);
    let mark = |f: &mut SubprogFacts| (f.is_callback, f.is_exception) = (true, callback);
    let a = Assume::new(bare_program("t", ProgType::Xdp, insns.clone()), insns);
    place(m, a.layout(TEST_LAYOUT).zext_where_read().throws().subprog(3, mark).build())
}

#[test]
fn the_cookie_or_the_callback_is_the_result_and_the_callers_registers_are_back() {
    let mut traces = Vec::new();
    for &arch in ARCHS {
        let mut m = machine(arch);
        let trivial = load_prog(&mut m, vec![mov(0, 0), Insn::Exit], &[]);
        run(&mut m, trivial, 0);
        let mut seen = Vec::new();
        for (callback, ctx, want) in
            [(false, 0, 5), (false, 77, 77), (true, 0, 5), (true, 77, 78), (true, 1 << 33, 1)]
        {
            let p = throwing(&mut m, callback);
            let vcpu = &mut m.slots[0].as_mut().unwrap().vcpu;
            let kept = [6, 7, 8, 9].map(|r| vcpu.spec().bpf[r]);
            for (n, r) in kept.into_iter().enumerate() {
                vcpu.set_reg(r, 0xabcd_0000 + n as u64);
            }
            let events = run(&mut m, p, ctx);
            assert_eq!(exit_value(&events), Some(want), "{arch} {callback} {ctx}: {events:?}");
            let calls =
                |e: &&Event| matches!(e.kind, EventKind::HelperCall { name: "bpf_throw", .. });
            assert_eq!(events.iter().filter(calls).count(), usize::from(ctx != 0), "{arch}");
            if ctx == 0 || callback {
                let vcpu = &m.slots[0].as_ref().unwrap().vcpu;
                let now = kept.map(|r| vcpu.reg(r));
                assert_eq!(now, [0, 1, 2, 3].map(|n| 0xabcd_0000 + n), "{arch} {callback} {ctx}");
            }
            seen.push((events, m.kernel.now(CpuId(0))));
        }
        // The machine goes on.
        assert_eq!(exit_value(&run(&mut m, trivial, 0)), Some(0), "{arch}");
        traces.push(seen);
    }
    assert!(traces.windows(2).all(|t| t[0] == t[1]));
}
