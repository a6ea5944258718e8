//! `orrery fuzz maps`: random sequences of map commands through bpf(2), on the modelled kernel in
//! both byte orders and, with `--host`, on the kernel of this machine: every errno and every byte
//! read back has to be the same.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bpf::insn::generate::Rng;
use bpf::uapi::attr::{MapCreate, MapElem};
use bpf::uapi::fields::Struct;
use bpf::uapi::{Cmd, MapType};
use bpf::{Arch, Endian};
use kernel_model::syscall::{UserSpace, Why};
use kernel_model::{Config, Kernel};

use super::super::{Exit, out};
use super::jit::seconds;
use crate::host::HostKernel;
use crate::loader::Bpf as _;

/// Bytes of a value on one CPU.
const VALUE: usize = 8;
/// Operations of a sequence at most.
const OPS: u32 = 40;
/// Keys that are used: more than a map has room for.
const KEYS: u32 = 6;
const ENTRIES: u32 = 4;
/// How often progress is said.
const EVERY: Duration = Duration::from_secs(5);
const BPF_F_NO_PREALLOC: u32 = 1;

/// Types, with the size of a key and flags. Full maps of type lru evict by CPU: they have room.
const TYPES: &[(MapType, u32, u32, u32)] = &[
    (MapType::Hash, 4, ENTRIES, 0),
    (MapType::Hash, 4, ENTRIES, BPF_F_NO_PREALLOC),
    (MapType::Array, 4, ENTRIES, 0),
    (MapType::PercpuHash, 4, ENTRIES, 0),
    (MapType::PercpuArray, 4, ENTRIES, 0),
    (MapType::LruHash, 4, 4096, 0),
    (MapType::LpmTrie, 8, ENTRIES, BPF_F_NO_PREALLOC),
    (MapType::Queue, 0, ENTRIES, 0),
    (MapType::Stack, 0, ENTRIES, 0),
];

/// Arguments.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// First seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Stop after so much time: 90s, 10m, 2h
    #[arg(long, value_name = "T", value_parser = seconds, default_value = "60s")]
    time: Duration,
    /// Stop after so many sequences
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Ask the kernel of this machine, too
    #[arg(long)]
    host: bool,
}

/// A command on the one map there is.
#[derive(Clone, Copy, Debug)]
enum Op {
    Lookup(u32),
    LookupAndDelete(u32),
    Update(u32, u64, u64),
    Delete(u32),
    /// All keys, by `BPF_MAP_GET_NEXT_KEY`.
    Keys,
    Freeze,
}

/// Whoever answers.
enum Side {
    Model(Box<Kernel>),
    Host(Box<HostKernel>),
}

impl Side {
    fn name(&self) -> String {
        match self {
            Side::Model(k) => format!("model {}", k.config.arch),
            Side::Host(_) => "this kernel".to_owned(),
        }
    }

    fn endian(&self) -> Endian {
        match self {
            Side::Model(k) => k.config.arch.endian(),
            Side::Host(_) => Endian::Little,
        }
    }

    fn cpus(&self) -> usize {
        match self {
            Side::Model(k) => k.config.cpus as usize,
            Side::Host(h) => h.cpus() as usize,
        }
    }

    fn call<S: Struct>(&mut self, cmd: Cmd, s: &S, user: &mut UserSpace) -> Result<i32, String> {
        let mut attr = s.encode(self.endian());
        match self {
            Side::Host(h) => h.command(cmd, &mut attr, user).map_err(|e| e.name().to_owned()),
            Side::Model(k) => k.bpf(cmd as u32, &mut attr, user).map_err(|e| match e.why {
                Why::Unsupported(what) => format!("unsupported: {what}"),
                _ => e.errno.name().to_owned(),
            }),
        }
    }

    fn close(&mut self, fd: i32) {
        match self {
            Side::Host(h) => h.close(fd),
            // It was made here and is closed once.
            Side::Model(k) => k.sys_close(fd).unwrap_or_default(),
        }
    }

    /// A number in this kernel's byte order; a prefix of all bits before it where it is asked for.
    fn key(&self, n: u32, size: u32) -> Vec<u8> {
        let word = |v: u32| match self.endian() {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        };
        match size {
            0 => Vec::new(),
            4 => word(n).to_vec(),
            // Prefixes of /30 to /35 (the last are too long) of one address.
            _ => [word(30 + n).to_vec(), vec![10, 0, 0, n as u8]].concat(),
        }
    }

    /// What a sequence comes to, command by command.
    fn play(&mut self, ty: usize, ops: &[Op]) -> Vec<String> {
        let (map_type, key_size, max_entries, map_flags) = TYPES[ty];
        let (map_type, value_size) = (map_type as u32, VALUE as u32);
        let a = MapCreate {
            map_type,
            key_size,
            value_size,
            max_entries,
            map_flags,
            ..MapCreate::default()
        };
        match self.call(Cmd::MapCreate, &a, &mut UserSpace::new()) {
            Ok(fd) => {
                let said = ops.iter().map(|op| self.one(fd, ty, *op)).collect();
                self.close(fd);
                said
            }
            Err(e) => vec![format!("no map: {e}")],
        }
    }

    fn one(&mut self, fd: i32, ty: usize, op: Op) -> String {
        let (map_type, key_size, ..) = TYPES[ty];
        let percpu = matches!(map_type, MapType::PercpuHash | MapType::PercpuArray);
        let size = VALUE * if percpu { self.cpus() } else { 1 };
        let mut user = UserSpace::new();
        let key = |side: &Side, user: &mut UserSpace, n| user.put(&side.key(n, key_size));
        let map_fd = fd.cast_unsigned();
        let (cmd, key, value, flags) = match op {
            Op::Keys => return self.keys(fd, key_size),
            Op::Lookup(n) => (Cmd::MapLookupElem, key(self, &mut user, n), user.room(size), 0),
            Op::LookupAndDelete(n) => {
                let key = key(self, &mut user, n);
                (Cmd::MapLookupAndDeleteElem, key, user.room(size), 0)
            }
            Op::Update(n, v, flags) => {
                let value = user.put(&v.to_be_bytes().repeat(size / VALUE));
                (Cmd::MapUpdateElem, key(self, &mut user, n), value, flags)
            }
            Op::Delete(n) => (Cmd::MapDeleteElem, key(self, &mut user, n), 0, 0),
            Op::Freeze => (Cmd::MapFreeze, 0, 0, 0),
        };
        let a = MapElem { map_fd, key, value, flags };
        match self.call(cmd, &a, &mut user) {
            Ok(_) if matches!(op, Op::Lookup(_) | Op::LookupAndDelete(_)) => {
                // One CPU's is that of all: they were written together.
                format!("{:02x?}", &user.bytes(value)[..VALUE])
            }
            Ok(_) => "ok".to_owned(),
            Err(e) => e,
        }
    }

    /// The keys, sorted: the order of a hash is its kernel's own.
    fn keys(&mut self, fd: i32, key_size: u32) -> String {
        let (mut last, mut found) = (None, BTreeSet::new());
        for _ in 0..=KEYS {
            let mut user = UserSpace::new();
            let key = last.as_ref().map_or(0, |k: &Vec<u8>| user.put(k));
            let value = user.room(key_size.max(4) as usize);
            let a = MapElem { map_fd: fd.cast_unsigned(), key, value, flags: 0 };
            if let Err(e) = self.call(Cmd::MapGetNextKey, &a, &mut user) {
                return format!("{found:?} {e}");
            }
            let bytes = user.bytes(value).to_vec();
            let is = |n: &u32| self.key(*n, key_size) == bytes;
            found.insert((0..KEYS).find(is));
            last = Some(bytes);
        }
        format!("{found:?} and more")
    }
}

fn sequence(seed: u64) -> (usize, Vec<Op>) {
    let mut rng = Rng(seed ^ 0x006d_6170);
    let ty = rng.below(TYPES.len() as u32) as usize;
    let ops = (0..1 + rng.below(OPS)).map(|_| op(&mut rng)).collect();
    (ty, ops)
}

fn op(rng: &mut Rng) -> Op {
    let key = rng.below(KEYS);
    match rng.below(16) {
        0..=3 => Op::Lookup(key),
        4 => Op::LookupAndDelete(key),
        5..=10 => {
            let flags = if rng.one_in(2) { 0 } else { rng.pick(&[1, 2, 3, 4, 8, 1 << 32]) };
            Op::Update(key, rng.imm64(), flags)
        }
        11 | 12 => Op::Delete(key),
        13 | 14 => Op::Keys,
        _ if rng.one_in(4) => Op::Freeze,
        _ => Op::Lookup(key),
    }
}

/// The first command that two sides answer differently, in words.
fn apart(sides: &mut [Side], ty: usize, ops: &[Op]) -> Option<String> {
    let said: Vec<Vec<String>> = sides.iter_mut().map(|s| s.play(ty, ops)).collect();
    let differs = |at: &usize| said.iter().any(|s| s.get(*at) != said[0].get(*at));
    let at = (0..ops.len()).find(differs)?;
    let mut text = format!("{:?}, flags {}\n", TYPES[ty].0, TYPES[ty].3);
    ops[..=at].iter().for_each(|op| text += &format!("  {op:?}\n"));
    for (side, said) in sides.iter().zip(&said) {
        text += &format!("{}: {}\n", side.name(), said.get(at).map_or("-", String::as_str));
    }
    Some(text)
}

/// The sequence without the commands that are not needed for a difference.
fn shrunk(sides: &mut [Side], ty: usize, mut ops: Vec<Op>) -> Vec<Op> {
    let mut at = ops.len();
    while at > 0 {
        at -= 1;
        let mut fewer = ops.clone();
        fewer.remove(at);
        if apart(sides, ty, &fewer).is_some() {
            ops = fewer;
        }
    }
    ops
}

pub(super) fn run(args: &Args) -> Exit {
    let host = match args.host.then(HostKernel::open).transpose() {
        Ok(host) => host,
        Err(e) => {
            out::error(&format!("the kernel of this machine: {e}"), "leave out --host");
            return Exit::BadInput;
        }
    };
    let cpus = host.as_ref().map_or(2, crate::loader::Bpf::cpus);
    let model =
        |arch| Side::Model(Box::new(Kernel::new(Config { arch, cpus, ..Config::default() })));
    let mut sides = vec![model(Arch::X86_64), model(Arch::S390x)];
    sides.extend(host.map(|h| Side::Host(Box::new(h))));
    let (began, mut said) = (Instant::now(), Instant::now());
    let (mut seed, mut commands, mut differ) = (args.seed, 0u64, 0u64);
    let text = |seed: u64, commands: u64, differ: u64| {
        let s = began.elapsed().as_secs_f64();
        let rate = commands as f64 / s.max(0.001);
        format!(
            "seeds {} to {}: {commands} commands on each of {} kernels in {s:.0} s ({rate:.0}/s); \
             {differ} differ",
            args.seed,
            seed.saturating_sub(1),
            2 + u32::from(args.host)
        )
    };
    while began.elapsed() < args.time && args.count.is_none_or(|n| seed - args.seed < n) {
        let (ty, ops) = sequence(seed);
        commands += ops.len() as u64;
        if apart(&mut sides, ty, &ops).is_some() {
            differ += 1;
            let small = shrunk(&mut sides, ty, ops);
            let what = apart(&mut sides, ty, &small).unwrap_or_default();
            out::line(&format!("seed {seed}: {what}"));
        }
        seed += 1;
        if said.elapsed() >= EVERY {
            said = Instant::now();
            eprintln!("{}", text(seed, commands, differ));
        }
    }
    out::line(&text(seed, commands, differ));
    if differ > 0 { Exit::NotMet } else { Exit::Ok }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_agree() {
        let model = |arch| Side::Model(Box::new(Kernel::new(Config { arch, ..Config::default() })));
        let mut sides = [model(Arch::X86_64), model(Arch::S390x)];
        for seed in 0..60 {
            let (ty, ops) = sequence(seed);
            assert_eq!(apart(&mut sides, ty, &ops), None, "seed {seed}");
        }
    }
}
