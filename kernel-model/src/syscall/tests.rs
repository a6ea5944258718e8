//! Commands as a process gives them: structures in the target's byte order.

use bpf::Arch;
use bpf::btf::BtfBuilder;
use bpf::insn::Slot;
use bpf::uapi::fields::obj_name;
use bpf::uapi::info::{BtfInfo, FuncInfo, LinkInfo, MapInfo, ProgInfo};

mod cgroup;
mod iter;

use super::*;
use crate::{Config, net::NicConfig};

struct Process {
    k: Kernel,
    user: UserSpace,
}

impl Process {
    fn new(arch: Arch) -> Process {
        Process { k: Kernel::new(Config { arch, ..Config::default() }), user: UserSpace::new() }
    }

    fn call<S: Struct>(&mut self, cmd: Cmd, s: &mut S) -> Result<i32, Errno> {
        let endian = self.k.config.arch.endian();
        let mut bytes = s.encode(endian);
        let said = self.k.bpf(cmd as u32, &mut bytes, &mut self.user);
        *s = S::decode(&bytes, endian);
        said.map_err(|e| e.errno)
    }

    fn info<S: Struct>(&mut self, fd: i32, given: &S) -> S {
        let endian = self.k.config.arch.endian();
        let info = self.user.put(&given.encode(endian));
        let mut a = attr::Info { bpf_fd: fd.cast_unsigned(), info_len: S::SIZE as u32, info };
        assert_eq!(self.call(Cmd::ObjGetInfoByFd, &mut a), Ok(0));
        S::decode(self.user.bytes(info), endian)
    }

    /// `r0 = 2; exit`.
    fn prog(&mut self, prog_type: u32, attach: u32) -> Result<i32, Errno> {
        self.prog_returning(2, prog_type, attach)
    }

    fn prog_returning(&mut self, imm: i32, prog_type: u32, attach: u32) -> Result<i32, Errno> {
        let endian = self.k.config.arch.endian();
        let insns =
            [Slot { code: 0xb7, imm, ..Slot::default() }, Slot { code: 0x95, ..Slot::default() }];
        let insns: Vec<u8> = insns.iter().flat_map(|s| s.to_bytes(endian)).collect();
        let mut a = attr::ProgLoad {
            prog_type,
            insn_cnt: 2,
            insns: self.user.put(&insns),
            license: self.user.put(b"GPL\0"),
            prog_name: obj_name("two"),
            expected_attach_type: attach,
            ..Default::default()
        };
        self.call(Cmd::ProgLoad, &mut a)
    }
}

const XDP: u32 = 6;
const SCHED_CLS: u32 = 3;
const EXT: u32 = 28;

#[test]
fn a_program_and_what_is_told_of_it() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut p = Process::new(arch);
        let fd = p.prog(XDP, 37).unwrap();
        let room = p.user.room(64);
        let given =
            ProgInfo { xlated_prog_insns: room, xlated_prog_len: 64, ..ProgInfo::default() };
        let info = p.info(fd, &given);
        assert_eq!((info.prog_type, info.id, info.xlated_prog_len), (XDP, 1, 16));
        assert_eq!((info.name, info.gpl_compatible, info.verified_insns), (obj_name("two"), 1, 2));
        assert_eq!(p.user.bytes(room)[0], 0xb7);
        let mut next = attr::NextId::default();
        assert_eq!(p.call(Cmd::ProgGetNextId, &mut next), Ok(0));
        assert_eq!(next.next_id, 1);
        let mut end = attr::NextId { id: 1, ..Default::default() };
        assert_eq!(p.call(Cmd::ProgGetNextId, &mut end), Err(Errno::ENOENT));
        let mut by = attr::FdById { id: 1, ..Default::default() };
        let again = p.call(Cmd::ProgGetFdById, &mut by).unwrap();
        assert_eq!(p.k.fd_prog(again), p.k.fd_prog(fd));
        let mut none = attr::FdById { id: 2, ..Default::default() };
        assert_eq!(p.call(Cmd::ProgGetFdById, &mut none), Err(Errno::ENOENT));
    }
}

#[test]
fn a_refused_program_leaves_its_log() {
    let mut p = Process::new(Arch::S390x);
    let exit = Slot { code: 0x95, ..Slot::default() }.to_bytes(bpf::Endian::Big);
    let room = p.user.room(4096);
    let mut a = attr::ProgLoad {
        prog_type: XDP,
        insn_cnt: 1,
        insns: p.user.put(&exit),
        license: p.user.put(b"GPL\0"),
        log_level: 1,
        log_buf: room,
        log_size: 4096,
        ..Default::default()
    };
    assert_eq!(p.call(Cmd::ProgLoad, &mut a), Err(Errno::EACCES));
    let log = String::from_utf8_lossy(p.user.bytes(room)).into_owned();
    assert!(log.contains("R0 !read_ok"), "{log}");
    assert_eq!(a.log_true_size as usize, log.find('\0').unwrap() + 1);
    // Too short a buffer keeps the end and says so.
    (a.log_buf, a.log_size) = (p.user.room(8), 8);
    assert_eq!(p.call(Cmd::ProgLoad, &mut a), Err(Errno::ENOSPC));
    let mut wrong = attr::ProgLoad { prog_type: 99, insn_cnt: 1, ..a };
    assert_eq!(p.call(Cmd::ProgLoad, &mut wrong), Err(Errno::EINVAL));
    let mut empty = attr::ProgLoad { insn_cnt: 0, ..a };
    assert_eq!(p.call(Cmd::ProgLoad, &mut empty), Err(Errno::E2BIG));
    let mut bad = attr::ProgLoad { insns: 0x10, ..a };
    assert_eq!(p.call(Cmd::ProgLoad, &mut bad), Err(Errno::EFAULT));
}

#[test]
fn maps_know_their_types() {
    let mut p = Process::new(Arch::X86_64);
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let blob = b.finish().unwrap().to_bytes(bpf::Endian::Little);
    let btf = p.user.put(&blob);
    let mut a = attr::BtfLoad { btf, btf_size: blob.len() as u32, ..Default::default() };
    let btf_fd = p.call(Cmd::BtfLoad, &mut a).unwrap();
    let room = p.user.room(blob.len());
    let given = BtfInfo { btf: room, btf_size: blob.len() as u32, ..BtfInfo::default() };
    let info = p.info(btf_fd, &given);
    assert_eq!((info.id, info.kernel_btf, info.btf_size), (2, 0, blob.len() as u32));
    assert_eq!(p.user.bytes(room), blob);
    let mut a = attr::MapCreate {
        map_type: 2,
        key_size: 4,
        value_size: 4,
        max_entries: 7,
        map_name: obj_name("m"),
        btf_fd: btf_fd.cast_unsigned(),
        btf_key_type_id: int,
        btf_value_type_id: int,
        ..Default::default()
    };
    let map = p.call(Cmd::MapCreate, &mut a).unwrap();
    let info = p.info(map, &MapInfo::default());
    assert_eq!((info.map_type, info.max_entries, info.btf_id), (2, 7, 2));
    assert_eq!((info.btf_key_type_id, info.name), (int, obj_name("m")));
    // Opened for reading alone.
    let mut by = attr::FdById { id: info.id, open_flags: 8, ..Default::default() };
    let ro = p.call(Cmd::MapGetFdById, &mut by).unwrap();
    let (key, value) = (p.user.put(&[0; 4]), p.user.put(&[1; 4]));
    let mut e = attr::MapElem { map_fd: ro.cast_unsigned(), key, value, flags: 0 };
    assert_eq!(p.call(Cmd::MapUpdateElem, &mut e), Err(Errno::EPERM));
    e.map_fd = map.cast_unsigned();
    assert_eq!(p.call(Cmd::MapUpdateElem, &mut e), Ok(0));
    let mut first = attr::NextId::default();
    assert_eq!(p.call(Cmd::BtfGetNextId, &mut first), Ok(0));
    assert_eq!(first.next_id, VMLINUX_BTF.0);
    let mut by = attr::FdById { id: VMLINUX_BTF.0, ..Default::default() };
    let kernel = p.call(Cmd::BtfGetFdById, &mut by).unwrap();
    assert_eq!(p.info(kernel, &BtfInfo::default()).kernel_btf, 1);
    let bad = p.user.put(b"not BTF at all, this");
    let mut a = attr::BtfLoad { btf: bad, btf_size: 20, ..Default::default() };
    assert_eq!(p.call(Cmd::BtfLoad, &mut a), Err(Errno::EINVAL));
}

#[test]
fn links_hold_their_attachment() {
    let mut p = Process::new(Arch::X86_64);
    let nic = p.k.net_add(NicConfig::default()).unwrap();
    let (one, two) = (p.prog(XDP, 37).unwrap(), p.prog(XDP, 37).unwrap());
    let fd = |fd: i32| fd.cast_unsigned();
    let create = attr::LinkCreate {
        prog_fd: fd(one),
        target_fd: nic,
        attach_type: 37,
        ..Default::default()
    };
    let link = p.call(Cmd::LinkCreate, &mut create.clone()).unwrap();
    assert_eq!(p.k.net.nics[&nic].xdp, p.k.fd_prog(one).ok());
    assert_eq!(p.call(Cmd::LinkCreate, &mut create.clone()), Err(Errno::EBUSY));
    let info = p.info(link, &LinkInfo::default());
    assert_eq!((info.link_type, info.prog_id, info.detail[0]), (6, 1, 1));
    let replace = attr::LinkUpdate {
        link_fd: fd(link),
        new_prog_fd: fd(two),
        flags: 4,
        old_prog_fd: fd(two),
    };
    assert_eq!(p.call(Cmd::LinkUpdate, &mut replace.clone()), Err(Errno::EPERM));
    let mut good = attr::LinkUpdate { old_prog_fd: fd(one), ..replace };
    assert_eq!(p.call(Cmd::LinkUpdate, &mut good), Ok(0));
    assert_eq!(p.k.net.nics[&nic].xdp, p.k.fd_prog(two).ok());
    // The last descriptor takes it off; before that, detaching does.
    p.k.sys_close(link).unwrap();
    assert_eq!(p.k.net.nics[&nic].xdp, None);
    let link = p.call(Cmd::LinkCreate, &mut create.clone()).unwrap();
    let mut detach = attr::LinkDetach { link_fd: fd(link) };
    assert_eq!(p.call(Cmd::LinkDetach, &mut detach), Ok(0));
    assert_eq!(p.k.net.nics[&nic].xdp, None);
    assert_eq!(p.call(Cmd::LinkUpdate, &mut good.clone()), Err(Errno::ENOLINK));
    let tc = p.prog(SCHED_CLS, 0).unwrap();
    let mut a = attr::LinkCreate { prog_fd: fd(tc), attach_type: 46, ..create };
    let link = p.call(Cmd::LinkCreate, &mut a).unwrap();
    assert_eq!(p.info(link, &LinkInfo::default()).link_type, 11);
    let mut wrong = attr::LinkCreate { attach_type: 37, ..a };
    assert_eq!(p.call(Cmd::LinkCreate, &mut wrong), Err(Errno::EINVAL));
    let mut nowhere = attr::LinkCreate { target_fd: 99, ..a };
    assert_eq!(p.call(Cmd::LinkCreate, &mut nowhere), Err(Errno::ENODEV));
}

/// `int f(struct xdp_md *)` as types, and its id.
fn one_function(p: &mut Process) -> (i32, u32) {
    let endian = p.k.config.arch.endian();
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let ctx = b.structure("xdp_md", 24, &[]);
    let ctx = b.ptr(ctx);
    let func = b.func("f", bpf::btf::Linkage::Global, int, &[("ctx", ctx)]);
    let bytes = b.finish().expect("types").to_bytes(endian);
    let mut a = attr::BtfLoad {
        btf: p.user.put(&bytes),
        btf_size: bytes.len() as u32,
        ..Default::default()
    };
    (p.call(Cmd::BtfLoad, &mut a).unwrap(), func)
}

#[test]
fn a_program_is_loaded_for_another() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut p = Process::new(arch);
        let endian = p.k.config.arch.endian();
        let (btf, func) = one_function(&mut p);
        let info = FuncInfo { insn_off: 0, type_id: func }.encode(endian);
        let insns = [(0xb7u8, 2), (0x95, 0)];
        let slot = |(code, imm)| Slot { code, imm, ..Slot::default() }.to_bytes(endian);
        let insns: Vec<u8> = insns.into_iter().flat_map(slot).collect();
        let given = attr::ProgLoad {
            prog_type: XDP,
            insn_cnt: 2,
            insns: p.user.put(&insns),
            license: p.user.put(b"GPL\0"),
            prog_btf_fd: btf.cast_unsigned(),
            func_info: p.user.put(&info),
            func_info_cnt: 1,
            func_info_rec_size: FuncInfo::SIZE as u32,
            ..Default::default()
        };
        let target = p.call(Cmd::ProgLoad, &mut { given }).unwrap();
        p.k.sys_close(btf).unwrap();
        let on = |fd: i32, prog_type| attr::ProgLoad {
            prog_type,
            attach_btf_id: func,
            attach_prog_fd: fd.cast_unsigned(),
            prog_btf_fd: 0,
            ..given
        };
        let (again, _) = one_function(&mut p);
        let with = |a: attr::ProgLoad| attr::ProgLoad { prog_btf_fd: again.cast_unsigned(), ..a };
        let ext = p.call(Cmd::ProgLoad, &mut with(on(target, EXT))).unwrap();
        let mut link = attr::LinkCreate { prog_fd: ext.cast_unsigned(), ..Default::default() };
        assert_eq!(p.call(Cmd::LinkCreate, &mut link), Err(Errno::ENOTSUPP));
        assert_eq!(p.call(Cmd::ProgLoad, &mut with(on(ext, EXT))), Err(Errno::EINVAL));
        assert_eq!(p.call(Cmd::ProgLoad, &mut with(on(target, XDP))), Err(Errno::EINVAL));
        assert_eq!(p.call(Cmd::ProgLoad, &mut with(on(btf, EXT))), Err(Errno::EINVAL));
    }
}

#[test]
fn what_is_not_there_is_named() {
    let mut p = Process::new(Arch::X86_64);
    let said = p.k.bpf(Cmd::TokenCreate as u32, &mut [0; 8], &mut p.user).unwrap_err();
    assert_eq!(said.to_string(), "unsupported: bpf(2) command BPF_TOKEN_CREATE");
    assert_eq!(p.k.bpf(9999, &mut [0; 8], &mut p.user).unwrap_err().errno, Errno::EINVAL);
    let mut long = [0; KERNEL_ATTR_SIZE + 8];
    long[KERNEL_ATTR_SIZE] = 1;
    let said = p.k.bpf(Cmd::MapCreate as u32, &mut long, &mut p.user).unwrap_err();
    assert_eq!(said.errno, Errno::E2BIG);
}

#[test]
fn what_nothing_refers_to_is_freed_and_its_id_is_not_given_again() {
    let mut p = Process::new(Arch::X86_64);
    let live = p.k.alloc.live_bytes();
    let mut a = attr::MapCreate {
        map_type: 1,
        key_size: 4,
        value_size: 8,
        max_entries: 4,
        ..Default::default()
    };
    let hash = p.call(Cmd::MapCreate, &mut a).unwrap();
    let (key, value) = (p.user.put(&[0; 4]), p.user.put(&[1; 8]));
    let mut e = attr::MapElem { map_fd: hash.cast_unsigned(), key, value, flags: 0 };
    assert_eq!(p.call(Cmd::MapUpdateElem, &mut e), Ok(0));
    // A program holds the map it is bound to, a slot of a prog array the program.
    let prog = p.prog(XDP, 37).unwrap();
    let mut bind = attr::ProgBindMap {
        prog_fd: prog.cast_unsigned(),
        map_fd: hash.cast_unsigned(),
        ..Default::default()
    };
    assert_eq!(p.call(Cmd::ProgBindMap, &mut bind), Ok(0));
    let mut a = attr::MapCreate {
        map_type: 3,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..Default::default()
    };
    let array = p.call(Cmd::MapCreate, &mut a).unwrap();
    let (id, value) = (p.k.fd_map(hash).unwrap(), p.user.put(&prog.to_le_bytes()));
    let mut e = attr::MapElem { map_fd: array.cast_unsigned(), key, value, flags: 0 };
    assert_eq!(p.call(Cmd::MapUpdateElem, &mut e), Ok(0));
    p.k.sys_close(prog).unwrap();
    p.k.sys_close(hash).unwrap();
    assert_eq!((p.k.progs.len(), p.k.maps.len()), (1, 2));
    let mut by = attr::FdById { id: id.0, ..Default::default() };
    let again = p.call(Cmd::MapGetFdById, &mut by).unwrap();
    p.k.sys_close(again).unwrap();
    p.k.sys_close(array).unwrap();
    assert_eq!((p.k.progs.len(), p.k.maps.len()), (0, 0));
    assert_eq!(p.call(Cmd::MapGetFdById, &mut by), Err(Errno::ENOENT));
    assert_eq!(p.k.alloc.live_bytes(), live);
    let mut next = attr::NextId::default();
    assert_eq!(p.call(Cmd::MapGetNextId, &mut next), Err(Errno::ENOENT));
    let fd = p.prog(XDP, 37).unwrap();
    assert_eq!(p.info(fd, &ProgInfo::default()).id, 2);
}

#[test]
fn a_tag_is_of_the_instructions_as_they_were_loaded() {
    let mut p = Process::new(Arch::X86_64);
    let fd = p.prog(XDP, 37).unwrap();
    let info = p.info(fd, &ProgInfo::default());
    // As Linux 6.18 says of `r0 = 2; exit`.
    assert_eq!(info.tag, [0x61, 0x4b, 0x43, 0x4c, 0xd8, 0x32, 0x4e, 0xcc]);
}
