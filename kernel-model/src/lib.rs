//! The modelled kernel as one value: memory, objects, maps, programs, helpers, time.
//!
//! ```text
//!  bpf(2) commands ──syscall──► maps, progs, links (objects in guest memory)
//!  engine ◄─Step── next / helper_call / prog_return / prog_fault ──► frames (cpu.rs) ─► events
//! ```
//!
//! Reading order: layout, mem, alloc, cpu, context, dispatch, sched, sys, cgroup, helpers, maps,
//! syscall, iter, env, net, trace.
//!
//! **Invariants.** No Unicorn, no JIT, no host clock or randomness. [`Kernel`] is `Clone`, and
//! everything in it is ordered. Guest memory changes through `GuestMemory::write` alone. What is
//! not modelled is `Unsupported`, never a guess.

pub mod alloc;
pub mod cancel;
pub mod cgroup;
pub mod context;
pub mod cpu;
pub mod cpus;
pub mod ctx;
mod dispatch;
pub mod env;
pub mod errno;
pub mod event;
pub mod fault;
pub mod helpers;
pub mod iter;
pub mod kconfig;
pub mod kfuncs;
pub mod layout;
pub mod ledger;
pub mod lock;
pub mod maps;
pub mod mem;
mod memalloc;
pub mod memcg;
pub mod net;
mod percpu;
pub mod prog;
pub mod race;
pub mod rcu;
pub mod sched;
mod sha256;
pub mod stack;
pub mod state_hash;
pub mod stream;
pub mod sys;
pub mod syscall;
mod task;
pub mod timer;
pub mod trace;
pub mod types;

use std::collections::BTreeMap;

use bpf::Arch;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

pub use cpu::{CpuId, Entry, Fault, Frame, Step};
pub use errno::Errno;
pub use event::{Event, EventKind};
pub use prog::{Prog, ProgId};

use alloc::{Alloc, Report, Site};
use cpu::Cpu;
use cpus::Cpus;
use mem::GuestMemory;
use memcg::Charge;

/// What a kernel is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Architecture: byte order and `pt_regs`.
    pub arch: Arch,
    /// Number of CPUs, at least 1.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// The scenario's seed.
    pub seed: u64,
    /// Virtual time at boot.
    pub clock_ns: u64,
    /// How long an RCU grace period may take before it is told of.
    pub rcu_stall_ns: u64,
    /// `memory.max` of the topmost control group.
    pub memcg_max: Option<u64>,
    /// Elements and objects of programs are not kept for reuse: each is freed to the slab after its
    /// grace period, so that a stale pointer is found.
    pub strict_free: bool,
    /// Data races are looked for, for which the engine tells of each access.
    pub races: bool,
    /// The version whose instructions and helpers programs may use.
    pub level: verifier::tables::Level,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            arch: Arch::X86_64,
            cpus: 2,
            memory_bytes: 64 << 20,
            seed: 0,
            clock_ns: 1_000_000,
            rcu_stall_ns: rcu::STALL_NS,
            memcg_max: None,
            strict_free: false,
            races: false,
            level: verifier::tables::Level::default(),
        }
    }
}

/// One random stream per concern (design invariant 4).
#[derive(Clone)]
pub struct Streams {
    /// `bpf_get_prandom_u32`.
    pub helper: ChaCha8Rng,
    /// Interleaving of CPUs.
    pub schedule: ChaCha8Rng,
    /// Injected faults.
    pub faults: ChaCha8Rng,
    /// Generated packets.
    pub traffic: ChaCha8Rng,
    /// Hash seeds and object cookies of the kernel itself.
    pub kernel: ChaCha8Rng,
}

/// How far each stream is.
impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [&self.helper, &self.schedule, &self.faults, &self.traffic, &self.kernel];
        f.debug_list().entries(all.map(ChaCha8Rng::get_word_pos)).finish()
    }
}

impl Streams {
    fn new(seed: u64) -> Streams {
        let stream = |n: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(n);
            rng
        };
        Streams {
            helper: stream(1),
            schedule: stream(2),
            faults: stream(3),
            traffic: stream(4),
            kernel: stream(5),
        }
    }
}

/// The kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As configured.
    pub config: Config,
    /// Memory.
    pub mem: GuestMemory,
    /// Allocator on the direct map.
    pub alloc: Alloc,
    /// Programs by id.
    pub progs: BTreeMap<ProgId, Prog>,
    /// CPUs.
    pub cpus: Cpus,
    /// BPF instructions retired on all of them.
    pub retired: u64,
    /// Random streams.
    pub rng: Streams,
    /// The trace so far.
    pub events: Vec<Event>,
    /// Maps by id.
    pub maps: BTreeMap<maps::MapId, maps::Map>,
    pub(crate) map_by_addr: BTreeMap<u64, maps::MapId>,
    /// Descriptors of the loading process.
    pub fds: BTreeMap<i32, syscall::FdObject>,
    /// `BPF_F_RDONLY`, `BPF_F_WRONLY` of descriptors that were opened by id.
    pub(crate) fd_modes: BTreeMap<i32, u32>,
    /// BTF objects by id; the kernel's own has id 1 and is not among them.
    pub btfs: BTreeMap<syscall::BtfId, syscall::BtfObject>,
    /// Links by id.
    pub links: BTreeMap<syscall::LinkId, syscall::Link>,
    /// Iterators that are open.
    pub(crate) iters: iter::Iters,
    /// Test runs that processes wait for.
    pub(crate) test_runs: syscall::test_run::TestRuns,
    /// Where the program that is loaded next stood in its object.
    pub section_note: Option<syscall::SectionNote>,
    pub(crate) next_map: u32,
    pub(crate) next_prog: u32,
    pub(crate) next_btf: u32,
    pub(crate) next_link: u32,
    /// Something let go of an object, and nothing was freed since.
    pub(crate) let_go: bool,
    pub(crate) next_vmalloc: u64,
    /// Data races, if they are looked for.
    pub(crate) races: race::Races,
    /// Sections, grace periods and what waits for them.
    pub rcu: rcu::Rcu,
    /// Caches of `bpf_mem_alloc`.
    pub(crate) caches: memalloc::Caches,
    /// Who pays for maps.
    pub memcg: memcg::Memcg,
    /// Objects that programs allocated.
    pub(crate) objects: kfuncs::Objects,
    /// Iterators of programs over the tasks of a control group.
    pub(crate) css_tasks: BTreeMap<u64, kfuncs::CssTasks>,
    pub(crate) percpu: percpu::Percpu,
    /// Control groups; none until one is asked for.
    pub(crate) cgroups: cgroup::Cgroups,
    /// Limits of program runs.
    pub watchdog: Option<cancel::Watchdog>,
    /// Runs that were cancelled, as they ended.
    pub cancelled: Vec<cancel::Ended>,
    /// What is held.
    pub ledger: ledger::Ledger,
    /// Spin locks.
    pub locks: lock::Locks,
    /// Network.
    pub net: net::Net,
    /// Timers of map values.
    pub timers: timer::Timers,
    /// Attached tracing programs.
    pub hooks: trace::Hooks,
    pub(crate) trace_pipe: trace::Pipe,
    pub(crate) last_pid: u32,
    /// Tasks and their run queues.
    pub(crate) sched: sched::Sched,
    /// Files.
    pub(crate) vfs: sys::Vfs,
    /// `swapper/N` of each CPU.
    pub(crate) idle_tasks: Vec<u64>,
    /// Injected faults.
    pub faults: fault::Faults,
    /// CPU on whose behalf the model works now, for allocation sites.
    pub(crate) this_cpu: CpuId,
    /// Points inside kernel paths are looked at: by a schedule other than round robin, or for
    /// interrupts at points. Without, a path may take its fast way past them.
    pub fine: bool,
}

impl Kernel {
    /// Boots.
    #[must_use]
    pub fn new(config: Config) -> Kernel {
        assert!((1..=256).contains(&config.cpus), "1 to 256 CPUs");
        let mem = GuestMemory::new(config.memory_bytes, config.arch.endian());
        let cpu = Cpu { clock_ns: config.clock_ns, ..Cpu::default() };
        let mut k = Kernel {
            alloc: Alloc::new(mem.ram_bytes()),
            mem,
            progs: BTreeMap::new(),
            cpus: Cpus::new(cpu, config.cpus),
            retired: 0,
            rng: Streams::new(config.seed),
            events: Vec::new(),
            maps: BTreeMap::new(),
            map_by_addr: BTreeMap::new(),
            fds: BTreeMap::new(),
            fd_modes: BTreeMap::new(),
            btfs: BTreeMap::new(),
            links: BTreeMap::new(),
            iters: iter::Iters::default(),
            test_runs: syscall::test_run::TestRuns::default(),
            section_note: None,
            next_map: 1,
            next_prog: 1,
            next_btf: syscall::VMLINUX_BTF.0 + 1,
            next_link: 1,
            let_go: false,
            next_vmalloc: 0,
            races: race::Races::new(config.races, config.cpus),
            rcu: rcu::Rcu::new(config.rcu_stall_ns),
            caches: memalloc::Caches::default(),
            memcg: memcg::Memcg::new(config.memcg_max),
            objects: kfuncs::Objects::default(),
            css_tasks: BTreeMap::new(),
            percpu: percpu::Percpu::default(),
            cgroups: cgroup::Cgroups::default(),
            watchdog: None,
            cancelled: Vec::new(),
            ledger: ledger::Ledger::default(),
            locks: lock::Locks::new(config.cpus),
            net: net::Net::default(),
            timers: timer::Timers::default(),
            hooks: trace::Hooks::default(),
            trace_pipe: trace::Pipe::default(),
            last_pid: 2,
            sched: sched::Sched::default(),
            vfs: sys::Vfs::default(),
            idle_tasks: Vec::new(),
            faults: fault::Faults::default(),
            this_cpu: CpuId(0),
            fine: false,
            config,
        };
        k.map_stacks();
        percpu::setup(&mut k.mem, k.config.cpus);
        k.boot_tasks();
        k
    }

    fn map_stacks(&mut self) {
        let pages = layout::STACK_SIZE / layout::PAGE_SIZE;
        for cpu in 0..self.config.cpus {
            let phys = self.alloc.pages(&mut self.mem, pages).expect("memory for stacks");
            for i in 0..pages {
                let off = i * layout::PAGE_SIZE;
                self.mem.map(layout::stack_base(cpu) + off, phys + off, mem::Perms::RW);
            }
        }
    }

    /// Physical memory of the CPUs' stacks, which were the first to be allocated.
    #[must_use]
    pub fn stacks(&self) -> std::ops::Range<u64> {
        let phys = |va| self.mem.translate(va).map_or(0, |pte| pte.phys);
        let last = layout::stack_base(self.config.cpus - 1) + layout::STACK_SIZE;
        phys(layout::stack_base(0))..phys(last - layout::PAGE_SIZE) + layout::PAGE_SIZE
    }

    /// Programs in order of id.
    pub fn progs(&self) -> impl Iterator<Item = &Prog> {
        self.progs.values()
    }

    /// A program.
    #[must_use]
    pub fn prog(&self, id: ProgId) -> Option<&Prog> {
        self.progs.get(&id)
    }

    /// The engine has native code for a program: `bpf_prog.bpf_func` is set.
    pub fn set_prog_code(&mut self, id: ProgId, entry: u64, len: u32) {
        let Some(prog) = self.progs.get_mut(&id) else { return };
        (prog.entry, prog.jited_len) = (entry, len);
        let addr = prog.addr;
        self.set(addr, field!("bpf_prog", "jited"), 1);
        self.set(addr, field!("bpf_prog", "jited_len"), len.into());
        let at = addr + u64::try_from(layout::PROG_BPF_FUNC).expect("a positive offset");
        self.mem.write_u64(at, entry).expect("bpf_prog is in the direct map");
    }

    /// The engine tells where native code of each instruction is; see [`Prog::places`].
    pub fn set_prog_places(
        &mut self,
        id: ProgId,
        places: std::sync::Arc<[(u64, bpf::insn::InsnIdx)]>,
    ) {
        if let Some(prog) = self.progs.get_mut(&id) {
            prog.places = places;
        }
    }

    /// BTF of the modelled kernel; `vmlinux.h` is its C rendering.
    #[must_use]
    pub fn vmlinux_btf(&self) -> &'static std::sync::Arc<bpf::btf::Btf> {
        types::Types::of(self.config.arch).btf()
    }

    /// The CPU on whose behalf the model worked last.
    #[must_use]
    pub fn this_cpu(&self) -> CpuId {
        self.this_cpu
    }

    /// Virtual time of a CPU.
    #[must_use]
    pub fn now(&self, cpu: CpuId) -> u64 {
        self.cpus[cpu.idx()].clock_ns
    }

    /// Accounts for instructions retired on a CPU: one nanosecond each.
    pub fn charge(&mut self, cpu: CpuId, insns: u64) {
        self.count_samples(cpu, insns);
        let c = &mut self.cpus[cpu.idx()];
        c.retired += insns;
        self.retired += insns;
        c.clock_ns += insns;
        self.cancel_charge(cpu, insns);
        self.rcu_check_stall(cpu);
    }

    /// Moves every CPU's clock forward to a time, never back.
    pub fn advance_to(&mut self, clock_ns: u64) {
        for n in 0..self.cpus.len() {
            // One that is there already has not changed.
            if self.cpus[n].clock_ns < clock_ns {
                self.cpus[n].clock_ns = clock_ns;
            }
        }
    }

    /// Adds to the trace.
    pub fn emit(&mut self, cpu: CpuId, kind: EventKind) {
        let Cpu { clock_ns, retired, ref frames, .. } = self.cpus[cpu.idx()];
        let level = frames.iter().map(Frame::level).max().unwrap_or_default();
        self.events.push(Event { clock_ns, retired, at: self.retired, cpu, level, kind });
    }

    pub(crate) fn site(&self, what: &'static str) -> Site {
        self.site_of(self.this_cpu, what)
    }

    /// Where a CPU is.
    pub(crate) fn site_of(&self, cpu: CpuId, what: &'static str) -> Site {
        let c = &self.cpus[cpu.idx()];
        let prog = c.prog_frame().map(|p| p.prog);
        let pc = if prog.is_some() { c.called_from } else { 0 };
        Site { what, clock_ns: c.clock_ns, cpu: cpu.0, prog, pc, source: None }
    }

    /// Puts a site into words: program and source line.
    pub(crate) fn resolve(&self, site: &mut Site) {
        if site.source.is_some() {
            return;
        }
        let place = site.pc.checked_sub(1).and_then(|pc| self.place_of(pc));
        let name = |p: &Prog| p.name().to_owned();
        site.source = match place {
            Some((prog, insn)) => Some(self.source_of(prog, insn).into()),
            None => site.prog.and_then(|p| self.progs.get(&p)).map(name).map(Into::into),
        };
    }

    /// Program and instruction of an address in native code.
    #[must_use]
    pub fn place_of(&self, pc: u64) -> Option<(ProgId, bpf::insn::InsnIdx)> {
        self.progs.values().find_map(|p| Some((p.id, p.insn_at(pc)?)))
    }

    /// An instruction in words: its program, number and source line.
    #[must_use]
    pub fn source_of(&self, prog: ProgId, insn: bpf::insn::InsnIdx) -> String {
        let Some(prog) = self.progs.get(&prog) else { return prog.to_string() };
        let lines = &prog.verified.program().lines;
        let line = lines.iter().take_while(|l| l.insn <= insn).last();
        let source =
            line.map_or(String::new(), |l| format!(", {}:{}: {}", l.file, l.line, l.text.trim()));
        format!("{} at instruction {}{source}", prog.name(), insn.0)
    }

    /// A zeroed kernel object.
    pub fn kzalloc(&mut self, size: u64, what: &'static str) -> Result<u64, Errno> {
        if self.inject_alloc(what) {
            return Err(Errno::ENOMEM);
        }
        self.kmalloc_charged(size, Charge::default(), what)
    }

    /// As [`Kernel::kzalloc`], of an object that a group pays for.
    pub(crate) fn kzalloc_charged(
        &mut self,
        size: u64,
        charge: Charge,
        what: &'static str,
    ) -> Result<u64, Errno> {
        if self.inject_alloc(what) {
            return Err(Errno::ENOMEM);
        }
        self.kmalloc_charged(size, charge, what)
    }

    /// The same, but no occasion for a fault.
    pub(crate) fn kmalloc_charged(
        &mut self,
        size: u64,
        charge: Charge,
        what: &'static str,
    ) -> Result<u64, Errno> {
        self.memcg.charge(charge)?;
        let site = self.site(what);
        let object = self.alloc.kmalloc(&mut self.mem, size, site).map_err(|_| Errno::ENOMEM);
        match object {
            Ok(addr) => {
                self.memcg.charged(addr, charge);
                self.races.forget(addr - layout::DIRECT_MAP, size);
            }
            Err(_) => self.memcg.uncharge(charge),
        }
        object
    }

    /// Frees a kernel object; misuse becomes an event.
    pub fn kfree(&mut self, addr: u64, what: &'static str) {
        self.kfree_at(addr, self.site(what));
    }

    pub(crate) fn kfree_at(&mut self, addr: u64, site: Site) {
        self.memcg.freed(addr);
        if let Err(report) = self.alloc.kfree(&mut self.mem, addr, site) {
            self.report(*report);
        }
    }

    /// A misuse of memory becomes an event.
    pub(crate) fn report(&mut self, mut report: Report) {
        self.resolve_report(&mut report);
        let fault = Fault::new(cpu::FaultKind::Memcheck(Box::new(report)));
        let prog = self.cpus[self.this_cpu.idx()].prog_frame().map(|p| p.prog);
        self.emit(self.this_cpu, EventKind::Fault { prog, fault });
    }

    fn resolve_report(&self, report: &mut Report) {
        self.resolve(&mut report.allocated);
        self.resolve(&mut report.at);
        if report.wrong == alloc::Wrong::OutsideSection {
            report.held = self.rcu_held();
        }
        let more = report.retired.as_mut().into_iter().chain(&mut report.freed);
        more.for_each(|site| self.resolve(site));
    }

    /// A load that may fail read what is freed; it was at a native address.
    pub fn probed(&mut self, cpu: CpuId, pc: u64, addr: u64) {
        let mut site = self.site_of(cpu, "a load that may fail");
        // Sites have the address behind.
        site.pc = pc + 1;
        if let Err(report) = self.alloc.check(addr, 1, self.oldest_section(cpu), site) {
            self.report(*report);
        }
    }

    /// Looks at a read of kernel memory that a program does through the kernel and that may fail:
    /// of what is freed it gets what is there, and an event says so. Beyond the end of an object
    /// is no mistake of such a read.
    pub(crate) fn check_probe(&mut self, addr: u64, what: &'static str) {
        let section = self.oldest_section(self.this_cpu);
        if let Err(report) = self.alloc.check(addr, 1, section, self.site(what))
            && report.wrong != alloc::Wrong::OutOfBounds
        {
            self.report(*report);
        }
    }
}
