//! Locks of map operations and programs: NMIs, other CPUs, cancelled waiters, orders.

use bpf::uapi::MapType;

use super::*;
use crate::cpu::{FaultKind, Frame, Step};
use crate::maps::MapDef;
use crate::{Config, EventKind, ProgId};

const HERE: CpuId = CpuId(0);
const THERE: CpuId = CpuId(1);
/// `map_update_elem`, `spin_lock`, `spin_unlock`, `map_pop_elem`, `ringbuf_reserve`.
const UPDATE: i32 = 2;
const SPIN_LOCK: i32 = 93;
const SPIN_UNLOCK: i32 = 94;
const POP: i32 = 88;
const RESERVE: i32 = 131;

fn hook(prog: u32) -> Frame {
    Frame::Hook { prog: ProgId(prog), ctx: 0, cookie: 0, free: 0 }
}

/// A kernel with a map, programs in progress on two CPUs, and keys 0.. in memory.
fn kernel(map_type: MapType, max_entries: u32) -> (Kernel, u64, u64) {
    let mut k = Kernel::new(Config::default());
    let key_size = if matches!(map_type, MapType::Queue | MapType::Ringbuf) { 0 } else { 4 };
    let value_size = if map_type == MapType::Ringbuf { 0 } else { 8 };
    let flags = 0;
    let def = MapDef { map_type, key_size, value_size, max_entries, flags, ..MapDef::default() };
    let id = k.map_create(def, None).unwrap();
    let keys = k.kzalloc(64, "keys").unwrap();
    (0..8).for_each(|n| k.mem.write_u32(keys + n * 4, n as u32).unwrap());
    for cpu in [HERE, THERE] {
        k.submit(cpu, hook(1 + cpu.0));
        assert!(matches!(k.next(cpu), Step::Enter(_)));
    }
    k.fine = true;
    let map = k.maps[&id].addr;
    (k, map, keys)
}

/// The inside of a kernel path at which a CPU stands.
fn at(k: &Kernel, cpu: CpuId) -> &'static str {
    match k.stand(cpu).and_then(|s| s.point) {
        Some(crate::context::Point::Inside { at, .. }) => at,
        _ => "",
    }
}

/// Until the CPU stands there.
fn to(k: &mut Kernel, cpu: CpuId, point: &str) {
    for _ in 0..50 {
        if at(k, cpu) == point {
            return;
        }
        k.catch_up(cpu);
        assert_eq!(k.next(cpu), Step::Pause);
    }
    panic!("no {point:?}");
}

/// The result of the call that a CPU is in.
fn result(k: &mut Kernel, cpu: CpuId, mut step: Step) -> Result<i64, FaultKind> {
    loop {
        match step {
            Step::Pause => {
                k.catch_up(cpu);
                step = k.next(cpu);
            }
            Step::Resume { r0 } => return Ok(r0 as i64),
            Step::Abort { fault, .. } => return Err(fault.kind),
            other => panic!("{other:?}"),
        }
    }
}

fn call(k: &mut Kernel, cpu: CpuId, id: i32, args: [u64; 5]) -> Result<i64, FaultKind> {
    let step = k.helper_call(cpu, id, args);
    result(k, cpu, step)
}

fn nmi(k: &mut Kernel) {
    k.interrupt(HERE, Level::Nmi, [hook(3)]);
    assert!(matches!(k.next(HERE), Step::Enter(_)));
}

fn kinds(k: &Kernel) -> Vec<DeadlockKind> {
    let kind = |e: &crate::Event| match &e.kind {
        EventKind::Deadlock { kind, .. } => Some(*kind),
        _ => None,
    };
    k.events.iter().filter_map(kind).collect()
}

const EDEADLK: i64 = -(Errno::EDEADLK as i64);
const ETIMEDOUT: i64 = -(Errno::ETIMEDOUT as i64);

#[test]
fn an_nmi_meets_the_bucket_lock_of_what_it_interrupted() {
    for (point, want, ms, kind) in [
        ("taken, not in the held table", ETIMEDOUT, 250, DeadlockKind::Timeout),
        ("in the critical section", EDEADLK, 1, DeadlockKind::Aa),
    ] {
        let (mut k, map, keys) = kernel(MapType::Hash, 1);
        let args = [map, keys, keys, 0, 0];
        assert_eq!(k.helper_call(HERE, UPDATE, args), Step::Pause);
        to(&mut k, HERE, point);
        let began = k.now(HERE);
        nmi(&mut k);
        assert_eq!(call(&mut k, HERE, UPDATE, args), Ok(want));
        assert_eq!((k.now(HERE) - began) / 1_000_000, ms);
        assert_eq!(kinds(&k), [kind]);
        // The interrupted update is done, and nothing is left.
        let step = k.prog_return(HERE, 0);
        assert_eq!(result(&mut k, HERE, step), Ok(0));
        assert_eq!(k.locks.queues.held(0).count(), 0);
        assert!(!k.locks_seen() || k.fine);
        assert_eq!(k.context(HERE), crate::context::Context::default());
        assert_eq!(call(&mut k, HERE, UPDATE, args), Ok(0));
    }
}

#[test]
fn keys_of_other_buckets_do_not_meet() {
    let (mut k, map, keys) = kernel(MapType::Hash, 64);
    let _ = k.helper_call(HERE, UPDATE, [map, keys, keys, 0, 0]);
    to(&mut k, HERE, "in the critical section");
    nmi(&mut k);
    // The elements come from one list of this CPU, whose lock is held: the other CPU's is used.
    assert_eq!(call(&mut k, HERE, UPDATE, [map, keys + 4, keys, 0, 0]), Ok(0));
    assert_eq!(kinds(&k), [DeadlockKind::Aa]);
    let step = k.prog_return(HERE, 0);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
}

#[test]
fn another_cpu_waits_for_the_bucket() {
    let (mut k, map, keys) = kernel(MapType::Hash, 1);
    let args = [map, keys, keys, 0, 0];
    let _ = k.helper_call(HERE, UPDATE, args);
    to(&mut k, HERE, "in the critical section");
    k.cpus[0].clock_ns += 500;
    let mut step = k.helper_call(THERE, UPDATE, args);
    while k.ready_at(THERE) == Some(k.now(THERE)) {
        step = k.next(THERE);
    }
    assert_eq!(step, Step::Pause);
    let step = k.next(HERE);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
    // It was woken at the time of the unlock.
    assert_eq!(k.ready_at(THERE), Some(k.now(HERE)));
    k.catch_up(THERE);
    let step = k.next(THERE);
    assert_eq!(result(&mut k, THERE, step), Ok(0));
    assert_eq!(kinds(&k), []);
}

#[test]
fn queues_and_rings_have_errors_of_their_own() {
    let (mut k, map, keys) = kernel(MapType::Queue, 4);
    let _ = k.helper_call(HERE, POP, [map, keys, 0, 0, 0]);
    to(&mut k, HERE, "in the critical section");
    nmi(&mut k);
    assert_eq!(call(&mut k, HERE, POP, [map, keys, 0, 0, 0]), Ok(-(Errno::EBUSY as i64)));
    let (mut k, map, _) = kernel(MapType::Ringbuf, 4096);
    let _ = k.helper_call(HERE, RESERVE, [map, 8, 0, 0, 0]);
    to(&mut k, HERE, "in the critical section");
    nmi(&mut k);
    assert_eq!(call(&mut k, HERE, RESERVE, [map, 8, 0, 0, 0]), Ok(0));
}

#[test]
fn an_lru_list_under_an_nmi_is_a_hard_lockup() {
    let (mut k, map, keys) = kernel(MapType::LruHash, 2);
    let _ = k.helper_call(HERE, UPDATE, [map, keys, keys, 0, 0]);
    to(&mut k, HERE, "taken");
    nmi(&mut k);
    match call(&mut k, HERE, UPDATE, [map, keys, keys, 0, 0]) {
        Err(FaultKind::Deadlock(why)) => assert!(why.contains("hard lockup"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(kinds(&k), [DeadlockKind::Aa]);
    // What it interrupted still has its locks, and goes on.
    let step = k.next(HERE);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
    assert!(k.locks.queues.words.none_held());
}

#[test]
fn plain_locks_in_opposite_order_are_found_at_once() {
    let (mut k, _, keys) = kernel(MapType::Hash, 1);
    k.fine = false;
    let (a, b) = (keys, keys + 32);
    k.mem.write_u32(a, 0).unwrap();
    k.mem.write_u32(b, 0).unwrap();
    assert_eq!(call(&mut k, HERE, SPIN_LOCK, [a, 0, 0, 0, 0]), Ok(0));
    assert_eq!(call(&mut k, THERE, SPIN_LOCK, [b, 0, 0, 0, 0]), Ok(0));
    assert_eq!(k.helper_call(HERE, SPIN_LOCK, [b, 0, 0, 0, 0]), Step::Pause);
    assert_eq!(k.spinning(), [(HERE, LockId::Word(b))]);
    let step = k.helper_call(THERE, SPIN_LOCK, [a, 0, 0, 0, 0]);
    assert!(matches!(result(&mut k, THERE, step), Err(FaultKind::Deadlock(_))));
    assert_eq!(kinds(&k), [DeadlockKind::Abba]);
    let (lock, report) =
        match &k.events.iter().find(|e| matches!(e.kind, EventKind::Deadlock { .. })).unwrap().kind
        {
            EventKind::Deadlock { lock, report, .. } => (lock.clone(), report.to_string()),
            _ => unreachable!(),
        };
    assert!(report.starts_with(&format!("ABBA deadlock on {lock}")), "{report}");
    assert_eq!(report.matches("wants").count(), 2, "{report}");
}

#[test]
fn a_waiter_that_is_cancelled_leaves_the_queue() {
    let (mut k, _, a) = kernel(MapType::Hash, 1);
    k.fine = false;
    k.mem.write_u32(a, 0).unwrap();
    assert_eq!(call(&mut k, HERE, SPIN_LOCK, [a, 0, 0, 0, 0]), Ok(0));
    assert!(k.context(HERE).irqs_off);
    assert_eq!(k.helper_call(THERE, SPIN_LOCK, [a, 0, 0, 0, 0]), Step::Pause);
    let _ = k.prog_fault(THERE, Fault::unsupported("a test"));
    assert_eq!((k.spinning(), k.mem.read_u32(a).unwrap()), (vec![], 1));
    assert_eq!(call(&mut k, HERE, SPIN_UNLOCK, [a, 0, 0, 0, 0]), Ok(0));
    assert_eq!(k.mem.read_u32(a).unwrap(), 0);
    assert_eq!(k.context(HERE), crate::context::Context::default());
}

#[test]
fn an_order_that_could_deadlock_is_told_and_one_that_did_is_not_told_again() {
    let (mut k, _, keys) = kernel(MapType::Hash, 1);
    k.fine = false;
    let locks = [keys, keys + 32];
    for order in [[0, 1], [1, 0]] {
        let both = order.map(|n: usize| locks[n]);
        for lock in both {
            k.mem.write_u32(lock, 0).unwrap();
            assert_eq!(call(&mut k, HERE, SPIN_LOCK, [lock, 0, 0, 0, 0]), Ok(0));
        }
        for lock in both.iter().rev() {
            assert_eq!(call(&mut k, HERE, SPIN_UNLOCK, [*lock, 0, 0, 0, 0]), Ok(0));
        }
    }
    let dangers = k.lock_dangers();
    let [Danger::Ring(edges)] = &dangers[..] else { panic!("{dangers:?}") };
    assert_eq!(edges.len(), 2);
    assert!(k.danger_text(&dangers[0]).starts_with("possible deadlock: locks are taken in a ring"));
    k.tell_lock_dangers();
    let Some(EventKind::LockOrder(order)) = k.events.last().map(|e| e.kind.clone()) else {
        panic!("no event")
    };
    assert_eq!((order.pairs.len(), order.level), (2, None));
    let failure = |holding| Failure {
        errno: Errno::EDEADLK,
        kind: DeadlockKind::Abba,
        holding: Some(LockId::Word(holding)),
        other: None,
    };
    k.deadlocked(HERE, LockId::Word(locks[0]), &failure(locks[1]), "bpf_spin_lock");
    assert_eq!(k.lock_dangers(), []);
}

#[test]
fn a_lock_above_both_keeps_a_ring_apart() {
    let (mut k, _, keys) = kernel(MapType::Hash, 1);
    k.fine = false;
    let locks = [keys, keys + 32, keys + 40];
    locks.iter().for_each(|l| k.mem.write_u32(*l, 0).unwrap());
    for order in [[2, 0, 1], [2, 1, 0]] {
        let all = order.map(|n: usize| locks[n]);
        for lock in all {
            assert_eq!(call(&mut k, HERE, SPIN_LOCK, [lock, 0, 0, 0, 0]), Ok(0));
        }
        for lock in all.iter().rev() {
            assert_eq!(call(&mut k, HERE, SPIN_UNLOCK, [*lock, 0, 0, 0, 0]), Ok(0));
        }
    }
    assert_eq!(k.lock_dangers(), []);
}

#[test]
fn without_anyone_who_looks_a_map_takes_no_lock() {
    let (mut k, map, keys) = kernel(MapType::Hash, 4);
    k.fine = false;
    assert_eq!(k.helper_call(HERE, UPDATE, [map, keys, keys, 0, 0]), Step::Resume { r0: 0 });
    assert_eq!(k.lock_dangers(), []);
}

/// Tracepoints so far: name and second argument.
fn told(k: &Kernel) -> Vec<(&'static str, i64)> {
    let point = |e: &crate::Event| match &e.kind {
        EventKind::Tracepoint { name, args } => match args[1] {
            crate::event::Value::Num(n) => Some((*name, n as i64)),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    k.events.iter().filter_map(point).collect()
}

fn watch(k: &mut Kernel) {
    for name in ["lock:contention_begin", "lock:contention_end"] {
        let (at, _) = crate::trace::tracepoint(name).unwrap();
        k.trace_watch(at);
    }
}

#[test]
fn who_waits_in_a_queue_tells_of_contention() {
    let (mut k, map, keys) = kernel(MapType::Hash, 1);
    watch(&mut k);
    let args = [map, keys, keys, 0, 0];
    let _ = k.helper_call(HERE, UPDATE, args);
    to(&mut k, HERE, "in the critical section");
    let mut step = k.helper_call(THERE, UPDATE, args);
    while k.ready_at(THERE) == Some(k.now(THERE)) {
        step = k.next(THERE);
    }
    assert_eq!((step, told(&k)), (Step::Pause, vec![]), "a pending waiter is in no queue");
    nmi(&mut k);
    assert_eq!(call(&mut k, HERE, UPDATE, args), Ok(EDEADLK));
    assert_eq!(told(&k), [("contention_begin", 1), ("contention_end", EDEADLK)]);
    let step = k.prog_return(HERE, 0);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
    k.catch_up(THERE);
    let step = k.next(THERE);
    assert_eq!(result(&mut k, THERE, step), Ok(0));
    assert_eq!(told(&k).len(), 2);
    assert!(k.locks.queues.words.none_held());
}

/// `timer_init`, `timer_cancel`.
const TIMER_INIT: i32 = 169;
const TIMER_CANCEL: i32 = 172;

/// A map whose only value begins with a timer.
fn with_timer(k: &mut Kernel) -> (u64, u64) {
    let def = MapDef {
        map_type: MapType::Array,
        key_size: 4,
        value_size: 16,
        max_entries: 1,
        timer_off: Some(0),
        ..MapDef::default()
    };
    let id = k.map_create(def, None).unwrap();
    let crate::maps::Kind::Array { values, .. } = k.maps[&id].kind else { panic!("an array") };
    (k.maps[&id].addr, values)
}

#[test]
fn a_timer_has_a_lock_of_its_own_and_none_for_an_nmi() {
    let (mut k, ..) = kernel(MapType::Hash, 1);
    let (map, at) = with_timer(&mut k);
    let _ = k.helper_call(HERE, TIMER_INIT, [at, map, 1, 0, 0]);
    to(&mut k, HERE, "in the critical section");
    assert_eq!(k.lock_holder(LockId::Word(at + 8)), Some(HERE));
    nmi(&mut k);
    let want = Ok(-(Errno::EOPNOTSUPP as i64));
    assert_eq!(call(&mut k, HERE, TIMER_INIT, [at, map, 1, 0, 0]), want);
    // The other CPU waits for the lock, and comes too late.
    let mut step = k.helper_call(THERE, TIMER_INIT, [at, map, 1, 0, 0]);
    while k.ready_at(THERE) == Some(k.now(THERE)) {
        step = k.next(THERE);
    }
    assert_eq!(step, Step::Pause);
    let step = k.prog_return(HERE, 0);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
    k.catch_up(THERE);
    let step = k.next(THERE);
    assert_eq!(result(&mut k, THERE, step), Ok(-(Errno::EBUSY as i64)));
    assert_eq!(k.mem.read_u32(at + 8).unwrap(), 0);
}

#[test]
fn who_cancels_a_timer_waits_for_its_callback() {
    let (mut k, ..) = kernel(MapType::Hash, 1);
    k.fine = false;
    let (map, at) = with_timer(&mut k);
    assert_eq!(call(&mut k, HERE, TIMER_INIT, [at, map, 1, 0, 0]), Ok(0));
    k.timer_callback(at, ProgId(1), 8).unwrap();
    let soon = k.now(HERE) + 10;
    k.timer_start(at, HERE, soon).unwrap();
    k.timers_expire(soon);
    assert!(matches!(k.next(HERE), Step::Enter(_)), "the callback runs");
    assert_eq!(call(&mut k, HERE, TIMER_CANCEL, [at, 0, 0, 0, 0]), Ok(EDEADLK));
    let began = k.now(THERE);
    assert_eq!(k.helper_call(THERE, TIMER_CANCEL, [at, 0, 0, 0, 0]), Step::Pause);
    assert!(!k.context(THERE).irqs_off && k.mem.read_u32(at + 8).unwrap() == 0);
    k.charge(HERE, 5000);
    let _ = k.prog_return(HERE, 0);
    k.catch_up(THERE);
    let step = k.next(THERE);
    assert_eq!(result(&mut k, THERE, step), Ok(0), "it was not armed again");
    assert!(k.now(THERE) >= began + 5000);
    assert_eq!(k.context(THERE), crate::context::Context::default());
}

#[test]
fn user_space_waits_for_the_locks_of_a_map_and_probes_are_missed_meanwhile() {
    let (mut k, map, keys) = kernel(MapType::Hash, 1);
    let id = k.map_at(map).unwrap();
    let put = |value: u8| crate::maps::MapCommand {
        map: id,
        key: vec![0; 4],
        value: Some(vec![value; 8]),
        flags: 0,
    };
    k.user_command(THERE, put(1)).unwrap();
    assert_eq!(k.user_lookup(id, &[0; 4]), Ok(vec![1; 8]), "nobody has the lock");
    let _ = k.helper_call(HERE, UPDATE, [map, keys, keys, 0, 0]);
    to(&mut k, HERE, "in the critical section");
    k.user_command(THERE, put(2)).unwrap();
    let mut step = k.prog_return(THERE, 0);
    while k.ready_at(THERE) == Some(k.now(THERE)) {
        step = k.next(THERE);
    }
    assert_eq!(step, Step::Pause);
    assert!(k.cpus[1].prog_active && k.context(THERE).irqs_off);
    let step = k.next(HERE);
    assert_eq!(result(&mut k, HERE, step), Ok(0));
    while k.next(THERE) != Step::Idle {
        k.catch_up(THERE);
    }
    assert_eq!(k.user_lookup(id, &[0; 4]), Ok(vec![2; 8]));
    assert!(!k.cpus[1].prog_active && k.locks.queues.words.none_held());
    assert_eq!(k.context(THERE), crate::context::Context::default());
}
