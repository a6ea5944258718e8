//! One program on five engines: the reference interpreter and a machine per architecture, each
//! with a buffer of the same content.

use std::sync::Arc;

use bpf::insn::{Insn, InsnIdx, Size};
use bpf::uapi::ProgType;
use bpf::{Arch, Endian, interp};
use emu::{Config, Machine};
use kernel_model::cpu::Frame;
use kernel_model::{CpuId, EventKind, Prog, ProgId};
use verifier::testing::{Assume, bare_program};
use verifier::verified::MemClass;

/// Doublewords of a buffer.
pub(crate) type Cells = Vec<u64>;

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
        if self.progs == PROGS_MAX {
            *self = Native::new(self.arch);
        }
        let m = &mut self.machine;
        self.progs += 1;
        let p = bare_program("t", ProgType::Xdp, insns.to_vec());
        let mut assume = Assume::new(p, insns.to_vec()).zext_where_read();
        for at in probes {
            assume = assume.fact(*at, |f| f.mem = MemClass::Probe);
        }
        let verified = Arc::new(assume.build());
        let (id, err) = (ProgId(self.progs), |e: &dyn std::fmt::Debug| format!("{e:?}"));
        let addr = m.kernel.kzalloc(256, "bpf_prog").map_err(|e| err(&e))?;
        m.kernel.progs.insert(id, prog(id, verified, addr));
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

fn prog(id: ProgId, verified: Arc<verifier::Verified>, addr: u64) -> Prog {
    Prog {
        id,
        verified,
        addr,
        entry: 0,
        maps: Vec::new(),
        refs: 1,
        run_cnt: 0,
        misses: 0,
        load_time_ns: 0,
        btf_id: 0,
    }
}

/// Memory of the interpreter: a buffer and a stack.
struct Flat {
    endian: Endian,
    buffer: Vec<u8>,
    stack: Vec<u8>,
}

const BUFFER: u64 = 0xffff_8880_0010_0000;
const STACK: u64 = 0xffff_c900_0010_0000;
const STACK_BYTES: u64 = 0x8000;

impl Flat {
    fn bytes(&mut self, addr: u64, size: Size, write: bool) -> Result<&mut [u8], interp::Fault> {
        let (base, area) =
            if addr >= STACK { (STACK, &mut self.stack) } else { (BUFFER, &mut self.buffer) };
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
        let bytes = self.bytes(addr, size, false)?.iter();
        let join = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(if endian == Endian::Big { bytes.fold(0, join) } else { bytes.rev().fold(0, join) })
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        let n = size.bytes() as usize;
        let (le, be) = (value.to_le_bytes(), value.to_be_bytes());
        let from = if self.endian == Endian::Big { &be[8 - n..] } else { &le[..n] };
        self.bytes(addr, size, true)?.copy_from_slice(from);
        Ok(())
    }
}

/// As [`Native::run`], by the interpreter.
pub(crate) fn interpret(
    insns: &[Insn],
    cells: &[u64],
    endian: Endian,
) -> Result<(Cells, u64), String> {
    let encode = |v: &u64| if endian == Endian::Big { v.to_be_bytes() } else { v.to_le_bytes() };
    let buffer = cells.iter().flat_map(encode).collect();
    let mut host = Flat { endian, buffer, stack: vec![0; STACK_BYTES as usize] };
    let stack = STACK..STACK + STACK_BYTES;
    let mut vm = interp::Vm::new(Arc::from(insns), [BUFFER, 0, 0, 0, 0], stack, 10_000_000);
    match vm.run(&mut host) {
        interp::Exit::Return(_) => {}
        other => return Err(format!("{other:?}")),
    }
    let decode = |c: &[u8]| {
        let c: [u8; 8] = c.try_into().expect("chunks of 8");
        if endian == Endian::Big { u64::from_be_bytes(c) } else { u64::from_le_bytes(c) }
    };
    Ok((host.buffer.chunks(8).map(decode).collect(), vm.retired))
}
