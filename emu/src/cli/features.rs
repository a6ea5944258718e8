//! `orrery features`: what is modelled by architecture, asked of the crates that model it.
//!
//! Helpers and map types are asked for by trying them on a kernel; only the kinds of instructions
//! and the hooks are listed here.

use bpf::Arch;
use bpf::insn::helper_name;
use bpf::uapi::{MapType, ProgType};
use kernel_model::maps::MapDef;
use kernel_model::{Errno, Kernel};
use serde_json::json;

use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As one JSON object
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// The table by architecture in Markdown, as README.md has it
    #[arg(long)]
    markdown: bool,
}

/// Kinds of instructions that the verifier and all four back ends have; what differs between back
/// ends, and what is missing, is in `jit::CAPABILITIES`.
const INSNS: &[&str] = &[
    "64-bit and 32-bit ALU, signed division and modulo",
    "movsx, byte swaps (le, be, bswap)",
    "loads and stores, sign-extending loads",
    "jumps of both widths, gotol, may_goto",
    "atomics: add, and, or, xor, their fetching forms, xchg, cmpxchg",
    "load-acquire, store-release",
    "ld_imm64 of constants, maps, map values, functions",
    "legacy packet access (LD_ABS, LD_IND)",
    "calls of helpers and of functions, tail calls, callbacks",
];

/// Where programs of a type run.
const HOOKS: &[(ProgType, &str)] = &[
    (ProgType::Xdp, "NIC driver, devmap and cpumap entries"),
    (ProgType::SchedCls, "tcx and clsact, ingress and egress"),
    (ProgType::Tracepoint, "records of the model's tracepoints"),
    (ProgType::RawTracepoint, "arguments of the model's tracepoints"),
    (ProgType::RawTracepointWritable, "test runs"),
    (
        ProgType::Tracing,
        "tp_btf; fentry and fexit of functions, fmod_ret of system calls and security_*; iter of \
         task, task_file, bpf_map, bpf_map_elem and cgroup",
    ),
    (
        ProgType::Kprobe,
        "kprobe and kretprobe of the model's functions, uprobe and uprobe.multi of tasks' symbols",
    ),
    (ProgType::PerfEvent, "overflow of counters of instructions and cycles, in NMI"),
    (ProgType::Lsm, "the model's bpf_lsm_ functions; those of sockets also by control group"),
    (ProgType::CgroupSkb, "ingress and egress of control groups"),
    (ProgType::CgroupSock, "socket creation, release and post bind"),
    (
        ProgType::CgroupSockAddr,
        "bind, connect, sendmsg, recvmsg, getpeername, getsockname of IPv4, IPv6 and AF_UNIX",
    ),
    (ProgType::CgroupSockopt, "getsockopt, setsockopt"),
    (ProgType::CgroupDevice, "opening and making device nodes"),
    (ProgType::CgroupSysctl, "files below /proc/sys"),
    (ProgType::SockOps, "connections of TCP, with options in headers, but for time stamps"),
    (ProgType::Syscall, "test runs"),
    (ProgType::SocketFilter, "test runs"),
    (ProgType::SchedAct, "test runs"),
    (ProgType::LwtIn, "test runs"),
    (ProgType::LwtOut, "test runs"),
    (ProgType::LwtXmit, "test runs"),
    (ProgType::LwtSeg6local, "test runs"),
];

pub(super) fn run(args: &Args) -> Exit {
    let (maps, no_maps) = map_types();
    let (helpers, no_helpers) = helpers();
    let (progs, no_progs) = programs();
    let since = |f: &verifier::tables::Feature| format!("{} ({})", f.name, f.since);
    let levels: Vec<String> = verifier::tables::FEATURES.iter().map(since).collect();
    let ops: Vec<String> = verifier::tables::struct_ops_names().map(str::to_owned).collect();
    let (kfuncs, no_kfuncs) = kfuncs();
    let points = Points::of_the_model();
    if args.json {
        let insns: serde_json::Map<String, serde_json::Value> = abilities()
            .map(|(what, on)| {
                let archs = Arch::ALL.iter().zip(on);
                let by_arch = archs.map(|(a, on)| (a.name().to_owned(), json!(on)));
                (what.to_owned(), serde_json::Value::Object(by_arch.collect()))
            })
            .collect();
        let value = json!({
            "archs": Arch::ALL.map(Arch::name),
            "instructions": insns,
            "helpers": helpers,
            "kfuncs": kfuncs,
            "map_types": maps,
            "program_types": progs,
            "tracepoints": points.tracepoints,
            "functions": points.functions,
            "lsm": points.lsm,
            "syscalls": points.syscalls,
            "verified_struct_ops": ops,
            "verified_since": levels,
            "unsupported": {
                "helpers": no_helpers, "kfuncs": no_kfuncs, "map_types": no_maps,
                "program_types": no_progs,
            },
        });
        out::line(&value.to_string());
        return Exit::Ok;
    }
    let mut rows = vec![head()];
    rows.extend(abilities().map(|(what, on)| row(what, on)));
    if args.markdown {
        rows.insert(1, vec!["---".to_owned(); 1 + Arch::ALL.len()]);
        rows.iter().for_each(|r| out::line(&format!("| {} |", r.join(" | "))));
        return Exit::Ok;
    }
    let mut text = out::columns(&rows);
    let hooks: Vec<String> = HOOKS.iter().map(|(t, at)| format!("{} ({at})", t.name())).collect();
    let sections = [
        ("helpers", &helpers),
        ("kernel functions", &kfuncs),
        ("map types", &maps),
        ("program types with their hooks", &hooks),
        ("tracepoints", &points.tracepoints),
        ("functions with fentry, fexit, kprobe and kretprobe", &points.functions),
        ("LSM hooks", &points.lsm),
        ("system calls of tasks", &points.syscalls),
        ("struct_ops whose members are verified", &ops),
        ("verified from --kernel VERSION on", &levels),
        ("unsupported helpers", &no_helpers),
        ("unsupported kernel functions", &no_kfuncs),
        ("unsupported map types", &no_maps),
        ("program types that are verified but have no hook", &no_progs),
    ];
    for (title, names) in sections {
        text += &format!("\n{title} (all architectures): {}\n", names.len());
        text += &wrapped(names);
    }
    out::print(&text);
    Exit::Ok
}

fn head() -> Vec<String> {
    let archs = Arch::ALL.iter().map(|a| a.name().to_owned());
    std::iter::once("instructions".to_owned()).chain(archs).collect()
}

/// What the back ends can do, in the order of [`Arch::ALL`].
fn abilities() -> impl Iterator<Item = (&'static str, [bool; 4])> {
    let common = INSNS.iter().map(|what| (*what, [true; 4]));
    common.chain(jit::CAPABILITIES.iter().map(|c| (c.what, c.on)))
}

fn row(what: &str, on: [bool; 4]) -> Vec<String> {
    let cells = on.map(|on| if on { "yes" } else { "-" }.to_owned());
    std::iter::once(what.to_owned()).chain(cells).collect()
}

/// Names in lines of at most 96 characters.
fn wrapped(names: &[String]) -> String {
    let mut text = String::new();
    let mut line = String::from(" ");
    for name in names {
        if line.len() + 2 + name.len() > 96 {
            text += &format!("{line}\n");
            " ".clone_into(&mut line);
        }
        line += &format!(" {name}");
    }
    if line.len() > 1 {
        text += &format!("{line}\n");
    }
    text
}

/// Where programs attach to.
struct Points {
    tracepoints: Vec<String>,
    functions: Vec<String>,
    lsm: Vec<String>,
    syscalls: Vec<String>,
}

impl Points {
    fn of_the_model() -> Points {
        let names = kernel_model::types::functions().iter().map(|f| f.name.clone());
        let (lsm, functions) = names.partition(|n| n.starts_with("bpf_lsm_"));
        let tracepoints = kernel_model::types::tracepoints().iter();
        Points {
            tracepoints: tracepoints.map(|t| format!("{}/{}", t.group, t.name)).collect(),
            functions,
            lsm,
            syscalls: kernel_model::sys::SYSCALLS.iter().map(|s| s.name.to_owned()).collect(),
        }
    }
}

/// Sizes of key and value, `max_entries` and flags of which one fits each type of map.
const SHAPES: &[(u32, u32, u32, u32)] = &[
    (4, 8, 1, 0),
    (4, 4, 1, 0),
    // A trie; without a key, for rings, with pages for an arena, for local storage.
    (8, 8, 1, BPF_F_NO_PREALLOC),
    (0, 8, 1, 0),
    (0, 0, 4096, 0),
    (0, 0, 1, BPF_F_MMAPABLE),
    (4, 8, 0, BPF_F_NO_PREALLOC),
];

const BPF_F_NO_PREALLOC: u32 = 1 << 0;
const BPF_F_MMAPABLE: u32 = 1 << 10;

type Split = (Vec<String>, Vec<String>);

/// Helpers with and without a body.
fn helpers() -> Split {
    // bpf_tail_call is native code; internal rows begin above the UAPI's ids.
    let known = (1..1000).filter_map(|id| Some((id, helper_name(id)?)));
    let has = |id: i32| id == 12 || kernel_model::helpers::modelled().any(|(have, _)| have == id);
    let (with, without): (Vec<_>, Vec<_>) = known.partition(|(id, _)| has(*id));
    let names = |v: Vec<(i32, &str)>| v.into_iter().map(|(_, n)| n.to_owned()).collect();
    (names(with), names(without))
}

/// Kernel functions with and without a body.
fn kfuncs() -> Split {
    let has = |name: &str| kernel_model::kfuncs::modelled().any(|have| have == name);
    let (with, without): (Vec<_>, Vec<_>) = verifier::tables::kfunc_names().partition(|n| has(n));
    let names = |v: Vec<&str>| v.into_iter().map(str::to_owned).collect();
    (names(with), names(without))
}

/// Map types that can and cannot be created.
fn map_types() -> Split {
    let types = MapType::TABLE.iter().filter(|(t, _)| *t != MapType::Unspec);
    let (with, without): (Vec<_>, Vec<_>) = types.partition(|(t, _)| creates(*t));
    let names = |v: Vec<&(MapType, &str)>| v.into_iter().map(|r| r.1.to_owned()).collect();
    (names(with), names(without))
}

/// Whether the model makes a map of a type, given any of the usual shapes.
fn creates(map_type: MapType) -> bool {
    let config = kernel_model::Config { memory_bytes: 4 << 20, ..Default::default() };
    let mut kernel = Kernel::new(config);
    let def = |map_type, (key_size, value_size, max_entries, flags)| MapDef {
        map_type,
        key_size,
        value_size,
        max_entries,
        flags,
        name: "probe".to_owned(),
        ..MapDef::default()
    };
    SHAPES.iter().any(|shape| {
        let inner = def(MapType::Array, (4, 8, 1, 0));
        [None, Some(inner)].into_iter().any(|inner| {
            let made: Result<_, Errno> = kernel.map_create(def(map_type, *shape), inner);
            made.is_ok()
        })
    })
}

/// Program types that something runs, and those that nothing does.
fn programs() -> Split {
    let types = ProgType::TABLE.iter().filter(|(t, _)| *t != ProgType::Unspec);
    let has = |t: ProgType| HOOKS.iter().any(|(h, _)| *h == t);
    let (with, without): (Vec<_>, Vec<_>) = types.partition(|(t, _)| has(*t));
    let names = |v: Vec<&(ProgType, &str)>| v.into_iter().map(|r| r.1.to_owned()).collect();
    (names(with), names(without))
}
