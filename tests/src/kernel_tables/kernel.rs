//! The kernel that is asked: variants of programs, maps, and the answer to one program.

use std::collections::BTreeMap;
use std::sync::Arc;

use bpf::btf::{Btf, Kind};
use bpf::insn::asm::assemble_insns;
use bpf::insn::{Insn, Slot, decode_all};
use bpf::uapi::{AttachType, MapType, ProgType};
use bpf::{Endian, Program};
use verifier::env::{BtfKernel, GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::{Options, check};

/// Type, attach type and target of a kind of program, by its label.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub(super) label: String,
    prog_type: ProgType,
    attach: u32,
    flags: u32,
    target: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Kernel {
    env: BtfKernel,
    has_btf: bool,
    variants: BTreeMap<String, Variant>,
}

/// `ok`, or errno and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) errno: &'static str,
    pub(super) message: String,
    pub(super) log: String,
}

impl Answer {
    pub(super) fn ok(&self) -> bool {
        self.errno == "ok"
    }

    /// `ok` or the message.
    pub(super) fn words(&self) -> &str {
        if self.ok() { "ok" } else { &self.message }
    }
}

fn errno_name(errno: i32) -> &'static str {
    const NAMES: &[(i32, &str)] = &[
        (1, "EPERM"),
        (2, "ENOENT"),
        (3, "ESRCH"),
        (7, "E2BIG"),
        (9, "EBADF"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (14, "EFAULT"),
        (22, "EINVAL"),
        (34, "ERANGE"),
        (71, "EPROTO"),
        (95, "EOPNOTSUPP"),
        (524, "ENOTSUPP"),
    ];
    NAMES.iter().find(|n| n.0 == errno).map_or("E?", |n| n.1)
}

/// The maps, in the order the programs of the tables name them.
pub(super) const ARRAY: usize = 0;
/// A hash map.
pub(super) const HASH: usize = 1;
/// An array of one entry.
pub(super) const ONE: usize = 2;
/// A socket map for AF_XDP.
pub(super) const XSKMAP: usize = 3;

fn map(id: u32, map_type: MapType, key_size: u32, value_size: u32, max_entries: u32) -> MapInfo {
    let addr = 0xffff_8880_0000_0000 + (u64::from(id) << 20);
    let single = map_type == MapType::Array && max_entries == 1;
    MapInfo {
        id,
        name: String::new(),
        map_type,
        key_size,
        value_size,
        max_entries,
        flags: 0,
        map_extra: 0,
        addr: GuestAddr(addr),
        value_addr: single.then_some(GuestAddr(addr + 0x100)),
        frozen_value: None,
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    }
}

impl Kernel {
    /// With the BTF of the kernel of this machine, where there is one: some rows need types.
    #[must_use]
    pub fn new() -> Kernel {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").ok();
        let btf = bytes.and_then(|b| Btf::parse(&b).ok());
        let mut maps = vec![
            map(1, MapType::Array, 4, 8, 4),
            map(2, MapType::Hash, 4, 8, 4),
            map(3, MapType::Array, 4, 8, 1),
            map(4, MapType::Xskmap, 4, 4, 4),
        ];
        // Many distinct maps, for the limit on them.
        maps.extend((5..70).map(|id| map(id, MapType::Array, 4, 8, 4)));
        let variants = super::table("variants.tsv").into_iter().map(|r| {
            let number = |name: &str| r[name].parse().expect("a number");
            let v = Variant {
                label: r["label"].clone(),
                prog_type: ProgType::from_raw(number("prog_type")).expect("a program type"),
                attach: number("expected_attach_type"),
                flags: number("prog_flags"),
                target: r["attach_target"].clone(),
            };
            (v.label.clone(), v)
        });
        let variants = variants.collect();
        let has_btf = btf.is_some();
        let btf = Arc::new(btf.unwrap_or_default());
        Kernel { env: BtfKernel { btf, maps, cpus: 2, symbols: None }, has_btf, variants }
    }

    /// The BTF that is there has the types of the tables' kernel.
    #[must_use]
    pub fn has_btf(&self) -> bool {
        self.has_btf
    }

    /// Id of a kernel function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        self.env.btf.find(name, Kind::Func)
    }

    pub(super) fn variant(&self, label: &str) -> Option<&Variant> {
        self.variants.get(label)
    }

    /// The same variant with other `prog_flags`.
    pub(super) fn with_flags(&self, label: &str, flags: u32) -> Option<Variant> {
        Some(Variant { flags, ..self.variant(label)?.clone() })
    }

    /// A variant by program type and `expected_attach_type` alone.
    pub(super) fn plain(prog_type: ProgType, attach: u32, flags: u32) -> Variant {
        let label = prog_type.name().to_owned();
        Variant { label, prog_type, attach, flags, target: String::new() }
    }

    /// The answer cannot be had without a kernel's BTF.
    pub(super) fn needs_btf(&self, v: &Variant) -> bool {
        let typed = matches!(v.prog_type, ProgType::Tracing | ProgType::StructOps | ProgType::Lsm);
        typed && !self.has_btf
    }

    /// Asks about a text.
    pub(super) fn ask(&self, v: &Variant, text: &str) -> Answer {
        let insns = assemble_insns(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        self.ask_insns(v, insns, "GPL", 0)
    }

    /// Asks about raw slots.
    pub(super) fn ask_slots(&self, v: &Variant, slots: &[Slot], license: &str) -> Answer {
        match decode_all(slots) {
            Ok(insns) => self.ask_with(v, insns, license, 0, &[]),
            Err(e) => Answer { errno: "EINVAL", message: e.message, log: String::new() },
        }
    }

    /// Asks about instructions that name maps by index.
    pub(super) fn ask_insns(
        &self,
        v: &Variant,
        insns: Vec<Insn>,
        license: &str,
        log_level: u32,
    ) -> Answer {
        let fds: Vec<i32> = (0..self.env.maps.len()).map(BtfKernel::fd).collect();
        self.ask_with(v, insns, license, log_level, &fds)
    }

    fn ask_with(
        &self,
        v: &Variant,
        insns: Vec<Insn>,
        license: &str,
        log_level: u32,
        fd_array: &[i32],
    ) -> Answer {
        let program = self.program(v, insns, license);
        let options = Options {
            opts: Opts { log_level, ..Opts::default() },
            fd_array,
            prog_btf: None,
            endian: Endian::Little,
            target: None,
        };
        let report = check(&program, &self.env, &options);
        let (errno, message) = match &report.result {
            Ok(()) => ("ok", String::new()),
            Err(r) if r.is_unsupported() => ("unsupported", r.message.clone()),
            Err(r) => (errno_name(r.errno), r.message.clone()),
        };
        let message = message.lines().last().unwrap_or_default().to_owned();
        Answer { errno, message, log: report.log }
    }

    fn program(&self, v: &Variant, insns: Vec<Insn>, license: &str) -> Program {
        let targeted = v.target.contains('/');
        let target = v.target.strip_suffix("+sleepable").unwrap_or(&v.target);
        let attach_to = match v.prog_type {
            ProgType::StructOps => Some(target.to_owned()),
            _ => target.split_once('/').map(|(_, name)| name.to_owned()),
        };
        Program {
            name: "t".to_owned(),
            section: if targeted { target.to_owned() } else { v.prog_type.name().to_owned() },
            prog_type: v.prog_type,
            attach_type: match (v.prog_type, v.attach) {
                (ProgType::StructOps, _) | (_, 0) => None,
                (_, raw) => AttachType::from_raw(raw),
            },
            flags: v.flags,
            attach_to: attach_to.filter(|_| targeted),
            license: license.to_owned(),
            insns,
            funcs: Vec::new(),
            lines: Vec::new(),
        }
    }
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel::new()
    }
}
