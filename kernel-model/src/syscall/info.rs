//! `BPF_OBJ_GET_INFO_BY_FD`.

use std::collections::BTreeMap;

use bpf::btf::Kind;
use bpf::insn::encode_all;
use bpf::uapi::AttachType;
use bpf::uapi::attr::Info;
use bpf::uapi::fields::{Struct, obj_name};
use bpf::uapi::info::{BtfInfo, FuncInfo, LineInfo, LinkInfo, MapInfo, ProgInfo};
use verifier::verify::is_gpl_compatible;

use super::{BtfId, Call, FdObject, LinkId, SysResult, VMLINUX_BTF};
use crate::maps::MapId;
use crate::{Errno, Kernel, ProgId};

pub(super) fn by_fd(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: Info = call.get();
    match k.fd_object(a.bpf_fd.cast_signed())? {
        FdObject::Map(id) => {
            exchange(call, &a, |_, _: MapInfo| Ok(map_info(k, id)))?;
        }
        FdObject::Prog(id) => exchange(call, &a, |call, given| prog_info(k, call, id, given))?,
        FdObject::Btf(id) => exchange(call, &a, |call, given| btf_info(k, call, id, given))?,
        FdObject::Link(id) => exchange(call, &a, |_, _: LinkInfo| Ok(link_info(k, id)))?,
        FdObject::Cgroup(_) | FdObject::Iter(_) => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Reads what the process gave, fills it, writes it back: as much as both sides know.
fn exchange<S: Struct>(
    call: &mut Call<'_>,
    a: &Info,
    fill: impl FnOnce(&mut Call<'_>, S) -> Result<S, Errno>,
) -> Result<(), Errno> {
    let given = call.user.read(a.info, a.info_len as usize)?;
    if given.iter().skip(S::SIZE).any(|b| *b != 0) {
        return Err(Errno::E2BIG);
    }
    let len = given.len().min(S::SIZE);
    let filled = fill(call, S::decode(&given[..len], call.endian))?;
    let bytes = filled.encode(call.endian);
    call.user.write(a.info, &bytes[..len])?;
    call.put(&Info { info_len: len as u32, ..*a });
    Ok(())
}

/// Copies an array of the kernel's to the process, as much as there is room for; the new count is
/// how much there is.
fn array(call: &mut Call<'_>, bytes: &[u8], (addr, room): (u64, usize)) -> Result<(), Errno> {
    if addr == 0 || room == 0 {
        return Ok(());
    }
    call.user.write(addr, &bytes[..bytes.len().min(room)])
}

fn prog_info(
    k: &Kernel,
    call: &mut Call<'_>,
    id: ProgId,
    given: ProgInfo,
) -> Result<ProgInfo, Errno> {
    let prog = k.progs.get(&id).ok_or(Errno::EBADF)?;
    let program = prog.verified.program();
    let insns: Vec<bpf::Insn> = prog.verified.insns().map(|(_, insn, _)| *insn).collect();
    let slots = encode_all(&insns);
    let xlated: Vec<u8> = slots.iter().flat_map(|s| s.to_bytes(call.endian)).collect();
    let at = (given.xlated_prog_insns, given.xlated_prog_len as usize);
    array(call, &xlated, at)?;
    let maps: Vec<u8> = prog.maps.iter().flat_map(|m| call.word(m.0)).collect();
    array(call, &maps, (given.map_ids, given.nr_map_ids as usize * 4))?;
    let at = xlated_places(prog);
    let func = |f: &bpf::program::Func| {
        Some(FuncInfo { insn_off: *at.get(&f.start.0)?, type_id: f.type_id }.encode(call.endian))
    };
    let funcs: Vec<Vec<u8>> = program.funcs.iter().filter_map(func).collect();
    let room = given.nr_func_info as usize * FuncInfo::SIZE;
    array(call, &funcs.concat(), (given.func_info, room))?;
    let line =
        |l: &LineInfo| Some(LineInfo { insn_off: *at.get(&l.insn_off)?, ..*l }.encode(call.endian));
    let lines: Vec<Vec<u8>> = prog.line_info.iter().filter_map(line).collect();
    let room = given.nr_line_info as usize * LineInfo::SIZE;
    array(call, &lines.concat(), (given.line_info, room))?;
    let target = attach_target(k, program);
    Ok(ProgInfo {
        prog_type: program.prog_type as u32,
        id: id.0,
        tag: prog.tag,
        jited_prog_len: prog.jited_len,
        xlated_prog_len: xlated.len() as u32,
        xlated_prog_insns: given.xlated_prog_insns,
        load_time: prog.load_time_ns,
        nr_map_ids: prog.maps.len() as u32,
        map_ids: given.map_ids,
        name: obj_name(&program.name),
        gpl_compatible: u32::from(is_gpl_compatible(&program.license)),
        btf_id: prog.btf_id,
        func_info_rec_size: FuncInfo::SIZE as u32,
        func_info: given.func_info,
        nr_func_info: funcs.len() as u32,
        line_info_rec_size: LineInfo::SIZE as u32,
        line_info: given.line_info,
        nr_line_info: lines.len() as u32,
        run_time_ns: prog.run_time_ns,
        run_cnt: prog.run_cnt,
        recursion_misses: prog.misses,
        verified_insns: prog.verified.stats().insns_processed,
        attach_btf_obj_id: if target == 0 { 0 } else { VMLINUX_BTF.0 },
        attach_btf_id: target,
        ..ProgInfo::default()
    })
}

/// Where original instructions are in the rewritten program: those that are still there.
fn xlated_places(prog: &crate::Prog) -> BTreeMap<u32, u32> {
    let first = prog.verified.insns().filter(|(_, _, facts)| facts.first);
    first.map(|(at, _, facts)| (facts.orig.0, at.0)).collect()
}

/// `attach_btf_id`: the function or tracepoint that a tracing program was loaded for.
fn attach_target(k: &Kernel, program: &bpf::Program) -> u32 {
    let btf = k.vmlinux_btf();
    let Some(name) = program.attach_to.as_deref() else { return 0 };
    let found = match program.attach_type {
        Some(AttachType::TraceRawTp) => btf.find(&format!("btf_trace_{name}"), Kind::Typedef),
        Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn) => {
            btf.find(name, Kind::Func)
        }
        _ => None,
    };
    found.unwrap_or(0)
}

fn map_info(k: &Kernel, id: MapId) -> MapInfo {
    let def = &k.maps[&id].def;
    MapInfo {
        map_type: def.map_type as u32,
        id: id.0,
        key_size: def.key_size,
        value_size: def.value_size,
        max_entries: def.max_entries,
        map_flags: def.flags,
        name: obj_name(&def.name),
        btf_id: def.btf_id,
        btf_key_type_id: def.key_type_id,
        btf_value_type_id: def.value_type_id,
        map_extra: def.map_extra,
        ..MapInfo::default()
    }
}

fn btf_info(k: &Kernel, call: &mut Call<'_>, id: BtfId, given: BtfInfo) -> Result<BtfInfo, Errno> {
    let kernel = id == VMLINUX_BTF;
    let bytes = match k.btfs.get(&id) {
        Some(object) => object.bytes.to_vec(),
        None => k.vmlinux_btf().to_bytes(call.endian),
    };
    array(call, &bytes, (given.btf, given.btf_size as usize))?;
    let name: &[u8] = if kernel { b"vmlinux\0" } else { b"\0" };
    array(call, name, (given.name, given.name_len as usize))?;
    Ok(BtfInfo {
        btf: given.btf,
        btf_size: bytes.len() as u32,
        id: id.0,
        name: given.name,
        name_len: name.len() as u32 - 1,
        kernel_btf: u32::from(kernel),
    })
}

fn link_info(k: &Kernel, id: LinkId) -> LinkInfo {
    let link = &k.links[&id];
    let mut detail = [0; 48];
    link.target.describe(&mut detail, k.mem.endian());
    LinkInfo { link_type: link.target.link_type(), id: id.0, prog_id: link.prog.0, detail }
}
