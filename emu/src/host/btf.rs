//! BTF for the running kernel: an object's types as it takes them, and attach targets by name.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use bpf::Program;
use bpf::btf::{Body, Btf, BtfBuilder, Kind, Linkage, TypeId};
use bpf::uapi::attr::BtfLoad;
use bpf::uapi::{AttachType, Cmd, ProgType};
use kernel_model::Errno;

use super::door::{self, Answer, Buf};
use super::{ENDIAN, HostKernel, attr_bytes};
use crate::loader::Fd;

/// What a program is loaded for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Target {
    /// `attach_btf_id`.
    pub(super) btf_id: TypeId,
    /// `expected_attach_type`.
    pub(super) attach_type: u32,
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
pub(super) fn attach_target(
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

/// Offset of each string of a blob.
pub(super) fn string_offsets(btf: &Btf) -> BTreeMap<String, u32> {
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
fn for_kernel(btf: &Btf) -> Btf {
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

impl HostKernel {
    /// `BPF_BTF_LOAD` of an object's types; the same types are loaded once.
    pub(super) fn btf_load(&mut self, btf: &Btf) -> Result<Fd, Errno> {
        let blob = for_kernel(btf).to_bytes(ENDIAN);
        if let Some((have, fd)) = &self.btf
            && *have == blob
        {
            return Ok(fd.as_raw_fd());
        }
        let attr = BtfLoad::default();
        let data = Buf::input(0, &blob).sized(16);
        match door::bpf(Cmd::BtfLoad, &mut attr_bytes(&attr), vec![data]) {
            Ok(Answer::Fd(fd)) => {
                let raw = fd.as_raw_fd();
                self.btf = Some((blob, fd));
                Ok(raw)
            }
            Ok(Answer::Done) => Err(Errno::EIO),
            Err(e) => Err(Errno::from_raw(e).unwrap_or(Errno::EIO)),
        }
    }
}
