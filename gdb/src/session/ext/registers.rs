//! The register file in gdb's order, over the tables of [`crate::arch`].

use std::marker::PhantomData;
use std::num::NonZeroUsize;

use gdbstub::arch::{self, RegId};
use gdbstub::common::Tid;
use gdbstub::target::ext::base::single_register_access::SingleRegisterAccess;
use gdbstub::target::{TargetError, TargetResult};

use super::{INVALID, Session};
use crate::arch::{GdbArch, Reg, from_bytes, name_of, to_bytes, value};
use crate::{DebugError, Regs};

/// An architecture as gdbstub wants it.
#[derive(Debug)]
pub(crate) struct Of<A>(PhantomData<A>);

impl<A: GdbArch> arch::Arch for Of<A> {
    type Usize = u64;
    type Registers = Registers<A>;
    type BreakpointKind = usize;
    type RegId = RegNumber<A>;
}

/// A register's number, which is in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RegNumber<A>(usize, PhantomData<A>);

impl<A: GdbArch> RegNumber<A> {
    pub(crate) fn new(number: usize) -> RegNumber<A> {
        RegNumber(number, PhantomData)
    }
}

impl<A: GdbArch> RegId for RegNumber<A> {
    /// With the size, without which gdbstub cannot say that a register is unavailable.
    fn from_raw_id(id: usize) -> Option<(RegNumber<A>, Option<NonZeroUsize>)> {
        let reg = A::reg(id)?;
        Some((RegNumber::new(id), NonZeroUsize::new(reg.bytes())))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// Values in the order of the table; `None` where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Registers<A> {
    values: Vec<Option<u64>>,
    pc: u64,
    arch: PhantomData<A>,
}

impl<A: GdbArch> Registers<A> {
    pub(super) fn of(regs: &Regs) -> Registers<A> {
        let values = A::all().map(|r| value(A::ARCH, r.holds, regs)).collect();
        Registers { values, pc: regs.pc, arch: PhantomData }
    }

    /// Registers with another value than `before`.
    pub(super) fn changed(&self, before: &Registers<A>) -> Vec<(&'static Reg, u64)> {
        let pairs = A::all().zip(self.values.iter().zip(&before.values));
        pairs
            .filter(|(_, (new, old))| new != old)
            .filter_map(|(r, (new, _))| Some((r, (*new)?)))
            .collect()
    }
}

impl<A: GdbArch> arch::Registers for Registers<A> {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.pc
    }

    fn gdb_serialize(&self, mut write: impl FnMut(Option<u8>)) {
        for (reg, value) in A::all().zip(&self.values) {
            match value {
                None => (0..reg.bytes()).for_each(|_| write(None)),
                Some(value) => {
                    to_bytes(A::ARCH, *value, reg.bytes()).into_iter().for_each(|b| write(Some(b)));
                }
            }
        }
    }

    fn gdb_deserialize(&mut self, mut bytes: &[u8]) -> Result<(), ()> {
        self.values.clear();
        for reg in A::all() {
            let (value, rest) = bytes.split_at_checked(reg.bytes()).ok_or(())?;
            self.values.push(from_bytes(A::ARCH, value));
            bytes = rest;
        }
        Ok(())
    }
}

impl<A: GdbArch> SingleRegisterAccess<Tid> for Session<'_, A> {
    fn read_register(
        &mut self,
        tid: Tid,
        RegNumber(number, _): RegNumber<A>,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let cpu = self.cpu(tid)?;
        let reg = A::reg(number).ok_or(TargetError::Errno(INVALID))?;
        let Some(value) = value(A::ARCH, reg.holds, &self.debuggee.regs(cpu)) else { return Ok(0) };
        let bytes = to_bytes(A::ARCH, value, reg.bytes());
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(
        &mut self,
        tid: Tid,
        RegNumber(number, _): RegNumber<A>,
        bytes: &[u8],
    ) -> TargetResult<(), Self> {
        let cpu = self.cpu(tid)?;
        let reg = A::reg(number).filter(|r| r.bytes() == bytes.len());
        let value = reg.and_then(|_| from_bytes(A::ARCH, bytes));
        let (reg, value) = reg.zip(value).ok_or(TargetError::Errno(INVALID))?;
        self.set(cpu, reg, value)
    }
}

impl<A: GdbArch> Session<'_, A> {
    pub(super) fn set(
        &mut self,
        cpu: u32,
        reg: &Reg,
        value: u64,
    ) -> Result<(), TargetError<DebugError>> {
        let invalid = TargetError::Errno(INVALID);
        let Some(name) = name_of(A::ARCH, reg.holds, reg.name) else { return Err(invalid) };
        self.debuggee.set_reg(cpu, name, value).map_err(|_| invalid)
    }
}
