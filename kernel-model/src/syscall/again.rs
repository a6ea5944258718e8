//! The verifier's log of a program that is loaded already, for debuggers: the program is verified
//! again, in the kernel as it is now.

use std::collections::BTreeMap;

use bpf::insn::{Imm64, Insn};
use verifier::KernelEnv;
use verifier::env::{CtxAccess, CtxConv, GuestAddr, Layout, MapInfo};
use verifier::explore::{Opts, PtrClass};
use verifier::verify::{Options, verify_report};

use crate::maps::MapId;
use crate::{Kernel, Prog, ProgId};

/// Descriptors of maps that programs name by their place in `fd_array`; others are far below.
const BY_PLACE: i32 = 1 << 28;

/// The kernel, with the descriptors that the process had when it loaded the program.
struct Then<'k> {
    kernel: &'k Kernel,
    maps: BTreeMap<i32, MapId>,
}

impl KernelEnv for Then<'_> {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        let map = self.kernel.maps.get(self.maps.get(&fd)?)?;
        Some(self.kernel.map_info(map))
    }

    fn btf(&self) -> Option<&bpf::btf::Btf> {
        self.kernel.btf()
    }

    fn symbol(&self, name: &str) -> Option<GuestAddr> {
        self.kernel.symbol(name)
    }

    fn lacks_symbol(&self, name: &str) -> bool {
        self.kernel.lacks_symbol(name)
    }

    fn nr_cpu_ids(&self) -> u32 {
        self.kernel.nr_cpu_ids()
    }

    fn arena(&self, map: &MapInfo) -> Option<verifier::verified::Arena> {
        self.kernel.arena(map)
    }

    fn runs_indirect(&self) -> bool {
        self.kernel.runs_indirect()
    }

    fn timed_may_goto(&self) -> bool {
        self.kernel.timed_may_goto()
    }

    fn layout(&self) -> Layout {
        self.kernel.layout()
    }

    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        self.kernel.conv_ctx(access)
    }

    fn conv_sock(&self, class: PtrClass, access: CtxAccess) -> Option<CtxConv> {
        self.kernel.conv_sock(class, access)
    }

    fn has_helper(&self, id: i32) -> bool {
        self.kernel.has_helper(id)
    }

    fn identity(&self) -> u64 {
        self.kernel.identity()
    }
}

/// Descriptors that a program names maps by: those of the process, or made of places in
/// `fd_array`, in the order of first use, which is that of [`Prog::maps`].
fn named(prog: &Prog) -> (BTreeMap<i32, MapId>, Vec<i32>) {
    let mut fds: Vec<i32> = Vec::new();
    let mut places = 0;
    for insn in &prog.verified.program().insns {
        let fd = match *insn {
            Insn::LdImm64 { imm: Imm64::MapFd(fd) | Imm64::MapValue { fd, .. }, .. } => fd,
            Insn::LdImm64 { imm: Imm64::MapIdx(idx) | Imm64::MapIdxValue { idx, .. }, .. } => {
                places = places.max(idx.saturating_add(1));
                BY_PLACE.saturating_add(idx)
            }
            _ => continue,
        };
        if !fds.contains(&fd) {
            fds.push(fd);
        }
    }
    let array = (0..places).map(|n| BY_PLACE + n).collect();
    (fds.into_iter().zip(prog.maps.iter().copied()).collect(), array)
}

impl Kernel {
    /// The verifier's log of a loaded program at a level: 1 or 2.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn prog_log(&self, id: ProgId, log_level: u32) -> Result<String, String> {
        let prog = self.progs.get(&id).ok_or_else(|| format!("{id} is gone"))?;
        if prog.target.is_some() {
            return Err(format!("unsupported: the log of {}, attached to a program", prog.name()));
        }
        let (maps, fd_array) = named(prog);
        let btf = self.btf_object(super::BtfId(prog.btf_id));
        let opts = Opts { log_level, level: self.config.level, ..Opts::default() };
        let (prog_btf, endian) = (btf.as_deref(), self.mem.endian());
        let options = Options { opts, fd_array: &fd_array, prog_btf, endian, target: None };
        let then = Then { kernel: self, maps };
        let report = verify_report(prog.verified.program().clone(), &then, &options);
        match report.result {
            Ok(_) => Ok(report.log),
            Err(r) => Err(format!("{} cannot be verified again: {}", prog.name(), r.message)),
        }
    }
}
