//! What a program reads of its context and of sockets, for a debugger: member by member, with the
//! instructions that the verifier made of such reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::btf::{Body, Btf, TypeId};
use bpf::insn::{Insn, Reg, Size};
use bpf::interp::{Exit, Fault, Host, Vm};
use bpf::uapi::ProgType;
use bpf::{Endian, Program};
use gdb::Converted;
use gdb::symbols::Place;
use kernel_model::Kernel;
use kernel_model::types::Types;
use verifier::KernelEnv as _;
use verifier::env::{CtxAccess, CtxConv};
use verifier::explore::PtrClass;
use verifier::proto::CtxVerdict;
use verifier::tables;

/// Kinds from here on are sockets; those below are the contexts of the program type.
const SOCKETS: [(u8, &str, PtrClass); 2] =
    [(0x3d, "bpf_sock", PtrClass::Socket), (0x3e, "bpf_tcp_sock", PtrClass::TcpSock)];

/// Structures that a program reads by conversion, by name.
pub(super) fn of(kernel: &Kernel, program: &Program) -> BTreeMap<String, Converted> {
    let types = Types::of(kernel.config.arch);
    let mut out = BTreeMap::new();
    let mut put = |kind, name: &str, may: &dyn Fn(i32, u32) -> bool| {
        let may = |(off, size): &(u32, u32)| {
            may(off.cast_signed(), *size) && load(kernel, kind, *off, *size).is_some()
        };
        let all = leaves(types.btf(), name).into_iter().filter(may);
        let members = all.map(|(off, _)| off).collect();
        out.insert(name.to_owned(), Converted { kind, members });
    };
    for (kind, name, class) in SOCKETS {
        put(kind, name, &|off, size| tables::sock_access(class, off, size));
    }
    let of = verifier::btf::ctx_struct(types.btf(), program.prog_type);
    if let Some(name) = of.filter(|_| !tables::ctx_needs_no_conversion(program)) {
        put(program.prog_type as u8, name, &|off, size| {
            matches!(tables::ctx_access(program, off, size, false), CtxVerdict::Ok(_))
        });
    }
    out
}

/// Numbers and pointers of a structure: offset and bytes.
fn leaves(btf: &Btf, name: &str) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    if let Some(id) = btf.find(name, bpf::btf::Kind::Struct) {
        walk(btf, id, 0, &mut out);
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn walk(btf: &Btf, id: TypeId, at: u32, out: &mut Vec<(u32, u32)>) {
    let id = btf.resolve(id);
    match *btf.body(id) {
        Body::Struct { .. } | Body::Union { .. } => {
            for m in btf.members(id).filter(|m| m.bits == 0) {
                walk(btf, m.ty, at + m.bit_off / 8, out);
            }
        }
        Body::Array { elem, nelems, .. } => {
            let size = btf.size_of(elem).unwrap_or(0);
            (0..nelems).for_each(|n| walk(btf, elem, at + n * size, out));
        }
        _ => out.extend(btf.size_of(id).map(|size| (at, size))),
    }
}

/// Type of program whose context is of a kind.
fn prog_type(kind: u8) -> Option<ProgType> {
    ProgType::TABLE.iter().map(|t| t.0).find(|t| *t as u32 == u32::from(kind))
}

/// What became of the load of a member.
fn load(kernel: &Kernel, kind: u8, off: u32, bytes: u32) -> Option<CtxConv> {
    let size = [Size::B, Size::H, Size::W, Size::DW].into_iter().find(|s| s.bytes() == bytes)?;
    let (dst, src, off) = (Reg(0), Reg(1), i16::try_from(off).ok()?);
    let insn = Insn::Load { size, sext: false, dst, src, off };
    if let Some((_, _, class)) = SOCKETS.iter().find(|s| s.0 == kind) {
        return kernel.conv_sock(*class, CtxAccess { insn, prog_type: ProgType::Unspec });
    }
    kernel.conv_ctx(CtxAccess { insn, prog_type: prog_type(kind)? })
}

/// Name of a structure of a kind.
fn name_of(kernel: &Kernel, kind: u8) -> Option<&'static str> {
    let socket = SOCKETS.iter().find(|s| s.0 == kind).map(|s| s.1);
    socket.or_else(|| {
        verifier::btf::ctx_struct(Types::of(kernel.config.arch).btf(), prog_type(kind)?)
    })
}

/// Memory for the instructions of a read, which write nothing.
struct Memory<'a>(&'a Kernel);

impl Host for Memory<'_> {
    fn endian(&self) -> Endian {
        self.0.mem.endian()
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let size = size.bytes();
        let fault = Fault::BadAddress { addr, size, write: false };
        self.0.mem.read_uint(addr, size).map_err(|_| fault)
    }

    fn store(&mut self, _: u64, _: Size, _: u64) -> Result<(), Fault> {
        Ok(())
    }
}

/// Instructions of a read at most.
const READ_MAX: u64 = 64;

/// The bytes of a structure from a place on, and how many; none when nothing is there.
pub(super) fn read(kernel: &Kernel, from: Place, out: &mut [u8]) -> usize {
    let Some(name) = name_of(kernel, from.kind) else { return 0 };
    if kernel.mem.read_u8(from.addr).is_err() {
        return 0;
    }
    out.fill(0);
    let (start, end) = (from.offset, from.offset + out.len() as u32);
    for (off, size) in leaves(Types::of(kernel.config.arch).btf(), name) {
        let Some(conv) = load(kernel, from.kind, off, size) else { continue };
        if off >= end || off + size <= start {
            continue;
        }
        let code: Arc<[Insn]> = conv.insns.into_iter().chain([Insn::Exit]).collect();
        let mut vm = Vm::new(code, [from.addr, 0, 0, 0, 0], 0..0, READ_MAX);
        let Exit::Return(value) = vm.run(&mut Memory(kernel)) else {
            // A socket that is not there. Of the whole it is no reason to show nothing.
            if off <= start && end <= off + size {
                return 0;
            }
            continue;
        };
        let bytes = match kernel.mem.endian() {
            Endian::Little => value.to_le_bytes(),
            Endian::Big => (value << (64 - 8 * size)).to_be_bytes(),
        };
        for (at, byte) in (off..off + size).zip(bytes).filter(|(at, _)| (start..end).contains(at)) {
            out[(at - start) as usize] = byte;
        }
    }
    out.len()
}
