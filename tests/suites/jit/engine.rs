//! One program on five engines: the reference interpreter and a machine per architecture, each
//! with a buffer of the same content.

use std::sync::Arc;

use bpf::insn::{Cast, Insn, InsnIdx, Size};
use bpf::uapi::ProgType;
use bpf::{Arch, Endian, interp};
use emu::{Config, Machine};
use kernel_model::cpu::Frame;
use kernel_model::mem::Perms;
use kernel_model::{CpuId, EventKind, Prog, ProgId};
use verifier::testing::{Assume, bare_program};
use verifier::verified::{Arena, MemClass};

/// Doublewords of a buffer.
pub(crate) type Cells = Vec<u64>;

/// An arena that has one page, [`PAGE`].
pub(crate) const ARENA: Arena =
    Arena { kern_vm_start: 0xffff_c980_1234_5000, user_vm_start: 0x7f12_3456_7000 };
/// Offset of its page.
const PAGE: u64 = 0x1_0000;
/// How far before an arena a displacement reaches.
const ARENA_SLACK: u64 = 0x8000;
/// Bytes of the page.
const PAGE_BYTES: u64 = 4096;

/// What the page holds before a program.
fn page() -> Cells {
    (1..=PAGE_BYTES / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

/// Programs after which a machine is made anew: text is not given back.
const PROGS_MAX: u32 = 200;

/// Native code of one architecture under the emulator.
pub(crate) struct Native {
    arch: Arch,
    machine: Machine,
    progs: u32,
}

fn boot(arch: Arch) -> Machine {
    let kernel = kernel_model::Config { memory_bytes: 16 << 20, ..Default::default() };
    Machine::new(arch, Config { kernel, ..Config::default() }).expect("a machine boots")
}

impl Native {
    pub(crate) fn new(arch: Arch) -> Native {
        Native { arch, machine: boot(arch), progs: 0 }
    }

    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    pub(crate) fn endian(&self) -> Endian {
        self.arch.endian()
    }

    /// Runs with r1 at a buffer; what is in it afterwards, and instructions retired.
    pub(crate) fn run(&mut self, insns: &[Insn], cells: &[u64]) -> Result<(Cells, u64), String> {
        self.run_with(insns, cells, &[])
    }

    /// As [`Native::run`]; the accesses in `probes` may fault.
    pub(crate) fn run_with(
        &mut self,
        insns: &[Insn],
        cells: &[u64],
        probes: &[InsnIdx],
    ) -> Result<(Cells, u64), String> {
        self.run_class(insns, cells, probes, MemClass::Probe)
    }

    /// As [`Native::run`] with [`ARENA`], which the accesses in `arena` are to: the buffer, and
    /// the page.
    pub(crate) fn run_arena(
        &mut self,
        insns: &[Insn],
        cells: &[u64],
        arena: &[InsnIdx],
    ) -> Result<[Cells; 2], String> {
        self.fresh();
        let (at, err) = (ARENA.kern_vm_start + PAGE, |e: &dyn std::fmt::Debug| format!("{e:?}"));
        let k = &mut self.machine.kernel;
        if k.mem.translate(at).is_none() {
            let phys = k.alloc.pages(&mut k.mem, 1).ok_or("no page left")?;
            k.mem.map(at, phys, Perms::RW);
        }
        let places = || (at..at + PAGE_BYTES).step_by(8);
        for (at, v) in places().zip(page()) {
            k.mem.write_u64(at, v).map_err(|e| err(&e))?;
        }
        let (buffer, _) = self.run_class(insns, cells, arena, MemClass::Arena)?;
        let read = |at| self.machine.kernel.mem.read_u64(at).map_err(|e| err(&e));
        Ok([buffer, places().map(read).collect::<Result<_, _>>()?])
    }

    fn fresh(&mut self) {
        if self.progs == PROGS_MAX {
            *self = Native::new(self.arch);
        }
    }

    fn run_class(
        &mut self,
        insns: &[Insn],
        cells: &[u64],
        special: &[InsnIdx],
        class: MemClass,
    ) -> Result<(Cells, u64), String> {
        self.fresh();
        let m = &mut self.machine;
        self.progs += 1;
        let p = bare_program("t", ProgType::Xdp, insns.to_vec());
        let mut assume = Assume::new(p, insns.to_vec()).zext_where_read().arena(ARENA);
        for at in special {
            assume = assume.fact(*at, |f| f.mem = class);
        }
        let verified = Arc::new(assume.build());
        let (id, err) = (ProgId(self.progs), |e: &dyn std::fmt::Debug| format!("{e:?}"));
        let addr = m.kernel.kzalloc(256, "bpf_prog").map_err(|e| err(&e))?;
        m.kernel.progs.insert(id, Prog::new(id, verified, addr));
        m.compile(id).map_err(|e| err(&e))?;
        let bytes = cells.len() as u64 * 8;
        let ctx = m.kernel.kzalloc(bytes, "buffer").map_err(|e| err(&e))?;
        for (at, v) in (ctx..).step_by(8).zip(cells) {
            m.kernel.mem.write_u64(at, *v).map_err(|e| err(&e))?;
        }
        let (events, before) = (m.events().len(), m.insns());
        m.kernel.submit(CpuId(0), Frame::Hook { prog: id, ctx, cookie: 0, free: 0 });
        m.run_until_idle().map_err(|e| err(&e))?;
        if !m.events()[events..].iter().any(|e| matches!(e.kind, EventKind::Exit { .. })) {
            return Err(format!("{:?}", &m.events()[events..]));
        }
        let read = |at| m.kernel.mem.read_u64(at).map_err(|e| err(&e));
        let after = (ctx..ctx + bytes).step_by(8).map(read).collect::<Result<_, _>>()?;
        Ok((after, m.insns() - before))
    }
}

/// Memory of the interpreter: a buffer and a stack.
struct Flat {
    endian: Endian,
    buffer: Vec<u8>,
    stack: Vec<u8>,
    arena: Vec<u8>,
}

const BUFFER: u64 = 0xffff_8880_0010_0000;
const STACK: u64 = 0xffff_c900_0010_0000;
const STACK_BYTES: u64 = 0x8000;

impl Flat {
    /// Pointers to an arena are offsets: everything that is neither buffer nor stack is in it.
    fn in_hole(&self, addr: u64, size: Size) -> bool {
        let kernel = BUFFER..u64::MAX - ARENA_SLACK;
        let page = PAGE..=PAGE + PAGE_BYTES - u64::from(size.bytes());
        !self.arena.is_empty() && !kernel.contains(&addr) && !page.contains(&addr)
    }

    fn bytes(&mut self, addr: u64, size: Size, write: bool) -> Result<&mut [u8], interp::Fault> {
        let (base, area) = match addr {
            STACK.. => (STACK, &mut self.stack),
            BUFFER.. => (BUFFER, &mut self.buffer),
            _ => (PAGE, &mut self.arena),
        };
        let at = addr.checked_sub(base).and_then(|o| usize::try_from(o).ok());
        let n = size.bytes() as usize;
        let found = at.and_then(|at| area.get_mut(at..at.checked_add(n)?));
        found.ok_or(interp::Fault::BadAddress { addr, size: size.bytes(), write })
    }
}

impl interp::Host for Flat {
    fn endian(&self) -> Endian {
        self.endian
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, interp::Fault> {
        let endian = self.endian;
        if self.in_hole(addr, size) {
            return Ok(0);
        }
        let bytes = self.bytes(addr, size, false)?.iter();
        let join = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(if endian == Endian::Big { bytes.fold(0, join) } else { bytes.rev().fold(0, join) })
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        if self.in_hole(addr, size) {
            return Ok(());
        }
        let n = size.bytes() as usize;
        let (le, be) = (value.to_le_bytes(), value.to_be_bytes());
        let from = if self.endian == Endian::Big { &be[8 - n..] } else { &le[..n] };
        self.bytes(addr, size, true)?.copy_from_slice(from);
        Ok(())
    }

    fn cast(&mut self, value: u64, cast: Cast) -> Result<u64, interp::Fault> {
        let (low, upper) = (value & u64::from(u32::MAX), ARENA.user_vm_start >> 32 << 32);
        Ok(if cast == Cast::ToUser && low != 0 { upper | low } else { low })
    }
}

/// As [`Native::run`], by the interpreter.
pub(crate) fn interpret(
    insns: &[Insn],
    cells: &[u64],
    endian: Endian,
) -> Result<(Cells, u64), String> {
    let (host, retired) = interpret_in(insns, cells, endian, &[])?;
    Ok((decode(endian, &host.buffer), retired))
}

/// As [`Native::run_arena`], by the interpreter.
pub(crate) fn interpret_arena(
    insns: &[Insn],
    cells: &[u64],
    endian: Endian,
) -> Result<[Cells; 2], String> {
    let (host, _) = interpret_in(insns, cells, endian, &page())?;
    Ok([decode(endian, &host.buffer), decode(endian, &host.arena)])
}

fn interpret_in(
    insns: &[Insn],
    cells: &[u64],
    endian: Endian,
    arena: &[u64],
) -> Result<(Flat, u64), String> {
    let encode = |v: &u64| if endian == Endian::Big { v.to_be_bytes() } else { v.to_le_bytes() };
    let bytes = |cells: &[u64]| cells.iter().flat_map(encode).collect();
    let stack = vec![0; STACK_BYTES as usize];
    let mut host = Flat { endian, buffer: bytes(cells), stack, arena: bytes(arena) };
    let stack = STACK..STACK + STACK_BYTES;
    let mut vm = interp::Vm::new(Arc::from(insns), [BUFFER, 0, 0, 0, 0], stack, 10_000_000);
    match vm.run(&mut host) {
        interp::Exit::Return(_) => Ok((host, vm.retired)),
        other => Err(format!("{other:?}")),
    }
}

fn decode(endian: Endian, bytes: &[u8]) -> Cells {
    let one = |c: &[u8]| {
        let c: [u8; 8] = c.try_into().expect("chunks of 8");
        if endian == Endian::Big { u64::from_be_bytes(c) } else { u64::from_le_bytes(c) }
    };
    bytes.chunks(8).map(one).collect()
}
