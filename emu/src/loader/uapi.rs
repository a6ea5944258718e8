//! What libbpf makes of an object for bpf(2): BTF the kernel takes, attach targets by name,
//! instructions with descriptors, func and line info. The same for the model and the host.

use std::collections::BTreeMap;

use bpf::btf::{Body, Btf, BtfBuilder, Kind, Linkage, TypeId};
use bpf::insn::{Imm64, Insn, encode_all};
use bpf::object::{Object, ObjectError};
use bpf::uapi::fields::Struct;
use bpf::uapi::info::{FuncInfo, LineInfo};
use bpf::uapi::{AttachType, MapType, ProgType};
use bpf::{Endian, Program};
use kernel_model::Errno;

use super::Fd;

/// What a program is loaded for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target {
    /// `attach_btf_id`.
    pub(crate) btf_id: TypeId,
    /// `expected_attach_type`.
    pub(crate) attach_type: u32,
}

/// What stands before the name of an attach target in the kernel's BTF, and its kind.
fn prefix(attach: Option<AttachType>) -> Option<(&'static str, Kind)> {
    use AttachType as A;
    Some(match attach? {
        A::TraceRawTp => ("btf_trace_", Kind::Typedef),
        A::LsmMac | A::LsmCgroup => ("bpf_lsm_", Kind::Func),
        A::TraceIter => ("bpf_iter_", Kind::Func),
        A::TraceFentry | A::TraceFexit | A::ModifyReturn => ("", Kind::Func),
        _ => return None,
    })
}

/// Finds the attach target; `ESRCH` as libbpf when the kernel has none of that name.
pub(crate) fn attach_target(
    vmlinux: &Btf,
    program: &Program,
    struct_ops: Option<(&str, &str)>,
) -> Result<Target, Errno> {
    let attach_type = program.attach_type.map_or(0, |t| t as u32);
    if program.prog_type == ProgType::StructOps {
        let Some((ty, member)) = struct_ops else { return Ok(Target::default()) };
        let btf_id = vmlinux.find(ty, Kind::Struct).ok_or(Errno::ESRCH)?;
        let index = vmlinux.members(btf_id).position(|m| m.name == member);
        let attach_type = u32::try_from(index.ok_or(Errno::ESRCH)?).map_err(|_| Errno::E2BIG)?;
        return Ok(Target { btf_id, attach_type });
    }
    let typed = matches!(program.prog_type, ProgType::Tracing | ProgType::Lsm);
    let found = prefix(program.attach_type).filter(|_| typed);
    let (Some((prefix, kind)), Some(name)) = (found, program.attach_to.as_deref()) else {
        return Ok(Target { btf_id: 0, attach_type });
    };
    let id = vmlinux.find(&format!("{prefix}{name}"), kind).ok_or(Errno::ESRCH)?;
    Ok(Target { btf_id: id, attach_type })
}

/// What libbpf asks of the kernel before it loads any program: the structures of `struct_ops`
/// variables, unless their section begins with `?` (`bpf_map__init_kern_struct_ops`).
pub(crate) fn check_struct_ops(vmlinux: &Btf, object: &Object) -> Result<(), ObjectError> {
    let Some(btf) = object.btf() else { return Ok(()) };
    let wanted = object.maps().iter().filter(|m| !m.section.starts_with('?'));
    for (map, ops) in wanted.filter_map(|m| Some((m, m.struct_ops.as_ref()?))) {
        let error = |what: String| ObjectError::new(&map.section, what).symbol(&map.name);
        let ty = btf.resolve(ops.ty);
        let name = bpf::object::essential_name(btf.name(ty));
        let find = |name: &str| {
            let none = || error(format!("the kernel's BTF has no struct {name}"));
            vmlinux.find(name, Kind::Struct).ok_or_else(none)
        };
        find(&format!("bpf_struct_ops_{name}"))?;
        let theirs = find(name)?;
        for m in btf.members(ty) {
            let (at, len) = (m.byte_off(), btf.size_of(m.ty).unwrap_or(0));
            let bytes = map.data.as_ref().and_then(|d| d.get(at as usize..(at + len) as usize));
            let is_set = ops.progs.iter().any(|p| p.0 == at)
                || bytes.is_some_and(|b| b.iter().any(|b| *b != 0));
            let Some(k) = vmlinux.members(theirs).find(|k| k.name == m.name) else {
                if is_set {
                    return Err(error(format!("the kernel's struct {name} has no {}", m.name)));
                }
                continue;
            };
            let (ours, theirs) = (btf.resolve(m.ty), vmlinux.resolve(k.ty));
            let sizes = (btf.size_of(ours), vmlinux.size_of(theirs));
            if btf.kind(ours) != vmlinux.kind(theirs) || sizes.0 != sizes.1 {
                return Err(error(format!("{} is of another type in the kernel", m.name)));
            }
        }
    }
    Ok(())
}

/// Offset of each string of a blob.
pub(crate) fn string_offsets(btf: &Btf) -> BTreeMap<String, u32> {
    let mut out = BTreeMap::new();
    let mut at = 0;
    for s in btf.strings().split('\0') {
        out.entry(s.to_owned()).or_insert(at);
        at += s.len() as u32 + 1;
    }
    out
}

/// An object's types as the kernel takes them. Externs are declarations there is no kind for, so
/// libbpf makes variables of them: an `int` for each kernel symbol, the value for each
/// configuration variable (`bpf_object__collect_externs`).
pub(crate) fn for_kernel(btf: &Btf) -> Btf {
    let mut b = BtfBuilder::from_btf(btf.clone());
    let (mut int, mut dummy) = (None, None);
    for id in btf.ids() {
        let body = match (btf.body(id), btf.name(id)) {
            (Body::Func { proto, linkage: Linkage::Extern }, _) => {
                name_parameters(&mut b, btf, *proto);
                Body::Func { proto: *proto, linkage: Linkage::Static }
            }
            (Body::Var { ty, linkage: Linkage::Extern }, _) => {
                let symbol = in_section(btf, id, ".ksyms");
                let ty =
                    if symbol { *int.get_or_insert_with(|| b.int("int", 4, true)) } else { *ty };
                Body::Var { ty, linkage: Linkage::Global }
            }
            (Body::Datasec { vars, .. }, name @ (".ksyms" | ".kconfig")) => {
                let mut vars = vars.clone();
                let mut at: u32 = 0;
                for v in &mut vars {
                    if btf.kind(v.ty) == Kind::Func {
                        let int = *int.get_or_insert_with(|| b.int("int", 4, true));
                        v.ty =
                            *dummy.get_or_insert_with(|| b.var("dummy_ksym", int, Linkage::Global));
                    }
                    let (size, align) = match (btf.body(v.ty), name) {
                        (Body::Var { ty, .. }, ".kconfig") => {
                            (btf.size_of(*ty).unwrap_or(4), btf.align_of(*ty).unwrap_or(1).max(1))
                        }
                        _ => (4, 4),
                    };
                    (v.offset, v.size) = (at.next_multiple_of(align), size);
                    at = v.offset + size;
                }
                Body::Datasec { size: at, vars }
            }
            _ => continue,
        };
        b.set(id, body);
    }
    b.finish().unwrap_or_else(|_| btf.clone())
}

/// Whether the kernel takes the types: libbpf does without those it refuses. A function that is
/// defined names its parameters (`btf_func_check`); naked functions leave them out.
pub(crate) fn kernel_takes(btf: &Btf) -> bool {
    let named = |id: TypeId| match btf.body(id) {
        Body::Func { proto, linkage: Linkage::Static | Linkage::Global } => {
            match btf.body(*proto) {
                Body::FuncProto { params, .. } => {
                    params.iter().all(|p| p.ty == 0 || p.name_off != 0)
                }
                _ => true,
            }
        }
        _ => true,
    };
    btf.ids().all(named)
}

fn in_section(btf: &Btf, var: TypeId, section: &str) -> bool {
    btf.find(section, Kind::Datasec).is_some_and(|s| match btf.body(s) {
        Body::Datasec { vars, .. } => vars.iter().any(|v| v.ty == var),
        _ => false,
    })
}

/// Parameters of a function that has a body need names; those of an extern may have none.
fn name_parameters(b: &mut BtfBuilder, btf: &Btf, proto: TypeId) {
    let Body::FuncProto { ret, params } = btf.body(proto) else { return };
    let mut params = params.clone();
    let unnamed = params.iter_mut().filter(|p| p.name_off == 0 && p.ty != 0);
    for p in unnamed {
        p.name_off = b.str("param");
    }
    b.set(proto, Body::FuncProto { ret: *ret, params });
}

/// Map types whose key and value types libbpf does not tell the kernel.
pub(crate) fn takes_btf(t: MapType) -> bool {
    use MapType::*;
    let without = [
        PerfEventArray,
        CgroupArray,
        StackTrace,
        ArrayOfMaps,
        HashOfMaps,
        Devmap,
        DevmapHash,
        Cpumap,
        Xskmap,
        Sockmap,
        Sockhash,
        Queue,
        Stack,
        Arena,
        StructOps,
    ];
    !without.contains(&t)
}

/// The instructions with map descriptors in the place of map indices.
pub(crate) fn instruction_bytes(program: &Program, fds: &[Fd], endian: Endian) -> Vec<u8> {
    let fd_of = |idx: i32| usize::try_from(idx).ok().and_then(|i| fds.get(i)).copied();
    let patched = program.insns.iter().map(|insn| match *insn {
        Insn::LdImm64 { dst, imm: Imm64::MapIdx(idx) } => {
            Insn::LdImm64 { dst, imm: Imm64::MapFd(fd_of(idx).unwrap_or(-1)) }
        }
        Insn::LdImm64 { dst, imm: Imm64::MapIdxValue { idx, off } } => {
            Insn::LdImm64 { dst, imm: Imm64::MapValue { fd: fd_of(idx).unwrap_or(-1), off } }
        }
        other => other,
    });
    let patched: Vec<Insn> = patched.collect();
    encode_all(&patched).iter().flat_map(|s| s.to_bytes(endian)).collect()
}

/// `struct bpf_func_info` and `struct bpf_line_info` records.
pub(crate) fn records(program: &Program, btf: &Btf, endian: Endian) -> (Vec<u8>, Vec<u8>) {
    let func = |f: &bpf::program::Func| {
        FuncInfo { insn_off: f.start.0, type_id: f.type_id }.encode(endian)
    };
    // A program without a type for each of its functions has no func info for the kernel.
    if program.funcs.iter().any(|f| f.type_id == 0) {
        return (Vec::new(), Vec::new());
    }
    let offsets = string_offsets(btf);
    let find = |s: &str| offsets.get(s).copied().unwrap_or(0);
    let line = |l: &bpf::program::Line| {
        let line_col = l.line << 10 | (l.col & 0x3ff);
        let (file_name_off, line_off) = (find(&l.file), find(&l.text));
        LineInfo { insn_off: l.insn.0, file_name_off, line_off, line_col }.encode(endian)
    };
    (program.funcs.iter().flat_map(func).collect(), program.lines.iter().flat_map(line).collect())
}
