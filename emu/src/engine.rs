//! Native code in guest memory, and running it until it needs the kernel.
//!
//! ```text
//!  Compiled ─► Text::place (patch calls, map RX, account) ─► entry address
//!  exec(vcpu, memory, text) ─► Exit { Helper, Kfunc, Return, Fault, Fuel }
//! ```
//!
//! **Invariants.** A program's addresses depend on its BPF instructions alone, not on how long
//! its native code is, so they are equal on all architectures (design invariant 6). Between two
//! programs lies an unmapped page.

mod guard;

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::Arch;
use bpf::insn::InsnIdx;
use jit::{Compiled, ExEntry, InsnRange, NativeOff, PointKind, RelocKind};
use kernel_model::cpu::FaultKind;
use kernel_model::layout::{
    ARENAS, ARENAS_END, CALLBACK_RETURN, HELPER_STUBS, KFUNC_STUBS, LAP_STUB, PAGE_SIZE, PROG_TEXT,
    PROG_TEXT_END, RETURN_TRAP, STUB_STRIDE, VMALLOC, VMALLOC_OBJECTS, helper_stub, kfunc_stub,
};
use kernel_model::mem::{self, GuestMemory, Perms, Walker};
use kernel_model::{Fault, Kernel, ProgId};

use crate::unicorn::{
    Access, Accounting, CpuError, Fuel, Halt, POINT, PageTable, PointAt, Rights, Stop, TAIL_ENTRY,
    Vcpu, spec,
};

use guard::Look;
pub use guard::{Guard, Stepper};

/// Address space set aside per BPF instruction. No back end needs more on average; code that
/// does gets what it needs, at the price of other addresses for what is loaded afterwards.
const TEXT_BYTES_PER_INSN: u64 = 64;

/// A program could not be placed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// No RAM left for text.
    #[error("no memory left for {0} pages of program text")]
    Memory(u64),
    /// The text area is full.
    #[error("the program text area is full")]
    Area,
}

/// A placed program.
#[derive(Debug)]
pub struct Loaded {
    /// Its id.
    pub prog: ProgId,
    /// Address of its first byte.
    pub base: u64,
    /// Code and maps as compiled, before calls were patched.
    pub compiled: Compiled,
}

impl Loaded {
    /// The range of native code that contains an address.
    #[must_use]
    pub fn range_at(&self, pc: u64) -> Option<&InsnRange> {
        let off = u32::try_from(pc.checked_sub(self.base)?).ok()?;
        let insns = &self.compiled.debug.insns;
        let n = insns.partition_point(|r| r.start.0 <= off);
        insns[..n].iter().rev().take_while(|r| r.end.0 >= off).find(|r| off < r.end.0)
    }

    /// The original instruction that contains an address.
    #[must_use]
    pub fn insn_at(&self, pc: u64) -> Option<InsnIdx> {
        self.range_at(pc).map(|r| r.orig)
    }

    /// Where native code of each original instruction begins, and the end of all.
    #[must_use]
    pub fn places(&self) -> Arc<[(u64, InsnIdx)]> {
        let insns = &self.compiled.debug.insns;
        let starts = insns.iter().map(|r| (self.base + u64::from(r.start.0), r.orig));
        let end = self.base + self.compiled.code.len() as u64;
        starts.chain(insns.last().map(|r| (end, r.orig))).collect()
    }

    fn ex_entry(&self, pc: u64) -> Option<&ExEntry> {
        let off = NativeOff(u32::try_from(pc.checked_sub(self.base)?).ok()?);
        let table = &self.compiled.extable;
        table.binary_search_by_key(&off, |e| e.fault).ok().map(|i| &table[i])
    }
}

/// All kernel text of one machine: stubs and programs.
#[derive(Clone, Debug)]
pub struct Text {
    arch: Arch,
    next: u64,
    /// Shared with snapshots: it is long.
    cum: Arc<Vec<u64>>,
    progs: Vec<Arc<Loaded>>,
    kfuncs: Vec<i32>,
    points: Vec<PointAt>,
}

impl Text {
    /// Maps the stubs.
    pub fn new(k: &mut Kernel) -> Result<Text, PlaceError> {
        let arch = k.config.arch;
        // Helpers without a UAPI number are numbered from 0x1000 on.
        for page in [HELPER_STUBS, helper_stub(0x1000), KFUNC_STUBS, RETURN_TRAP] {
            map_text(k, page, 1)?;
            let stubs = spec(arch).stub_slot().repeat((PAGE_SIZE / STUB_STRIDE) as usize);
            k.mem.poke(page, &stubs).expect("just mapped");
        }
        k.mem.poke(LAP_STUB, spec(arch).lap).expect("on the page of RETURN_TRAP");
        let (progs, kfuncs, points) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Text { arch, next: PROG_TEXT, cum: Arc::new(vec![0]), progs, kfuncs, points })
    }

    /// Puts a program into guest memory; returns its entry point.
    pub fn place(
        &mut self,
        k: &mut Kernel,
        prog: ProgId,
        bpf_insns: usize,
        compiled: Compiled,
    ) -> Result<u64, PlaceError> {
        let base = self.next;
        for r in &compiled.relocs {
            if let RelocKind::Kfunc(id) = r.kind
                && !self.kfuncs.contains(&id)
            {
                self.kfuncs.push(id);
            }
        }
        let mut code = jit::link(&compiled, base, |kind| match kind {
            RelocKind::Helper(id) => helper_stub(id.unsigned_abs()),
            RelocKind::Kfunc(id) => self.kfunc_stub(id),
        });
        let budget = bpf_insns as u64 * TEXT_BYTES_PER_INSN;
        let pages = budget.max(code.len() as u64 + 1).div_ceil(PAGE_SIZE);
        if base + (pages + 1) * PAGE_SIZE > PROG_TEXT_END {
            return Err(PlaceError::Area);
        }
        map_text(k, base, pages)?;
        // int3 between programs, as the kernel fills them; zeroes are no instruction elsewhere.
        let filler = if self.arch == Arch::X86_64 { 0xcc } else { 0 };
        code.resize(usize::try_from(pages * PAGE_SIZE).expect("text is small"), filler);
        k.mem.poke(base, &code).expect("just mapped");
        self.next = base + (pages + 1) * PAGE_SIZE;
        self.account(base, &compiled);
        let entry = base + u64::from(compiled.debug.funcs.first().map_or(0, |f| f.start.0));
        self.progs.push(Arc::new(Loaded { prog, base, compiled }));
        Ok(entry)
    }

    /// Address of the stub that stands for a kernel function.
    pub(crate) fn kfunc_stub(&self, btf_id: i32) -> u64 {
        let at = self.kfuncs.iter().position(|k| *k == btf_id).expect("given a slot by place");
        kfunc_stub(u32::try_from(at).expect("few kfuncs"))
    }

    fn account(&mut self, base: u64, compiled: &Compiled) {
        let (len, debug) = (compiled.code.len(), &compiled.debug);
        let from = usize::try_from(base - PROG_TEXT).expect("text is small");
        let cum = Arc::make_mut(&mut self.cum);
        let mut total = cum.last().copied().unwrap_or(0) & !(TAIL_ENTRY | POINT);
        cum.resize(from + 1, total);
        let mut starts = vec![0u64; len];
        for at in native_starts(compiled) {
            starts[at] += 1 << 32;
        }
        for r in debug.insns.iter().filter(|r| r.first) {
            if let Some(n) = starts.get_mut(r.retired_at.0 as usize) {
                *n += 1;
            }
        }
        cum.extend(starts.into_iter().map(|n| {
            total += n;
            total
        }));
        if let Some(f) = debug.funcs.first()
            && f.tail_call_entry > f.start
            && let Some(c) = cum.get_mut(from + f.tail_call_entry.0 as usize)
        {
            *c |= TAIL_ENTRY;
        }
        self.add_points(base, compiled);
    }

    /// Notes where a program can be stopped.
    fn add_points(&mut self, base: u64, compiled: &Compiled) {
        let funcs = &compiled.debug.funcs;
        let mut at = BTreeMap::new();
        for p in &compiled.debug.points {
            for off in p.first.0..=p.last.0 {
                let f = funcs.iter().find(|f| (f.start.0..f.end.0).contains(&off));
                let Some(f) = f.or(funcs.last()) else { continue };
                let range = |o: NativeOff| base + u64::from(o.0);
                let point = at.entry(off).or_insert(PointAt {
                    at: base + u64::from(off),
                    func: (range(f.start), range(f.end)),
                    from_outside: None,
                    loop_head: false,
                });
                match p.kind {
                    PointKind::Back => point.loop_head = true,
                    kind => point.from_outside = Some(kind),
                }
            }
        }
        let from = usize::try_from(base - PROG_TEXT).expect("text is small");
        let cum = Arc::make_mut(&mut self.cum);
        for off in at.keys() {
            if let Some(c) = cum.get_mut(from + *off as usize) {
                *c |= POINT;
            }
        }
        self.points.extend(at.into_values());
    }

    /// The point of a program that a stop stands for, with the instruction that names it.
    #[must_use]
    pub fn point_of(&self, pc: u64, kind: PointKind) -> Option<(ProgId, InsnIdx)> {
        let p = self.prog_at(pc)?;
        let off = NativeOff(u32::try_from(pc - p.base).ok()?);
        let mut all = p.compiled.debug.points.iter();
        let found = all.find(|q| q.kind == kind && (q.first..=q.last).contains(&off))?;
        Some((p.prog, found.orig))
    }

    /// The placed program that an address belongs to.
    #[must_use]
    pub fn prog_at(&self, pc: u64) -> Option<&Arc<Loaded>> {
        let n = self.progs.partition_point(|p| p.base <= pc);
        let p = &self.progs[n.checked_sub(1)?];
        (pc - p.base <= p.compiled.code.len() as u64).then_some(p)
    }

    /// Placed programs in order of address.
    #[must_use]
    pub fn progs(&self) -> &[Arc<Loaded>] {
        &self.progs
    }

    /// BTF ids of kernel functions, in the order of their stubs.
    #[must_use]
    pub fn kfuncs(&self) -> &[i32] {
        &self.kfuncs
    }

    /// One past the last address used.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }

    fn accounting(&self) -> Accounting<'_> {
        Accounting { text: PROG_TEXT, cum: &self.cum, lap: LAP_STUB, points: &self.points }
    }

    /// The rewritten BPF instruction that an address belongs to, and its native addresses.
    fn native_range(&self, pc: u64) -> (std::ops::Range<u64>, Option<(ProgId, InsnIdx)>) {
        let found = self.prog_at(pc).and_then(|p| Some((p, p.range_at(pc)?)));
        let Some((p, r)) = found else { return (pc..pc, None) };
        let range = p.base + u64::from(r.start.0)..p.base + u64::from(r.end.0);
        (range, Some((p.prog, r.insn)))
    }

    /// A placed program by its id.
    #[must_use]
    pub fn prog(&self, id: ProgId) -> Option<&Arc<Loaded>> {
        self.progs.iter().rev().find(|p| p.prog == id)
    }

    /// Program and instruction of an address.
    #[must_use]
    pub fn place_of(&self, pc: u64) -> Option<(ProgId, InsnIdx)> {
        let p = self.prog_at(pc)?;
        Some((p.prog, p.insn_at(pc)?))
    }
}

/// Offsets of native instructions. The length of one is in its first bytes, but for x86-64.
pub(crate) fn native_starts(c: &Compiled) -> Vec<usize> {
    let code = &c.code;
    let mut at = 0;
    let mut starts = Vec::with_capacity(c.native_insns as usize);
    if c.arch == Arch::X86_64 {
        return x86_starts(code);
    }
    while at < code.len() {
        starts.push(at);
        at += match c.arch {
            Arch::X86_64 | Arch::Arm64 => 4,
            Arch::Riscv64 if code[at] & 3 != 3 => 2,
            Arch::Riscv64 => 4,
            Arch::S390x => [2, 4, 4, 6][usize::from(code[at] >> 6)],
        };
    }
    starts
}

/// Offsets of the instructions in x86-64 code.
pub(crate) fn x86_starts(code: &[u8]) -> Vec<usize> {
    use capstone::prelude::{BuildsCapstone, Capstone, arch};
    let cs = Capstone::new().x86().mode(arch::x86::ArchMode::Mode64).build();
    // Only the native coordinate is lost without the disassembler.
    let Ok(cs) = cs else { return Vec::new() };
    let Ok(insns) = cs.disasm_all(code, 0) else { return Vec::new() };
    insns.iter().filter_map(|i| usize::try_from(i.address()).ok()).collect()
}

fn map_text(k: &mut Kernel, va: u64, pages: u64) -> Result<(), PlaceError> {
    let phys = k.alloc.pages(&mut k.mem, pages).ok_or(PlaceError::Memory(pages))?;
    for i in 0..pages {
        k.mem.map(va + i * PAGE_SIZE, phys + i * PAGE_SIZE, Perms::RX);
    }
    Ok(())
}

/// What native code wants from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A helper; continue at the stub's `ret`.
    Helper {
        /// Id.
        id: i32,
        /// R1 to R5.
        args: [u64; 5],
    },
    /// A kfunc; continue likewise.
    Kfunc {
        /// BTF id.
        btf_id: i32,
        /// R1 to R5.
        args: [u64; 5],
    },
    /// An access to a page that an arena does not have. It is fixed up: a load gave 0.
    Arena {
        /// The native instruction.
        at: u64,
        /// The address.
        addr: u64,
        /// Where it goes on.
        pc: u64,
    },
    /// The outermost `exit` of this entry.
    Return,
    /// It cannot go on.
    Fault(Fault),
    /// The fuel is used up.
    Fuel,
    /// A point of the program at which the fuel says to stop.
    Point {
        /// Kind.
        kind: PointKind,
        /// Where it goes on.
        pc: u64,
    },
    /// A debugger's, before the instruction at an address, where it goes on ([`Halt::rest`]).
    Held(u64),
}

struct Mmu<'a>(Walker<'a>);

impl PageTable for Mmu<'_> {
    fn lookup(&mut self, page: u64, access: Access, ram: &[u8]) -> Option<(u64, Rights)> {
        let pte = self.0.walk(page, model_access(access), ram)?;
        let rights = match pte.perms {
            Perms { x: true, .. } => Rights::ReadExec,
            Perms { w: true, .. } => Rights::ReadWrite,
            Perms { r: true, .. } => Rights::Read,
            Perms { .. } => return None,
        };
        Some((pte.phys, rights))
    }
}

const fn model_access(a: Access) -> mem::Access {
    match a {
        Access::Read => mem::Access::Read,
        Access::Write => mem::Access::Write,
        Access::Fetch => mem::Access::Fetch,
    }
}

/// Runs from `pc` to the next exit. Faults that an exception table covers are fixed up here:
/// clear the destination, go on after the access; so are right accesses to guarded pages. After
/// one, no other lap begins.
pub fn exec(
    cpu: &mut Vcpu,
    memory: &mut GuestMemory,
    text: &Text,
    guard: &mut Guard<'_>,
    fuel: Fuel,
    mut pc: u64,
) -> Result<Exit, CpuError> {
    let mut left = fuel;
    let mut ends = None;
    loop {
        let (ram, walker) = memory.lend();
        let mut stop = cpu.run(ram, &mut Mmu(walker), text.accounting(), left, pc)?;
        if let Stop::Held { pc: at, stop: to } = stop {
            if let Some(end) = guard.atomic_around(text, to) {
                let halt = left.halt.map(|h| pass_by(h, cpu, text, at..end));
                left = what_is_left(cpu, fuel, &mut ends, halt);
                pc = at;
                continue;
            }
            match one_by_one(cpu, memory, text, guard, at..to)? {
                Some(other) => stop = other,
                None => return Ok(Exit::Held(to)),
            }
        }
        match stop {
            Stop::Held { .. } => unreachable!("looked at above"),
            Stop::Fuel => return Ok(Exit::Fuel),
            Stop::Lap => return Ok(Exit::Return),
            Stop::Point { kind, pc } => return Ok(Exit::Point { kind, pc }),
            Stop::Trap { pc } => return Ok(trap(cpu, text, pc)),
            Stop::Invalid { pc } => {
                return Ok(fault(text, pc, FaultKind::Illegal { pc }));
            }
            Stop::Denied { pc: at, access, addr } => {
                let entry = text.prog_at(at).and_then(|p| Some((p.base, *p.ex_entry(at)?)));
                let entry = entry.filter(|_| access != Access::Fetch);
                let look = match memory.is_guarded(addr) {
                    true => {
                        let within = text.native_range(at);
                        guard.look(cpu, memory, (at, addr), within, entry.is_some())?
                    }
                    false => Look::Fault,
                };
                pc = match (look, entry) {
                    (Look::Done(next), _) => next,
                    (Look::Fault, Some((base, e))) => {
                        if let Some(r) = e.clear {
                            let native = cpu.spec().bpf[r.idx()];
                            cpu.set_reg(native, 0);
                        }
                        let next = base + u64::from(e.resume.0);
                        if (ARENAS..ARENAS_END).contains(&addr) {
                            return Ok(Exit::Arena { at, addr, pc: next });
                        }
                        next
                    }
                    (Look::Fault, None) => return Ok(fault(text, at, denied(access, addr))),
                };
                let halt = fuel.halt.map(|h| Halt { rest: false, ..h });
                left = what_is_left(cpu, fuel, &mut ends, halt);
            }
        }
    }
}

/// Runs part of a block that the debugger stops in; what else stopped it there.
fn one_by_one(
    cpu: &mut Vcpu,
    memory: &mut GuestMemory,
    text: &Text,
    guard: &mut Guard<'_>,
    part: std::ops::Range<u64>,
) -> Result<Option<Stop>, CpuError> {
    let stopped = guard.stepper.advance(cpu, memory, part.start, part.end)?;
    if let Some(hits) = guard.stepper.vcpu().and_then(Vcpu::take_watch_hits) {
        cpu.note_beside(hits, text.accounting(), part.start);
    }
    let end = stopped.map_or(part.end, |(_, pc)| pc + 1);
    cpu.ran(text.accounting(), part.start, end);
    Ok(stopped.map(|s| s.0))
}

/// Fuel for what is left of a run that was stopped and goes on; `ends` is where it is used up.
fn what_is_left(cpu: &Vcpu, fuel: Fuel, ends: &mut Option<(u64, u64)>, halt: Option<Halt>) -> Fuel {
    let (insns, blocks) = *ends.get_or_insert_with(|| {
        let (insns, blocks) = cpu.lap_began();
        (insns.saturating_add(fuel.insns), blocks.saturating_add(fuel.blocks))
    });
    let (insns, blocks) =
        (insns.saturating_sub(cpu.retired()), blocks.saturating_sub(cpu.blocks()));
    Fuel { points: cpu.points_left(), halt, ..Fuel::new(insns, blocks) }
}

/// An atomic instruction of BPF is one step: a reservation (lr, sc) is the engine's that made it.
/// The debugger stops behind it.
fn pass_by(h: Halt, cpu: &Vcpu, text: &Text, run: std::ops::Range<u64>) -> Halt {
    let behind = cpu.place() + (text.accounting().between(run.start, run.end) >> 32);
    Halt { place: h.place.max(behind), from: h.from.max(behind), rest: true, ..h }
}

fn trap(cpu: &Vcpu, text: &Text, pc: u64) -> Exit {
    let args = || cpu.spec().args.map(|r| cpu.reg(r));
    let slot = |from: u64| (pc - from) / STUB_STRIDE;
    let on_stub = pc.is_multiple_of(STUB_STRIDE);
    match pc {
        RETURN_TRAP => Exit::Return,
        HELPER_STUBS..RETURN_TRAP if pc % STUB_STRIDE == CALLBACK_RETURN => Exit::Return,
        HELPER_STUBS..KFUNC_STUBS if on_stub => {
            let id = i32::try_from(slot(HELPER_STUBS)).expect("stubs are few");
            Exit::Helper { id, args: args() }
        }
        KFUNC_STUBS..RETURN_TRAP if on_stub => match text.kfuncs.get(slot(KFUNC_STUBS) as usize) {
            Some(btf_id) => Exit::Kfunc { btf_id: *btf_id, args: args() },
            None => fault(text, pc, FaultKind::Illegal { pc }),
        },
        _ => fault(text, pc, FaultKind::Illegal { pc }),
    }
}

fn denied(access: Access, addr: u64) -> FaultKind {
    match addr {
        VMALLOC..VMALLOC_OBJECTS if access != Access::Fetch => FaultKind::Stack { va: addr },
        _ => FaultKind::Memory { va: addr, access: model_access(access) },
    }
}

fn fault(text: &Text, pc: u64, kind: FaultKind) -> Exit {
    Exit::Fault(Fault { kind, at: text.place_of(pc) })
}
