//! The door: the one place where bpf(2) of the running kernel is called.
//!
//! What goes through is a list, [`ALLOWED`]: nothing that attaches, pins, opens somebody else's
//! object by path or changes a setting of the machine.

use std::os::fd::OwnedFd;

use bpf::uapi::Cmd;
use bpf::uapi::attr::ATTR_SIZE;

/// Commands that may be sent. Everything made by them is gone when its descriptor is closed.
const ALLOWED: &[Cmd] = &[
    Cmd::MapCreate,
    Cmd::MapLookupElem,
    Cmd::MapUpdateElem,
    Cmd::MapDeleteElem,
    Cmd::MapGetNextKey,
    Cmd::MapLookupAndDeleteElem,
    Cmd::MapLookupBatch,
    Cmd::MapLookupAndDeleteBatch,
    Cmd::MapUpdateBatch,
    Cmd::MapDeleteBatch,
    Cmd::MapFreeze,
    Cmd::ProgLoad,
    Cmd::ProgTestRun,
    Cmd::BtfLoad,
    Cmd::ObjGetInfoByFd,
    Cmd::ProgBindMap,
    Cmd::ProgStreamReadByFd,
];

/// A buffer whose address goes into the attributes.
#[derive(Debug)]
pub(super) enum Data<'a> {
    /// The kernel reads it.
    In(&'a [u8]),
    /// The kernel writes it.
    Out(&'a mut [u8]),
}

/// Where in `union bpf_attr` a buffer's address and length belong.
#[derive(Debug)]
pub(super) struct Buf<'a> {
    /// Offset of the pointer.
    pub(super) at: usize,
    /// Offset of the length in bytes, when the kernel is told one.
    pub(super) len_at: Option<usize>,
    /// The bytes.
    pub(super) data: Data<'a>,
}

impl<'a> Buf<'a> {
    /// Bytes whose number the kernel knows from elsewhere.
    pub(super) fn input(at: usize, data: &'a [u8]) -> Buf<'a> {
        Buf { at, len_at: None, data: Data::In(data) }
    }

    /// Room for as many bytes as the kernel knows from elsewhere to be written.
    pub(super) fn output(at: usize, data: &'a mut [u8]) -> Buf<'a> {
        Buf { at, len_at: None, data: Data::Out(data) }
    }

    /// The kernel is told the length at this offset.
    pub(super) fn sized(mut self, len_at: usize) -> Buf<'a> {
        self.len_at = Some(len_at);
        self
    }

    fn place(&mut self, attr: &mut [u8; ATTR_SIZE]) {
        let (addr, len) = match &mut self.data {
            Data::In([]) => (0, 0),
            Data::In(b) => (b.as_ptr().expose_provenance() as u64, b.len()),
            Data::Out(b) => (address(b), b.len()),
        };
        attr[self.at..self.at + 8].copy_from_slice(&addr.to_ne_bytes());
        if let Some(at) = self.len_at {
            let len = u32::try_from(len).expect("buffers are far smaller than 4 GiB");
            attr[at..at + 4].copy_from_slice(&len.to_ne_bytes());
        }
    }
}

/// Address of a buffer, for a structure that is itself pointed to.
pub(super) fn address(buf: &mut [u8]) -> u64 {
    if buf.is_empty() { 0 } else { buf.as_mut_ptr().expose_provenance() as u64 }
}

/// What the kernel answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// A new object.
    Fd(OwnedFd),
    /// Done.
    Done,
}

/// `EPERM`.
pub(super) const EPERM: i32 = 1;

/// Issues a command; the error is the errno. `attr` holds afterwards what the kernel wrote to it.
///
/// The caller sees to it that a buffer without a length field is as long as the kernel takes it
/// to be: that is decided by objects this process made (key and value size of a map).
pub(super) fn bpf(
    cmd: Cmd,
    attr: &mut [u8; ATTR_SIZE],
    mut bufs: Vec<Buf<'_>>,
) -> Result<Answer, i32> {
    for b in &mut bufs {
        b.place(attr);
    }
    bytes(cmd, attr)
}

/// Issues a command whose addresses are in place already.
pub(super) fn bytes(cmd: Cmd, attr: &mut [u8]) -> Result<Answer, i32> {
    if !ALLOWED.contains(&cmd) {
        return Err(EPERM);
    }
    let made = matches!(cmd, Cmd::MapCreate | Cmd::ProgLoad | Cmd::BtfLoad);
    issue(cmd, attr, made)
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[allow(unsafe_code, reason = "bpf(2) has no safe wrapper in std, and every oracle check needs it")]
fn issue(cmd: Cmd, attr: &mut [u8], made: bool) -> Result<Answer, i32> {
    use std::os::fd::FromRawFd;
    let number = libc::c_long::from(cmd as u32);
    // SAFETY: `attr` is a live, exclusive buffer of the length given. The kernel checks every
    // address before it uses it, and those in `attr` were put there by `Buf::place` from slices
    // that `bufs` keeps borrowed (shared ones for what the kernel reads, exclusive ones for what it
    // writes, with their true lengths) or by `address` from buffers that the callers own for the
    // whole call and have found long enough (`bpf_prog_info`'s arrays, `command`'s memory).
    let ret = unsafe { libc::syscall(libc::SYS_bpf, number, attr.as_mut_ptr(), attr.len()) };
    let Ok(fd) = i32::try_from(ret) else { return Err(EPERM) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(EPERM));
    }
    if !made {
        return Ok(Answer::Done);
    }
    // SAFETY: these commands return a descriptor that was opened for this call and has no other
    // owner.
    Ok(Answer::Fd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Only the x86-64 kernel's answers are comparable with what is known of it.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn issue(_: Cmd, _: &mut [u8], _: bool) -> Result<Answer, i32> {
    // ENOSYS: there is no such system call here.
    Err(38)
}

/// Takes capabilities away from this thread, for good: afterwards it loads as one that has no more
/// than those whose bits are set.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[allow(unsafe_code, reason = "std has no capset(2), and a verdict depends on capabilities")]
pub(super) fn keep_caps(mask: u64) -> std::io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, this thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    if mask == u64::MAX {
        return Ok(());
    }
    let mut header = HEADER;
    // Effective, permitted and inheritable set, the low words of all before the high ones.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: version 3 reads the two words of the header and writes two structures of three
    // words each, which is what both buffers are.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    if got != 0 {
        return Err(std::io::Error::last_os_error());
    }
    for (set, bits) in sets.iter_mut().zip([mask as u32, (mask >> 32) as u32]) {
        *set = set.map(|s| s & bits);
    }
    header = HEADER;
    // SAFETY: the same two buffers, of which it reads both.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Without bpf(2) there is nobody to hide capabilities from.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(super) fn keep_caps(_: u64) -> std::io::Result<()> {
    Ok(())
}
