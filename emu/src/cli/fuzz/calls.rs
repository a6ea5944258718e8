//! Models of helpers and kfuncs: memory they are given is used as their prototype says, and what
//! they return is any value the verifier allows.

use std::collections::BTreeMap;

use bpf::Program;
use bpf::uapi::MapType;
use verifier::env::MapInfo;
use verifier::proto::{ArgBase, ArgType, Flags, FuncProto, RetBase};
use verifier::tables;

use super::memory::{Bad, Kind, Memory};
use super::sound::About;

/// Iterations of a callback or an iterator: the verifier allows any number.
const ROUNDS: u32 = 4;
/// Nothing larger fits into a ring buffer.
const RINGBUF_BYTES: u64 = 4096;
/// `EINVAL` and `E2BIG`, negative.
const EINVAL: u64 = -22i64 as u64;
const E2BIG: u64 = -7i64 as u64;

/// What a call comes to.
pub(super) enum Reply {
    /// It returns.
    Value(u64),
    /// It calls a function of the program first.
    Callback { pc: u64, args: [u64; 5] },
    /// The run ends here: success of a tail call, or something there is no model of.
    Stop,
}

/// A callback that goes on.
struct Loop {
    pc: u64,
    ctx: u64,
    /// Arguments before the context.
    rounds: Vec<Vec<u64>>,
    done: u64,
}

/// An open dynptr.
#[derive(Clone, Copy)]
struct Dynptr {
    data: u64,
    size: u64,
    record: bool,
}

/// The kernel, as far as random programs see it.
pub(super) struct Kernel<'a> {
    pub(super) memory: Memory,
    program: &'a Program,
    about: About<'a>,
    /// Handle of each map, and its values.
    handles: Vec<(u64, Vec<u64>)>,
    keys: BTreeMap<u32, u64>,
    loops: Vec<Loop>,
    dynptrs: BTreeMap<u64, Dynptr>,
    iters: BTreeMap<u64, u32>,
    /// Records that must be given back, locks and regions that must be left.
    pub(super) held: i64,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(mut memory: Memory, program: &'a Program, about: About<'a>) -> Kernel<'a> {
        let mut handles = Vec::new();
        let mut keys = BTreeMap::new();
        for m in about.maps {
            let handle = memory.add(Kind::Map(m.id), 0, 256, false);
            let sized = m.value_size as usize;
            let n = match m.map_type {
                MapType::Array | MapType::PercpuArray => m.max_entries.min(4),
                MapType::Ringbuf | MapType::ProgArray => 0,
                _ => 2,
            };
            let values = (0..n).map(|_| memory.add(Kind::Value(m.id), 0, sized, true)).collect();
            handles.push((handle, values));
            keys.insert(m.id, memory.add(Kind::Key(m.id), 0, m.key_size as usize, false));
        }
        Kernel {
            memory,
            program,
            about,
            handles,
            keys,
            loops: Vec::new(),
            dynptrs: BTreeMap::new(),
            iters: BTreeMap::new(),
            held: 0,
        }
    }

    /// `struct bpf_map` of a map by its index.
    pub(super) fn handle(&self, index: usize) -> Option<u64> {
        self.handles.get(index).map(|h| h.0)
    }

    /// The address of the only value of a map.
    pub(super) fn value(&self, index: usize) -> Option<u64> {
        self.handles.get(index).and_then(|h| h.1.first().copied())
    }

    fn map(&self, handle: u64) -> Option<usize> {
        self.handles.iter().position(|h| h.0 == handle)
    }

    fn any(&mut self) -> u64 {
        self.memory.rng.imm64()
    }

    /// A helper call.
    pub(super) fn helper(&mut self, id: i32, args: [u64; 5]) -> Result<Reply, Bad> {
        let Some(p) = tables::helper_for(id, self.program.prog_type) else {
            return Ok(Reply::Stop);
        };
        let map = self.map(args[0]);
        for i in 0..5 {
            let size = if i < 4 { args[i + 1] } else { 0 };
            if !self.argument(&p.args[i], args[i], size, map)? {
                return Ok(Reply::Stop);
            }
        }
        self.effect(id, p, args, map)
    }

    /// Uses an argument; false when there is no model of its kind.
    fn argument(
        &mut self,
        a: &ArgType,
        value: u64,
        size: u64,
        map: Option<usize>,
    ) -> Result<bool, Bad> {
        use ArgBase as A;
        let writes = a.flags.any(Flags::MEM_UNINIT.or(Flags::MEM_WRITE));
        let null = value == 0 && a.flags.has(Flags::PTR_MAYBE_NULL);
        let of_map = |f: fn(&MapInfo) -> u32| map.map(|m| u64::from(f(&self.about.maps[m])));
        let len = match a.base {
            A::PtrToMapKey => of_map(|m| m.key_size),
            A::PtrToMapValue => of_map(|m| m.value_size),
            A::PtrToMem if a.size != 0 => Some(u64::from(a.size)),
            A::PtrToMem => Some(size),
            A::DontCare | A::Anything | A::ConstMapPtr | A::ConstSize | A::ConstSizeOrZero => {
                return Ok(true);
            }
            A::ConstAllocSizeOrZero | A::PtrToFunc | A::PtrToStack | A::PtrToSpinLock => {
                return Ok(true);
            }
            A::PtrToDynptr | A::PtrToRingbufMem | A::PtrToCtx => return Ok(true),
            _ => return Ok(false),
        };
        let Some(len) = len else { return Ok(false) };
        if null || len == 0 {
            return Ok(true);
        }
        if writes {
            let seed = self.memory.rng.next_u64();
            self.memory.bytes(value, len, true)?.fill(seed as u8);
        } else {
            let bytes = self.memory.bytes(value, len, false)?.to_vec();
            let mut words = bytes.chunks_exact(8);
            let word = |w: &[u8]| u64::from_le_bytes(w.try_into().unwrap_or_default());
            if self.about.secret && words.any(|w| self.memory.is_address(word(w))) {
                return Err(Bad { addr: value, size: len, write: false });
            }
        }
        Ok(true)
    }

    // tidy: flat match
    fn effect(
        &mut self,
        id: i32,
        p: &FuncProto,
        args: [u64; 5],
        map: Option<usize>,
    ) -> Result<Reply, Bad> {
        let [a0, a1, a2, ..] = args;
        let rng = &mut self.memory.rng;
        let value = match id {
            // bpf_map_lookup_elem
            1 => match map {
                Some(m) => self.lookup(m, a1)?,
                None => return Ok(Reply::Stop),
            },
            // bpf_get_smp_processor_id
            8 => u64::from(rng.below(self.about.cpus)),
            // bpf_tail_call
            12 if rng.one_in(2) => return Ok(Reply::Stop),
            // bpf_probe_read_str, bpf_get_stack and their kin
            45 | 67 | 114 | 115 => {
                let size = if id == 67 { a2 } else { a1 };
                if rng.one_in(3) { EINVAL } else { u64::from(rng.below(size as u32 + 1)) }
            }
            // bpf_spin_lock, bpf_spin_unlock
            93 | 94 => {
                self.held += if id == 93 { 1 } else { -1 };
                self.any()
            }
            // bpf_ringbuf_reserve
            131 if a1 > RINGBUF_BYTES || rng.one_in(3) => 0,
            131 => {
                self.held += 1;
                self.memory.add(Kind::Mem, 0, a1 as usize, true)
            }
            // bpf_ringbuf_submit, bpf_ringbuf_discard
            132 | 133 => {
                self.held -= 1;
                if !self.memory.free(a0) {
                    return Err(Bad { addr: a0, size: 0, write: true });
                }
                self.any()
            }
            // bpf_for_each_map_elem, bpf_loop
            164 | 181 => return Ok(self.begin(id, args)),
            197..=203 => return self.dynptr(id, args),
            _ => match p.ret.base {
                RetBase::Integer | RetBase::Void => self.any(),
                _ => return Ok(Reply::Stop),
            },
        };
        if p.changes_pkt_data && id != 12 {
            self.memory.new_packet();
        }
        Ok(Reply::Value(value))
    }

    /// `bpf_map_lookup_elem`: of an array by its key, of others by chance.
    fn lookup(&mut self, map: usize, key: u64) -> Result<u64, Bad> {
        let info = &self.about.maps[map];
        let values = self.handles[map].1.clone();
        let array = matches!(info.map_type, MapType::Array | MapType::PercpuArray);
        if array {
            let key = self.memory.number(key, 4)?;
            let found = key < u64::from(info.max_entries);
            let n = values.len().max(1) as u64;
            return Ok(if found {
                values.get((key % n) as usize).copied().unwrap_or(0)
            } else {
                0
            });
        }
        let n = self.memory.rng.below(values.len() as u32 + 1) as usize;
        Ok(values.get(n).copied().unwrap_or(0))
    }

    fn begin(&mut self, id: i32, args: [u64; 5]) -> Reply {
        let [a0, a1, a2, a3, _] = args;
        let n = self.memory.rng.below(ROUNDS);
        let (pc, ctx, rounds) = if id == 181 {
            if a3 != 0 {
                return Reply::Value(EINVAL);
            }
            let n = u64::from(n).min(a0 & 0xffff_ffff);
            (a1, a2, (0..n).map(|i| vec![i]).collect::<Vec<_>>())
        } else {
            let Some(map) = self.map(a0).filter(|_| a3 == 0) else {
                return Reply::Value(EINVAL);
            };
            let key = self.keys[&self.about.maps[map].id];
            let values = self.handles[map].1.iter().take(n as usize);
            (a1, a2, values.map(|v| vec![a0, key, *v]).collect())
        };
        self.loops.push(Loop { pc, ctx, rounds, done: 0 });
        self.next_round()
    }

    fn next_round(&mut self) -> Reply {
        let Some(l) = self.loops.last_mut() else { return Reply::Stop };
        let at = l.done as usize;
        match l.rounds.get(at) {
            Some(first) => {
                l.done += 1;
                let mut args = [0; 5];
                args[..first.len()].copy_from_slice(first);
                args[first.len()] = l.ctx;
                Reply::Callback { pc: l.pc, args }
            }
            None => {
                let done = l.done;
                self.loops.pop();
                Reply::Value(done)
            }
        }
    }

    /// A callback returned.
    pub(super) fn returned(&mut self, r0: u64) -> Reply {
        if r0 != 0 {
            let done = self.loops.pop().map_or(0, |l| l.done);
            return Reply::Value(done);
        }
        self.next_round()
    }

    fn dynptr(&mut self, id: i32, args: [u64; 5]) -> Result<Reply, Bad> {
        let [a0, a1, a2, a3, _] = args;
        let small = 1 << 20;
        let value = match id {
            // bpf_dynptr_from_mem
            197 => {
                let made = a1 <= small && a2 == 0;
                let d = Dynptr { data: a0, size: a1, record: false };
                let none = Dynptr { data: 0, size: 0, record: false };
                self.dynptrs.insert(a3, if made { d } else { none });
                if made { 0 } else { E2BIG }
            }
            // bpf_ringbuf_reserve_dynptr
            198 => {
                self.held += 1;
                let made = a1 & 0xffff_ffff <= RINGBUF_BYTES && !self.memory.rng.one_in(3);
                let size = if made { a1 & 0xffff_ffff } else { 0 };
                let data =
                    if made { self.memory.add(Kind::Mem, 0, size as usize, true) } else { 0 };
                self.dynptrs.insert(a3, Dynptr { data, size, record: true });
                if made { 0 } else { EINVAL }
            }
            // bpf_ringbuf_submit_dynptr, bpf_ringbuf_discard_dynptr
            199 | 200 => {
                let Some(d) = self.dynptrs.remove(&a0).filter(|d| d.record) else {
                    return Err(Bad { addr: a0, size: 16, write: true });
                };
                self.held -= 1;
                self.memory.free(d.data);
                self.any()
            }
            // bpf_dynptr_read, bpf_dynptr_write
            201 | 202 => {
                let at = if id == 201 { a2 } else { a0 };
                if !self.dynptrs.contains_key(&at) {
                    return Err(Bad { addr: at, size: 16, write: false });
                }
                if self.memory.rng.one_in(2) { 0 } else { E2BIG }
            }
            // bpf_dynptr_data
            _ => {
                let d = self.dynptrs.get(&a0).copied();
                let Some(d) = d else { return Err(Bad { addr: a0, size: 16, write: false }) };
                let (off, len) = (a1 & 0xffff_ffff, a2 & 0xffff_ffff);
                if d.data != 0 && off + len <= d.size { d.data + off } else { 0 }
            }
        };
        Ok(Reply::Value(value))
    }

    /// A kfunc call.
    pub(super) fn kfunc(&mut self, btf_id: i32, args: [u64; 5]) -> Result<Reply, Bad> {
        let bad = Bad { addr: args[0], size: 8, write: true };
        let name = self.about.btf.name(btf_id.cast_unsigned());
        let value = match name {
            "bpf_iter_num_new" => {
                let (from, to) = (args[1] as i32, args[2] as i32);
                let n = i64::from(to) - i64::from(from);
                let made = (0..=i64::from(1 << 23)).contains(&n);
                let n = if made { n.min(i64::from(ROUNDS)) as u32 } else { 0 };
                self.iters.insert(args[0], n);
                if made { 0 } else { EINVAL }
            }
            "bpf_iter_num_next" => {
                let left = self.iters.get_mut(&args[0]).ok_or(bad)?;
                if *left == 0 {
                    0
                } else {
                    *left -= 1;
                    self.memory.add(Kind::Mem, 0, 4, false)
                }
            }
            "bpf_iter_num_destroy" => {
                self.iters.remove(&args[0]).ok_or(bad)?;
                self.any()
            }
            "bpf_rcu_read_lock" | "bpf_preempt_disable" => {
                self.held += 1;
                self.any()
            }
            "bpf_rcu_read_unlock" | "bpf_preempt_enable" => {
                self.held -= 1;
                self.any()
            }
            _ => return Ok(Reply::Stop),
        };
        Ok(Reply::Value(value))
    }

    /// Nothing that was opened is open.
    pub(super) fn is_clean(&self) -> bool {
        self.held == 0 && self.iters.is_empty()
    }

    /// A value that leaves the program says nothing of addresses, where it must not.
    pub(super) fn keeps_secret(&self, value: u64) -> bool {
        !(self.about.secret && self.memory.is_address(value))
    }
}
