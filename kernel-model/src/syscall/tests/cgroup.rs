//! Programs of control groups as a process attaches them.

use bpf::uapi::AttachType;
use bpf::uapi::attr::{LinkCreate, LinkCreateOrder, LinkDetach, LinkUpdate, ProgAttach, ProgQuery};

use super::*;
use crate::cgroup::flag::{
    AFTER, ALLOW_MULTI, ALLOW_OVERRIDE, BEFORE, ID, LINK, PREORDER, REPLACE,
};

const CGROUP_SOCK: u32 = 9;
const CREATE: u32 = AttachType::CgroupInetSockCreate as u32;
const QUERY_EFFECTIVE: u32 = 1;

/// A process with descriptors of `/`, `/a` and `/a/b`.
struct Tree {
    p: Process,
    root: u32,
    a: u32,
    b: u32,
}

impl Tree {
    fn new(arch: Arch) -> Tree {
        let mut p = Process::new(arch);
        p.k.cgroup_at("/a/b").unwrap();
        let mut open = |path: &str| p.k.cgroup_open(path).unwrap().cast_unsigned();
        let (root, a, b) = (open("/"), open("/a"), open("/a/b"));
        Tree { p, root, a, b }
    }

    /// `return 1` for the creation of sockets.
    fn prog(&mut self) -> u32 {
        let fd = self.p.prog_returning(1, CGROUP_SOCK, CREATE);
        fd.unwrap().cast_unsigned()
    }

    fn id(&self, fd: u32) -> u32 {
        self.p.k.fd_prog(fd.cast_signed()).unwrap().0
    }

    fn attach_as(&mut self, group: u32, a: ProgAttach) -> Result<i32, Errno> {
        let mut a = ProgAttach { target_fd: group, attach_type: CREATE, ..a };
        self.p.call(Cmd::ProgAttach, &mut a)
    }

    fn attach(&mut self, group: u32, prog: u32, flags: u32) -> Result<i32, Errno> {
        let a = ProgAttach { attach_bpf_fd: prog, attach_flags: flags, ..Default::default() };
        self.attach_as(group, a)
    }

    fn detach(&mut self, group: u32, prog: u32) -> Result<i32, Errno> {
        let mut a = ProgAttach {
            target_fd: group,
            attach_bpf_fd: prog,
            attach_type: CREATE,
            ..Default::default()
        };
        self.p.call(Cmd::ProgDetach, &mut a)
    }

    fn link(&mut self, group: u32, prog: u32, flags: u32, other: u32) -> Result<i32, Errno> {
        let endian = self.p.k.config.arch.endian();
        let order = LinkCreateOrder { relative_fd: other, ..Default::default() };
        let mut extra = [0; 48];
        extra[..LinkCreateOrder::SIZE].copy_from_slice(&order.encode(endian));
        let mut a =
            LinkCreate { prog_fd: prog, target_fd: group, attach_type: CREATE, flags, extra };
        self.p.call(Cmd::LinkCreate, &mut a)
    }

    /// Ids of the programs, the flags of the list and its revision.
    fn query(&mut self, group: u32, query_flags: u32) -> (Vec<u32>, u32, u64) {
        let room = self.p.user.room(64 * 4);
        let mut a = ProgQuery {
            target_fd: group,
            attach_type: CREATE,
            query_flags,
            prog_ids: room,
            prog_cnt: 64,
            ..Default::default()
        };
        assert_eq!(self.p.call(Cmd::ProgQuery, &mut a), Ok(0));
        let endian = self.p.k.config.arch.endian();
        let bytes = &self.p.user.bytes(room)[..a.prog_cnt as usize * 4];
        let ids = bytes.chunks(4).map(|b| crate::maps::index_of(endian, b)).collect();
        (ids, a.attach_flags, a.revision)
    }

    fn effective(&mut self, group: u32) -> Vec<u32> {
        self.query(group, QUERY_EFFECTIVE).0
    }
}

#[test]
fn what_a_group_above_allows() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut t = Tree::new(arch);
        let (root, a, b) = (t.root, t.a, t.b);
        let p: Vec<u32> = (0..3).map(|_| t.prog()).collect();
        let ids: Vec<u32> = p.iter().map(|fd| t.id(*fd)).collect();
        // Alone: nobody below may have one; a second takes its place.
        assert_eq!(t.attach(a, p[0], 0), Ok(0));
        assert_eq!(t.attach(b, p[1], 0), Err(Errno::EPERM));
        assert_eq!(t.attach(b, p[1], ALLOW_MULTI), Err(Errno::EPERM));
        assert_eq!(t.attach(a, p[1], 0), Ok(0));
        assert_eq!(t.effective(b), [ids[1]]);
        assert_eq!(t.query(a, 0), (vec![ids[1]], 0, 3));
        // Other flags than those that are there.
        assert_eq!(t.attach(a, p[2], ALLOW_OVERRIDE), Err(Errno::EPERM));
        // The only one goes, whichever is named.
        assert_eq!(t.detach(a, 0), Ok(0));
        assert_eq!(t.detach(a, p[1]), Err(Errno::ENOENT));
        // One below replaces it there.
        assert_eq!(t.attach(a, p[0], ALLOW_OVERRIDE), Ok(0));
        assert_eq!(t.attach(b, p[1], ALLOW_OVERRIDE), Ok(0));
        assert_eq!((t.effective(a), t.effective(b)), (vec![ids[0]], vec![ids[1]]));
        assert_eq!(t.detach(b, p[1]), Ok(0));
        assert_eq!(t.effective(b), [ids[0]]);
        assert!(t.effective(root).is_empty());
    }
}

#[test]
fn many_programs_in_order() {
    let mut t = Tree::new(Arch::X86_64);
    let (root, a, b) = (t.root, t.a, t.b);
    let p: Vec<u32> = (0..6).map(|_| t.prog()).collect();
    let ids: Vec<u32> = p.iter().map(|fd| t.id(*fd)).collect();
    assert_eq!(t.attach(a, p[0], ALLOW_MULTI), Ok(0));
    assert_eq!(t.attach(a, p[0], ALLOW_MULTI), Err(Errno::EINVAL));
    assert_eq!(t.attach(a, p[1], ALLOW_MULTI | BEFORE), Ok(0));
    let relative = |prog, flags, relative_fd| ProgAttach {
        attach_bpf_fd: prog,
        attach_flags: ALLOW_MULTI | flags,
        relative_fd,
        ..Default::default()
    };
    assert_eq!(t.attach_as(a, relative(p[2], AFTER, p[1])), Ok(0));
    assert_eq!(t.query(a, 0), (vec![ids[1], ids[2], ids[0]], ALLOW_MULTI, 4));
    assert_eq!(t.attach_as(a, relative(p[3], AFTER | BEFORE, p[1])), Err(Errno::EINVAL));
    assert_eq!(t.attach_as(a, relative(p[3], 0, p[1])), Err(Errno::EINVAL));
    assert_eq!(t.attach_as(a, relative(p[3], BEFORE, p[4])), Err(Errno::ENOENT));
    assert_eq!(t.attach_as(a, relative(p[3], BEFORE | ID, 999)), Err(Errno::ENOENT));
    assert_eq!(t.attach_as(a, relative(p[3], BEFORE | LINK, p[1])), Err(Errno::EINVAL));
    assert_eq!(t.attach_as(a, relative(p[3], BEFORE | PREORDER, p[1])), Err(Errno::EINVAL));
    let replace = |prog, old, expected_revision| ProgAttach {
        attach_bpf_fd: prog,
        attach_flags: ALLOW_MULTI | REPLACE,
        replace_bpf_fd: old,
        expected_revision,
        ..Default::default()
    };
    assert_eq!(t.attach_as(a, replace(p[3], p[2], 3)), Err(Errno::ESTALE));
    assert_eq!(t.attach_as(a, replace(p[3], p[2], 4)), Ok(0));
    assert_eq!(t.attach_as(a, replace(p[4], p[2], 0)), Err(Errno::ENOENT));
    assert_eq!(t.attach(a, p[4], REPLACE), Err(Errno::EINVAL));
    // Groups below come first, but for what is to come before all.
    assert_eq!(t.attach(b, p[4], ALLOW_MULTI), Ok(0));
    assert_eq!(t.attach(root, p[5], ALLOW_MULTI | PREORDER), Ok(0));
    assert_eq!(t.effective(b), [ids[5], ids[4], ids[1], ids[3], ids[0]]);
    // A new group has what those above it share.
    t.p.k.cgroup_at("/a/b/c").unwrap();
    let c = t.p.k.cgroup_open("/a/b/c").unwrap().cast_unsigned();
    assert_eq!(t.effective(c), [ids[5], ids[4], ids[1], ids[3], ids[0]]);
    assert_eq!(t.detach(a, 0), Err(Errno::EINVAL));
    assert_eq!(t.detach(a, p[3]), Ok(0));
    assert_eq!(t.effective(c), [ids[5], ids[4], ids[1], ids[0]]);
}

#[test]
fn sixty_four_programs_are_enough() {
    let mut t = Tree::new(Arch::X86_64);
    let a = t.a;
    for _ in 0..64 {
        let prog = t.prog();
        assert_eq!(t.attach(a, prog, ALLOW_MULTI), Ok(0));
    }
    let prog = t.prog();
    assert_eq!(t.attach(a, prog, ALLOW_MULTI), Err(Errno::E2BIG));
}

#[test]
fn a_link_dies_with_its_group() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut t = Tree::new(arch);
        let (a, b) = (t.a, t.b);
        let p: Vec<u32> = (0..3).map(|_| t.prog()).collect();
        let ids: Vec<u32> = p.iter().map(|fd| t.id(*fd)).collect();
        assert_eq!(t.link(b, p[0], ALLOW_MULTI, 0), Err(Errno::EINVAL));
        let first = t.link(b, p[0], 0, 0).unwrap().cast_unsigned();
        let second = t.link(b, p[1], BEFORE | LINK, first).unwrap().cast_unsigned();
        let above = t.link(a, p[0], 0, 0).unwrap();
        assert_eq!(t.effective(b), [ids[1], ids[0], ids[0]]);
        let info = t.p.info(first.cast_signed(), &LinkInfo::default());
        assert_eq!((info.link_type, info.prog_id), (3, ids[0]));
        let mut update = LinkUpdate { link_fd: first, new_prog_fd: p[2], ..Default::default() };
        assert_eq!(t.p.call(Cmd::LinkUpdate, &mut update), Ok(0));
        assert_eq!(t.query(b, 0), (vec![ids[1], ids[2]], ALLOW_MULTI, 4));
        let mut gone = LinkDetach { link_fd: second };
        assert_eq!(t.p.call(Cmd::LinkDetach, &mut gone), Ok(0));
        assert_eq!(t.effective(b), [ids[2], ids[0]]);
        let group = t.p.k.cgroups.by_path("/a/b").unwrap();
        assert_eq!(t.p.k.cgroup_remove(group), Ok(()));
        assert_eq!(t.p.k.cgroup_open("/a/b"), Err(Errno::ENOENT));
        assert_eq!(t.p.call(Cmd::LinkUpdate, &mut update), Err(Errno::ENOLINK));
        let info = t.p.info(first.cast_signed(), &LinkInfo::default());
        assert_eq!((info.link_type, &info.detail[..8]), (3, &[0; 8][..]));
        assert_eq!(t.p.k.sys_close(above), Ok(()));
        assert!(t.effective(a).is_empty());
    }
}

#[test]
fn what_is_no_group_and_no_program_for_one() {
    let mut t = Tree::new(Arch::X86_64);
    let (a, prog) = (t.a, t.prog());
    assert_eq!(t.attach(prog, prog, 0), Err(Errno::EBADF));
    assert_eq!(t.attach(99, prog, 0), Err(Errno::EBADF));
    let xdp = t.p.prog(XDP, 37).unwrap().cast_unsigned();
    assert_eq!(t.attach(a, xdp, 0), Err(Errno::EINVAL));
    assert_eq!(t.attach(a, a, 0), Err(Errno::EINVAL));
    assert_eq!(t.attach(a, prog, 1 << 20), Err(Errno::EINVAL));
    assert_eq!(t.attach(a, prog, ALLOW_MULTI | ALLOW_OVERRIDE), Err(Errno::EINVAL));
    // Of another hook than the one that it was loaded for.
    let mut other = ProgAttach {
        target_fd: a,
        attach_bpf_fd: prog,
        attach_type: AttachType::CgroupInet4PostBind as u32,
        ..Default::default()
    };
    assert_eq!(t.p.call(Cmd::ProgAttach, &mut other), Err(Errno::EINVAL));
    let mut query = ProgQuery { target_fd: a, attach_type: 999, ..Default::default() };
    assert_eq!(t.p.call(Cmd::ProgQuery, &mut query), Err(Errno::EINVAL));
}
