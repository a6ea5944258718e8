//! Sets of CPUs (kernel/bpf/cpumask.c).

use super::{KfuncRow, row};
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::ledger::Kind;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_cpumask_create", 0, create),
    row("bpf_cpumask_acquire", 1, acquire),
    row("bpf_cpumask_release", 1, release),
    row("bpf_cpumask_first", 1, |k, _, a| first(k, a[0], a[0], false)),
    row("bpf_cpumask_first_zero", 1, |k, _, a| first(k, a[0], a[0], true)),
    row("bpf_cpumask_first_and", 2, |k, _, a| first(k, a[0], a[1], false)),
    row("bpf_cpumask_set_cpu", 2, |k, _, a| change(k, a, true)),
    row("bpf_cpumask_clear_cpu", 2, |k, _, a| change(k, a, false)),
    row("bpf_cpumask_test_cpu", 2, test_cpu),
    row("bpf_cpumask_test_and_set_cpu", 2, |k, _, a| change(k, a, true)),
    row("bpf_cpumask_test_and_clear_cpu", 2, |k, _, a| change(k, a, false)),
    row("bpf_cpumask_setall", 1, |k, _, a| fill(k, a[0], !0)),
    row("bpf_cpumask_clear", 1, |k, _, a| fill(k, a[0], 0)),
    row("bpf_cpumask_and", 3, |k, _, a| combine(k, a, |x, y| x & y)),
    row("bpf_cpumask_or", 3, |k, _, a| combine(k, a, |x, y| x | y)),
    row("bpf_cpumask_xor", 3, |k, _, a| combine(k, a, |x, y| x ^ y)),
    row("bpf_cpumask_equal", 2, |k, _, a| ask(k, a, |x, y, m| (x ^ y) & m == 0)),
    row("bpf_cpumask_intersects", 2, intersects),
    row("bpf_cpumask_subset", 2, |k, _, a| ask(k, a, |x, y, m| x & !y & m == 0)),
    row("bpf_cpumask_empty", 1, |k, _, a| ask(k, twice(a), |x, _, m| x & m == 0)),
    row("bpf_cpumask_full", 1, |k, _, a| ask(k, twice(a), |x, _, m| x & m == m)),
    row("bpf_cpumask_copy", 2, |k, _, a| combine(k, [a[0], a[1], a[1], 0, 0], |x, _| x)),
    row("bpf_cpumask_any_distribute", 1, |k, c, a| distribute(k, c, a[0], a[0])),
    row("bpf_cpumask_any_and_distribute", 2, |k, c, a| distribute(k, c, a[0], a[1])),
    row("bpf_cpumask_weight", 1, weight),
    row("bpf_cpumask_populate", 3, populate),
];

/// `sizeof(cpumask_t) / sizeof(long)`.
const WORDS: u64 = 4;

type Words = [u64; WORDS as usize];

fn twice(a: [u64; 5]) -> [u64; 5] {
    [a[0], a[0], 0, 0, 0]
}

fn done(r: Result<u64, Fault>) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

fn words(k: &Kernel, at: u64) -> Result<Words, Fault> {
    let mut out = [0; WORDS as usize];
    for (i, w) in out.iter_mut().enumerate() {
        *w = k.mem.read_u64(at + i as u64 * 8)?;
    }
    Ok(out)
}

fn put(k: &mut Kernel, at: u64, w: Words) -> Result<(), Fault> {
    for (i, w) in w.iter().enumerate() {
        k.mem.write_u64(at + i as u64 * 8, *w)?;
    }
    Ok(())
}

/// The bits that are CPUs (`small_cpumask_bits`).
fn possible(k: &Kernel) -> Words {
    let mut out = [0; WORDS as usize];
    for cpu in 0..k.config.cpus as usize {
        out[cpu / 64] |= 1 << (cpu % 64);
    }
    out
}

impl Kernel {
    /// One reference less; memory goes after a grace period.
    pub(super) fn cpumask_put(&mut self, mask: u64) -> Result<(), Fault> {
        let usage = mask + u64::from(field!("bpf_cpumask", "usage").off);
        let left = self.mem.read_u32(usage)?.wrapping_sub(1);
        self.mem.write_u32(usage, left)?;
        if left == 0 {
            self.rcu_free(mask, "bpf_cpumask_release", crate::rcu::RCU_CHAIN);
        }
        Ok(())
    }
}

fn create(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    let Ok(mask) = k.kzalloc(crate::size!("bpf_cpumask"), "bpf_cpumask") else {
        return Ret::Val(0);
    };
    k.set(mask, field!("bpf_cpumask", "usage"), 1);
    k.prog_holds(cpu, Kind::Object, mask, "bpf_cpumask_create");
    Ret::Val(mask)
}

fn acquire(k: &mut Kernel, cpu: CpuId, [mask, ..]: [u64; 5]) -> Ret {
    let usage = field!("bpf_cpumask", "usage");
    let now = k.get(mask, usage);
    k.set(mask, usage, now + 1);
    k.prog_holds(cpu, Kind::Object, mask, "bpf_cpumask_acquire");
    Ret::Val(mask)
}

fn release(k: &mut Kernel, _: CpuId, [mask, ..]: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Object, mask);
    done(k.cpumask_put(mask).map(|()| 0))
}

/// The first CPU of both sets (or the first that is in neither); the number of CPUs for none.
fn first(k: &Kernel, a: u64, b: u64, zero: bool) -> Ret {
    let find = || -> Result<u64, Fault> {
        let (a, b, all) = (words(k, a)?, words(k, b)?, possible(k));
        let has = |cpu: &u32| {
            let (i, bit) = (*cpu as usize / 64, 1 << (cpu % 64));
            let inside = a[i] & b[i] & bit != 0;
            all[i] & bit != 0 && inside != zero
        };
        Ok((0..k.config.cpus).find(has).unwrap_or(k.config.cpus).into())
    };
    done(find())
}

/// Sets or clears a CPU's bit; what it was. A number that is no CPU's is passed over.
fn change(k: &mut Kernel, [cpu, mask, ..]: [u64; 5], to: bool) -> Ret {
    let cpu = cpu as u32;
    if cpu >= k.config.cpus {
        return Ret::Val(0);
    }
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let mut w = words(k, mask)?;
        let (i, bit) = (cpu as usize / 64, 1 << (cpu % 64));
        let was = w[i] & bit != 0;
        w[i] = if to { w[i] | bit } else { w[i] & !bit };
        put(k, mask, w)?;
        Ok(was.into())
    };
    done(run(k))
}

fn test_cpu(k: &mut Kernel, _: CpuId, [cpu, mask, ..]: [u64; 5]) -> Ret {
    let cpu = cpu as u32;
    if cpu >= k.config.cpus {
        return Ret::Val(0);
    }
    done(words(k, mask).map(|w| w[cpu as usize / 64] >> (cpu % 64) & 1))
}

fn fill(k: &mut Kernel, mask: u64, word: u64) -> Ret {
    done(put(k, mask, [word; WORDS as usize]).map(|()| 0))
}

/// Combines two sets; whether any CPU is in the result.
fn combine(k: &mut Kernel, [to, a, b, ..]: [u64; 5], op: fn(u64, u64) -> u64) -> Ret {
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let (a, b, all) = (words(k, a)?, words(k, b)?, possible(k));
        let w: Words = std::array::from_fn(|i| op(a[i], b[i]));
        put(k, to, w)?;
        Ok(u64::from(w.iter().zip(all).any(|(w, m)| w & m != 0)))
    };
    done(run(k))
}

/// Whether something holds of all words.
fn ask(k: &Kernel, [a, b, ..]: [u64; 5], holds: fn(u64, u64, u64) -> bool) -> Ret {
    let run = || -> Result<u64, Fault> {
        let (a, b, all) = (words(k, a)?, words(k, b)?, possible(k));
        Ok((0..WORDS as usize).all(|i| holds(a[i], b[i], all[i])).into())
    };
    done(run())
}

fn intersects(k: &mut Kernel, _: CpuId, a: [u64; 5]) -> Ret {
    match ask(k, a, |x, y, m| x & y & m == 0) {
        Ret::Val(apart) => Ret::Val(1 - apart),
        other => other,
    }
}

/// The next CPU after the one that was given last, around the end.
fn distribute(k: &mut Kernel, cpu: CpuId, a: u64, b: u64) -> Ret {
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let (a, b) = (words(k, a)?, words(k, b)?);
        let (n, last) = (k.config.cpus, k.cpus[cpu.idx()].distributed);
        let has = |c: &u32| {
            let i = *c as usize / 64;
            (a[i] & b[i]) >> (c % 64) & 1 != 0
        };
        let found = (1..=n).map(|i| (last + i) % n).find(has);
        if let Some(c) = found {
            k.cpus[cpu.idx()].distributed = c;
        }
        Ok(found.unwrap_or(n).into())
    };
    done(run(k))
}

fn weight(k: &mut Kernel, _: CpuId, [mask, ..]: [u64; 5]) -> Ret {
    let all = possible(k);
    let count = |w: Words| w.iter().zip(all).map(|(w, m)| u64::from((w & m).count_ones())).sum();
    done(words(k, mask).map(count))
}

/// From memory of the program, whole words of all CPUs.
fn populate(k: &mut Kernel, _: CpuId, [mask, src, size, ..]: [u64; 5]) -> Ret {
    let bytes = u64::from(k.config.cpus).div_ceil(64) * 8;
    if size < bytes {
        return Ret::Val(Errno::EACCES.ret());
    }
    if !src.is_multiple_of(8) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let all = possible(k);
        let mut w = words(k, mask)?;
        for (i, w) in w.iter_mut().enumerate().take(bytes as usize / 8) {
            *w = k.mem.read_u64(src + i as u64 * 8)? & all[i];
        }
        put(k, mask, w)?;
        Ok(0)
    };
    done(run(k))
}
