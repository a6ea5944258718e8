//! Whoever answers bpf(2): the modelled kernel in either byte order, or the running one.

use bpf::Endian;
use bpf::btf::{Btf, BtfBuilder};
use bpf::uapi::fields::Struct;
use bpf::uapi::{Cmd, attr};
use emu::host::HostKernel;
use kernel_model::syscall::{UserSpace, Why};
use kernel_model::{Config, Kernel};

/// Takes commands as bytes.
pub(crate) enum Face {
    /// The model.
    Model(Box<Kernel>),
    /// The running kernel.
    Host(Box<HostKernel>),
}

/// errno's name, `ok`, or what the model does not have.
pub(crate) type Said = String;

impl Face {
    /// A modelled kernel with a nic of index 1.
    pub(crate) fn model(arch: bpf::Arch) -> Face {
        let config = Config { arch, memory_bytes: 1 << 30, ..Config::default() };
        let mut k = Kernel::new(config);
        k.net_add(kernel_model::net::NicConfig::default()).expect("a nic");
        Face::Model(Box::new(k))
    }

    pub(crate) fn endian(&self) -> Endian {
        match self {
            Face::Model(k) => k.config.arch.endian(),
            Face::Host(_) => Endian::Little,
        }
    }

    pub(crate) fn cpus(&self) -> usize {
        match self {
            Face::Model(k) => k.config.cpus as usize,
            Face::Host(h) => emu::loader::Bpf::cpus(&**h) as usize,
        }
    }

    /// A command with all its bytes.
    pub(crate) fn bytes(
        &mut self,
        cmd: Cmd,
        attr: &mut [u8],
        user: &mut UserSpace,
    ) -> Result<i32, Said> {
        match self {
            Face::Host(h) => h.command(cmd, attr, user).map_err(|e| e.name().to_owned()),
            Face::Model(k) => k.bpf(cmd as u32, attr, user).map_err(|e| match e.why {
                Why::Unsupported(what) => format!("unsupported: {what}"),
                _ => e.errno.name().to_owned(),
            }),
        }
    }

    /// A command with its structure, read back afterwards.
    pub(crate) fn call<S: Struct>(
        &mut self,
        cmd: Cmd,
        s: &mut S,
        user: &mut UserSpace,
    ) -> Result<i32, Said> {
        let endian = self.endian();
        let mut bytes = s.encode(endian);
        let said = self.bytes(cmd, &mut bytes, user);
        *s = S::decode(&bytes, endian);
        said
    }

    /// A u32 as programs of this kernel see it.
    pub(crate) fn word(&self, v: u32) -> [u8; 4] {
        match self.endian() {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        }
    }

    /// Closes a map.
    pub(crate) fn close(&mut self, fd: i32) {
        match self {
            Face::Host(h) => h.close(fd),
            Face::Model(k) => k.sys_close(fd).unwrap_or_default(),
        }
    }

    /// `r0 = 0; exit` as a socket filter.
    pub(crate) fn program(&mut self) -> i32 {
        let insns = [bpf::insn::Slot { code: 0xb7, ..Default::default() }, exit()];
        let endian = self.endian();
        let insns: Vec<u8> = insns.iter().flat_map(|s| s.to_bytes(endian)).collect();
        let mut user = UserSpace::new();
        let mut a = attr::ProgLoad {
            prog_type: 1,
            insn_cnt: 2,
            insns: user.put(&insns),
            license: user.put(b"GPL\0"),
            ..Default::default()
        };
        self.call(Cmd::ProgLoad, &mut a, &mut user).expect("a minimal program loads")
    }

    /// Types that the tables refer to by id.
    pub(crate) fn types(&mut self) -> i32 {
        let mut user = UserSpace::new();
        let blob = types().to_bytes(self.endian());
        let btf = user.put(&blob);
        let mut a = attr::BtfLoad { btf, btf_size: blob.len() as u32, ..Default::default() };
        self.call(Cmd::BtfLoad, &mut a, &mut user).expect("BTF loads")
    }
}

fn exit() -> bpf::insn::Slot {
    bpf::insn::Slot { code: 0x95, ..Default::default() }
}

/// 1 int, 2 struct bpf_spin_lock, 3 struct with one and an int, 4 struct of an int, 5 u64,
/// 6 struct of a u64.
fn types() -> Btf {
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let lock = b.structure("bpf_spin_lock", 4, &[("val", int, 0, 0)]);
    b.structure("locked", 8, &[("lock", lock, 0, 0), ("v", int, 32, 0)]);
    b.structure("one", 4, &[("v", int, 0, 0)]);
    let u64_ = b.int("u64", 8, false);
    b.structure("wide", 8, &[("v", u64_, 0, 0)]);
    b.finish().expect("the types are well formed")
}
