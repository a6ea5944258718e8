//! `pt_regs` of a probe: arguments, result, instruction and stack pointer in the registers of
//! the architecture's C calling convention. All other registers are 0: the model's functions
//! have no machine code (design invariant 6 lists `pt_regs` among what may differ).

use bpf::Arch;

use super::{Fired, Point, frame::entry_of};
use crate::cpu::CpuId;
use crate::layout::stack_top;
use crate::types::Types;
use crate::{Errno, Kernel};

/// Room for `pt_regs` on every architecture: other objects lie where they lie on all of them.
pub(super) const ROOM: usize = 288;

/// Members by role.
struct Convention {
    args: &'static [&'static str],
    ret: &'static str,
    ip: &'static str,
    sp: &'static str,
}

/// A member, or an element of an array member.
fn offset(types: &Types, member: &str) -> u32 {
    let (name, index) = match member.split_once('[') {
        Some((name, rest)) => (name, rest.trim_end_matches(']').parse().unwrap_or(0)),
        None => (member, 0),
    };
    let found = types.field("pt_regs", name).expect("pt_regs of the type table");
    found.off + index * 8
}

const fn convention(arch: Arch) -> Convention {
    match arch {
        Arch::X86_64 => Convention {
            args: &["di", "si", "dx", "cx", "r8", "r9"],
            ret: "ax",
            ip: "ip",
            sp: "sp",
        },
        Arch::Arm64 => Convention {
            args: &["regs[0]", "regs[1]", "regs[2]", "regs[3]", "regs[4]", "regs[5]", "regs[6]"],
            ret: "regs[0]",
            ip: "pc",
            sp: "sp",
        },
        Arch::Riscv64 => Convention {
            args: &["a0", "a1", "a2", "a3", "a4", "a5", "a6"],
            ret: "a0",
            ip: "epc",
            sp: "sp",
        },
        Arch::S390x => Convention {
            args: &["gprs[2]", "gprs[3]", "gprs[4]", "gprs[5]", "gprs[6]"],
            ret: "gprs[2]",
            ip: "psw.addr",
            sp: "gprs[15]",
        },
    }
}

/// Registers of a system call by member: number, then arguments (`syscall_get_nr`,
/// `syscall_get_arguments`).
const fn syscall_members(arch: Arch) -> [&'static str; 7] {
    match arch {
        Arch::X86_64 => ["orig_ax", "di", "si", "dx", "r10", "r8", "r9"],
        Arch::Arm64 => {
            ["syscallno", "orig_x0", "regs[1]", "regs[2]", "regs[3]", "regs[4]", "regs[5]"]
        }
        Arch::Riscv64 => ["a7", "orig_a0", "a1", "a2", "a3", "a4", "a5"],
        // The number is the low half of int_code, the first argument the saved r2.
        Arch::S390x => {
            ["int_code", "orig_gpr2", "gprs[3]", "gprs[4]", "gprs[5]", "gprs[6]", "gprs[7]"]
        }
    }
}

fn member(k: &Kernel, regs: u64, name: &str) -> Option<u64> {
    let types = Types::of(k.config.arch);
    let size = if matches!(name, "syscallno" | "int_code") { 4 } else { 8 };
    k.mem.read_uint(regs.wrapping_add(offset(types, name).into()), size).ok()
}

/// An argument of the system call that registers belong to.
pub(super) fn syscall_arg(k: &Kernel, regs: u64, n: usize) -> Option<u64> {
    member(k, regs, syscall_members(k.config.arch)[n + 1])
}

/// Number of the system call that registers belong to.
pub(super) fn syscall_number(k: &Kernel, regs: u64) -> Option<u64> {
    let n = member(k, regs, syscall_members(k.config.arch)[0])?;
    Some(n & 0xffff)
}

impl Kernel {
    /// `pt_regs` of a system call, as a new kernel object.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn syscall_regs(&mut self, number: u64, args: &[u64]) -> Result<u64, Errno> {
        let arch = self.config.arch;
        let types = Types::of(arch);
        let regs = self.kzalloc(ROOM as u64, "pt_regs")?;
        let values = std::iter::once(number).chain(args.iter().copied());
        for (name, value) in syscall_members(arch).iter().zip(values) {
            let size = if matches!(*name, "syscallno" | "int_code") { 4 } else { 8 };
            let at = regs + u64::from(offset(types, name));
            self.mem.write_uint(at, size, value).map_err(|_| Errno::EFAULT)?;
        }
        // PT_REGS_PARM1_SYSCALL reads the argument register where it differs from the saved one.
        if let (Some(first), Arch::Arm64 | Arch::Riscv64 | Arch::S390x) = (args.first(), arch) {
            let at = regs + u64::from(offset(types, convention(arch).args[0]));
            self.mem.write_u64(at, *first).map_err(|_| Errno::EFAULT)?;
        }
        Ok(regs)
    }
}

/// The registers at a point, in guest byte order.
pub(super) fn bytes(k: &Kernel, cpu: CpuId, fired: &Fired) -> Vec<u8> {
    let arch = k.config.arch;
    let (types, c) = (Types::of(arch), convention(arch));
    let mut out = vec![0; ROOM];
    let mut put = |member: &str, value: u64| {
        let at = offset(types, member) as usize;
        let b = match arch.endian() {
            bpf::Endian::Little => value.to_le_bytes(),
            bpf::Endian::Big => value.to_be_bytes(),
        };
        out[at..at + 8].copy_from_slice(&b);
    };
    match fired.ret {
        Some(ret) => put(c.ret, ret),
        None => c.args.iter().zip(&fired.args).for_each(|(m, v)| put(m, *v)),
    }
    let ip = match fired.point {
        // What was interrupted, as far as the model knows: the function, not where in it.
        Point::Sample => k.kernel_stack(cpu).first().copied().unwrap_or(0),
        // Where the function returns to (`handle_trampoline`).
        Point::UserRet(_) => k.user_stack(cpu).first().copied().unwrap_or(0),
        point => entry_of(point),
    };
    put(c.ip, ip);
    put(c.sp, stack_top(cpu.0));
    out
}
