//! Which accesses are ordered, and which are not.

use super::*;
use crate::Config;

const WHO: Who = (None, "");

fn kernel() -> (Kernel, u64) {
    let mut k = Kernel::new(Config { races: true, cpus: 3, ..Config::default() });
    let at = k.kzalloc(64, "map element").unwrap();
    (k, at - crate::layout::DIRECT_MAP)
}

fn access(k: &mut Kernel, cpu: u32, phys: u64, len: u64, write: bool, atomic: bool) {
    // Each access is at a place of its own, or only the first pair would be told of.
    let at = Some((ProgId(1), InsnIdx(k.events.len() as u32 * 8 + cpu * 2 + u32::from(write))));
    let order = if atomic { Order::Relaxed } else { Order::Plain };
    k.race_access(CpuId(cpu), (phys, len), write, order, (at, ""));
}

#[test]
fn plain_accesses_race_when_one_is_a_write_and_bytes_meet() {
    for (second, write, races) in
        [((0, 8), true, 1), ((0, 8), false, 1), ((4, 4), false, 1), ((8, 8), true, 0)]
    {
        let (mut k, at) = kernel();
        access(&mut k, 0, at, 8, true, false);
        access(&mut k, 1, at + second.0, second.1, write, false);
        assert_eq!(k.races().len(), races, "{second:?} {write}");
    }
    let (mut k, at) = kernel();
    access(&mut k, 0, at, 8, false, false);
    access(&mut k, 1, at, 8, false, false);
    access(&mut k, 0, at + 12, 4, true, false);
    access(&mut k, 1, at + 8, 4, true, false);
    assert_eq!(k.races(), []);
}

#[test]
fn a_lock_orders_what_is_under_it() {
    let (mut k, at) = kernel();
    for cpu in [0, 1, 2, 0] {
        k.race_acquire(CpuId(cpu), &Sync::Lock(1));
        access(&mut k, cpu, at, 8, true, false);
        k.race_release(CpuId(cpu), Sync::Lock(1));
    }
    assert_eq!(k.races(), []);
    // Another lock does not.
    k.race_acquire(CpuId(1), &Sync::Lock(2));
    access(&mut k, 1, at, 8, false, false);
    let pairs: Vec<_> = k.races().iter().map(|r| (r.first.cpu.0, r.second.cpu.0)).collect();
    assert_eq!(pairs, [(2, 1), (0, 1)], "what they did since CPU 1 had the lock");
}

#[test]
fn atomics_race_with_plain_writes_alone() {
    for (plain_write, races) in [(true, 1), (false, 0)] {
        let (mut k, at) = kernel();
        access(&mut k, 0, at, 8, true, true);
        access(&mut k, 1, at, 8, true, true);
        access(&mut k, 2, at, 8, plain_write, false);
        // One for each of the two atomic operations, which are at two places.
        assert_eq!(k.races().len(), races * 2);
    }
}

/// A lock of the program's own: taken by an exchange, given back by a store.
#[test]
fn a_word_that_is_exchanged_orders_as_a_lock() {
    let (mut k, at) = kernel();
    let (swap, plain) = (0x1000, 0x2000);
    k.races.insns.insert(swap, (None, Order::Swap));
    k.races.insns.insert(plain, (None, Order::Plain));
    for cpu in [0, 1, 2, 0] {
        for write in [false, true] {
            k.race_native(CpuId(cpu), Native { pc: swap, phys: at, size: 4, write });
        }
        k.race_native(CpuId(cpu), Native { pc: plain, phys: at + 8, size: 8, write: true });
        k.race_native(CpuId(cpu), Native { pc: plain, phys: at, size: 4, write: true });
    }
    assert_eq!(k.races(), []);
}

#[test]
fn a_pair_of_places_is_told_of_once_and_new_objects_have_no_history() {
    let (mut k, at) = kernel();
    for cpu in [0, 1, 0, 1] {
        k.race_access(CpuId(cpu), (at, 8), true, Order::Plain, WHO);
    }
    assert_eq!(k.races().len(), 1);
    let (mut k, at) = kernel();
    access(&mut k, 0, at, 8, true, false);
    k.races.forget(at, 64);
    access(&mut k, 1, at, 8, true, false);
    assert_eq!(k.races(), []);
}
