//! The register file of one vCPU as a value, for snapshots, callbacks and debuggers.

use super::spec::NativeReg;

/// General registers, program counter and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RegFile {
    /// In the order of [`super::Spec::names`]; the rest is zero.
    pub gprs: [u64; 32],
    /// Program counter.
    pub pc: u64,
    /// Condition flags, or the PSW mask on s390x.
    pub flags: u64,
}

impl RegFile {
    /// One general register.
    #[must_use]
    pub const fn get(&self, r: NativeReg) -> u64 {
        self.gprs[r.0 as usize]
    }

    /// Sets one general register.
    pub const fn set(&mut self, r: NativeReg, v: u64) {
        self.gprs[r.0 as usize] = v;
    }
}
