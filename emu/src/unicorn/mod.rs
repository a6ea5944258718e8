//! The CPU layer: one Unicorn engine per vCPU over shared host memory. All `unsafe` lives here.
//!
//! ```text
//!  Vcpu::run ─► uc_emu_start(pc, until = 0)
//!                 ├─ TLB hook    asks PageTable; none or forbidden = precise fault
//!                 ├─ block hook  retired BPF instructions, fuel
//!                 └─ INTR hook   trap of a stub: stop, the caller reads registers, re-enters
//! ```
//!
//! **Invariants.** No nested `emu_start`. No address is both writable and executable. `until` is 0
//! always: anything else retranslates at each entry. Memory is lent for one `run`; nothing keeps a
//! pointer to it in between but the engine, which is not entered then.
//!
//! Why it is so is measured: TLB_VIRTUAL with a hook that returns all rights is 8 times faster
//! than the default TLB, a trap and re-entry costs 100-200 ns, any memory hook costs a factor 8.

mod cover;
mod ffi;
mod hooks;
mod private;
mod regs;
mod selftest;
mod spec;
#[cfg(test)]
mod tests;
mod vcpu;

pub use cover::{Cover, FuncAt, Node};
pub use hooks::{LOOSE_INSNS, Observed, WatchHit, Watched};
pub use regs::RegFile;
pub use spec::{NativeReg, Spec, spec};
pub use vcpu::{
    Accounting, Counts, CpuError, Fuel, Halt, POINT, PointAt, Points, Stop, TAIL_ENTRY, Vcpu,
};

/// Size of a page, on every architecture here.
pub const PAGE_BYTES: u64 = 4096;

/// What the CPU wants to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Load.
    Read,
    /// Store, or a read-modify-write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// What a page allows. Writable and executable at once is not representable: in the engine's TLB
/// it would send every store through the slow path, and it is what W^X forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
    /// Loads and fetches.
    ReadExec,
}

impl Rights {
    /// Whether `access` is allowed.
    #[must_use]
    pub const fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Write => matches!(self, Rights::ReadWrite),
            Access::Fetch => matches!(self, Rights::ReadExec),
        }
    }
}

/// Guest page table: page address to physical address (an offset into the RAM) and rights.
pub trait PageTable {
    /// The page for an access that is about to happen; `None` is unmapped. Rights may be fewer
    /// than the page has (never than `access` needs, if it is allowed): then the next kind of
    /// access asks again. `ram` is as it is before the access.
    fn lookup(&mut self, page: u64, access: Access, ram: &[u8]) -> Option<(u64, Rights)>;
}
