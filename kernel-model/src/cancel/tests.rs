//! Runs that are cancelled, told by an engine that is no machine.

use super::*;
use crate::Config;
use crate::context::Level;

const CPU: CpuId = CpuId(0);
const PROG: ProgId = ProgId(7);

fn hook(prog: ProgId) -> Frame {
    Frame::Hook { prog, ctx: 0, cookie: 0, free: 0 }
}

/// A kernel in which a program has just been entered.
fn running() -> Kernel {
    let mut k = Kernel::new(Config::default());
    k.submit(CPU, hook(PROG));
    assert!(matches!(k.next(CPU), Step::Enter(_)));
    k
}

fn exits(k: &Kernel) -> Vec<u64> {
    let ret = |e: &crate::Event| match e.kind {
        EventKind::Exit { ret, .. } => Some(ret),
        _ => None,
    };
    k.events.iter().filter_map(ret).collect()
}

#[test]
fn calls_are_answered_and_callbacks_end() {
    let mut k = running();
    let step = k.helper_call(CPU, 181, [10, 0xabc, 0, 0, 0]);
    assert!(matches!(step, Step::Enter(_)), "{step:?}");
    assert_eq!(k.running(PROG), [CPU]);
    k.cancel(CPU, PROG, CancelledBy::Request, &[]);
    assert!(k.is_cancelled(CPU) && k.running(PROG).is_empty());
    // bpf_ktime_get_ns, bpf_map_update_elem
    assert_eq!(k.helper_call(CPU, 5, [0; 5]), Step::Resume { r0: 0 });
    let error = Step::Resume { r0: crate::Errno::ECANCELED.ret() };
    assert_eq!(k.helper_call(CPU, 2, [0; 5]), error);
    k.charge(CPU, 5);
    // The callback that ran is the last one.
    assert_eq!(k.prog_return(CPU, 0), Step::Resume { r0: 1 });
    assert_eq!(k.helper_call(CPU, 181, [10, 0xabc, 0, 0, 0]), Step::Resume { r0: 0 });
    k.charge(CPU, 2);
    assert_eq!(k.prog_return(CPU, 2), Step::Idle);
    assert_eq!(exits(&k), [0]);
    let ended = Ended { prog: PROG, further: 7, bound: 0, unwound: false };
    assert_eq!(k.cancelled, [ended]);
}

#[test]
fn a_run_below_an_interrupt_is_unwound_after_it_and_gives_all_back() {
    let mut k = running();
    k.prog_holds(CPU, Kind::RcuRead, 0, "bpf_rcu_read_lock");
    k.prog_holds(CPU, Kind::Preempt, 0, "bpf_preempt_disable");
    k.interrupt(CPU, Level::Hard, [hook(ProgId(8))]);
    assert!(matches!(k.next(CPU), Step::Enter(_)));
    k.cancel(CPU, PROG, CancelledBy::Request, &[]);
    assert!(!k.is_cancelled(CPU), "the interrupt goes on");
    k.charge(CPU, 100);
    assert_eq!(k.prog_return(CPU, 3), Step::Continue);
    assert!(k.is_cancelled(CPU));
    k.charge(CPU, 4);
    assert!(k.cancelled_goes_back(CPU, PROG, InsnIdx(3)));
    assert!(!k.cancelled_goes_back(CPU, PROG, InsnIdx(3)), "a second time");
    let step = k.cancel_unwind(CPU);
    assert!(matches!(step, Step::Abort { contexts: 1, .. }), "{step:?}");
    assert!(k.damage(CPU, 0).is_empty());
    assert_eq!(k.next(CPU), Step::Idle);
    assert_eq!(exits(&k), [3, 0]);
    assert_eq!(k.cancelled[0].further, 4, "without those of the interrupt");
    assert!(k.cancelled[0].unwound);
}

#[test]
fn limits_are_reached_by_virtual_time() {
    let mut k = running();
    k.watchdog = Some(Watchdog { soft_ns: 100, hard_ns: 300, strikes: 1 });
    assert_eq!((k.watchdog_due(CPU), k.watchdog_left(CPU)), (None, 100));
    k.charge(CPU, 100);
    assert_eq!(k.watchdog_due(CPU), Some(Due::Soft));
    k.watchdog_bites(CPU, Due::Soft, &[]);
    assert_eq!((k.watchdog_due(CPU), k.watchdog_left(CPU)), (None, 200));
    k.charge(CPU, 200);
    assert_eq!(k.watchdog_due(CPU), Some(Due::Hard));
    k.watchdog_bites(CPU, Due::Hard, &[]);
    assert!(k.is_cancelled(CPU));
    assert_eq!((k.watchdog_due(CPU), k.watchdog_left(CPU)), (None, u64::MAX));
    let by = |e: &crate::Event| {
        matches!(e.kind, EventKind::Cancelled { by, .. }
        if by == CancelledBy::Watchdog)
    };
    assert_eq!(k.events.iter().filter(|e| by(e)).count(), 1);
}
