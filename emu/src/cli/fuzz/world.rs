//! What generated programs are given: maps, types, and the kernel they are judged for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::btf::{Btf, BtfBuilder, Kind, Linkage, TypeId};
use bpf::program::Func;
use bpf::uapi::{MapType, ProgType};
use bpf::{Arch, Endian, Program};
use kernel_model::types::Types;
use verifier::env::{BtfKernel, GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::{CheckReport, Options, check};

use super::{Exit, out};
use crate::cli::judge::error_line;
use crate::host::{HostKernel, HostVerdict, RawLoad};
use crate::loader::uapi::{attach_target, instruction_bytes, records};
use crate::loader::{self, Bpf as _, Fd, LoadOptions, MapCreate};

/// Indices of the maps that generated programs name.
pub(super) const ARRAY: i32 = 0;
pub(super) const HASH: i32 = 1;
/// An array of one entry: its value has an address.
pub(super) const GLOBAL: i32 = 2;
pub(super) const RINGBUF: i32 = 3;
pub(super) const PROGS: i32 = 4;
/// A hash map with a `bpf_spin_lock` at offset 4 of its values.
pub(super) const LOCKED: i32 = 5;
pub(super) const PERCPU: i32 = 6;
pub(super) const QUEUE: i32 = 7;
/// Bytes of a value of the maps that have values.
pub(super) const VALUE: i16 = 32;

/// Functions of the program's BTF.
pub(super) const MAIN: &str = "fuzz";
pub(super) const LOCAL: &str = "local";
pub(super) const CALLBACK: &str = "callback";
pub(super) const GLOBAL_NUMBERS: &str = "global_numbers";
pub(super) const GLOBAL_CTX: &str = "global_ctx";
pub(super) const GLOBAL_MEM: &str = "global_mem";

/// Type of the keys of the map with typed values: the third of `types`.
const KEY_TYPE: TypeId = 3;

/// Programs that take longer to verify are not compared.
pub(super) const INSNS_MAX: u32 = 20_000;

/// Types of generated programs: a value with a lock, and functions.
fn types(context: &str) -> (Btf, TypeId) {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let u32_ = b.int("unsigned int", 4, false);
    let u64_ = b.int("unsigned long long", 8, false);
    let lock = b.structure("bpf_spin_lock", 4, &[("val", u32_, 0, 0)]);
    let words = b.array(u64_, u32_, 3);
    let members = [("a", u32_, 0, 0), ("lock", lock, 32, 0), ("b", words, 64, 0)];
    let value = b.structure("locked", VALUE as u32, &members);
    let ctx = b.forward(context);
    let ctx = b.ptr(ctx);
    let pair = b.structure("pair", 16, &[("x", u64_, 0, 0), ("y", u64_, 64, 0)]);
    let pair = b.ptr(pair);
    let void = b.ptr(0);
    b.func(MAIN, Linkage::Global, int, &[("ctx", void)]);
    b.func(LOCAL, Linkage::Static, int, &[("a", u64_), ("b", u64_)]);
    b.func(CALLBACK, Linkage::Static, u64_, &[("i", u32_), ("ctx", void)]);
    b.func(GLOBAL_NUMBERS, Linkage::Global, int, &[("a", int), ("b", u32_)]);
    b.func(GLOBAL_CTX, Linkage::Global, int, &[("ctx", ctx), ("b", u32_)]);
    b.func(GLOBAL_MEM, Linkage::Global, int, &[("p", pair), ("b", u32_)]);
    (b.finish().unwrap_or_default(), value)
}

/// The modelled kernel's types, and kfuncs that are of the language more than of a kernel.
fn with_kfuncs(model: &Btf) -> Btf {
    let mut b = BtfBuilder::from_btf(model.clone());
    let (int, word) = (b.int("int", 4, true), b.int("unsigned long long", 8, false));
    let words = b.array(word, int, 1);
    let it = b.structure("bpf_iter_num", 8, &[("__opaque", words, 0, 0)]);
    let (it, number) = (b.ptr(it), b.ptr(int));
    let new = [("it", it), ("start", int), ("end", int)];
    let mut add = |name: &str, ret, params: &[(&str, TypeId)]| {
        if model.find(name, Kind::Func).is_none() {
            b.func(name, Linkage::Static, ret, params);
        }
    };
    add("bpf_iter_num_new", int, &new);
    add("bpf_iter_num_next", number, &[("it", it)]);
    add("bpf_iter_num_destroy", 0, &[("it", it)]);
    for name in ["bpf_rcu_read_lock", "bpf_rcu_read_unlock"] {
        add(name, 0, &[]);
    }
    for name in ["bpf_preempt_disable", "bpf_preempt_enable"] {
        add(name, 0, &[]);
    }
    b.finish().unwrap_or_else(|_| model.clone())
}

/// The structure a program's context is known by in C.
fn context(ty: ProgType) -> &'static str {
    use ProgType as P;
    match ty {
        P::Xdp => "xdp_md",
        P::SkMsg => "sk_msg_md",
        P::CgroupSock => "bpf_sock",
        P::SockOps => "bpf_sock_ops",
        P::PerfEvent => "bpf_perf_event_data",
        P::Kprobe => "pt_regs",
        P::RawTracepoint => "bpf_raw_tracepoint_args",
        P::CgroupDevice => "bpf_cgroup_dev_ctx",
        _ => "__sk_buff",
    }
}

/// `struct bpf_func_info` of a function by its name.
pub(super) fn func(btf: &Btf, start: u32, name: &str) -> Func {
    Func {
        start: bpf::insn::InsnIdx(start),
        type_id: btf.find(name, Kind::Func).unwrap_or(0),
        name: name.to_owned(),
        global: name.starts_with("global"),
    }
}

fn map(index: i32, map_type: MapType, key_size: u32, value_size: u32, max: u32) -> MapInfo {
    let id = index.cast_unsigned() + 1;
    let addr = 0xffff_8880_0000_0000 + (u64::from(id) << 20);
    let direct = map_type == MapType::Array && max == 1;
    MapInfo {
        id,
        name: format!("m{id}"),
        map_type,
        key_size,
        value_size,
        max_entries: max,
        flags: 0,
        map_extra: 0,
        addr: GuestAddr(addr),
        value_addr: direct.then_some(GuestAddr(addr + 0x1000)),
        frozen_value: None,
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    }
}

fn maps(locked: TypeId) -> Vec<MapInfo> {
    let value = VALUE as u32;
    vec![
        map(ARRAY, MapType::Array, 4, value, 4),
        map(HASH, MapType::Hash, 8, value, 16),
        map(GLOBAL, MapType::Array, 4, value, 1),
        map(RINGBUF, MapType::Ringbuf, 0, 0, 4096),
        map(PROGS, MapType::ProgArray, 4, 4, 2),
        MapInfo { value_type_id: locked, ..map(LOCKED, MapType::Hash, 8, value, 16) },
        map(PERCPU, MapType::PercpuArray, 4, value, 4),
        map(QUEUE, MapType::Queue, 0, 8, 8),
    ]
}

/// What programs of one origin have in common.
pub(super) struct Origin {
    pub(super) env: BtfKernel,
    pub(super) btf: Option<Btf>,
    /// Descriptors as our verifier counts them, and as the kernel does.
    fds: Vec<i32>,
    host: Vec<Fd>,
    host_btf: Option<Fd>,
}

/// An answer to a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) accepted: bool,
    /// What is not modelled was needed.
    pub(super) unsupported: bool,
    /// It took too long to say.
    pub(super) long: bool,
    /// Why not.
    pub(super) words: String,
    pub(super) insns: u32,
    pub(super) states: u32,
    pub(super) peak: u32,
}

/// A program and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) program: Program,
    pub(super) origin: usize,
}

/// Everything that is asked.
pub(super) struct World {
    pub(super) opts: Opts,
    log_level: u32,
    pub(super) kernel: Arc<Btf>,
    pub(super) cpus: u32,
    pub(super) origins: Vec<Origin>,
    host: Option<HostKernel>,
    /// The origin of generated programs of each type.
    by_type: BTreeMap<u32, usize>,
}

impl World {
    /// Without a running kernel it is the modelled one that programs are for.
    pub(super) fn open(host: bool, opts: Opts) -> Result<World, Exit> {
        let mut running = None;
        let mut kernel = Arc::new(with_kfuncs(Types::of(Arch::X86_64).btf()));
        let mut cpus = 2;
        if host {
            let opened = HostKernel::open().map_err(|e| {
                out::error(&format!("the running kernel: {e}"), "leave --host out");
                Exit::Unsupported
            })?;
            kernel = opened.vmlinux().clone();
            cpus = opened.possible_cpus();
            running = Some(opened);
        }
        let (origins, by_type) = (Vec::new(), BTreeMap::new());
        Ok(World { opts, log_level: 0, kernel, cpus, origins, host: running, by_type })
    }

    /// The origin of generated programs of a type.
    pub(super) fn generated(&mut self, ty: ProgType) -> Result<usize, Exit> {
        if let Some(i) = self.by_type.get(&(ty as u32)) {
            return Ok(*i);
        }
        let (btf, locked) = types(context(ty));
        let i = self.add(maps(locked), Some(btf)).map_err(|e| {
            out::error(&format!("a map in the running kernel: {e}"), "");
            Exit::Unsupported
        })?;
        self.by_type.insert(ty as u32, i);
        Ok(i)
    }

    /// Maps and types; they are made in the running kernel as well.
    pub(super) fn add(
        &mut self,
        maps: Vec<MapInfo>,
        btf: Option<Btf>,
    ) -> Result<usize, kernel_model::Errno> {
        let (mut host, mut host_btf) = (Vec::new(), None);
        if let Some(kernel) = &mut self.host {
            for m in &maps {
                host.push(kernel.map_create(&made(m), btf.as_ref())?);
            }
            host_btf = btf.as_ref().and_then(|b| kernel.keep_btf(b).ok());
        }
        let fds = (0..maps.len()).map(BtfKernel::fd).collect();
        let env = BtfKernel { btf: self.kernel.clone(), maps, cpus: self.cpus, symbols: None };
        self.origins.push(Origin { env, btf, fds, host, host_btf });
        Ok(self.origins.len() - 1)
    }

    /// The maps of an object; `None` when the running kernel does not make them.
    pub(super) fn add_object(
        &mut self,
        env: BtfKernel,
        btf: Option<Btf>,
        bytes: &[u8],
    ) -> Option<usize> {
        let (mut host, mut host_btf) = (Vec::new(), None);
        if let Some(kernel) = &mut self.host {
            let opts = LoadOptions {
                programs: Some(Vec::new()),
                kconfig: kernel.kconfig(),
                ksyms: kernel.ksyms(),
                ..LoadOptions::default()
            };
            let loaded = loader::load(kernel, &self.kernel, Endian::Little, bytes, &opts).ok()?;
            host = loaded.maps;
            host_btf = btf.as_ref().and_then(|b| kernel.keep_btf(b).ok());
        }
        let fds = (0..env.maps.len()).map(BtfKernel::fd).collect();
        self.origins.push(Origin { env, btf, fds, host, host_btf });
        Some(self.origins.len() - 1)
    }

    /// Both logs at a level.
    pub(super) fn logs(&mut self, s: &Sample, level: u32) -> (String, String) {
        let opts = std::mem::replace(&mut self.log_level, level);
        let ours = self.report(s, 0).map(|r| r.log).unwrap_or_default();
        let theirs = self.ask(s).map(|v| v.log).unwrap_or_default();
        self.log_level = opts;
        (ours, theirs)
    }

    /// The verifier's report.
    pub(super) fn report(&self, s: &Sample, record: u32) -> Option<CheckReport> {
        let o = &self.origins[s.origin];
        // One program in a thousand takes longer than the rest together.
        let insns_max = self.opts.insns_max.min(INSNS_MAX);
        let opts = Opts { log_level: self.log_level, record, insns_max, ..self.opts };
        let prog_btf = o.btf.as_ref();
        let options = Options { opts, fd_array: &o.fds, prog_btf, ..Options::default() };
        let asked = std::panic::AssertUnwindSafe(|| check(&s.program, &o.env, &options));
        std::panic::catch_unwind(asked).ok()
    }

    pub(super) fn ours(&self, s: &Sample) -> Answer {
        match self.report(s, 0) {
            Some(report) => answer(&report),
            None => Answer { words: "internal error".to_owned(), ..Answer::default() },
        }
    }

    /// Whether a program is never sent to a running kernel.
    pub(super) fn can_harm(&self, program: &Program) -> bool {
        self.host.as_ref().is_some_and(|h| h.can_harm(program))
    }

    /// What the running kernel says.
    pub(super) fn theirs(&mut self, s: &Sample) -> Option<Answer> {
        let v = self.ask(s)?;
        let refused = v.errno != 0;
        let silent = || format!("errno {}", v.errno);
        Some(Answer {
            accepted: !refused,
            unsupported: false,
            long: false,
            words: if refused { error_line(&v.log).unwrap_or_else(silent) } else { String::new() },
            insns: v.stats.insns_processed,
            states: v.stats.total_states,
            peak: v.stats.peak_states,
        })
    }

    fn ask(&mut self, s: &Sample) -> Option<HostVerdict> {
        let host = self.host.as_mut()?;
        let o = &self.origins[s.origin];
        let p = &s.program;
        let target = attach_target(host.vmlinux(), p, None).ok()?;
        let insns = instruction_bytes(p, &o.host, Endian::Little);
        let (mut funcs, mut lines) = (Vec::new(), Vec::new());
        if let Some(btf) = o.btf.as_ref().filter(|_| !p.funcs.is_empty()) {
            (funcs, lines) = records(p, btf, Endian::Little);
        }
        Some(host.load_raw(&RawLoad {
            prog_type: p.prog_type as u32,
            insns: &insns,
            attach_type: target.attach_type,
            attach_btf_id: target.btf_id,
            flags: p.flags,
            license: &p.license,
            name: MAIN,
            level: self.log_level,
            btf: o.host_btf.filter(|_| !funcs.is_empty()).map(|fd| (fd, &funcs[..], &lines[..])),
            verdict_only: true,
            ..RawLoad::default()
        }))
    }
}

fn answer(report: &CheckReport) -> Answer {
    let refusal = report.result.as_ref().err();
    let words = refusal.map(|r| r.message.clone()).unwrap_or_default();
    Answer {
        accepted: report.result.is_ok(),
        unsupported: refusal.is_some_and(|r| r.is_unsupported()),
        long: report.stats.insns_processed > INSNS_MAX,
        words: words.lines().last().unwrap_or_default().to_owned(),
        insns: report.stats.insns_processed,
        states: report.stats.total_states,
        peak: report.stats.peak_states,
    }
}

/// How a map is made in a running kernel.
pub(in crate::cli) fn made(m: &MapInfo) -> MapCreate {
    MapCreate {
        name: m.name.clone(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
        flags: m.flags,
        numa_node: None,
        map_extra: m.map_extra,
        inner: None,
        btf_types: if m.value_type_id == 0 { (0, 0) } else { (KEY_TYPE, m.value_type_id) },
    }
}
