//! Faults that can come about in a run, as an ordinary run has shown, and the order in which a
//! search tries them: none, each alone, then pairs.

use std::collections::BTreeMap;

use kernel_model::context::{Level, Point};
use kernel_model::{CpuId, fault};

use crate::machine::Machine;

/// A fault that the search adds.
#[derive(Clone, Debug)]
pub struct Injection {
    /// For the kernel.
    pub kind: fault::Kind,
    /// Occasion, from 1.
    pub nth: u64,
    /// As a scenario writes it.
    pub ron: String,
}

/// Failures that helpers have, which a program has to expect: the helper, and what it returns.
#[rustfmt::skip]
const CALLS: &[(&str, &str, i64)] = &[
    ("map_lookup_elem", "NULL", 0),
    ("map_update_elem", "ENOMEM", -12),
    ("map_delete_elem", "ENOENT", -2),
    ("map_push_elem", "E2BIG", -7),
    ("map_pop_elem", "ENOENT", -2),
    ("map_peek_elem", "ENOENT", -2),
    ("ringbuf_reserve", "NULL", 0),
    ("ringbuf_output", "EAGAIN", -11),
    ("perf_event_output", "ENOSPC", -28),
    ("probe_read_kernel", "EFAULT", -14),
    ("probe_read_kernel_str", "EFAULT", -14),
    ("probe_read_user", "EFAULT", -14),
    ("probe_read_user_str", "EFAULT", -14),
    ("copy_from_user", "EFAULT", -14),
    ("skb_store_bytes", "EFAULT", -14),
    ("skb_load_bytes", "EFAULT", -14),
    ("skb_pull_data", "ENOMEM", -12),
    ("skb_change_head", "ENOMEM", -12),
    ("skb_change_tail", "ENOMEM", -12),
    ("skb_adjust_room", "ENOMEM", -12),
    ("skb_vlan_push", "ENOMEM", -12),
    ("clone_redirect", "ENOMEM", -12),
    ("xdp_adjust_head", "EINVAL", -22),
    ("xdp_adjust_meta", "EINVAL", -22),
    ("xdp_adjust_tail", "EINVAL", -22),
    ("sk_lookup_tcp", "NULL", 0),
    ("sk_lookup_udp", "NULL", 0),
    ("skc_lookup_tcp", "NULL", 0),
    ("sk_storage_get", "NULL", 0),
    ("task_storage_get", "NULL", 0),
    ("cgrp_storage_get", "NULL", 0),
    ("inode_storage_get", "NULL", 0),
    ("get_stackid", "EEXIST", -17),
    ("get_stack", "EFAULT", -14),
    ("timer_start", "EINVAL", -22),
    ("send_signal", "EBUSY", -16),
];

/// Interrupts of one program and level: more occasions than this are tried evenly spread.
const INTERRUPTS_MAX: u64 = 2048;
/// How much later than asked a timer fires, in nanoseconds: shorter and longer than most runs of
/// programs.
const LATE: [u64; 2] = [1_000, 1_000_000];

/// The faults of an ordinary run that counted them and stood at these points.
pub(super) fn of(m: &Machine, points: &[Point]) -> Vec<Injection> {
    let mut out = allocations(m);
    out.extend(calls(points));
    out.extend(pages_and_timers(m));
    out.extend(rings(m));
    out.extend(interrupts(m, points));
    out
}

/// Each by its number, and each by its number among those of its kind: under another schedule
/// these are not the same ones.
fn allocations(m: &Machine) -> Vec<Injection> {
    let alloc = |site: Option<&str>, nth| {
        let named = site.map_or(String::new(), |s| format!(", site: {s:?}"));
        let ron = format!("Alloc(nth: {nth}{named})");
        let site = site.map(str::to_owned);
        Injection { kind: fault::Kind::Alloc { site, prog: None, chance: None }, nth, ron }
    };
    let sites: Vec<_> = m.kernel.faults.noted().filter(|(kind, ..)| *kind == "alloc").collect();
    // A refill has to be named: it is no program's.
    let own = sites.iter().filter(|(_, site, _)| *site != fault::REFILL);
    let all: u64 = own.map(|(.., n)| n).sum();
    let by_number = (1..=all).map(|nth| alloc(None, nth));
    let by_site = sites.iter().filter(|(.., n)| sites.len() > 1 || *n < all);
    let by_site = by_site.flat_map(|(_, site, n)| (1..=*n).map(|nth| alloc(Some(*site), nth)));
    by_number.chain(by_site).collect()
}

fn calls(points: &[Point]) -> Vec<Injection> {
    let mut out = Vec::new();
    for (func, ret, value) in CALLS {
        let called = |p: &&Point| matches!(p, Point::Call { func: f, .. } if f == func);
        for nth in 1..=points.iter().filter(called).count() as u64 {
            let ron = format!("Call(func: \"bpf_{func}\", nth: {nth}, ret: {ret})");
            let func = func.to_string();
            let kind = fault::Kind::Call { func, prog: None, ret: value.cast_unsigned() };
            out.push(Injection { kind, nth, ron });
        }
    }
    out
}

fn pages_and_timers(m: &Machine) -> Vec<Injection> {
    let mut out = Vec::new();
    for (kind, what, times) in m.kernel.faults.noted() {
        let page = what.parse::<u64>().ok().filter(|_| kind == "user_page");
        for nth in 1..=times {
            if let Some(addr) = page {
                let ron = format!("UserPage(addr: {addr:#x}, nth: {nth})");
                out.push(Injection { kind: fault::Kind::UserPage { addr }, nth, ron });
            }
            if kind == "timer_late" {
                out.extend(LATE.map(|by| {
                    let ron = format!("TimerLate(by: \"{by}ns\", nth: {nth})");
                    Injection { kind: fault::Kind::TimerLate { by }, nth, ron }
                }));
            }
        }
    }
    out
}

/// A receive ring is full for the whole run, or for one half of it.
fn rings(m: &Machine) -> Vec<Injection> {
    let end = m.kernel.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0) + 1;
    let boot = m.config().kernel.clock_ns.min(end);
    let half = boot + (end - boot) / 2;
    let mut out = Vec::new();
    for (_, what, _) in m.kernel.faults.noted().filter(|(kind, ..)| *kind == "ring_full") {
        let nic = what.parse().ok().and_then(|i| Some((i, m.kernel.net.nics.get(&i)?)));
        let Some((ifindex, nic)) = nic else { continue };
        for (from, to) in [(boot, half), (half, end), (boot, end)] {
            let ron = format!(
                "RingFull(nic: {:?}, from: \"{}ns\", to: \"{}ns\")",
                nic.config.name,
                from - boot,
                to - boot
            );
            out.push(Injection { kind: fault::Kind::RingFull { ifindex, from, to }, nth: 1, ron });
        }
    }
    out
}

/// Interrupts and NMIs on each CPU, at the counted points of each program and inside the kernel
/// paths that it calls.
fn interrupts(m: &Machine, points: &[Point]) -> Vec<Injection> {
    let mut passed: BTreeMap<_, u64> = BTreeMap::new();
    for point in points {
        let inside = match point {
            Point::Inside { func, at, .. } => Some(format!("{func}: {at}")),
            _ => None,
        };
        if let Some(prog) = point.prog() {
            *passed.entry((inside, prog)).or_default() += 1;
        }
    }
    let cpus = m.config().kernel.cpus;
    let mut out = Vec::new();
    for ((inside, prog), points) in passed {
        let name = m.kernel.prog(prog).map_or("", kernel_model::Prog::name);
        let at = inside.as_ref().map_or(String::new(), |at| format!(", inside: {at:?}"));
        let all = u64::from(cpus) * points;
        let step = usize::try_from(all.div_ceil(INTERRUPTS_MAX)).unwrap_or(usize::MAX);
        let places = (0..cpus).flat_map(|c| (1..=points).map(move |n| (c, n)));
        for (cpu, nth) in places.step_by(step.max(1)) {
            for (level, what) in [(Level::Nmi, "Nmi"), (Level::Hard, "Irq")] {
                let ron = format!("{what}(cpu: {cpu}, safepoint: {nth}, prog: {name:?}{at})");
                let (cpu, inside) = (CpuId(cpu), inside.clone());
                let kind = fault::Kind::Interrupt { level, cpu, line: 0, prog, inside };
                out.push(Injection { kind, nth, ron });
            }
        }
    }
    out
}

/// Pairs that are tried after all single faults, and again after each round of them.
const PAIRS: u64 = 512;

/// Sets of faults until each fault was tried alone, and some pairs.
pub(super) fn round(faults: u64) -> u64 {
    faults + pairs_of(faults).min(PAIRS)
}

fn pairs_of(faults: u64) -> u64 {
    faults * faults.saturating_sub(1) / 2
}

/// The faults of run `n` of those that have some: each alone, then some pairs; then each alone
/// again, and the next pairs, until every pair has had its turn.
pub(super) fn chosen(menu: &[Injection], n: u64) -> Vec<Injection> {
    let singles = menu.len() as u64;
    let (all, each) = (pairs_of(singles), round(singles));
    let (pairs, round, at) = (each - singles, n / each, n % each);
    if at < singles {
        return vec![menu[at as usize].clone()];
    }
    let (a, b) = pair((round * pairs + at - singles) % all, all);
    vec![menu[a as usize].clone(), menu[b as usize].clone()]
}

/// The `n`-th pair `a < b` of all of them, in an order that does not begin with those of the first
/// fault alone.
fn pair(n: u64, all: u64) -> (u64, u64) {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let stride = (all * 5 / 8 + 1..).find(|s| gcd(*s, all) == 1).unwrap_or(1);
    let n = (u128::from(n) * u128::from(stride) % u128::from(all)) as u64;
    // `b * (b - 1) / 2` pairs have a greater one below `b`.
    let mut b = (n * 2).isqrt() + 1;
    while b * (b - 1) / 2 > n {
        b -= 1;
    }
    (n - b * (b - 1) / 2, b)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_has_its_turn_once() {
        for faults in 2..40u64 {
            let all = faults * (faults - 1) / 2;
            let pairs: BTreeSet<(u64, u64)> = (0..all).map(|n| pair(n, all)).collect();
            assert_eq!(pairs.len() as u64, all, "{faults}");
            assert!(pairs.iter().all(|(a, b)| a < b && *b < faults));
        }
    }

    #[test]
    fn each_fault_is_tried_alone_before_any_pair() {
        let kind = fault::Kind::UserPage { addr: 0 };
        let one = |nth| Injection { kind: kind.clone(), nth, ron: nth.to_string() };
        let menu: Vec<Injection> = (1..=5).map(one).collect();
        let names = |n| chosen(&menu, n).iter().map(|i| i.ron.clone()).collect::<Vec<_>>();
        assert_eq!((0..5).map(names).collect::<Vec<_>>().concat(), ["1", "2", "3", "4", "5"]);
        assert!((5..15).all(|n| names(n).len() == 2));
        assert_eq!(names(15), ["1"]);
        let alone = [one(1)];
        assert_eq!(chosen(&alone, 7).len(), 1);
    }
}
