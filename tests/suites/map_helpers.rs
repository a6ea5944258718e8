//! Map helpers of programs against what Linux 6.18 returns, call by call.
//!
//! For each map type one XDP program makes the calls of [`steps`] in order, on one map of two
//! entries, and notes what each returns. The notes are compared with
//! `tests/corpus/kernel-tables/map_helpers.tsv`, on four architectures and, where permitted, in
//! the running kernel. `MEASURE=1` writes the table anew from the running kernel.

use std::fmt::Write as _;
use std::path::PathBuf;

use bpf::insn::asm::{NoSymbols, assemble};
use bpf::uapi::MapType;
use bpf::{Arch, Endian, Program};
use emu::host::{HostKernel, TestRunIn};
use emu::loader::{Bpf, Fd, MapCreate, ProgLoad};
use emu::{Config, Machine};

/// A call of a program.
#[derive(Clone, Copy, Debug)]
enum Step {
    Lookup(u32),
    Update(u32, u32, u64),
    Delete(u32),
    Push(u32, u64),
    Pop,
    Peek(u32),
    Output(u64, u64),
    Reserve(u64, u64),
    Query(u64),
    Redirect(u32, u64),
    Perf(u64),
    /// The element of a CPU; of the one that runs the program when none is named.
    Percpu(u32, Option<u64>),
}

/// What is asked of a type.
fn steps(t: MapType) -> Vec<Step> {
    use MapType as T;
    use Step::{Delete, Lookup, Percpu, Update};
    let keyed = || {
        let mut s = vec![Lookup(0), Delete(0)];
        s.extend([1, 2, 3, 4, 5, 8, 1 << 32].map(|f| Update(0, 70, f)));
        s.extend([Lookup(0), Update(0, 71, 0), Lookup(0), Update(0, 72, 1), Update(0, 73, 2)]);
        s.extend([Lookup(0), Update(1, 74, 1), Lookup(1), Update(2, 75, 2), Delete(2)]);
        s.extend([Lookup(3), Delete(1), Delete(1), Lookup(1), Update(1, 76, 0), Lookup(1)]);
        s
    };
    let full = || [Update(2, 77, 0), Update(2, 78, 1), Lookup(2), Update(3, 79, 8)];
    match t {
        T::Array | T::Hash | T::LpmTrie => keyed().into_iter().chain(full()).collect(),
        T::LruHash => keyed(),
        T::PercpuArray | T::PercpuHash => {
            let percpu = [Percpu(0, None), Percpu(0, Some(9999)), Percpu(3, None)];
            keyed().into_iter().chain(full()).chain(percpu).collect()
        }
        T::LruPercpuHash => keyed().into_iter().chain([Percpu(0, Some(9999))]).collect(),
        other => unkeyed(other),
    }
}

/// What is asked of a type that has no keys, or of one that helpers only send to.
// tidy: flat match
fn unkeyed(t: MapType) -> Vec<Step> {
    use MapType as T;
    use Step::{Output, Peek, Perf, Pop, Push, Query, Redirect, Reserve};
    match t {
        T::Queue | T::Stack => vec![
            Pop,
            Peek(0),
            Push(1, 1),
            Push(1, 3),
            Push(1, 4),
            Push(1, 0),
            Push(2, 0),
            Push(3, 0),
            Peek(0),
            Push(4, 2),
            Peek(0),
            Pop,
            Pop,
            Pop,
            Push(5, 2),
            Pop,
        ],
        T::BloomFilter => vec![
            Peek(1),
            Push(1, 1),
            Push(1, 2),
            Push(1, 4),
            Peek(1),
            Push(1, 0),
            Peek(1),
            Push(2, 0),
            Push(3, 0),
            Peek(3),
            Peek(0),
        ],
        T::Ringbuf => vec![
            Query(0),
            Query(1),
            Query(2),
            Query(3),
            Query(4),
            Output(8, 0),
            Query(0),
            Output(8, 1),
            Output(8, 2),
            Output(8, 3),
            Output(8, 4),
            Query(3),
            Output(1, 1),
            Query(3),
            Reserve(4096, 0),
            Reserve(4089, 0),
            Reserve(64, 1),
            Reserve(64, 4),
            Reserve(64, 0),
            Query(0),
            Query(3),
            Reserve(4000, 0),
            Query(2),
        ],
        T::Devmap | T::DevmapHash | T::Cpumap => {
            let flags = [0, 1, 2, 3, 4, 1 << 32].map(|f| Redirect(1, f));
            flags.into_iter().chain([Redirect(5, 0), Redirect(5, 2)]).collect()
        }
        T::PerfEventArray => {
            vec![Perf(0), Perf(1), Perf(0xffff_ffff), Perf(7), Perf(1 << 33), Perf(1 << 60)]
        }
        other => panic!("no steps for {}", other.name()),
    }
}

const TYPES: &[MapType] = &[
    MapType::Array,
    MapType::Hash,
    MapType::LpmTrie,
    MapType::LruHash,
    MapType::PercpuArray,
    MapType::PercpuHash,
    MapType::LruPercpuHash,
    MapType::Queue,
    MapType::Stack,
    MapType::BloomFilter,
    MapType::Ringbuf,
    MapType::Devmap,
    MapType::DevmapHash,
    MapType::Cpumap,
    MapType::PerfEventArray,
];

/// Programs write numbers as they are in memory; tries want the prefix length first.
fn put_key(t: MapType, key: u32, endian: Endian) -> String {
    if t != MapType::LpmTrie {
        return format!("  *(u32 *)(r10 -24) = {key}\n");
    }
    let len = [32, 16, 24, 33][key as usize];
    let data = u32::from_be_bytes([10, key as u8, 0, u8::from(key == 0)]);
    let data = if endian == Endian::Little { data.swap_bytes() } else { data };
    format!("  *(u32 *)(r10 -24) = {len}\n  *(u32 *)(r10 -20) = {}\n", data.cast_signed())
}

/// One call; its result is in r0.
fn call(t: MapType, step: Step, at: usize, endian: Endian) -> String {
    let map = "  r1 = map[m] ll\n";
    let key = |k| put_key(t, k, endian);
    let (k, v) = ("  r2 = r10\n  r2 += -24\n", "r10\n");
    let value = |v: u32| format!("  r1 = {v}\n  *(u64 *)(r10 -40) = r1\n");
    let at_value = |r: u32| format!("  r{r} = {v}  r{r} += -40\n");
    let found = format!("  if r0 == 0 goto none{at}\n  r0 = *(u64 *)(r0 +0)\n  goto some{at}\n");
    let found = format!("{found}none{at}:\n  r0 = -2\nsome{at}:\n");
    let narrow = matches!(t, MapType::Devmap | MapType::DevmapHash | MapType::Cpumap);
    let found = if narrow { found.replace("u64", "u32") } else { found };
    match step {
        Step::Lookup(n) => format!("{}{map}{k}  call bpf_map_lookup_elem\n{found}", key(n)),
        Step::Percpu(n, cpu) => {
            // The running kernel chooses the CPU of a test run.
            let this = "  call bpf_get_smp_processor_id\n  r3 = r0\n".to_owned();
            let cpu = cpu.map_or(this, |cpu| format!("  r3 = {cpu}\n"));
            format!("{}{cpu}{map}{k}  call bpf_map_lookup_percpu_elem\n{found}", key(n))
        }
        Step::Update(n, val, f) => format!(
            "{}{}{map}{k}{}  r4 = {f:#x} ll\n  call bpf_map_update_elem\n",
            key(n),
            value(val),
            at_value(3)
        ),
        Step::Delete(n) => format!("{}{map}{k}  call bpf_map_delete_elem\n", key(n)),
        Step::Push(n, f) => {
            format!("{}{map}{}  r3 = {f}\n  call bpf_map_push_elem\n", value(n), at_value(2))
        }
        // What comes out counts when there is something.
        Step::Pop | Step::Peek(_) => {
            let (seed, helper) = match step {
                Step::Peek(n) => (n, "peek"),
                _ => (0, "pop"),
            };
            format!(
                "{}{map}{}  call bpf_map_{helper}_elem\n  if r0 != 0 goto none{at}\n  \
                 r0 = *(u64 *)(r10 -40)\nnone{at}:\n",
                value(seed),
                at_value(2)
            )
        }
        Step::Output(len, f) => format!(
            "{}{map}{}  r3 = {len}\n  r4 = {f}\n  call bpf_ringbuf_output\n",
            value(9),
            at_value(2)
        ),
        Step::Reserve(len, f) => format!(
            "{map}  r2 = {len}\n  r3 = {f}\n  call bpf_ringbuf_reserve\n  if r0 == 0 goto \
             none{at}\n  r1 = r0\n  r2 = 0\n  call bpf_ringbuf_discard\n  r0 = 1\nnone{at}:\n"
        ),
        Step::Query(what) => format!("{map}  r2 = {what}\n  call bpf_ringbuf_query\n"),
        Step::Redirect(n, f) => {
            format!("{map}  r2 = {n}\n  r3 = {f:#x} ll\n  call bpf_redirect_map\n")
        }
        Step::Perf(f) => format!(
            "{}  r1 = r6\n  r2 = map[m] ll\n  r3 = {f:#x} ll\n  r4 = r10\n  r4 += -40\n  r5 = 8\n  \
             call bpf_perf_event_output\n",
            value(9)
        ),
    }
}

/// The program of a type: calls, each result to the next element of `notes`.
fn program(t: MapType, endian: Endian) -> Program {
    let steps = steps(t);
    let mut text = format!(
        "; map m {} 4 8 2\n; map notes array 4 8 {}\n; prog xdp p\n  r6 = r1\n",
        MapType::Array.name(),
        steps.len()
    );
    text.push_str("  r1 = 0\n  *(u64 *)(r10 -24) = r1\n  *(u64 *)(r10 -40) = r1\n");
    for (at, step) in steps.iter().enumerate() {
        text.push_str(&call(t, *step, at, endian));
        let note = format!(
            "  *(u64 *)(r10 -48) = r0\n  *(u32 *)(r10 -52) = {at}\n  r1 = map[notes] ll\n  \
             r2 = r10\n  r2 += -52\n  call bpf_map_lookup_elem\n  if r0 == 0 goto end{at}\n  \
             r1 = *(u64 *)(r10 -48)\n  *(u64 *)(r0 +0) = r1\nend{at}:\n"
        );
        text.push_str(&note);
    }
    text.push_str("  r0 = 2\n  exit\n");
    let assembly = assemble(&text, &NoSymbols).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut program = assembly.progs.into_iter().next().expect("one program");
    program.license = "GPL".to_owned();
    program
}

fn maps(kernel: &mut dyn Bpf, t: MapType, endian: Endian) -> [Fd; 2] {
    use MapType as T;
    let (key, value) = match t {
        T::LpmTrie => (8, 8),
        T::Queue | T::Stack | T::BloomFilter => (0, 8),
        T::Ringbuf => (0, 0),
        T::Devmap | T::DevmapHash | T::Cpumap | T::PerfEventArray => (4, 4),
        _ => (4, 8),
    };
    let def = |t, key_size, value_size, max_entries| MapCreate {
        name: "m".to_owned(),
        map_type: t,
        key_size,
        value_size,
        max_entries,
        flags: u32::from(t == T::LpmTrie),
        numa_node: None,
        map_extra: 0,
        inner: None,
        btf_types: (0, 0),
    };
    let entries = if t == T::Ringbuf { 4096 } else { 2 };
    let m = kernel.map_create(&def(t, key, value, entries), None).expect("a map");
    let word = |v: u32| match endian {
        Endian::Little => v.to_le_bytes(),
        Endian::Big => v.to_be_bytes(),
    };
    // Redirect targets are there from the start: the first device, a queue of CPU 1.
    let target = match t {
        T::Devmap | T::DevmapHash => Some(1),
        T::Cpumap => Some(192),
        _ => None,
    };
    if let Some(v) = target {
        kernel.map_update(m, &word(1), &word(v)).expect("a target");
    }
    let notes = def(T::Array, 4, 8, steps(t).len() as u32);
    [m, kernel.map_create(&notes, None).expect("notes")]
}

fn path() -> PathBuf {
    tests::root().join("tests/corpus/kernel-tables/map_helpers.tsv")
}

/// Row by row: type, call, result.
fn table(results: &[(MapType, Vec<i64>)]) -> String {
    let mut out = "type\tcall\tresult\n".to_owned();
    for (t, values) in results {
        for (step, v) in steps(*t).iter().zip(values) {
            writeln!(out, "{}\t{step:?}\t{v}", t.name()).expect("a string grows");
        }
    }
    out
}

fn load(kernel: &mut dyn Bpf, t: MapType, endian: Endian) -> (Fd, Fd) {
    let fds = maps(kernel, t, endian);
    let (program, log_level) = (program(t, endian), 1);
    let load = ProgLoad { program, fd_array: &fds, btf: None, log_level, struct_ops: None };
    let loaded = kernel.prog_load(load).unwrap_or_else(|e| panic!("{}: {e:?}", t.name()));
    (loaded.fd, fds[1])
}

fn number(bytes: &[u8], endian: Endian) -> i64 {
    let b = bytes.try_into().expect("eight bytes");
    match endian {
        Endian::Little => i64::from_le_bytes(b),
        Endian::Big => i64::from_be_bytes(b),
    }
}

fn key(n: usize, endian: Endian) -> [u8; 4] {
    let n = u32::try_from(n).expect("few steps");
    match endian {
        Endian::Little => n.to_le_bytes(),
        Endian::Big => n.to_be_bytes(),
    }
}

fn in_model(arch: Arch) -> Vec<(MapType, Vec<i64>)> {
    let endian = arch.endian();
    let run = |t: &MapType| {
        let mut m = Machine::new(arch, Config::default()).expect("a machine");
        m.kernel.net_add(kernel_model::net::NicConfig::default()).expect("a nic");
        let (prog, notes) = load(&mut m.kernel, *t, endian);
        let id = m.kernel.fd_prog(prog).expect("just loaded");
        m.compile(id).expect("it compiles");
        let out = m.test_run(prog, &TestRunIn { data: &[0; 64], ..TestRunIn::default() });
        assert_eq!(out.expect("it runs").retval, 2, "{arch}: {}", t.name());
        let map = m.kernel.fd_map(notes).expect("a map");
        let mut note = |n| m.kernel.user_lookup(map, &key(n, endian)).expect("a note");
        (*t, (0..steps(*t).len()).map(|n| number(&note(n), endian)).collect())
    };
    TYPES.iter().map(run).collect()
}

fn in_host(host: &mut HostKernel) -> Vec<(MapType, Vec<i64>)> {
    let run = |t: &MapType| {
        let (prog, notes) = load(host, *t, Endian::Little);
        let out = host.test_run(prog, &TestRunIn { data: &[0; 64], ..TestRunIn::default() });
        assert_eq!(out.expect("it runs").retval, 2, "{}", t.name());
        let note = |n| host.map_lookup(notes, Some(&key(n, Endian::Little))).expect("a note");
        let values = (0..steps(*t).len()).map(|n| number(&note(n), Endian::Little)).collect();
        host.close_all();
        (*t, values)
    };
    TYPES.iter().map(run).collect()
}

/// Lines that differ.
fn compare(who: &str, is: &str) {
    let wanted = std::fs::read_to_string(path()).expect("the table is in the corpus");
    let differ = is.lines().zip(wanted.lines()).filter(|(a, b)| a != b);
    let differ: Vec<String> =
        differ.map(|(is, wanted)| format!("{is} expected: {wanted}")).collect();
    assert!(differ.is_empty(), "{who}: {} calls:\n{}", differ.len(), differ.join("\n"));
    assert_eq!(is.lines().count(), wanted.lines().count(), "{who}");
}

#[test]
fn on_four_architectures() {
    for arch in Arch::ALL {
        compare(arch.name(), &table(&in_model(arch)));
    }
}

#[test]
fn in_the_running_kernel() {
    let mut host = match HostKernel::open() {
        Ok(host) => host,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let is = table(&in_host(&mut host));
    if std::env::var_os("MEASURE").is_some() {
        std::fs::write(path(), &is).expect("the table can be written");
    }
    compare("the running kernel", &is);
}
