//! Open-coded iterators over numbers, bits and mappings of a task (kernel/bpf/bpf_iter.c,
//! helpers.c, task_iter.c).

use super::{KfuncRow, row};
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::layout::KERNEL_HALF;
use crate::mem::MemFault;
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_iter_num_new", 3, num_new),
    row("bpf_iter_num_next", 1, num_next),
    row("bpf_iter_num_destroy", 1, num_destroy),
    row("bpf_iter_bits_new", 3, bits_new),
    row("bpf_iter_bits_next", 1, bits_next),
    row("bpf_iter_bits_destroy", 1, bits_destroy),
    row("bpf_iter_task_vma_new", 3, task_vma_new),
    row("bpf_iter_task_vma_next", 1, task_vma_next),
    row("bpf_iter_task_vma_destroy", 1, task_vma_destroy),
];

/// `BPF_MAX_LOOPS`.
const MAX_LOOPS: i64 = 1 << 23;
/// `BITS_ITER_NR_WORDS_MAX`.
const WORDS_MAX: u32 = 511;

fn get(k: &Kernel, at: u64, f: Field) -> Result<i32, MemFault> {
    k.mem.read_u32(at + u64::from(f.off)).map(u32::cast_signed)
}

fn put(k: &mut Kernel, at: u64, f: Field, v: i32) -> Result<(), MemFault> {
    k.mem.write_u32(at + u64::from(f.off), v.cast_unsigned())
}

fn set_num(k: &mut Kernel, it: u64, cur: i32, end: i32) -> Result<(), MemFault> {
    put(k, it, field!("bpf_iter_num_kern", "cur"), cur)?;
    put(k, it, field!("bpf_iter_num_kern", "end"), end)
}

fn num_new(k: &mut Kernel, _: CpuId, [it, start, end, ..]: [u64; 5]) -> Ret {
    let (start, end) = (start as i32, end as i32);
    let (cur, end, ret) = if start > end {
        (0, 0, Errno::EINVAL.ret())
    } else if i64::from(end) - i64::from(start) > MAX_LOOPS {
        (0, 0, Errno::E2BIG.ret())
    } else {
        (start.wrapping_sub(1), end, 0)
    };
    set_num(k, it, cur, end).map_or_else(|f| Ret::Fault(f.into()), |()| Ret::Val(ret))
}

fn num_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let (cur, end) = (
            get(k, it, field!("bpf_iter_num_kern", "cur"))?,
            get(k, it, field!("bpf_iter_num_kern", "end"))?,
        );
        let cur = cur.wrapping_add(1);
        if cur >= end {
            set_num(k, it, 0, 0)?;
            return Ok(0);
        }
        put(k, it, field!("bpf_iter_num_kern", "cur"), cur)?;
        Ok(it + u64::from(field!("bpf_iter_num_kern", "cur").off))
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn num_destroy(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    set_num(k, it, 0, 0).map_or_else(|f| Ret::Fault(f.into()), |()| Ret::Val(0))
}

/// Words as 64-bit numbers, in the machine's order.
fn bits_new(k: &mut Kernel, _: CpuId, [it, from, words, ..]: [u64; 5]) -> Ret {
    let words = words as u32;
    let make = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        let bits = it + u64::from(field!("bpf_iter_bits_kern", "bits").off);
        k.mem.write_u64(bits, 0)?;
        put(k, it, field!("bpf_iter_bits_kern", "nr_bits"), 0)?;
        put(k, it, field!("bpf_iter_bits_kern", "bit"), -1)?;
        if from == 0 || words == 0 {
            return Ok(Err(Errno::EINVAL));
        }
        if words > WORDS_MAX {
            return Ok(Err(Errno::E2BIG));
        }
        let read = (from >= KERNEL_HALF).then(|| k.mem.read_vec(from, words as usize * 8).ok());
        // One word is copied apart, with an error of its own.
        let refused = if words == 1 || from >= KERNEL_HALF { Errno::EFAULT } else { Errno::ERANGE };
        let Some(bytes) = read.flatten() else { return Ok(Err(refused)) };
        if words == 1 {
            k.mem.write(bits, &bytes)?;
        } else {
            let Ok(copy) = k.kzalloc(u64::from(words) * 8, "bpf_iter_bits") else {
                return Ok(Err(Errno::ENOMEM));
            };
            k.mem.write(copy, &bytes)?;
            k.mem.write_u64(bits, copy)?;
        }
        put(k, it, field!("bpf_iter_bits_kern", "nr_bits"), words.cast_signed() * 64)?;
        Ok(Ok(0))
    };
    make(k).map_or_else(Ret::Fault, Ret::from)
}

fn bits_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let (nr, at) =
            (field!("bpf_iter_bits_kern", "nr_bits"), field!("bpf_iter_bits_kern", "bit"));
        let (nr, mut bit) = (get(k, it, nr)?, get(k, it, at)?);
        if bit >= nr {
            return Ok(0);
        }
        let inline = it + u64::from(field!("bpf_iter_bits_kern", "bits").off);
        let words = if nr == 64 { inline } else { k.mem.read_u64(inline)? };
        bit += 1;
        while bit < nr {
            let word = k.mem.read_u64(words + bit.unsigned_abs() as u64 / 64 * 8)?;
            let rest = word >> (bit % 64);
            if rest != 0 {
                bit += rest.trailing_zeros().cast_signed();
                break;
            }
            bit = (bit / 64 + 1) * 64;
        }
        put(k, it, at, bit.min(nr))?;
        Ok(if bit < nr { it + u64::from(at.off) } else { 0 })
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn bits_destroy(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let end = |k: &mut Kernel| -> Result<u64, Fault> {
        if get(k, it, field!("bpf_iter_bits_kern", "nr_bits"))? > 64 {
            let copy = k.mem.read_u64(it + u64::from(field!("bpf_iter_bits_kern", "bits").off))?;
            k.kfree(copy, "bpf_iter_bits");
        }
        Ok(0)
    };
    end(k).map_or_else(Ret::Fault, Ret::Val)
}

/// `struct bpf_iter_task_vma_kern_data` in bytes.
const TASK_VMA_BYTES: u64 = 40;

/// Reads under `mmap_lock` from here to `destroy`.
fn task_vma_new(k: &mut Kernel, cpu: CpuId, [it, task, addr, ..]: [u64; 5]) -> Ret {
    let new = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        k.mem.write_u64(it, 0)?;
        let Ok(data) = k.kzalloc(TASK_VMA_BYTES, "bpf_iter_task_vma") else {
            return Ok(Err(Errno::ENOMEM));
        };
        match k.mmap_read(cpu, task, "bpf_iter_task_vma_new") {
            Ok(read) => {
                k.task_get(task);
                k.mem.write_u64(it, data)?;
                k.mem.write_u64(data, task)?;
                k.sched.vma_iters.insert(data, (read, addr));
                Ok(Ok(0))
            }
            Err(e) => {
                k.kfree(data, "bpf_iter_task_vma");
                Ok(Err(e))
            }
        }
    };
    new(k).map_or_else(Ret::Fault, Ret::from)
}

fn task_vma_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let data = k.mem.read_u64(it)?;
        let Some((read, from)) = k.sched.vma_iters.get(&data).copied() else { return Ok(0) };
        let Some((range, vma)) = k.vma_from(read.mm, from) else { return Ok(0) };
        k.sched.vma_iters.insert(data, (read, range.end));
        Ok(vma)
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn task_vma_destroy(k: &mut Kernel, cpu: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let end = |k: &mut Kernel| -> Result<u64, Fault> {
        let data = k.mem.read_u64(it)?;
        if let Some((read, _)) = k.sched.vma_iters.remove(&data) {
            let task = k.mem.read_u64(data)?;
            k.mmap_read_end(cpu, read);
            k.task_put(task);
            k.kfree(data, "bpf_iter_task_vma");
        }
        Ok(0)
    };
    end(k).map_or_else(Ret::Fault, Ret::Val)
}
