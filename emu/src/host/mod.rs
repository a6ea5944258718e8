//! The kernel of the machine this runs on, behind the commands a loader uses.
//!
//! ```text
//!  loader::load ──Bpf──► HostKernel ──door──► bpf(2)
//!  (program) ─► prog_load ─► HostVerdict {errno, log, statistics, rewritten and native code}
//!                         └► test_run ─► TestRunOut
//! ```
//!
//! Reading order: `door` (the system call), this file, `load` (`BPF_PROG_LOAD` as libbpf does
//! it), `log` (what the verifier's log says), `info`, `run`.
//!
//! **Invariants.** Nothing is ever attached or pinned; every object goes with its descriptor. Only
//! little-endian x86-64. Where the kernel does not let us, [`HostKernel::open`] says why, and a
//! check that needs it is skipped visibly.

mod btf;
mod command;
mod door;
mod info;
mod load;
mod log;
mod maps;
mod run;
mod system;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bpf::btf::Btf;
use bpf::insn::{Call, Insn};
use bpf::uapi::attr::ATTR_SIZE;
use bpf::uapi::fields::Struct;
use bpf::{Endian, Program};

use crate::loader::Fd;

pub use info::ProgDetail;
pub use load::{HostVerdict, LoadFor, RawLoad};
pub use log::HostStats;
pub use run::{TestRunIn, TestRunOut};

/// The byte order of the only architecture this asks.
const ENDIAN: Endian = Endian::Little;

/// Why the running kernel cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostUnavailable {
    /// Not Linux on x86-64.
    #[error("the host is not Linux on x86-64")]
    Platform,
    /// The call is refused.
    #[error("bpf(2) is not permitted here (errno {0})")]
    Refused(i32),
    /// No type information.
    #[error("/sys/kernel/btf/vmlinux: {0}")]
    NoBtf(String),
}

/// The running kernel, with the objects made through it.
#[derive(Debug)]
pub struct HostKernel {
    fds: BTreeMap<Fd, OwnedFd>,
    /// Key size, bytes of a value as user space has it, of the maps made here.
    map_sizes: BTreeMap<Fd, (usize, usize)>,
    vmlinux: Arc<Btf>,
    cpus: u32,
    /// `LINUX_VERSION_CODE` of the running kernel.
    version: u32,
    /// The last BTF loaded: an object's programs and maps share it.
    btf: Option<(Vec<u8>, OwnedFd)>,
}

impl HostKernel {
    /// Opens the running kernel.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn open() -> Result<HostKernel, HostUnavailable> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(HostUnavailable::Platform);
        }
        let blob = std::fs::read("/sys/kernel/btf/vmlinux");
        let blob = blob.map_err(|e| HostUnavailable::NoBtf(e.to_string()))?;
        let vmlinux = Btf::parse(&blob).map_err(|e| HostUnavailable::NoBtf(e.to_string()))?;
        let vmlinux = Arc::new(vmlinux);
        let mut host = HostKernel {
            fds: BTreeMap::new(),
            map_sizes: BTreeMap::new(),
            vmlinux,
            cpus: read_cpus(),
            version: kernel_version(),
            btf: None,
        };
        // r0 = 0; exit
        let least = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        let load = RawLoad { prog_type: 1, insns: &least, ..RawLoad::default() };
        match host.load_raw(&load).errno {
            0 => Ok(host),
            errno => Err(HostUnavailable::Refused(errno)),
        }
    }

    /// Types of the running kernel.
    #[must_use]
    pub fn vmlinux(&self) -> &Arc<Btf> {
        &self.vmlinux
    }

    /// `LINUX_VERSION_CODE` of the running kernel.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Loads from now on as a thread without the capabilities whose bits are not set. It cannot
    /// be undone: let the thread end.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_caps(&self, mask: u64) -> std::io::Result<()> {
        door::keep_caps(mask)
    }

    /// `libbpf_num_possible_cpus`.
    #[must_use]
    pub fn possible_cpus(&self) -> u32 {
        self.cpus
    }

    /// Whether a program may harm the running kernel by being loaded: 6.18 does not look at what a
    /// map of a workqueue has.
    #[must_use]
    pub fn can_harm(&self, program: &Program) -> bool {
        program.insns.iter().any(|i| match i {
            Insn::Call(Call::Kfunc { btf_id, .. }) => {
                self.vmlinux.name(btf_id.cast_unsigned()).starts_with("bpf_wq")
            }
            _ => false,
        })
    }

    /// Closes everything that was made through this value.
    pub fn close_all(&mut self) {
        self.fds.clear();
        self.map_sizes.clear();
        self.btf = None;
    }

    /// Closes one descriptor.
    pub fn close(&mut self, fd: Fd) {
        self.fds.remove(&fd);
        self.map_sizes.remove(&fd);
    }

    fn keep(&mut self, fd: OwnedFd) -> Fd {
        let raw = fd.as_raw_fd();
        self.fds.insert(raw, fd);
        raw
    }
}

/// A command's half of `union bpf_attr` as bytes.
fn attr_bytes<S: Struct>(s: &S) -> [u8; ATTR_SIZE] {
    let mut out = [0; ATTR_SIZE];
    s.encode_into(&mut out, ENDIAN);
    out
}

/// `libbpf_num_possible_cpus`: the file holds ranges, e.g. `0-3`.
fn read_cpus() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<u32>().ok());
    last.map_or(1, |n| n + 1)
}

/// From `major.minor.patch-...`.
fn kernel_version() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let n: Vec<u32> = numbers.take(3).collect();
    match n[..] {
        [major, minor, patch] => major << 16 | minor << 8 | patch.min(255),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
