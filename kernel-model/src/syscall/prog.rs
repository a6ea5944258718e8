//! `BPF_PROG_LOAD`: attributes to a program, the verifier, the log.

use std::sync::Arc;

use bpf::Program;
use bpf::btf::{Body, Btf, Kind, Linkage};
use bpf::insn::{Call as InsnCall, Imm64, Insn, InsnIdx, Slot, decode_all};
use bpf::program::{Func, Line};
use bpf::uapi::attr::{ProgBindMap, ProgLoad, StreamRead};
use bpf::uapi::fields::{Struct, obj_name_text};
use bpf::uapi::info::{FuncInfo, LineInfo};
use bpf::uapi::{AttachType, ProgType};
use verifier::Verified;
use verifier::reject::Rejection;
use verifier::verify::{Options, VerifyReport, verify_report};

use super::btf::put_log;
use super::{Call, FdObject, SysError, SysResult, Why};
use crate::maps::MapId;
use crate::stream::StreamId;
use crate::{Errno, Kernel, Prog, ProgId, field};

/// `BPF_COMPLEXITY_LIMIT_INSNS`.
const INSNS_MAX: u32 = 1_000_000;
/// `sizeof(license)` in the kernel.
const LICENSE_MAX: usize = 127;
/// Records of func and line info may be this long (`MAX_FUNCINFO_REC_SIZE`).
const RECORD_MAX: u32 = 252;

/// Names of attach targets in the kernel's BTF begin so, by attach type; and in section names.
const PREFIXES: &[(AttachType, &str, &str)] = &[
    (AttachType::TraceRawTp, "btf_trace_", "tp_btf"),
    (AttachType::LsmMac, "bpf_lsm_", "lsm"),
    (AttachType::LsmCgroup, "bpf_lsm_", "lsm_cgroup"),
    (AttachType::TraceIter, "bpf_iter_", "iter"),
    (AttachType::TraceFentry, "", "fentry"),
    (AttachType::TraceFexit, "", "fexit"),
    (AttachType::ModifyReturn, "", "fmod_ret"),
];

/// What `BPF_PROG_LOAD` was given, read from the process.
struct Given {
    program: Program,
    fd_array: Vec<i32>,
    btf: Option<(super::BtfId, Arc<Btf>)>,
    target: Option<TargetProg>,
    tag: [u8; 8],
    line_info: Vec<LineInfo>,
}

/// The program of `attach_prog_fd`.
struct TargetProg {
    verified: Arc<Verified>,
    btf: Arc<Btf>,
    of: Option<ProgType>,
}

impl TargetProg {
    fn name(&self, func: u32) -> Result<String, Errno> {
        self.btf.by_id(func).map(|_| self.btf.name(func).to_owned()).ok_or(Errno::EINVAL)
    }

    /// What the verifier asks of it.
    fn for_verifier(&self, func: u32) -> verifier::Target<'_> {
        verifier::Target {
            program: self.verified.program(),
            btf: &self.btf,
            func,
            funcs: self.verified.funcs(),
            of: self.of,
        }
    }

    fn prog_type(&self) -> ProgType {
        self.verified.program().prog_type
    }
}

/// `bpf_prog_load_check_attach`, for the program of `attach_prog_fd`.
fn target_program(
    k: &Kernel,
    prog_type: ProgType,
    a: &ProgLoad,
) -> Result<Option<TargetProg>, SysError> {
    if a.attach_prog_fd == 0 {
        return Ok(None);
    }
    // A union with `attach_btf_obj_fd`.
    if k.fd_btf(a.attach_prog_fd.cast_signed()).is_ok() {
        return Err(SysError::unsupported("attaching to a module's function"));
    }
    let id = k.fd_prog(a.attach_prog_fd.cast_signed()).map_err(|_| Errno::EINVAL)?;
    let prog = k.progs.get(&id).ok_or(Errno::EBADF)?;
    if !matches!(prog_type, ProgType::Tracing | ProgType::Ext) {
        return Err(Errno::EINVAL.into());
    }
    let Some(btf) = k.btf_object(super::BtfId(prog.btf_id)) else {
        let m = "FENTRY/FEXIT program can only be attached to another program annotated with BTF";
        let r = Box::new(Rejection::refuse(Errno::EINVAL as i32, m));
        return Err(SysError { errno: Errno::EINVAL, why: Why::Rejected(r) });
    };
    Ok(Some(TargetProg { verified: prog.verified.clone(), btf, of: prog.target }))
}

pub(super) fn load(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let mut a: ProgLoad = call.get();
    let note = k.section_note.take();
    let given = match read(k, call, &a, note) {
        Ok(given) => given,
        Err(SysError { errno, why: Why::Rejected(r) }) => {
            // What cannot be decoded is refused by the verifier, in its log.
            let log = format!("{}\n", r.message);
            log_out(call, &mut a, &log)?;
            return Err(SysError { errno, why: Why::Rejected(r) });
        }
        Err(e) => return Err(e),
    };
    let level = k.config.level;
    let opts = verifier::explore::Opts { log_level: a.log_level, level, ..Default::default() };
    let btf = given.btf.as_ref();
    let fds = used_maps(&given);
    let options = Options {
        opts,
        fd_array: &given.fd_array,
        prog_btf: btf.map(|b| &*b.1),
        endian: call.endian,
        target: given.target.as_ref().map(|t| t.for_verifier(a.attach_btf_id)),
    };
    let report = verify_report(given.program.clone(), k, &options);
    log_out(call, &mut a, &report.log)?;
    match report.result {
        Ok(verified) => {
            let maps: Vec<MapId> = fds.iter().filter_map(|fd| k.fd_map(*fd).ok()).collect();
            let btf_id = btf.map_or(0, |b| b.0.0);
            let id = k.prog_install(Arc::new(verified), maps, btf_id)?;
            let to = given.target.as_ref().map(TargetProg::prog_type);
            let prog = k.progs.get_mut(&id).expect("just installed");
            prog.target = to;
            (prog.tag, prog.line_info) = (given.tag, given.line_info);
            let (addr, tag) = (prog.addr, prog.tag);
            k.set_bytes(addr, field!("bpf_prog", "tag"), &tag);
            Ok(k.fd_install(FdObject::Prog(id)))
        }
        Err(mut rejection) => {
            if rejection.log.is_empty() {
                rejection.log = report.log;
            }
            let errno = Errno::from_raw(rejection.errno).unwrap_or(Errno::EINVAL);
            Err(SysError { errno, why: Why::Rejected(rejection) })
        }
    }
}

/// Writes the log and its true size to the process.
fn log_out(call: &mut Call<'_>, a: &mut ProgLoad, log: &str) -> Result<(), Errno> {
    if a.log_level == 0 {
        return Ok(());
    }
    a.log_true_size = u32::try_from(log.len() + 1).unwrap_or(u32::MAX);
    call.put(a);
    put_log(call, log, (a.log_buf, a.log_size))
}

fn read(
    k: &Kernel,
    call: &Call<'_>,
    a: &ProgLoad,
    note: Option<super::SectionNote>,
) -> Result<Given, SysError> {
    let prog_type = ProgType::from_raw(a.prog_type).filter(|t| *t != ProgType::Unspec);
    let prog_type = prog_type.ok_or(Errno::EINVAL)?;
    if a.insn_cnt == 0 || a.insn_cnt > INSNS_MAX {
        return Err(Errno::E2BIG.into());
    }
    if a.core_relo_cnt != 0 || a.prog_token_fd != 0 || a.prog_ifindex != 0 {
        return Err(SysError::unsupported("kernel-side CO-RE, tokens and device-bound programs"));
    }
    if !super::map::name_is_valid(&a.prog_name) {
        return Err(Errno::EINVAL.into());
    }
    let (insns, tag) = instructions(call, a)?;
    let fd_array = read_fds(call, a, &insns)?;
    let btf = match a.prog_btf_fd {
        0 if a.func_info_cnt == 0 && a.line_info_cnt == 0 => None,
        fd => {
            let id = k.fd_btf(fd.cast_signed())?;
            Some((id, k.btf_object(id).ok_or(Errno::EBADF)?))
        }
    };
    let (mut funcs, mut lines, mut records) = (Vec::new(), Vec::new(), Vec::new());
    if let Some((_, btf)) = &btf {
        funcs = func_info(call, a, btf)?;
        (lines, records) = line_info(call, a, btf)?;
    }
    let target = target_program(k, prog_type, a)?;
    let (attach_type, attach_to) = match &target {
        Some(t) => (AttachType::from_raw(a.expected_attach_type), Some(t.name(a.attach_btf_id)?)),
        None => target_function(k, prog_type, a)?,
    };
    let attach_type = attach_type.filter(|t| *t as u32 != 0 || prog_type == ProgType::CgroupSkb);
    // A program with types has its function's name, which may be longer than 15 bytes.
    let note = note.unwrap_or_default();
    let name = match (note.symbol.is_empty(), funcs.first()) {
        (false, _) => note.symbol,
        (true, Some(f)) => f.name.clone(),
        (true, None) => obj_name_text(&a.prog_name),
    };
    let section = match note.section.is_empty() {
        true => section_name(attach_type, attach_to.as_deref()),
        false => note.section,
    };
    let program = Program {
        name,
        section,
        prog_type,
        attach_type,
        flags: a.prog_flags,
        attach_to: attach_to.or(note.attach_to),
        license: call.user.read_str(a.license, LICENSE_MAX)?,
        insns,
        funcs,
        lines,
    };
    Ok(Given { program, fd_array, btf, target, tag, line_info: records })
}

/// The instructions, and their tag.
fn instructions(call: &Call<'_>, a: &ProgLoad) -> Result<(Vec<Insn>, [u8; 8]), SysError> {
    let bytes = call.user.read(a.insns, a.insn_cnt as usize * 8)?;
    let (chunks, _) = bytes.as_chunks::<8>();
    let slots: Vec<Slot> = chunks.iter().map(|b| Slot::from_bytes(*b, call.endian)).collect();
    let tag = tag(&slots, call.endian);
    let decoded = decode_all(&slots).map_err(|e| {
        let rejection = Rejection::invalid(e.message).at(e.at);
        SysError { errno: Errno::EINVAL, why: Why::Rejected(Box::new(rejection)) }
    })?;
    Ok((decoded, tag))
}

/// `BPF_LD | BPF_IMM | BPF_DW`.
const LD_IMM64: u8 = 0x18;

/// `bpf_prog_calc_tag`: descriptors of maps do not count, they differ from load to load.
fn tag(slots: &[Slot], endian: bpf::Endian) -> [u8; 8] {
    let mut bytes = Vec::with_capacity(slots.len() * 8);
    let mut second = false;
    for slot in slots {
        let mut s = *slot;
        // BPF_PSEUDO_MAP_FD and BPF_PSEUDO_MAP_VALUE.
        let first = !second && s.code == LD_IMM64 && matches!(s.src, 1 | 2);
        if first || second {
            s.imm = 0;
        }
        second = first;
        bytes.extend(s.to_bytes(endian));
    }
    let digest = crate::sha256::sha256(&bytes);
    std::array::from_fn(|i| digest[i])
}

/// As many descriptors as the instructions refer to.
fn read_fds(call: &Call<'_>, a: &ProgLoad, insns: &[Insn]) -> Result<Vec<i32>, Errno> {
    let index = |insn: &Insn| match *insn {
        Insn::LdImm64 { imm: Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. }, .. } => Some(idx),
        Insn::Call(InsnCall::Kfunc { off, .. }) if off != 0 => Some(i32::from(off)),
        _ => None,
    };
    let used = insns.iter().filter_map(index).max().map_or(0, |i| i.saturating_add(1));
    let n = usize::try_from(used).unwrap_or(0).max(a.fd_array_cnt as usize);
    if n == 0 {
        return Ok(Vec::new());
    }
    let bytes = call.user.read(a.fd_array, n.min(INSNS_MAX as usize) * 4)?;
    let word = |b: &[u8]| crate::maps::index_of(call.endian, b).cast_signed();
    Ok(bytes.chunks(4).map(word).collect())
}

/// Records of a table in the process's memory, each cut to what is known of it.
fn table<S: Struct>(
    call: &Call<'_>,
    (addr, count, size): (u64, u32, u32),
) -> Result<Vec<S>, Errno> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if size < S::SIZE as u32 || size > RECORD_MAX || !size.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if count > INSNS_MAX {
        return Err(Errno::EINVAL);
    }
    let bytes = call.user.read(addr, count as usize * size as usize)?;
    let record = |b: &[u8]| match b[S::SIZE..].iter().all(|x| *x == 0) {
        true => Ok(S::decode(b, call.endian)),
        false => Err(Errno::E2BIG),
    };
    bytes.chunks(size as usize).map(record).collect()
}

/// `check_btf_func_early`.
fn func_info(call: &Call<'_>, a: &ProgLoad, btf: &Btf) -> Result<Vec<Func>, Errno> {
    let at = (a.func_info, a.func_info_cnt, a.func_info_rec_size);
    let records: Vec<FuncInfo> = table(call, at)?;
    let func = |r: &FuncInfo| match btf.by_id(r.type_id).map(|t| &t.body) {
        Some(Body::Func { linkage, .. }) => Ok(Func {
            start: InsnIdx(r.insn_off),
            type_id: r.type_id,
            name: btf.name(r.type_id).to_owned(),
            global: *linkage == Linkage::Global,
        }),
        _ => Err(Errno::EINVAL),
    };
    let funcs: Vec<Func> = records.iter().map(func).collect::<Result<_, _>>()?;
    let first = funcs.first().is_none_or(|f| f.start.0 == 0);
    let rising = funcs.windows(2).all(|w| w[0].start < w[1].start);
    if first && rising { Ok(funcs) } else { Err(Errno::EINVAL) }
}

/// `check_btf_line`.
fn line_info(
    call: &Call<'_>,
    a: &ProgLoad,
    btf: &Btf,
) -> Result<(Vec<Line>, Vec<LineInfo>), Errno> {
    let at = (a.line_info, a.line_info_cnt, a.line_info_rec_size);
    let records: Vec<LineInfo> = table(call, at)?;
    let rising = records.windows(2).all(|w| w[0].insn_off < w[1].insn_off);
    let inside = records.iter().all(|r| r.insn_off < a.insn_cnt);
    if !rising || !inside {
        return Err(Errno::EINVAL);
    }
    let line = |r: &LineInfo| Line {
        insn: InsnIdx(r.insn_off),
        file: btf.str(r.file_name_off).to_owned(),
        text: btf.str(r.line_off).to_owned(),
        line: r.line_col >> 10,
        col: r.line_col & 0x3ff,
    };
    Ok((records.iter().map(line).collect(), records))
}

/// `expected_attach_type`, and what `attach_btf_id` names.
fn target_function(
    k: &Kernel,
    prog_type: ProgType,
    a: &ProgLoad,
) -> Result<(Option<AttachType>, Option<String>), SysError> {
    let (raw, id) = (a.expected_attach_type, a.attach_btf_id);
    let btf = k.vmlinux_btf();
    if prog_type == ProgType::StructOps {
        if id == 0 {
            return Ok((None, None));
        }
        if btf.by_id(id).is_none() || btf.kind(id) != Kind::Struct {
            return Err(Errno::ENOENT.into());
        }
        let member = btf.members(id).nth(raw as usize).ok_or(Errno::EINVAL)?;
        return Ok((None, Some(format!("{}/{}", btf.name(id), member.name))));
    }
    let attach = match raw {
        0 if prog_type != ProgType::CgroupSkb => None,
        raw => Some(AttachType::from_raw(raw).ok_or(Errno::EINVAL)?),
    };
    if id == 0 {
        return Ok((attach, None));
    }
    let name = btf.by_id(id).map(|_| btf.name(id)).ok_or(Errno::EINVAL)?;
    let prefix = PREFIXES.iter().find(|p| Some(p.0) == attach).map_or("", |p| p.1);
    Ok((attach, Some(name.strip_prefix(prefix).unwrap_or(name).to_owned())))
}

/// The section name a traced function's program would have had.
fn section_name(attach: Option<AttachType>, to: Option<&str>) -> String {
    let kind = PREFIXES.iter().find(|p| Some(p.0) == attach).map(|p| p.2);
    match (kind, to) {
        (Some(kind), Some(to)) => format!("{kind}/{to}"),
        _ => String::new(),
    }
}

/// Descriptors of the maps that the instructions refer to.
fn used_maps(given: &Given) -> Vec<i32> {
    let by_index =
        |idx: i32| usize::try_from(idx).ok().and_then(|i| given.fd_array.get(i).copied());
    let fd = |insn: &Insn| match *insn {
        Insn::LdImm64 { imm: Imm64::MapFd(fd) | Imm64::MapValue { fd, .. }, .. } => Some(fd),
        Insn::LdImm64 { imm: Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. }, .. } => {
            by_index(idx)
        }
        _ => None,
    };
    let mut out: Vec<i32> = Vec::new();
    for fd in given.program.insns.iter().filter_map(fd) {
        if !out.contains(&fd) {
            out.push(fd);
        }
    }
    out
}

/// `BPF_PROG_BIND_MAP`: the map lives as long as the program.
pub(super) fn bind_map(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: ProgBindMap = call.get();
    if a.flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let prog = k.fd_prog(a.prog_fd.cast_signed())?;
    let map = k.fd_map(a.map_fd.cast_signed())?;
    let prog = k.progs.get_mut(&prog).ok_or(Errno::EBADF)?;
    if !prog.maps.contains(&map) {
        prog.maps.push(map);
    }
    Ok(0)
}

/// `BPF_PROG_STREAM_READ_BY_FD`: how many bytes were read.
pub(super) fn stream_read(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: StreamRead = call.get();
    let prog = k.fd_prog(a.prog_fd.cast_signed())?;
    let id = StreamId::from_raw(a.stream_id).ok_or(Errno::ENOENT)?;
    let len = a.stream_buf_len.cast_signed().max(0) as usize;
    // A text that cannot be copied stays in the stream.
    let text = k.prog(prog).map_or_else(Vec::new, |p| p.streams[id as usize - 1].clone().read(len));
    call.user.write(a.stream_buf, &text)?;
    k.stream_read(prog, id, len);
    Ok(i32::try_from(text.len()).expect("a stream is shorter than 2 GiB"))
}

impl Kernel {
    /// `BPF_PROG_LOAD` of a program that is at hand already. On acceptance the program has a
    /// descriptor; the report has the log and the statistics either way.
    pub fn sys_prog_load(
        &mut self,
        program: Program,
        fd_array: &[i32],
        btf: Option<&Btf>,
        opts: verifier::explore::Opts,
    ) -> (Option<(i32, ProgId)>, VerifyReport) {
        let options =
            Options { opts, fd_array, prog_btf: btf, endian: self.mem.endian(), target: None };
        let report = verify_report(program, self, &options);
        let loaded = match &report.result {
            Ok(verified) => {
                let maps = fd_array.iter().filter_map(|fd| self.fd_map(*fd).ok()).collect();
                self.prog_install(Arc::new(verified.clone()), maps, 0).ok()
            }
            Err(_) => None,
        };
        let loaded = loaded.map(|id| (self.fd_install(FdObject::Prog(id)), id));
        (loaded, report)
    }

    /// Gives a verified program its object in guest memory.
    pub(super) fn prog_install(
        &mut self,
        verified: Arc<verifier::Verified>,
        maps: Vec<MapId>,
        btf_id: u32,
    ) -> Result<ProgId, Errno> {
        let id = ProgId(self.next_prog);
        self.next_prog += 1;
        let addr = self.kzalloc(crate::size!("bpf_prog"), "bpf_prog")?;
        let program = verified.program();
        let numbers = [
            (field!("bpf_prog", "type"), u64::from(program.prog_type as u32)),
            (field!("bpf_prog", "len"), verified.len() as u64),
        ];
        for (f, value) in numbers {
            self.set(addr, f, value);
        }
        let load_time_ns = self.now(self.this_cpu);
        let prog = Prog { maps, load_time_ns, btf_id, ..Prog::new(id, verified, addr) };
        self.progs.insert(id, prog);
        Ok(id)
    }
}
