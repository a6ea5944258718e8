//! Objects, and types alone: parsed, shown, loaded; what is accepted is compiled, run on the
//! architectures of its byte order, and interpreted with every register checked.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpf::btf::Btf;
use bpf::insn::generate::Rng;
use bpf::object::{Kconfig, Object, inspect};
use bpf::uapi::Cmd;
use bpf::uapi::attr::MapElem;
use bpf::uapi::fields::Struct as _;
use bpf::{Arch, Endian};
use kernel_model::syscall::{UserSpace, Why};
use kernel_model::types::Types;
use verifier::KernelEnv as _;

use super::{Input, Subject, bytes, elf, shape};
use crate::cli::fuzz::interpreted;
use crate::host::TestRunIn;
use crate::loader::{LoadOptions, LoadedObject};
use crate::machine::MachineError;
use crate::{Config, Machine};

/// Instructions of one run.
const RUN_MAX: u64 = 1 << 16;
/// Memory of a machine.
const MEMORY: u64 = 16 << 20;
/// A packet for a program.
const DATA: [u8; 64] = [0x5a; 64];
/// Elements of a map that are compared.
const KEYS: usize = 32;
/// States a program is interpreted with.
const STATES: u32 = 4000;

/// Objects to damage.
#[derive(Debug)]
pub struct Objects {
    good: Vec<Input>,
}

impl Objects {
    /// With these to begin with, and the types of the modelled kernel.
    #[must_use]
    pub fn new(mut good: Vec<Input>) -> Objects {
        let types = |arch: Arch| Input {
            name: format!("types of {arch}"),
            bytes: Types::of(arch).btf().to_bytes(arch.endian()),
            dir: std::path::PathBuf::new(),
        };
        good.extend([Arch::X86_64, Arch::S390x].map(types));
        Objects { good }
    }
}

fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl Subject for Objects {
    fn good(&self) -> &[Input] {
        &self.good
    }

    fn damage(&self, out: &mut Vec<u8>, rng: &mut Rng) {
        if is_elf(out) && !rng.one_in(4) { elf::damage(out, rng) } else { bytes::damage(out, rng) }
    }

    /// Offsets are everywhere: nothing can be cut out.
    fn pieces(&self, _: &[u8]) -> Vec<Range<usize>> {
        Vec::new()
    }

    fn ending(&self, bytes: &[u8]) -> &'static str {
        if is_elf(bytes) { "bpf.o" } else { "btf" }
    }

    fn check(&self, input: &Input, stop: &Arc<AtomicBool>) -> Result<Vec<String>, String> {
        if !is_elf(&input.bytes) {
            return Ok(vec![types(&input.bytes)]);
        }
        let object = match Object::parse(&input.bytes) {
            Ok(object) => object,
            Err(e) => return Ok(vec![shape(&e.to_string())]),
        };
        if inspect(&object).to_string().is_empty() {
            return Err("inspect shows nothing".to_owned());
        }
        let archs: &[Arch] = match object.endian {
            Endian::Little => &[Arch::X86_64, Arch::Arm64, Arch::Riscv64],
            Endian::Big => &[Arch::S390x],
        };
        let mut first: Option<Came> = None;
        for arch in archs {
            let came = run(*arch, &input.bytes, stop)?;
            let more = came.accepted && !stop.load(Ordering::Relaxed);
            if let Some(first) = &first
                && let Some(what) = apart(first, &came)
            {
                return Err(format!("{} and {arch} differ: {what}", archs[0]));
            }
            first.get_or_insert(came);
            if !more {
                break;
            }
        }
        Ok(first.map(|c| c.answers).unwrap_or_default())
    }
}

/// BTF alone, as a command takes it.
fn types(bytes: &[u8]) -> String {
    match Btf::parse(bytes) {
        Ok(btf) => {
            assert!(!btf.to_c_header().is_empty(), "types that are shown as nothing");
            "types".to_owned()
        }
        Err(e) => shape(&e.to_string()),
    }
}

/// What an architecture makes of an object.
#[derive(Debug, Default)]
struct Came {
    answers: Vec<String>,
    /// A program was accepted.
    accepted: bool,
    /// What came of each, and what is in the maps then.
    ran: Vec<String>,
}

fn apart(a: &Came, b: &Came) -> Option<String> {
    let (x, y) = a.ran.iter().zip(&b.ran).find(|(x, y)| x != y)?;
    Some(format!("{x}, {y}"))
}

fn run(arch: Arch, bytes: &[u8], stop: &Arc<AtomicBool>) -> Result<Came, String> {
    let kernel = kernel_model::Config { memory_bytes: MEMORY, ..Default::default() };
    let config = Config { kernel, run_insns_max: RUN_MAX, ..Config::default() };
    let mut machine = Machine::new(arch, config).map_err(|e| e.to_string())?;
    let opts = LoadOptions {
        keep_going: true,
        kconfig: Kconfig { kernel_version: 0x06_12_00, ..Kconfig::default() },
        ..LoadOptions::default()
    };
    let mut came = Came::default();
    let loaded = match machine.load_object(bytes, &opts) {
        Ok(loaded) => loaded,
        Err(MachineError::Load(e)) => {
            came.answers.push(shape(&e.to_string()));
            return Ok(came);
        }
        Err(e) => return Err(e.to_string()),
    };
    came.answers.extend(loaded.refused.iter().map(|r| shape(&r.rejection.message)));
    for prog in &loaded.progs {
        came.accepted = true;
        let given = TestRunIn { data: &DATA, data_out: 4096, repeat: 1, ..TestRunIn::default() };
        let out = machine.test_run(prog.fd, &given);
        let (answer, ran) = match out {
            Ok(out) => ("ran".to_owned(), format!("{:#x} {:02x?}", out.retval, out.data)),
            Err(e) => match e.why {
                Why::Unsupported(what) => (shape(&what), String::new()),
                _ => (e.errno.name().to_owned(), e.errno.name().to_owned()),
            },
        };
        came.answers.push(format!("accepted, {answer}"));
        came.ran.push(format!("{}: {ran}", prog.name));
        if stop.load(Ordering::Relaxed) {
            return Ok(came);
        }
        if arch == Arch::X86_64 {
            interpret(&machine, &loaded, &prog.name)?;
        }
    }
    for fd in &loaded.maps {
        came.ran.push(contents(&mut machine, *fd));
    }
    Ok(came)
}

/// Every register is what the verifier believed.
fn interpret(machine: &Machine, loaded: &LoadedObject, name: &str) -> Result<(), String> {
    let id = loaded.prog(name).map(|p| kernel_model::ProgId(p.id));
    let Some(prog) = id.and_then(|id| machine.kernel.prog(id)) else { return Ok(()) };
    let program = prog.verified.program();
    let infos = loaded.maps.iter().map(|fd| machine.kernel.map_by_fd(*fd));
    let Some(maps) = infos.collect::<Option<Vec<_>>>() else { return Ok(()) };
    let known = (&machine.kernel as &dyn verifier::KernelEnv, &loaded.maps[..], &maps[..]);
    let ran = interpreted(program, loaded.object.btf(), known, STATES);
    ran.map(drop).map_err(|why| format!("{name}: accepted, but {why}"))
}

/// The first elements of a map.
fn contents(machine: &mut Machine, fd: i32) -> String {
    let Some(info) = machine.kernel.map_by_fd(fd) else { return String::new() };
    let endian = machine.arch().endian();
    let (key_size, cpus) = (info.key_size as usize, machine.config().kernel.cpus as usize);
    let room = (info.value_size as usize).next_multiple_of(8).saturating_mul(cpus);
    let mut call = |cmd: Cmd, key: Option<&[u8]>, len: usize| -> Option<Vec<u8>> {
        let mut user = UserSpace::new();
        let key = key.map_or(0, |k| user.put(k));
        let value = user.room(len);
        let map_fd = fd.cast_unsigned();
        let mut attr = MapElem { map_fd, key, value, flags: 0 }.encode(endian);
        machine.bpf(cmd as u32, &mut attr, &mut user).ok()?;
        Some(user.bytes(value).to_vec())
    };
    let (mut out, mut last) = (format!("{:?}", info.map_type), None::<Vec<u8>>);
    for _ in 0..KEYS {
        let Some(key) = call(Cmd::MapGetNextKey, last.as_deref(), key_size) else { break };
        let value = call(Cmd::MapLookupElem, Some(&key), room);
        out += &format!(" {key:02x?}={value:02x?}");
        last = Some(key);
    }
    out
}
