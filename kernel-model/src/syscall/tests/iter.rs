//! Links of iterators and their files.

use bpf::btf::Kind;
use bpf::uapi::attr::{IterCreate, LinkCreate, LinkCreateIter, LinkDetach, ProgLoad};
use bpf::uapi::info::LinkInfo;

use super::*;

const TRACING: u32 = 26;
const TRACE_ITER: u32 = 28;

/// `r0 = 0; exit` for a target.
fn program(p: &mut Process, target: &str) -> u32 {
    let endian = p.k.config.arch.endian();
    let func = p.k.vmlinux_btf().find(&format!("bpf_iter_{target}"), Kind::Func).unwrap();
    let insns = [Slot { code: 0xb7, ..Slot::default() }, Slot { code: 0x95, ..Slot::default() }];
    let insns: Vec<u8> = insns.iter().flat_map(|s| s.to_bytes(endian)).collect();
    let mut a = ProgLoad {
        prog_type: TRACING,
        insn_cnt: 2,
        insns: p.user.put(&insns),
        license: p.user.put(b"GPL\0"),
        expected_attach_type: TRACE_ITER,
        attach_btf_id: func,
        ..Default::default()
    };
    p.call(Cmd::ProgLoad, &mut a).unwrap().cast_unsigned()
}

/// A link with these words of `union bpf_iter_link_info`.
fn link(p: &mut Process, prog_fd: u32, words: &[u32]) -> Result<i32, Errno> {
    let endian = p.k.config.arch.endian();
    let word = |w: &u32| match endian {
        bpf::Endian::Little => w.to_le_bytes(),
        bpf::Endian::Big => w.to_be_bytes(),
    };
    let bytes: Vec<u8> = words.iter().flat_map(word).collect();
    let iter_info = if bytes.is_empty() { 0 } else { p.user.put(&bytes) };
    let info = LinkCreateIter { iter_info, iter_info_len: bytes.len() as u32 };
    let mut extra = [0; 48];
    extra[..LinkCreateIter::SIZE].copy_from_slice(&info.encode(endian));
    let mut a = LinkCreate { prog_fd, attach_type: TRACE_ITER, extra, ..Default::default() };
    p.call(Cmd::LinkCreate, &mut a)
}

#[test]
fn a_link_says_what_an_iterator_goes_over() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut p = Process::new(arch);
        let task = program(&mut p, "task");
        let all = link(&mut p, task, &[]).unwrap();
        assert_eq!(p.info(all, &LinkInfo::default()).link_type, 4);
        assert_eq!(link(&mut p, task, &[3, 4, 0]), Err(Errno::EINVAL));
        assert_eq!(link(&mut p, task, &[3, 0, 0, 0, 1]), Err(Errno::E2BIG));
        let mut a = IterCreate { link_fd: all.cast_unsigned(), flags: 1 };
        assert_eq!(p.call(Cmd::IterCreate, &mut a), Err(Errno::EINVAL));
        a.flags = 0;
        let file = p.call(Cmd::IterCreate, &mut a).unwrap();
        let iter = p.k.fd_iter(file).unwrap();
        let mut detach = LinkDetach { link_fd: all.cast_unsigned() };
        assert_eq!(p.call(Cmd::LinkDetach, &mut detach), Err(Errno::EOPNOTSUPP));
        // The file goes on without the link, and ends with its last descriptor.
        p.k.sys_close(all).unwrap();
        assert_eq!(p.k.iter_read(iter, 1), Ok(()));
        p.k.sys_close(file).unwrap();
        assert_eq!(p.k.iter_read(iter, 1), Err(Errno::EBADF));
    }
}

#[test]
fn what_a_target_wants_is_checked() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let mut p = Process::new(arch);
        let cgroup = program(&mut p, "cgroup");
        assert_eq!(link(&mut p, cgroup, &[]), Err(Errno::EINVAL));
        assert_eq!(link(&mut p, cgroup, &[5]), Err(Errno::EINVAL));
        assert!(link(&mut p, cgroup, &[4]).is_ok());
        let id = match arch.endian() {
            bpf::Endian::Little => [9, 0],
            bpf::Endian::Big => [0, 9],
        };
        assert_eq!(link(&mut p, cgroup, &[1, 0, id[0], id[1]]), Err(Errno::ENOENT));
        assert_eq!(link(&mut p, cgroup, &[1, 3, id[0], id[1]]), Err(Errno::EINVAL));
        let elements = program(&mut p, "bpf_map_elem");
        assert_eq!(link(&mut p, elements, &[]), Err(Errno::EBADF));
        assert_eq!(link(&mut p, elements, &[elements]), Err(Errno::EINVAL));
    }
}
