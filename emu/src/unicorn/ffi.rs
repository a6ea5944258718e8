//! One engine handle with typed calls; every function states why its call is sound.

#![allow(unsafe_code, reason = "the C interface of Unicorn")]

use super::PAGE_BYTES;
use super::hooks::{self, HookState};
use super::spec::Spec;
use std::ffi::c_void;
use unicorn_engine_sys::{
    ControlType, HookType, Prot, TlbType, uc_close, uc_ctl, uc_emu_start, uc_engine, uc_error,
    uc_hook, uc_hook_add, uc_hook_del, uc_mem_map_ptr, uc_mem_unmap, uc_open, uc_reg_read,
    uc_reg_read_batch, uc_reg_write, uc_reg_write_batch,
};

/// Size of the buffer for translated code. The default maps 1 GiB of address space per engine;
/// a BPF program is kilobytes, and a full buffer is only flushed.
const TCG_BUFFER_BYTES: u32 = 8 << 20;

/// An owned engine. Not `Send`: Unicorn ties it to nothing, but its RAM pointer is ours.
#[derive(Debug)]
pub(super) struct Engine {
    uc: *mut uc_engine,
    /// RAM as mapped at physical address 0.
    mapped: (*mut u8, usize),
}

fn check(e: uc_error) -> Result<(), uc_error> {
    e.into()
}

/// `uc_ctl` operation with `nargs` arguments, all written.
const fn write_op(op: ControlType, nargs: u32) -> ControlType {
    ControlType(op.0 | nargs << 26 | 1 << 30)
}

impl Engine {
    /// Opens and configures; the order matters (page size, model and buffer before anything that
    /// initialises the engine).
    pub(super) fn open(spec: &Spec) -> Result<Engine, uc_error> {
        let mut uc = std::ptr::null_mut();
        // SAFETY: `uc` is a valid place for the handle.
        check(unsafe { uc_open(spec.uc_arch, spec.uc_mode, &raw mut uc) })?;
        let engine = Engine { uc, mapped: (std::ptr::null_mut(), 0) };
        if spec.arch == bpf::Arch::Arm64 {
            // The default is 1 KiB pages: four times the TLB misses, and other page addresses.
            engine.ctl(write_op(ControlType::UC_PAGE_SIZE, 1), PAGE_BYTES as u32)?;
        }
        engine.ctl(write_op(ControlType::CPU_MODEL, 1), spec.model as u32)?;
        engine.ctl(write_op(ControlType::TCG_BUFFER_SIZE, 1), TCG_BUFFER_BYTES)?;
        engine.ctl(write_op(ControlType::TLB_TYPE, 1), TlbType::VIRTUAL as u32)?;
        Ok(engine)
    }

    /// A control operation with one 32-bit argument.
    fn ctl(&self, op: ControlType, arg: u32) -> Result<(), uc_error> {
        // SAFETY: a live handle; every operation used takes exactly one 32-bit value.
        check(unsafe { uc_ctl(self.uc, op, arg) })
    }

    /// The handle, for the private fields.
    pub(super) fn raw(&self) -> *mut uc_engine {
        self.uc
    }

    /// Installs the hooks. `state` must stay where it is until the engine is dropped.
    pub(super) fn hook(&self, state: *mut HookState) -> Result<(), uc_error> {
        let data = state.cast::<c_void>();
        let hooks: [(HookType, *mut c_void); 3] = [
            (HookType::INTR, hooks::intr as *mut c_void),
            (HookType::BLOCK, hooks::block as *mut c_void),
            (HookType::TLB_FILL, hooks::tlb as *mut c_void),
        ];
        for (kind, f) in hooks {
            let mut id = 0;
            // SAFETY: the functions have the signatures of their hook kinds (unicorn.h); `data`
            // outlives the engine (Vcpu drops the engine first). begin > end means unbounded.
            check(unsafe { uc_hook_add(self.uc, &raw mut id, kind.0 as i32, f, data, 1, 0) })?;
        }
        Ok(())
    }

    /// Installs the hook of loads and stores: for an engine in which nothing has been translated.
    pub(super) fn observe(&self, state: *mut HookState) -> Result<(), uc_error> {
        let (data, mut id) = (state.cast::<c_void>(), 0);
        let kind = HookType::MEM_READ.0 | HookType::MEM_WRITE.0;
        let f = hooks::access as *mut c_void;
        // SAFETY: as for `hook`.
        check(unsafe { uc_hook_add(self.uc, &raw mut id, kind as i32, f, data, 1, 0) })
    }

    /// Installs a hook of loads and stores of a physical range; its handle. What is translated is
    /// translated anew.
    pub(super) fn watch(
        &self,
        state: *mut HookState,
        (from, to): (u64, u64),
    ) -> Result<uc_hook, uc_error> {
        let (data, mut id) = (state.cast::<c_void>(), 0);
        let kind = HookType::MEM_READ.0 | HookType::MEM_WRITE.0;
        let f = hooks::watched as *mut c_void;
        // SAFETY: as for `hook`; an inclusive range.
        check(unsafe { uc_hook_add(self.uc, &raw mut id, kind as i32, f, data, from, to - 1) })?;
        self.flush_code();
        Ok(id)
    }

    /// Takes such a hook out.
    pub(super) fn unwatch(&self, id: uc_hook) {
        // SAFETY: a live handle, not running; `id` is a hook of this engine.
        unsafe { uc_hook_del(self.uc, id) };
        self.flush_code();
    }

    /// Makes `ram` the physical memory; does nothing when it is already.
    pub(super) fn map(&mut self, ram: &mut [u8]) -> Result<bool, uc_error> {
        let now = (ram.as_mut_ptr(), ram.len());
        if now == self.mapped {
            return Ok(false);
        }
        if self.mapped.1 != 0 {
            // SAFETY: a live handle that is not running; the range is the one mapped below.
            check(unsafe { uc_mem_unmap(self.uc, 0, self.mapped.1 as u64) })?;
            self.mapped = (std::ptr::null_mut(), 0);
        }
        // SAFETY: pointer and length are those of a slice. The engine touches it only inside
        // `start`, which borrows the same slice; Unicorn does not free memory given to it.
        check(unsafe {
            uc_mem_map_ptr(self.uc, 0, now.1 as u64, Prot::ALL.0, now.0.cast::<c_void>())
        })?;
        self.mapped = now;
        Ok(true)
    }

    /// Runs from `pc` until a hook stops it or something fails.
    ///
    /// `ram` must be the mapped memory: the borrow is what makes the guest's accesses exclusive.
    pub(super) fn start(&self, ram: &mut [u8], pc: u64) -> Result<(), uc_error> {
        self.start_count(ram, pc, 0)
    }

    /// Runs one instruction. With a count Unicorn compiles a hook into all code, so an engine
    /// should do either this or [`Engine::start`].
    pub(super) fn step(&self, ram: &mut [u8], pc: u64) -> Result<(), uc_error> {
        self.start_count(ram, pc, 1)
    }

    fn start_count(&self, ram: &mut [u8], pc: u64, count: usize) -> Result<(), uc_error> {
        assert_eq!(self.mapped, (ram.as_mut_ptr(), ram.len()), "the mapped memory is lent");
        // SAFETY: a live handle, not running (no hook calls back into it), memory borrowed.
        check(unsafe { uc_emu_start(self.uc, pc, 0, 0, count) })
    }

    /// Reads one 64-bit register.
    pub(super) fn read(&self, reg: i32) -> u64 {
        let mut v = 0u64;
        // SAFETY: all registers in `Spec` are at most 8 bytes wide.
        unsafe { uc_reg_read(self.uc, reg, (&raw mut v).cast()) };
        v
    }

    /// Writes one 64-bit register.
    pub(super) fn write(&self, reg: i32, v: u64) {
        // SAFETY: as for `read`.
        unsafe { uc_reg_write(self.uc, reg, (&raw const v).cast()) };
    }

    /// Reads several registers.
    pub(super) fn read_all(&self, regs: &[i32], out: &mut [u64; 32]) {
        let ptrs: [*mut c_void; 32] = std::array::from_fn(|i| (&raw mut out[i]).cast());
        let n = regs.len().min(32) as i32;
        // SAFETY: `n` register numbers and `n` places of 8 bytes.
        unsafe {
            uc_reg_read_batch(self.uc, regs.as_ptr().cast_mut(), ptrs.as_ptr().cast_mut(), n)
        };
    }

    /// Writes several registers.
    pub(super) fn write_all(&self, regs: &[i32], vals: &[u64; 32]) {
        let ptrs: [*mut c_void; 32] =
            std::array::from_fn(|i| (&raw const vals[i]).cast_mut().cast());
        let n = regs.len().min(32) as i32;
        // SAFETY: `n` register numbers and `n` values of 8 bytes, which are only read.
        unsafe { uc_reg_write_batch(self.uc, regs.as_ptr().cast_mut(), ptrs.as_ptr(), n) };
    }

    /// Forgets translations of `[from, to)`.
    pub(super) fn remove_cache(&self, from: u64, to: u64) {
        let op = write_op(ControlType::TB_REMOVE_CACHE, 2);
        // SAFETY: a live handle, not running; the operation takes two 64-bit addresses.
        unsafe { uc_ctl(self.uc, op, from, to) };
    }

    /// Forgets all translated code.
    pub(super) fn flush_code(&self) {
        // SAFETY: a live handle, not running; no arguments.
        unsafe { uc_ctl(self.uc, write_op(ControlType::TB_FLUSH, 0)) };
    }

    /// Forgets all address translations.
    pub(super) fn flush_tlb(&self) {
        // SAFETY: a live handle, not running; no arguments.
        unsafe { uc_ctl(self.uc, write_op(ControlType::TLB_FLUSH, 0)) };
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once.
        unsafe { uc_close(self.uc) };
    }
}
