//! What helpers and kernel functions return and do to packets, against Linux 6.18.
//!
//! A program of `tests/corpus/calls/*.bpf.c` makes calls and notes what they return in `out`. Its
//! notes, its verdict and its packet are compared with `results.tsv` beside it, on four
//! architectures and, where permitted, in the running kernel. `MEASURE=1` writes the table anew
//! from the running kernel.
//!
//! A program whose name ends in `_v6`, `_big` or `_raw` gets an IPv6 packet, a frame of several
//! buffers or one of an unknown protocol; all others get UDP over IPv4.

use std::fmt::Write as _;
use std::path::PathBuf;

use bpf::uapi::ProgType;
use bpf::{Arch, Endian};
use emu::host::{HostKernel, TestRunIn, TestRunOut};
use emu::loader::{Bpf as _, LoadOptions, LoadedObject, load};
use emu::{Config, Machine};

/// `NOTES` of `calls.h`.
const NOTES: usize = 64;

fn folder() -> PathBuf {
    tests::root().join("tests/corpus/calls")
}

/// Objects, without `.bpf.c`: the lines of `objects.txt`.
fn objects() -> Vec<String> {
    let text = std::fs::read_to_string(folder().join("objects.txt")).expect("the list of objects");
    text.lines().filter_map(|l| l.strip_suffix(".bpf.c")).map(str::to_owned).collect()
}

fn object(name: &str, endian: Endian) -> Vec<u8> {
    let tag = if endian == Endian::Little { "el" } else { "eb" };
    let path = folder().join(format!("{name}.{tag}.bpf.o"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One's complement sum of a whole layer, to be stored.
fn csum(bytes: &[u8]) -> [u8; 2] {
    let pair = |p: &[u8]| u32::from(p[0]) << 8 | u32::from(p.get(1).copied().unwrap_or(0));
    let sum = bytes.chunks(2).map(pair).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// The packet that a program gets by its name.
fn packet(program: &str) -> Vec<u8> {
    let payload: &[u8] =
        if program.ends_with("_big") { &[0x5a; 9000] } else { b"0123456789abcdef" };
    let len = (8 + payload.len()) as u16;
    let mut p = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if program.ends_with("_raw") {
        p.extend([0x88, 0xb5]);
        p.extend([0x11; 46]);
        return p;
    }
    if program.ends_with("_v6") {
        p.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        p.extend(len.to_be_bytes());
        p.extend([17, 64]);
        for last in [1, 2] {
            p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    } else {
        p.extend([0x08, 0, 0x45, 0]);
        p.extend((20 + len).to_be_bytes());
        p.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = csum(&p[14..34]);
        p[24..26].copy_from_slice(&sum);
    }
    p.extend([0x03, 0xe8, 0x07, 0xd0]);
    p.extend(len.to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

/// Runs a program with what its type takes.
fn given<'a>(t: ProgType, data: &'a [u8]) -> TestRunIn<'a> {
    match t {
        ProgType::Syscall => TestRunIn { ctx: &[0; 64], ..TestRunIn::default() },
        ProgType::RawTracepoint => TestRunIn { ctx: &[0; 96], ..TestRunIn::default() },
        _ => TestRunIn { data, data_out: 1 << 16, ..TestRunIn::default() },
    }
}

/// A run of a program as lines of the table.
fn lines(name: &str, program: &str, out: &TestRunOut, bss: &[u8], endian: Endian) -> String {
    let mut text = format!("{name}\t{program}\tverdict\t{}\n", out.retval.cast_signed());
    let word = |i: usize| {
        let b: [u8; 8] = bss[i * 8..i * 8 + 8].try_into().expect("eight bytes");
        match endian {
            Endian::Little => i64::from_le_bytes(b),
            Endian::Big => i64::from_be_bytes(b),
        }
    };
    let made = usize::try_from(word(NOTES)).expect("a count of notes").min(NOTES);
    for i in 0..made {
        writeln!(text, "{name}\t{program}\t{i}\t{}", word(i)).expect("a string grows");
    }
    let before = packet(program);
    if !out.data.is_empty() && out.data != before {
        let shown: String = out.data.iter().take(160).map(|b| format!("{b:02x}")).collect();
        let len = out.data.len();
        writeln!(text, "{name}\t{program}\tpacket\t{len}:{shown}").expect("a string grows");
    }
    text
}

fn opened(loaded: &LoadedObject) -> Vec<(String, i32, ProgType)> {
    let kind = |name: &str| {
        let def = loaded.object.program(name).expect("it was loaded");
        def.sec.as_ref().expect("a section of a known kind").prog_type
    };
    loaded.progs.iter().map(|p| (p.name.clone(), p.fd, kind(&p.name))).collect()
}

fn in_model(arch: Arch) -> String {
    let (endian, mut text) = (arch.endian(), String::new());
    for name in &objects() {
        let mut m = Machine::new(arch, Config::default()).expect("a machine");
        let lo = kernel_model::net::NicConfig {
            name: "lo".into(),
            mac: [0; 6],
            mtu: 65536,
            ..Default::default()
        };
        m.kernel.net_add(lo).expect("a nic");
        let loaded = m.load_object(&object(name, endian), &LoadOptions::default());
        let loaded = loaded.unwrap_or_else(|e| panic!("{arch}: {name}: {e}"));
        let bss = loaded.map(".data.notes").expect("notes");
        for (program, fd, kind) in opened(&loaded) {
            m.kernel.map_update(bss, &[0; 4], &[0; (NOTES + 1) * 8]).expect("cleared");
            let data = packet(&program);
            let out = m.test_run(fd, &given(kind, &data));
            let map = m.kernel.fd_map(bss).expect("a map");
            let bytes = m.kernel.user_lookup(map, &[0; 4]).expect("notes");
            match out {
                Ok(out) => text += &lines(name, &program, &out, &bytes, endian),
                Err(e) => writeln!(text, "{name}\t{program}\t{:?}", e.why).expect("grows"),
            }
        }
    }
    text
}

fn in_host(host: &mut HostKernel) -> String {
    let (btf, mut text) = (host.vmlinux().clone(), String::new());
    for name in &objects() {
        let bytes = object(name, Endian::Little);
        let loaded = load(host, &btf, Endian::Little, &bytes, &LoadOptions::default());
        let loaded = loaded.unwrap_or_else(|e| panic!("{name}: {e}"));
        let bss = loaded.map(".data.notes").expect("notes");
        for (program, fd, kind) in opened(&loaded) {
            host.map_update(bss, &[0; 4], &[0; (NOTES + 1) * 8]).expect("cleared");
            let data = packet(&program);
            let out = host.test_run(fd, &given(kind, &data));
            let bytes = host.map_lookup(bss, Some(&[0; 4])).expect("notes");
            let out = out.unwrap_or_else(|e| panic!("{name}: {program}: {e}"));
            text += &lines(name, &program, &out, &bytes, Endian::Little);
        }
        host.close_all();
    }
    text
}

fn path() -> PathBuf {
    folder().join("results.tsv")
}

/// Lines that differ.
fn compare(who: &str, is: &str) {
    let wanted = std::fs::read_to_string(path()).expect("the table is in the corpus");
    let missing = wanted.lines().filter(|w| !is.lines().any(|i| i == *w));
    let mut differ: Vec<String> = missing.map(|w| format!("expected: {w}")).collect();
    let extra = is.lines().filter(|i| !wanted.lines().any(|w| w == *i));
    differ.extend(extra.map(|i| format!("is:       {i}")));
    differ.sort_by_key(|line| line.split_once("  ").map_or(line.clone(), |l| l.1.to_owned()));
    assert!(differ.is_empty(), "{who}:\n{}", differ.join("\n"));
}

#[test]
fn on_four_architectures() {
    for arch in Arch::ALL {
        compare(arch.name(), &in_model(arch));
    }
}

#[test]
fn in_the_running_kernel() {
    let mut host = match HostKernel::open() {
        Ok(host) => host,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let is = in_host(&mut host);
    if std::env::var_os("MEASURE").is_some() {
        std::fs::write(path(), &is).expect("the table can be written");
    }
    compare("the running kernel", &is);
}
