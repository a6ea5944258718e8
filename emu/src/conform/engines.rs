//! The engines a vector runs on: the reference interpreter in both byte orders, and a machine an
//! architecture, which is kept for the next vector; the kernel of this machine for who asks.

use std::sync::Arc;

use bpf::insn::{Imm64, Insn, InsnIdx, Size};
use bpf::uapi::MapType;
use bpf::{Arch, Endian, interp};
use kernel_model::cpu::Frame;
use kernel_model::syscall::{SysError, Why};
use kernel_model::{CpuId, EventKind, ProgId};
use verifier::{KernelEnv as _, Verified};

use super::coverage::Coverage;
use super::vector::{MEM, Memory, OUT, Vector, own_numbers, program};
use crate::host::{HostKernel, TestRunIn};
use crate::loader::{Bpf, Fd, MapCreate, ProgLoad, ProgRefusal};
use crate::{Config, Machine};

/// Programs, and instructions of programs, after which a machine is made anew: text is not given
/// back.
const PROGS_MAX: u32 = 400;
const INSNS_MAX: usize = 20_000;
/// Memory of a machine.
const MEMORY: u64 = 16 << 20;
/// The interpreter's stack: eight frames.
const STACK: std::ops::Range<u64> = 0xffff_c900_0010_0000..0xffff_c900_0010_1000;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// All of it.
    pub r0: u64,
    /// The vector's memory at the end.
    pub mem: Vec<u8>,
    /// BPF instructions retired, prologue and epilogue included; None where nobody counts them.
    pub retired: Option<u64>,
}

/// Why a vector did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The verifier said no, in these words.
    Refused(String),
    /// It is not modelled.
    Unsupported(String),
    /// The program faulted, or did not end.
    Fault(String),
    /// An engine does what none should.
    Broken(String),
    /// There is no such engine here.
    Absent(String),
}

impl std::fmt::Display for Miss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Miss::Refused(why) => write!(f, "refused by the verifier: {why}"),
            Miss::Unsupported(what) => write!(f, "not modelled: {what}"),
            Miss::Fault(why) | Miss::Broken(why) | Miss::Absent(why) => f.write_str(why),
        }
    }
}

/// A loaded vector.
#[derive(Clone, Debug)]
pub struct Loaded {
    prog: Fd,
    id: ProgId,
    mem: Option<(Fd, u64)>,
    /// The proof.
    pub verified: Arc<Verified>,
    insns: Arc<[Insn]>,
}

/// A machine that runs vectors, one after the other.
#[derive(Debug)]
pub struct Native {
    arch: Arch,
    insns_max: u64,
    machine: Machine,
    out: u64,
    out_fd: Fd,
    progs: u32,
    insns: usize,
}

fn broken(e: impl std::fmt::Display) -> Miss {
    Miss::Broken(e.to_string())
}

/// An array of one entry.
fn array(kernel: &mut impl Bpf, name: &str, bytes: usize) -> Result<Fd, Miss> {
    let value_size = u32::try_from(bytes).map_err(broken)?;
    let map = MapCreate {
        name: name.into(),
        map_type: MapType::Array,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: 0,
        numa_node: None,
        map_extra: 0,
        inner: None,
        btf_types: (0, 0),
    };
    kernel.map_create(&map, None).map_err(broken)
}

/// The same in a machine, with the address of its value.
fn placed(m: &mut Machine, name: &str, bytes: usize) -> Result<(Fd, u64), Miss> {
    let fd = array(&mut m.kernel, name, bytes)?;
    let value = m.kernel.map_by_fd(fd).and_then(|m| m.value_addr);
    Ok((fd, value.ok_or_else(|| broken("an array without a value"))?.0))
}

/// What is loaded of a vector; the maps are `fds`.
fn load_of(insns: Vec<Insn>, fds: &[Fd]) -> ProgLoad<'_> {
    ProgLoad { program: program(insns), fd_array: fds, btf: None, log_level: 0, struct_ops: None }
}

impl From<ProgRefusal> for Miss {
    fn from(refusal: ProgRefusal) -> Miss {
        match refusal {
            ProgRefusal::Rejected(r) if r.is_unsupported() => Miss::Unsupported(r.to_string()),
            ProgRefusal::Rejected(r) => Miss::Refused(own_numbers(&r.to_string())),
            ProgRefusal::Errno(e) => Miss::Refused(e.to_string()),
        }
    }
}

impl Native {
    /// Boots.
    ///
    /// # Errors
    /// The CPU layer cannot be opened.
    pub fn new(arch: Arch, insns_max: u64) -> Result<Native, Miss> {
        let kernel = kernel_model::Config { memory_bytes: MEMORY, ..Default::default() };
        let config = Config { kernel, run_insns_max: insns_max, ..Config::default() };
        let mut machine = Machine::new(arch, config).map_err(broken)?;
        let (out_fd, out) = placed(&mut machine, "out", 8)?;
        Ok(Native { arch, insns_max, machine, out, out_fd, progs: 0, insns: 0 })
    }

    /// Loads a vector; [`Native::unload`] gives it back.
    ///
    /// # Errors
    /// The verifier's, or the vector's.
    pub fn load(&mut self, v: &Vector) -> Result<Loaded, Miss> {
        if self.progs == PROGS_MAX || self.insns >= INSNS_MAX {
            *self = Native::new(self.arch, self.insns_max)?;
        }
        (self.progs, self.insns) = (self.progs + 1, self.insns + v.insns.len());
        let insns = v.wrapped().map_err(Miss::Refused)?;
        let order = self.arch.endian();
        let mem = v.mem.as_ref().map(|m| placed(&mut self.machine, "mem", m.of(order).len()));
        let mem = mem.transpose()?;
        let fds = [self.out_fd, mem.map_or(self.out_fd, |m| m.0)];
        let loaded = match self.machine.kernel.prog_load(load_of(insns.clone(), &fds)) {
            Ok(loaded) => loaded,
            Err(refusal) => {
                if let Some((fd, _)) = mem {
                    self.machine.kernel.sys_close(fd).map_err(broken)?;
                }
                return Err(refusal.into());
            }
        };
        let id = ProgId(loaded.id);
        let prog = self.machine.kernel.prog(id).ok_or_else(|| broken("a program without id"))?;
        let verified = prog.verified.clone();
        Ok(Loaded { prog: loaded.fd, id, mem, verified, insns: insns.into() })
    }

    /// Closes what [`Native::load`] opened.
    ///
    /// # Errors
    /// It was closed before.
    pub fn unload(&mut self, l: &Loaded) -> Result<(), Miss> {
        let k = &mut self.machine.kernel;
        l.mem.map_or(Ok(()), |(fd, _)| k.sys_close(fd)).map_err(broken)?;
        k.sys_close(l.prog).map_err(broken)
    }

    fn fill(&mut self, v: &Vector, l: &Loaded) -> Result<(), Miss> {
        let memory = &mut self.machine.kernel.mem;
        memory.write_u64(self.out, 0).map_err(broken)?;
        let bytes = v.mem.as_ref().map(|m| m.of(self.arch.endian())).unwrap_or_default();
        l.mem.map_or(Ok(()), |(_, at)| memory.write(at, bytes)).map_err(broken)
    }

    /// Compiles and runs a loaded vector.
    ///
    /// # Errors
    /// It faulted, or did not end.
    pub fn run(&mut self, v: &Vector, l: &Loaded) -> Result<Ran, Miss> {
        self.fill(v, l)?;
        let m = &mut self.machine;
        m.compile(l.id).map_err(broken)?;
        m.forget_events(m.events().len());
        let before = m.insns();
        m.kernel.submit(CpuId(0), Frame::Hook { prog: l.id, ctx: 0, cookie: 0, free: 0 });
        m.run_until_idle().map_err(broken)?;
        if !m.events().iter().any(|e| matches!(e.kind, EventKind::Exit { .. })) {
            let over = m.insns() - before >= self.insns_max;
            return Err(if over { self.endless() } else { Miss::Fault(fault(m)) });
        }
        let retired = m.insns() - before;
        let r0 = m.kernel.mem.read_u64(self.out).map_err(broken)?;
        let len = v.mem.as_ref().map_or(0, |mem| mem.of(m.arch().endian()).len());
        let mem = l.mem.map_or(Ok(Vec::new()), |(_, at)| m.kernel.mem.read_vec(at, len));
        Ok(Ran { r0, mem: mem.map_err(broken)?, retired: Some(retired) })
    }

    fn endless(&self) -> Miss {
        Miss::Fault(format!("did not end within {} instructions", self.insns_max))
    }

    /// Native code of a vector that was run.
    #[must_use]
    pub fn code(&self, l: &Loaded) -> Option<&jit::Compiled> {
        Some(&self.machine.text().prog(l.id)?.compiled)
    }

    /// The reference interpreter on a vector loaded here: the same addresses, the same proof.
    ///
    /// # Errors
    /// It faulted, or did not end.
    pub fn interpret(&self, v: &Vector, l: &Loaded) -> Result<Ran, Miss> {
        let order = self.arch.endian();
        let bytes = v.mem.as_ref().map(|m| m.of(order).to_vec()).unwrap_or_default();
        let host = || Flat {
            endian: self.arch.endian(),
            out: (self.out, vec![0; 8]),
            mem: (l.mem.map_or(0, |m| m.1), bytes.clone()),
            stack: vec![0; (STACK.end - STACK.start) as usize],
        };
        let mut flat = host();
        let mut vm = interp::Vm::new(l.insns.clone(), [0; 5], STACK, self.insns_max);
        let fault = |exit| match exit {
            interp::Exit::OutOfFuel => self.endless(),
            interp::Exit::Fault { at, fault: interp::Fault::Unsupported(what) } => {
                Miss::Unsupported(format!("interpreter: {what} at {}", at.0))
            }
            interp::Exit::Fault { at, fault } => Miss::Fault(format!("insn {}: {fault}", at.0)),
            interp::Exit::Helper { id, .. } => {
                Miss::Unsupported(format!("interpreter: helper {id}"))
            }
            other => Miss::Unsupported(format!("interpreter: {other:?}")),
        };
        match vm.run(&mut flat) {
            interp::Exit::Return(_) => {}
            exit => return Err(fault(exit)),
        }
        let retired = Some(self.retired(&l.verified, &mut host()).map_err(fault)?);
        let r0 = flat.load(self.out, Size::DW).map_err(broken)?;
        Ok(Ran { r0, mem: flat.mem.1, retired })
    }

    /// Instructions that a run retires: those of the program that are left after rewriting.
    fn retired(&self, v: &Verified, host: &mut Flat) -> Result<u64, interp::Exit> {
        let insns: Arc<[Insn]> = (0..v.len()).map(|i| *v.insn(InsnIdx(i as u32)).0).collect();
        let mut vm = interp::Vm::new(insns, [0; 5], STACK, 0);
        let (mut retired, mut left) = (0, self.insns_max.saturating_mul(4));
        loop {
            retired += u64::from(v.insn(InsnIdx(vm.pc as u32)).1.first);
            vm.fuel = 1;
            left = left.checked_sub(1).ok_or(interp::Exit::OutOfFuel)?;
            match vm.run(host) {
                interp::Exit::OutOfFuel => {}
                interp::Exit::Return(_) => return Ok(retired),
                exit => return Err(exit),
            }
        }
    }
}

/// The kernel of this machine, which has a JIT of its own.
#[derive(Debug)]
pub struct Host {
    kernel: HostKernel,
    out: Fd,
}

impl Host {
    /// A packet that programs of type xdp are run on: they do not look at it.
    const PACKET: [u8; 64] = [0; 64];

    /// Asks whether there is one.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn open() -> Result<Host, Miss> {
        let mut kernel = HostKernel::open().map_err(broken)?;
        let out = array(&mut kernel, "out", 8)?;
        Ok(Host { kernel, out })
    }

    /// Runs with each memory; without one, once.
    ///
    /// # Errors
    /// The verifier's, or the vector's.
    pub fn run(&mut self, v: &Vector, memories: &[Memory]) -> Result<Vec<Ran>, Miss> {
        // The program is for memories like the first one.
        let v = Vector { mem: memories.first().cloned(), ..v.clone() };
        let insns = v.wrapped().map_err(Miss::Refused)?;
        let len = v.mem.as_ref().map(|m| m.of(Endian::Little).len());
        let mem = len.map(|len| array(&mut self.kernel, "mem", len)).transpose()?;
        let loaded = self.kernel.prog_load(load_of(insns, &[self.out, mem.unwrap_or(self.out)]));
        let ran = match (&loaded, mem) {
            (Err(_), _) => Ok(Vec::new()),
            (Ok(l), None) => self.once(l.fd, None).map(|ran| vec![ran]),
            (Ok(l), Some(fd)) => memories.iter().map(|m| self.once(l.fd, Some((fd, m)))).collect(),
        };
        if let Ok(l) = &loaded {
            self.kernel.close(l.fd);
        }
        mem.into_iter().for_each(|fd| self.kernel.close(fd));
        loaded?;
        ran
    }

    fn once(&mut self, prog: Fd, mem: Option<(Fd, &Memory)>) -> Result<Ran, Miss> {
        let key = Some(&[0u8; 4][..]);
        let k = &mut self.kernel;
        k.map_update(self.out, &[0; 4], &[0; 8]).map_err(broken)?;
        if let Some((fd, bytes)) = mem {
            k.map_update(fd, &[0; 4], bytes.of(Endian::Little)).map_err(broken)?;
        }
        let given = TestRunIn { data: &Host::PACKET, repeat: 1, ..TestRunIn::default() };
        k.test_run(prog, &given).map_err(broken)?;
        let r0 = k.map_lookup(self.out, key).map_err(broken)?;
        let r0 = r0.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        let mem = mem.map_or(Ok(Vec::new()), |(fd, _)| k.map_lookup(fd, key));
        Ok(Ran { r0, mem: mem.map_err(broken)?, retired: None })
    }
}

/// What the trace says of a run that did not return.
fn fault(m: &Machine) -> String {
    let last = m.events().iter().rev().find_map(|e| match &e.kind {
        EventKind::Enter { .. } => None,
        kind => Some(format!("{kind:?}")),
    });
    last.unwrap_or_else(|| "the program did not return".to_owned())
}

/// Memory of the interpreter.
struct Flat {
    endian: Endian,
    out: (u64, Vec<u8>),
    mem: (u64, Vec<u8>),
    stack: Vec<u8>,
}

impl Flat {
    fn at(&mut self, addr: u64, size: Size, write: bool) -> Result<&mut [u8], interp::Fault> {
        let areas = [
            (STACK.start, &mut self.stack),
            (self.out.0, &mut self.out.1),
            (self.mem.0, &mut self.mem.1),
        ];
        let bytes = size.bytes();
        for (base, area) in areas {
            let from = addr.checked_sub(base).and_then(|o| usize::try_from(o).ok());
            let Some(from) = from.filter(|f| *f < area.len()) else { continue };
            if let Some(found) = area.get_mut(from..from + bytes as usize) {
                return Ok(found);
            }
        }
        Err(interp::Fault::BadAddress { addr, size: bytes, write })
    }
}

use interp::Host as _;

impl interp::Host for Flat {
    fn endian(&self) -> Endian {
        self.endian
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, interp::Fault> {
        let endian = self.endian;
        let bytes = self.at(addr, size, false)?.iter();
        let join = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(if endian == Endian::Big { bytes.fold(0, join) } else { bytes.rev().fold(0, join) })
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        let n = size.bytes() as usize;
        let (le, be) = (value.to_le_bytes(), value.to_be_bytes());
        let from = if self.endian == Endian::Big { &be[8 - n..] } else { &le[..n] };
        self.at(addr, size, true)?.copy_from_slice(from);
        Ok(())
    }

    fn imm64(&mut self, at: InsnIdx, imm: &Imm64) -> Result<u64, interp::Fault> {
        match *imm {
            Imm64::MapIdxValue { idx: OUT, off } => Ok(self.out.0 + u64::from(off)),
            Imm64::MapIdxValue { idx: MEM, off } => Ok(self.mem.0 + u64::from(off)),
            Imm64::Func(off) => Ok((i64::from(at.0) + 1 + i64::from(off)).cast_unsigned()),
            _ => Err(interp::Fault::Unsupported("an unresolved ld_imm64")),
        }
    }
}

/// Machines of all architectures, made when they are needed.
#[derive(Debug)]
pub struct Rig {
    insns_max: u64,
    natives: [Option<Native>; Arch::ALL.len()],
    host: Option<Result<Host, Miss>>,
}

impl Rig {
    /// None yet.
    #[must_use]
    pub fn new(insns_max: u64) -> Rig {
        Rig { insns_max, natives: Default::default(), host: None }
    }

    /// Notes what a vector covers: on the machines there are, it is loaded and compiled again.
    pub fn covered(&mut self, coverage: &mut Coverage, v: &Vector) {
        coverage.program(&v.insns);
        for (arch, m) in Arch::ALL.into_iter().zip(&mut self.natives) {
            let Some(m) = m else { continue };
            let Ok(loaded) = m.load(v) else { continue };
            if m.machine.compile(loaded.id).is_ok()
                && let Some(code) = m.code(&loaded)
            {
                coverage.native(arch, &loaded.verified, code);
            }
            // It was opened here.
            let _closed = m.unload(&loaded);
        }
    }

    /// The kernel of this machine.
    ///
    /// # Errors
    /// [`Miss::Absent`]: it cannot be asked.
    pub fn host(&mut self) -> Result<&mut Host, Miss> {
        let open = || Host::open().map_err(|e| Miss::Absent(e.to_string()));
        self.host.get_or_insert_with(open).as_mut().map_err(|e| e.clone())
    }

    /// The machine of an architecture.
    ///
    /// # Errors
    /// As for [`Native::new`].
    pub fn native(&mut self, arch: Arch) -> Result<&mut Native, Miss> {
        let slot = &mut self.natives[arch as usize];
        if slot.is_none() {
            *slot = Some(Native::new(arch, self.insns_max)?);
        }
        slot.as_mut().ok_or_else(|| broken("just made"))
    }
}

impl From<SysError> for Miss {
    fn from(e: SysError) -> Miss {
        match e.why {
            Why::Unsupported(what) => Miss::Unsupported(what),
            _ => Miss::Broken(e.errno.to_string()),
        }
    }
}
