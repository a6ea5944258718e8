//! The modelled kernel behind the loader's commands: bpf(2) with the UAPI's structures.

use bpf::btf::Btf;
use bpf::uapi::fields::{Struct, obj_name};
use bpf::uapi::info::{FuncInfo, LineInfo, ProgInfo};
use bpf::uapi::{Cmd, MapType, attr};
use kernel_model::syscall::{SectionNote, SysError, UserSpace, Why};
use kernel_model::{Errno, Kernel};
use verifier::reject::Rejection;

use super::uapi::{Target, attach_target, for_kernel, instruction_bytes, records, takes_btf};
use super::{Bpf, Fd, MapCreate, ProgLoad, ProgLoaded, ProgRefusal};

/// First log buffer; a longer log is asked for again with its true size.
const LOG_BYTES: usize = 1 << 20;
/// `BPF_F_NUMA_NODE`.
const NUMA_NODE: u32 = 1 << 2;

/// Issues a command; what the kernel wrote to the attributes is read back.
fn issue<S: Struct>(
    k: &mut Kernel,
    cmd: Cmd,
    given: &S,
    user: &mut UserSpace,
) -> Result<(i32, S), SysError> {
    let endian = k.config.arch.endian();
    let mut bytes = given.encode(endian);
    let ret = k.bpf(cmd as u32, &mut bytes, user)?;
    Ok((ret, S::decode(&bytes, endian)))
}

/// `BPF_BTF_LOAD`; types that are loaded already are used again.
fn btf_load(k: &mut Kernel, btf: &Btf) -> Result<Fd, Errno> {
    let blob = for_kernel(btf).to_bytes(k.config.arch.endian());
    let known = k.btfs.iter().find(|(_, o)| *o.bytes == blob[..]).map(|(id, _)| id.0);
    let mut user = UserSpace::new();
    let done = match known {
        Some(id) => {
            let a = attr::FdById { id, ..attr::FdById::default() };
            issue(k, Cmd::BtfGetFdById, &a, &mut user).map(|r| r.0)
        }
        None => {
            let at = user.put(&blob);
            let btf_size = blob.len() as u32;
            let a = attr::BtfLoad { btf: at, btf_size, ..attr::BtfLoad::default() };
            issue(k, Cmd::BtfLoad, &a, &mut user).map(|r| r.0)
        }
    };
    done.map_err(|e| e.errno)
}

impl Bpf for Kernel {
    fn map_create(&mut self, m: &MapCreate, btf: Option<&Btf>) -> Result<Fd, Errno> {
        let mut a = attr::MapCreate {
            map_type: m.map_type as u32,
            key_size: m.key_size,
            value_size: m.value_size,
            max_entries: m.max_entries,
            map_flags: m.flags | if m.numa_node.is_some() { NUMA_NODE } else { 0 },
            inner_map_fd: m.inner.map_or(0, i32::cast_unsigned),
            numa_node: m.numa_node.unwrap_or(0),
            map_name: obj_name(&m.name),
            map_extra: m.map_extra,
            ..attr::MapCreate::default()
        };
        let mut btf_fd = None;
        if takes_btf(m.map_type)
            && m.btf_types != (0, 0)
            && let Some(btf) = btf
        {
            let fd = btf_load(self, btf)?;
            a.btf_fd = fd.cast_unsigned();
            (a.btf_key_type_id, a.btf_value_type_id) = m.btf_types;
            btf_fd = Some(fd);
        }
        let mut user = UserSpace::new();
        let mut done = issue(self, Cmd::MapCreate, &a, &mut user);
        // As libbpf: a map whose types the kernel does not like is made without them.
        if done.as_ref().is_err_and(|e| e.why == Why::Kernel) && btf_fd.is_some() {
            (a.btf_fd, a.btf_key_type_id, a.btf_value_type_id) = (0, 0, 0);
            done = issue(self, Cmd::MapCreate, &a, &mut user);
        }
        if let Some(fd) = btf_fd {
            self.sys_close(fd)?;
        }
        let fd = done.map(|r| r.0).map_err(|e| e.errno)?;
        if m.map_type == MapType::Arena {
            let id = self.fd_map(fd)?;
            self.arena_mmap(id)?;
        }
        Ok(fd)
    }

    fn arena_write(&mut self, map: Fd, off: u64, bytes: &[u8]) -> Result<(), Errno> {
        let id = self.fd_map(map)?;
        let start = self.arena_mmap(id)?;
        Kernel::arena_write(self, id, start + off, bytes)
    }

    fn map_update(&mut self, map: Fd, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        let mut user = UserSpace::new();
        let (key, value) = (user.put(key), user.put(value));
        let a = attr::MapElem { map_fd: map.cast_unsigned(), key, value, flags: 0 };
        issue(self, Cmd::MapUpdateElem, &a, &mut user).map(|_| ()).map_err(|e| e.errno)
    }

    fn map_freeze(&mut self, map: Fd) -> Result<(), Errno> {
        let a = attr::MapFreeze { map_fd: map.cast_unsigned() };
        let done = issue(self, Cmd::MapFreeze, &a, &mut UserSpace::new());
        done.map(|_| ()).map_err(|e| e.errno)
    }

    fn prog_load(&mut self, load: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal> {
        // BTF that the kernel does not take is left out, as libbpf does.
        let btf_fd = load.btf.and_then(|b| btf_load(self, b).ok());
        let done = load_program(self, &load, btf_fd);
        if let Some(fd) = btf_fd {
            self.sys_close(fd).map_err(ProgRefusal::Errno)?;
        }
        done
    }

    fn cpus(&self) -> u32 {
        self.config.cpus
    }
}

/// `BPF_PROG_LOAD`, again with a larger buffer when the log does not fit.
fn load_program(
    k: &mut Kernel,
    load: &ProgLoad<'_>,
    btf_fd: Option<Fd>,
) -> Result<ProgLoaded, ProgRefusal> {
    let mut room = LOG_BYTES;
    loop {
        let mut user = UserSpace::new();
        let mut a = attributes(k, load, btf_fd, &mut user);
        if load.log_level != 0 {
            (a.log_buf, a.log_size) = (user.room(room), room as u32);
        }
        k.section_note = Some(note(load));
        match issue(k, Cmd::ProgLoad, &a, &mut user) {
            Ok((fd, _)) => {
                let log = text(user.bytes(a.log_buf));
                return Ok(ProgLoaded { fd, id: prog_id(k, fd), log });
            }
            Err(SysError { errno: Errno::ENOSPC, .. }) if room < 1 << 28 => room *= 4,
            Err(SysError { why: Why::Rejected(r), .. }) => return Err(ProgRefusal::Rejected(r)),
            Err(SysError { why: Why::Unsupported(what), .. }) => {
                let r = Rejection::unsupported(what, "syscall.c:bpf_prog_load");
                return Err(ProgRefusal::Rejected(Box::new(r)));
            }
            Err(e) => return Err(ProgRefusal::Errno(e.errno)),
        }
    }
}

/// What bpf(2) has no field for.
fn note(load: &ProgLoad<'_>) -> SectionNote {
    let program = &load.program;
    let member = load.struct_ops.as_ref().map(|(ty, member)| format!("{ty}/{member}"));
    SectionNote {
        symbol: program.name.clone(),
        section: program.section.clone(),
        attach_to: member.or_else(|| program.attach_to.clone()),
    }
}

fn text(buf: &[u8]) -> String {
    let end = buf.iter().position(|b| *b == 0).unwrap_or(buf.len());
    String::from_utf8_lossy(&buf[..end]).into_owned()
}

fn prog_id(k: &mut Kernel, fd: Fd) -> u32 {
    let mut user = UserSpace::new();
    let info = user.room(ProgInfo::SIZE);
    let a = attr::Info { bpf_fd: fd.cast_unsigned(), info_len: ProgInfo::SIZE as u32, info };
    let asked = issue(k, Cmd::ObjGetInfoByFd, &a, &mut user);
    asked.map_or(0, |_| ProgInfo::decode(user.bytes(info), k.config.arch.endian()).id)
}

fn attributes(
    k: &Kernel,
    load: &ProgLoad<'_>,
    btf_fd: Option<Fd>,
    user: &mut UserSpace,
) -> attr::ProgLoad {
    let program = &load.program;
    let endian = k.config.arch.endian();
    let insns = instruction_bytes(program, load.fd_array, endian);
    let ops = load.struct_ops.as_ref().map(|(ty, member)| (ty.as_str(), member.as_str()));
    // What the modelled kernel's types do not name, the verifier refuses in its own words.
    let attach_type = program.attach_type.map_or(0, |t| t as u32);
    let target = attach_target(k.vmlinux_btf(), program, ops);
    let target = target.unwrap_or(Target { btf_id: 0, attach_type });
    let btf = load.btf.filter(|_| btf_fd.is_some());
    let (funcs, lines) = btf.map_or_else(Default::default, |b| records(program, b, endian));
    let license = [program.license.as_bytes(), &[0]].concat();
    attr::ProgLoad {
        prog_type: program.prog_type as u32,
        insn_cnt: (insns.len() / 8) as u32,
        insns: user.put(&insns),
        license: user.put(&license),
        log_level: load.log_level,
        prog_flags: program.flags,
        prog_name: obj_name(&program.name),
        expected_attach_type: target.attach_type,
        prog_btf_fd: btf_fd.map_or(0, i32::cast_unsigned),
        func_info_rec_size: if funcs.is_empty() { 0 } else { FuncInfo::SIZE as u32 },
        func_info_cnt: (funcs.len() / FuncInfo::SIZE) as u32,
        func_info: user.put(&funcs),
        line_info_rec_size: if lines.is_empty() { 0 } else { LineInfo::SIZE as u32 },
        line_info_cnt: (lines.len() / LineInfo::SIZE) as u32,
        line_info: user.put(&lines),
        attach_btf_id: target.btf_id,
        ..attr::ProgLoad::default()
    }
}
