//! `BPF_PROG_LOAD` as libbpf does it: descriptors patched into the instructions, BTF with func and
//! line info, what the program is attached to found by name in the kernel's BTF.

use std::time::{Duration, Instant};

use bpf::Program;
use bpf::btf::Btf;
use bpf::uapi::Cmd;
use bpf::uapi::attr::ProgLoad as Attr;
use bpf::uapi::fields::{Struct, obj_name};
use bpf::uapi::info::{FuncInfo, LineInfo};
use kernel_model::Errno;
use verifier::reject::{RejectKind, Rejection};
use verifier::verified::Stats;

use super::door::{self, Answer, Buf};
use super::log::{self, HostStats};
use super::{ENDIAN, HostKernel, attr_bytes};
use crate::loader::uapi::{Target, attach_target, instruction_bytes, records};
use crate::loader::{Fd, ProgLoad, ProgLoaded, ProgRefusal};

/// First log buffer; most logs fit.
const LOG_BYTES: usize = 64 << 10;
/// The same when only the verdict is asked for.
const BRIEF_LOG_BYTES: usize = 4 << 10;
/// Largest log buffer: beyond it the log is cut and the verdict says `ENOSPC`.
const LOG_BYTES_MAX: usize = 256 << 20;
/// `EAGAIN`: a signal came; libbpf tries five times.
const EAGAIN: i32 = 11;
const ENOSPC: i32 = 28;
const ATTEMPTS: u32 = 5;

/// What the running kernel said to a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostVerdict {
    /// 0 when it was accepted.
    pub errno: i32,
    /// The verifier's log at the level asked for, statistics included.
    pub log: String,
    /// The statistics as numbers.
    pub stats: HostStats,
    /// The rewritten program, addresses hidden.
    pub xlated: Vec<u8>,
    /// Native code of all its functions.
    pub jited: Vec<u8>,
    /// Descriptor of an accepted program; [`HostKernel::close`] frees it.
    pub fd: Option<Fd>,
    /// How long the call took, by this machine's clock.
    pub load_ns: u64,
}

impl HostVerdict {
    /// The last line that is not one of the statistics: why a program was refused.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        log::last_word(&self.log)
    }
}

/// What a program is for, where its section does not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadFor<'a> {
    /// Type and member an operation is for.
    pub struct_ops: Option<(&'a str, &'a str)>,
    /// The program it is attached to, and the function in its types.
    pub program: Option<(Fd, u32)>,
}

/// A program as bytes, for callers that make their own.
#[derive(Clone, Debug)]
pub struct RawLoad<'a> {
    /// `enum bpf_prog_type`.
    pub prog_type: u32,
    /// Instructions, little-endian `struct bpf_insn`.
    pub insns: &'a [u8],
    /// `expected_attach_type`.
    pub attach_type: u32,
    /// `prog_flags`.
    pub flags: u32,
    /// Licence.
    pub license: &'a str,
    /// Name, cut to 15 bytes.
    pub name: &'a str,
    /// `log_level`; 4 (statistics) is always added.
    pub level: u32,
    /// `attach_btf_id` in the kernel's BTF or that of the program of `attach_prog_fd`, 0 for none.
    pub attach_btf_id: u32,
    /// `attach_prog_fd`: a program it is attached to, 0 for none.
    pub attach_prog_fd: Fd,
    /// Descriptors of maps for `BPF_PSEUDO_MAP_IDX`, and of module BTF.
    pub fd_array: &'a [Fd],
    /// Descriptor of the program's BTF, with encoded `struct bpf_func_info` and `bpf_line_info`.
    pub btf: Option<(Fd, &'a [u8], &'a [u8])>,
    /// An accepted program is closed at once, and its code is not asked for.
    pub verdict_only: bool,
}

impl Default for RawLoad<'_> {
    fn default() -> Self {
        RawLoad {
            prog_type: 0,
            insns: &[],
            attach_type: 0,
            flags: 0,
            license: "GPL",
            name: "",
            level: 0,
            attach_btf_id: 0,
            attach_prog_fd: 0,
            fd_array: &[],
            btf: None,
            verdict_only: false,
        }
    }
}

/// Offset of a field of `BPF_PROG_LOAD`.
const fn offset(field: &str) -> usize {
    let (mut i, fields) = (0, Attr::FIELDS);
    while i < fields.len() {
        if same(fields[i].0.as_bytes(), field.as_bytes()) {
            return fields[i].1;
        }
        i += 1;
    }
    panic!("no such field");
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

impl HostKernel {
    /// Loads instruction bytes and says what the kernel made of them.
    pub fn load_raw(&mut self, load: &RawLoad<'_>) -> HostVerdict {
        let mut bytes = if load.verdict_only { BRIEF_LOG_BYTES } else { LOG_BYTES };
        loop {
            let mut log = vec![0; bytes];
            let (answer, needed, took) = self.attempt(load, &mut log);
            let enough = needed.clamp(bytes * 2, LOG_BYTES_MAX);
            if matches!(answer, Err(ENOSPC)) && bytes < LOG_BYTES_MAX {
                bytes = enough;
                continue;
            }
            let load_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            let verdict = self.verdict(answer, &log, load.verdict_only);
            return HostVerdict { load_ns, ..verdict };
        }
    }

    /// One `BPF_PROG_LOAD`, the log's true size, and how long it took.
    fn attempt(
        &self,
        load: &RawLoad<'_>,
        log: &mut [u8],
    ) -> (Result<Answer, i32>, usize, Duration) {
        let license = [load.license.as_bytes(), &[0]].concat();
        let fds: Vec<u8> = load.fd_array.iter().flat_map(|fd| fd.to_le_bytes()).collect();
        let (btf_fd, funcs, lines) = load.btf.unwrap_or((0, &[], &[]));
        let attr = Attr {
            prog_type: load.prog_type,
            insn_cnt: (load.insns.len() / 8) as u32,
            log_level: load.level | 4,
            kern_version: self.version,
            prog_flags: load.flags,
            prog_name: obj_name(load.name),
            expected_attach_type: load.attach_type,
            prog_btf_fd: btf_fd.cast_unsigned(),
            func_info_rec_size: if funcs.is_empty() { 0 } else { FuncInfo::SIZE as u32 },
            func_info_cnt: (funcs.len() / FuncInfo::SIZE) as u32,
            line_info_rec_size: if lines.is_empty() { 0 } else { LineInfo::SIZE as u32 },
            line_info_cnt: (lines.len() / LineInfo::SIZE) as u32,
            attach_btf_id: load.attach_btf_id,
            attach_prog_fd: load.attach_prog_fd.cast_unsigned(),
            ..Attr::default()
        };
        let (mut last, mut took) = (Err(EAGAIN), Duration::ZERO);
        for _ in 0..ATTEMPTS {
            let mut bytes = attr_bytes(&attr);
            let bufs = vec![
                Buf::input(const { offset("insns") }, load.insns),
                Buf::input(const { offset("license") }, &license),
                Buf::input(const { offset("func_info") }, funcs),
                Buf::input(const { offset("line_info") }, lines),
                Buf::input(const { offset("fd_array") }, &fds),
                Buf::output(const { offset("log_buf") }, log).sized(const { offset("log_size") }),
            ];
            let began = Instant::now();
            last = door::bpf(Cmd::ProgLoad, &mut bytes, bufs);
            took = began.elapsed();
            if !matches!(last, Err(EAGAIN)) {
                let needed = Attr::decode(&bytes, ENDIAN).log_true_size as usize;
                return (last, needed, took);
            }
        }
        (last, 0, took)
    }

    fn verdict(&mut self, answer: Result<Answer, i32>, log: &[u8], only: bool) -> HostVerdict {
        let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).into_owned();
        let mut v = HostVerdict { stats: log::statistics(&log), log, ..HostVerdict::default() };
        match answer {
            Ok(Answer::Fd(_)) if only => {}
            Ok(Answer::Fd(fd)) => {
                let fd = self.keep(fd);
                v.fd = Some(fd);
                if let Ok(detail) = self.prog_detail(fd) {
                    (v.xlated, v.jited) = (detail.xlated, detail.jited);
                }
            }
            Ok(Answer::Done) => {}
            Err(errno) => v.errno = errno,
        }
        v
    }

    /// Loads a linked program. `fd_array` has the maps by their index in the object, `btf` is the
    /// object's, `to` what it is for besides what its section says.
    ///
    /// # Errors
    /// `ESRCH` when the kernel has nothing of the name the program is for.
    pub fn load_program(
        &mut self,
        program: &Program,
        fd_array: &[Fd],
        btf: Option<&Btf>,
        to: &LoadFor<'_>,
        level: u32,
    ) -> Result<HostVerdict, Errno> {
        let insns = instruction_bytes(program, fd_array, ENDIAN);
        let attach_type = program.attach_type.map_or(0, |t| t as u32);
        let target = match to.program {
            Some((_, btf_id)) => Target { btf_id, attach_type },
            None => attach_target(&self.vmlinux, program, to.struct_ops)?,
        };
        let (mut funcs, mut lines) = (Vec::new(), Vec::new());
        // BTF that the kernel does not take is left out, as libbpf does.
        let btf_fd = btf.and_then(|b| self.btf_load(b).ok());
        if let (Some(btf), Some(_)) = (btf, btf_fd) {
            (funcs, lines) = records(program, btf, ENDIAN);
        }
        let load = RawLoad {
            prog_type: program.prog_type as u32,
            insns: &insns,
            attach_type: target.attach_type,
            flags: program.flags,
            license: &program.license,
            name: &program.name,
            level,
            attach_btf_id: target.btf_id,
            attach_prog_fd: to.program.map_or(0, |p| p.0),
            fd_array: &[],
            btf: btf_fd.map(|fd| (fd, &funcs[..], &lines[..])),
            verdict_only: false,
        };
        Ok(self.load_raw(&load))
    }

    /// The loader's `BPF_PROG_LOAD`.
    pub(super) fn load_for_loader(&mut self, l: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal> {
        let ops = l.struct_ops.as_ref().map(|(ty, member)| (ty.as_str(), member.as_str()));
        let mut level = l.log_level;
        loop {
            let to = LoadFor { struct_ops: ops, program: None };
            let v = self.load_program(&l.program, l.fd_array, l.btf, &to, level);
            let v = v.map_err(ProgRefusal::Errno)?;
            // Without a log there is no reason: libbpf asks again.
            if v.errno != 0 && level & 3 == 0 {
                level |= 1;
                continue;
            }
            return match v.fd {
                Some(fd) => Ok(ProgLoaded { fd, id: self.prog_id(fd), log: v.log }),
                None => Err(refusal(v)),
            };
        }
    }
}

fn refusal(v: HostVerdict) -> ProgRefusal {
    let Some(reason) = v.reason() else {
        return ProgRefusal::Errno(Errno::from_raw(v.errno).unwrap_or(Errno::EIO));
    };
    ProgRefusal::Rejected(Box::new(Rejection {
        kind: RejectKind::Unsafe,
        insn: None,
        message: reason.to_owned(),
        errno: v.errno,
        stats: Stats {
            insns_processed: v.stats.insns_processed,
            total_states: v.stats.total_states,
            peak_states: v.stats.peak_states,
            max_states_per_insn: v.stats.max_states_per_insn,
            mark_read: v.stats.mark_read,
            stack_depth: v.stats.stack_depth,
            ..Stats::default()
        },
        log: v.log,
        beyond: None,
    }))
}
