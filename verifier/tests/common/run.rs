//! Accepted programs in the reference interpreter: nothing they do is outside what they may.
//!
//! Memory is the stack, the values of array maps and the context, each in its own place; what is
//! accessed outside of them is a fault.

use std::ops::Range;
use std::sync::Arc;

use bpf::Endian;
use bpf::btf::Kind;
use bpf::insn::{Imm64, InsnIdx, Size};
use bpf::interp::{Exit, Fault, Host, Vm};

use super::case::Case;

const STACK: Range<u64> = 0x7000_0000..0x7000_1000;
const CTX: Range<u64> = 0x1000_0000..0x1000_0200;
/// Values of map `i` begin at `VALUES + i * STRIDE`.
const VALUES: u64 = 0x10_0000_0000;
const STRIDE: u64 = 0x1_0000_0000;
/// What a program sees as the address of map `i`.
const HANDLES: u64 = 0x5_0000_0000;

const LOOKUP: i32 = 1;
const PRANDOM: i32 = 7;
const LOOP: i32 = 181;

/// Memory, and numbers that depend on a seed.
struct Memory<'a> {
    case: &'a Case,
    stack: Vec<u8>,
    ctx: Vec<u8>,
    values: Vec<Vec<u8>>,
    random: u64,
}

impl Memory<'_> {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn at(&mut self, addr: u64, size: u64, write: bool) -> Result<&mut [u8], Fault> {
        let bad = Fault::BadAddress { addr, size: size as u32, write };
        let (base, bytes) = if STACK.contains(&addr) {
            (STACK.start, &mut self.stack)
        } else if CTX.contains(&addr) && !write {
            (CTX.start, &mut self.ctx)
        } else {
            let map = addr.checked_sub(VALUES).map(|a| a / STRIDE).ok_or(bad)?;
            let values = self.values.get_mut(map as usize).ok_or(bad)?;
            (VALUES + map * STRIDE, values)
        };
        let from = (addr - base) as usize;
        bytes.get_mut(from..from + size as usize).ok_or(bad)
    }

    fn lookup(&mut self, map: u64, key: u64) -> Result<u64, Fault> {
        let index = self.load(key, Size::W)?;
        let m = (map - HANDLES) as usize;
        let info = &self.case.env.maps[m];
        let found = index < u64::from(info.max_entries);
        let at = VALUES + m as u64 * STRIDE + index * u64::from(info.value_size);
        Ok(if found { at } else { 0 })
    }

    /// `bpf_iter_num_*`: the number before the next one, and the end.
    fn kfunc(&mut self, name: &str, args: [u64; 5]) -> Result<u64, Fault> {
        let (it, start, end) = (args[0], args[1], args[2]);
        match name {
            "bpf_iter_num_new" => {
                let empty = start as i32 >= end as i32;
                let (cur, end) = if empty { (0, 0) } else { (start.wrapping_sub(1), end) };
                self.store(it, Size::W, cur)?;
                self.store(it + 4, Size::W, end)?;
                Ok(0)
            }
            "bpf_iter_num_next" => {
                let (cur, end) = (self.load(it, Size::W)?, self.load(it + 4, Size::W)?);
                let next = (cur as i32).wrapping_add(1);
                if next >= end as i32 {
                    self.store(it, Size::W, end)?;
                    return Ok(0);
                }
                self.store(it, Size::W, u64::from(next as u32))?;
                Ok(it)
            }
            "bpf_iter_num_destroy" => Ok(0),
            _ => Err(Fault::Unsupported("a kfunc of the cases")),
        }
    }
}

impl Host for Memory<'_> {
    fn endian(&self) -> Endian {
        Endian::Little
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let mut value = [0; 8];
        let bytes = self.at(addr, size.bytes().into(), false)?;
        value[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(value))
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), Fault> {
        let bytes = self.at(addr, size.bytes().into(), true)?;
        let n = bytes.len();
        bytes.copy_from_slice(&value.to_le_bytes()[..n]);
        Ok(())
    }

    fn packet(&mut self, _: u64, _: i32, size: Size) -> Result<Option<u64>, Fault> {
        Ok(Some(self.next() & (u64::MAX >> (64 - 8 * size.bytes()))))
    }

    fn imm64(&mut self, at: InsnIdx, imm: &Imm64) -> Result<u64, Fault> {
        match *imm {
            Imm64::Func(off) => Ok((i64::from(at.0) + 1 + i64::from(off)).cast_unsigned()),
            Imm64::MapFd(fd) | Imm64::MapIdx(fd) => Ok(HANDLES + fd as u64),
            Imm64::MapValue { fd: m, off } | Imm64::MapIdxValue { idx: m, off } => {
                Ok(VALUES + m as u64 * STRIDE + u64::from(off))
            }
            _ => Err(Fault::Unsupported("an unresolved ld_imm64")),
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It returned, after so many instructions.
    Returned(u64),
    /// The fuel was used up.
    OutOfFuel,
    /// It did what it may not.
    Fault(InsnIdx, Fault),
}

/// Runs a program with everything it cannot know taken from a seed.
pub(crate) fn run(case: &Case, seed: u64, fuel: u64) -> Ran {
    let bytes = |m: &verifier::env::MapInfo| (m.value_size * m.max_entries) as usize;
    let values: Vec<Vec<u8>> = case.env.maps.iter().map(|m| vec![0; bytes(m)]).collect();
    let (stack, ctx) = (vec![0; 0x1000], vec![0; 0x200]);
    let mut host = Memory { case, stack, ctx, values, random: seed };
    for i in 0..host.ctx.len() {
        host.ctx[i] = host.next() as u8;
    }
    for m in 0..host.values.len() {
        for i in 0..host.values[m].len() {
            host.values[m][i] = host.next() as u8;
        }
    }
    let code: Arc<[_]> = case.program.insns.clone().into();
    let mut vm = Vm::new(code, [CTX.start, 0, 0, 0, 0], STACK, fuel);
    // Calls of `bpf_loop`: trips done, trips, function, its context.
    let mut loops: Vec<(u64, u64, usize, u64)> = Vec::new();
    loop {
        let at = InsnIdx(vm.pc as u32);
        let fault = match vm.run(&mut host) {
            Exit::Return(_) => return Ran::Returned(vm.retired),
            Exit::OutOfFuel => return Ran::OutOfFuel,
            Exit::Fault { at, fault } => return Ran::Fault(at, fault),
            Exit::Helper { id: LOOKUP, args } => {
                host.lookup(args[0], args[1]).map(|r| vm.resume(r)).err()
            }
            Exit::Helper { id: PRANDOM, .. } => {
                vm.resume(u64::from(host.next() as u32));
                None
            }
            Exit::Helper { id: LOOP, args } => {
                loops.push((0, args[0], args[1] as usize, args[2]));
                next_trip(&mut vm, &mut loops, 0)
            }
            Exit::Callback(r0) => next_trip(&mut vm, &mut loops, r0),
            Exit::Helper { .. } => Some(Fault::Unsupported("a helper of the cases")),
            Exit::Kfunc { btf_id, args, .. } => {
                let name = case.env.btf.name(btf_id.cast_unsigned()).to_owned();
                debug_assert!(case.env.btf.find(&name, Kind::Func).is_some());
                host.kfunc(&name, args).map(|r| vm.resume(r)).err()
            }
        };
        if let Some(fault) = fault {
            return Ran::Fault(at, fault);
        }
    }
}

/// Enters the callback of the innermost `bpf_loop` again, or returns from the helper.
fn next_trip(vm: &mut Vm, loops: &mut Vec<(u64, u64, usize, u64)>, r0: u64) -> Option<Fault> {
    let (done, trips, func, ctx) = loops.last_mut()?;
    if *done >= *trips || r0 != 0 {
        let done = *done;
        loops.pop();
        vm.resume(done);
        return None;
    }
    let index = *done;
    *done += 1;
    vm.call(*func, [index, *ctx, 0, 0, 0]).err()
}
