//! Speed of the parts: verifier, JIT, reference interpreter, maps. `cargo bench -p tests`.
//!
//! What a user sees from outside (cold replay, instructions and packets a second, against peers) is
//! `orrery bench`; these show which part a change made slower.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bpf::insn::generate::{Options, program};
use bpf::insn::{Insn, Size};
use bpf::uapi::{MapType, ProgType};
use bpf::{Arch, Endian, Program, interp};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use emu::loader::{self, Bpf, LoadOptions, MapCreate};
use kernel_model::sched::{Op, Script, TaskConfig};
use kernel_model::types::Types;
use kernel_model::{Config, CpuId, Kernel};
use verifier::testing::{Assume, bare_program};
use verifier::{Options as VerifyOptions, verify_report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every little-endian object of the library, by name.
fn objects() -> Vec<(String, Vec<u8>)> {
    let root = tests::root().join("scenarios/library");
    let (mut todo, mut found) = (vec![root], Vec::new());
    while let Some(dir) = todo.pop() {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                todo.push(path);
            } else if let Some(stem) = name.strip_suffix(".el.bpf.o")
                && let Ok(bytes) = std::fs::read(&path)
            {
                found.push((stem.to_owned(), bytes));
            }
        }
    }
    found.sort();
    found
}

/// A kernel with an object's maps and programs in it.
fn loaded(bytes: &[u8]) -> Option<(Kernel, Vec<Arc<verifier::Verified>>)> {
    let mut kernel = Kernel::new(Config { arch: Arch::X86_64, ..Config::default() });
    let opts = LoadOptions { keep_going: true, ..LoadOptions::default() };
    let types = Types::of(Arch::X86_64).btf();
    loader::load(&mut kernel, types, Endian::Little, bytes, &opts).ok()?;
    let programs = kernel.progs.values().map(|p| Arc::clone(&p.verified)).collect();
    Some((kernel, programs))
}

fn verifier(c: &mut Criterion) {
    let mut group = c.benchmark_group("verifier");
    for (name, text) in [("loop of 60,000", LOOP), ("branches", BRANCHES)] {
        let insns = bpf::insn::asm::assemble_insns(text).expect("it assembles");
        let p: Program = bare_program("bench", ProgType::Xdp, insns);
        let kernel = Kernel::new(Config::default());
        let report = verify_report(p.clone(), &kernel, &VerifyOptions::default());
        assert!(report.result.is_ok(), "{name}: {}", report.log);
        group.throughput(Throughput::Elements(report.stats.insns_processed.into()));
        group.bench_function(name, |b| {
            b.iter(|| black_box(verify_report(p.clone(), &kernel, &VerifyOptions::default())));
        });
    }
    group.finish();
}

const LOOP: &str = "r0 = 1\nr1 = 10000\nloop: r0 += 7\nr0 *= 3\nr0 ^= r1\nr0 >>= 1\nr1 += -1\n\
    if r1 != 0 goto loop\nexit\n";

/// Sixteen branches on unknown bits that meet again each time.
const BRANCHES: &str = "r2 = *(u32 *)(r1 +0)\nr3 = *(u32 *)(r1 +4)\nr4 = r2\nr4 += 20\nr0 = 0\n\
    if r4 > r3 goto out\nr5 = *(u32 *)(r2 +0)\nr0 = 0\n\
    if r5 & 1 goto +1\nr0 += 1\nif r5 & 2 goto +1\nr0 += 2\nif r5 & 4 goto +1\nr0 += 4\n\
    if r5 & 8 goto +1\nr0 += 8\nif r5 & 16 goto +1\nr0 += 16\nif r5 & 32 goto +1\nr0 += 32\n\
    if r5 & 64 goto +1\nr0 += 64\nif r5 & 128 goto +1\nr0 += 128\nr0 &= 1\nout: exit\n";

/// A CPU with tasks that only give it up, for ever.
fn yielding(tasks: u32) -> Kernel {
    let mut k = Kernel::new(Config { cpus: 1, memory_bytes: 256 << 20, ..Config::default() });
    let script = Arc::new(Script { ops: vec![Op::Yield], times: None });
    for n in 0..tasks {
        let config = TaskConfig {
            name: format!("task.{n}").into(),
            comm: "task".into(),
            script: Arc::clone(&script),
            cpus: Vec::new(),
            nice: 0,
            weight: None,
            cgroup: String::new(),
            start_ns: Some(0),
        };
        k.task_add(&config).expect("memory for tasks");
    }
    k.timers_expire(k.now(CpuId(0)));
    k
}

/// Context switches: what one costs may not depend on how many tasks there are.
fn tasks(c: &mut Criterion) {
    let mut group = c.benchmark_group("tasks");
    const STEPS: u64 = 10_000;
    group.throughput(Throughput::Elements(STEPS));
    for n in [10, 1000, 10_000] {
        let mut k = yielding(n);
        group.bench_function(BenchmarkId::new("switch", n), |b| {
            b.iter(|| {
                for _ in 0..STEPS {
                    black_box(k.next(CpuId(0)));
                }
                k.events.clear();
            });
        });
    }
    group.finish();
}

fn jit(c: &mut Criterion) {
    let programs: Vec<_> =
        objects().iter().filter_map(|(_, b)| loaded(b)).flat_map(|l| l.1).collect();
    let slots: usize = programs.iter().map(|p| p.len()).sum();
    let mut group = c.benchmark_group("jit");
    group.throughput(Throughput::Elements(slots as u64));
    for arch in Arch::ALL {
        group.bench_function(BenchmarkId::new("library", arch), |b| {
            b.iter(|| {
                programs.iter().map(|p| black_box(jit::compile(p, arch)).code.len()).sum::<usize>()
            });
        });
    }
    let insns = program(1, Options { len: 20_000, subprogs: 4, ..Options::default() });
    let p = bare_program("bench", ProgType::Xdp, insns.clone());
    let big = Assume::new(p, insns).zext_where_read().build();
    group.throughput(Throughput::Elements(big.len() as u64));
    for arch in Arch::ALL {
        group.bench_function(BenchmarkId::new("generated", arch), |b| {
            b.iter(|| black_box(jit::compile(&big, arch)).code.len());
        });
    }
    group.finish();
}

/// A stack and nothing else.
struct Stack(Vec<u8>);

const STACK: u64 = 0x1000;

impl interp::Host for Stack {
    fn endian(&self) -> Endian {
        Endian::Little
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, interp::Fault> {
        let (at, n) = ((addr - STACK) as usize, size.bytes() as usize);
        let mut bytes = [0; 8];
        bytes[..n].copy_from_slice(&self.0[at..at + n]);
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        let (at, n) = ((addr - STACK) as usize, size.bytes() as usize);
        self.0[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
        Ok(())
    }
}

fn interpreter(c: &mut Criterion) {
    let insns: Arc<[Insn]> = bpf::insn::asm::assemble_insns(LOOP).expect("it assembles").into();
    let mut group = c.benchmark_group("interpreter");
    group.throughput(Throughput::Elements(60_003));
    group.bench_function("loop of 60,000", |b| {
        let mut host = Stack(vec![0; 4096]);
        b.iter(|| {
            let stack = STACK..STACK + 4096;
            let mut vm = interp::Vm::new(Arc::clone(&insns), [0; 5], stack, u64::MAX);
            black_box(vm.run(&mut host))
        });
    });
    group.finish();
}

fn maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("maps");
    group.throughput(Throughput::Elements(1));
    let types = [MapType::Array, MapType::Hash, MapType::LruHash, MapType::LpmTrie];
    for map_type in types {
        let mut k = Kernel::new(Config::default());
        let lpm = map_type == MapType::LpmTrie;
        let def = MapCreate {
            name: "m".into(),
            map_type,
            key_size: if lpm { 8 } else { 4 },
            value_size: 8,
            max_entries: 4096,
            flags: u32::from(lpm), // BPF_F_NO_PREALLOC
            numa_node: None,
            map_extra: 0,
            inner: None,
            btf_types: (0, 0),
        };
        let fd = Bpf::map_create(&mut k, &def, None).expect("a map of this type");
        let id = k.fd_map(fd).expect("just made");
        let key = |n: u32| match lpm {
            true => [32u32.to_le_bytes(), n.to_be_bytes()].concat(),
            false => n.to_le_bytes().to_vec(),
        };
        for n in 0..2048 {
            k.map_update(fd, &key(n), &[1; 8]).expect("there is room");
        }
        k.events.clear();
        let mut n = 0;
        group.bench_function(BenchmarkId::new("lookup", format!("{map_type:?}")), |b| {
            b.iter(|| {
                n = (n + 1) % 2048;
                black_box(k.user_lookup(id, &key(n)))
            });
        });
        group.bench_function(BenchmarkId::new("update", format!("{map_type:?}")), |b| {
            b.iter(|| {
                n = (n + 1) % 2048;
                k.map_update(fd, &key(n), &[2; 8]).expect("there is room");
                k.events.clear();
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Half a minute for all of them: what is compared differs by more than it varies.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = verifier, jit, tasks, interpreter, maps
}
criterion_main!(benches);
