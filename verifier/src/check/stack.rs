//! Stack accesses at byte granularity: spills, fills, zeroes and variable offsets.

use bpf::insn::{Reg, Src};

use super::mem::Access;
use crate::domain::reg::{RegState, RegType};
use crate::domain::stack::{SlotType, StackSlot};
use crate::domain::state::{HistFlags, MAX_BPF_STACK};
use crate::explore::ver::{R, Ver, no, no_line};
use crate::reject::{EACCES, EFAULT, EINVAL};
use crate::transfer::pointer::{BPF_MAX_VAR_OFF, width_bits};

/// What a store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A register.
    Reg(Reg),
    /// An immediate, sign-extended.
    Imm(i32),
    /// Unknown bytes: the effect of a helper.
    Misc,
}

impl From<Src> for Value {
    fn from(s: Src) -> Value {
        match s {
            Src::Reg(r) => Value::Reg(r),
            Src::Imm(i) => Value::Imm(i),
        }
    }
}

/// Slot index of a byte offset, and the byte's index in `types`.
fn place(off: i32) -> (usize, usize) {
    let slot = (-off - 1) as usize;
    (slot / 8, slot % 8)
}

impl Ver<'_> {
    fn stack_frame(&mut self, r: &RegState) -> &mut [StackSlot] {
        &mut self.cur.frames[r.frameno as usize].stack
    }

    pub(crate) fn scratch_slot(&mut self, spi: usize) {
        self.log.scratched_slots |= 1 << spi.min(63);
    }

    /// KERNEL v6.18 verifier.c:check_stack_access_within_bounds
    pub(crate) fn stack_in_bounds(
        &mut self,
        regno: Reg,
        r: &RegState,
        off: i32,
        size: i64,
        write: bool,
    ) -> R {
        let dir = if write { " write to" } else { " read from" };
        let n = regno.0;
        let fixed = r.b.as_const();
        if fixed.is_none() && (r.b.smax >= BPF_MAX_VAR_OFF || r.b.smin <= -BPF_MAX_VAR_OFF) {
            let m = format!("invalid unbounded variable-offset{dir} stack R{n}");
            return no(EACCES, m);
        }
        let min = r.b.smin.wrapping_add(off.into());
        let max = r.b.smax.wrapping_add(off.into()).wrapping_add(size);
        let depth = self.cur.frames[r.frameno as usize].allocated_stack();
        let lowest = if write || self.leaks_ok() { MAX_BPF_STACK } else { depth };
        let errno = if min < -i64::from(lowest) || min > -1 {
            EACCES
        } else if max > 0 {
            EINVAL
        } else if size < 0 {
            EFAULT
        } else {
            0
        };
        if errno != 0 {
            let m = match fixed {
                Some(_) => format!("invalid{dir} stack R{n} off={min} size={size}"),
                None => {
                    let t = r.b.var_off;
                    format!(
                        "invalid variable-offset{dir} stack R{n} var_off={t} off={off} size={size}"
                    )
                }
            };
            return no(errno, m);
        }
        let bytes = (-min) as u32;
        let frame = &mut self.cur.frames[r.frameno as usize];
        if frame.stack.len() < bytes.div_ceil(8) as usize {
            frame.grow_stack(bytes);
        }
        let d = &mut self.stack_depth[frame.subprog as usize];
        // `grow_stack_state` counts whole slots.
        *d = (*d).max(bytes.next_multiple_of(8));
        Ok(())
    }

    /// `check_stack_write`.
    pub(crate) fn stack_write(&mut self, r: &RegState, off: i32, size: u32, v: Value) -> R {
        match r.b.as_const() {
            Some(k) => self.stack_write_fixed(r, off.wrapping_add(k as i32), size, v),
            None => self.stack_write_var(r, off, size, v),
        }
    }

    /// `bypass_spec_v4`: a store that may be bypassed by a later load needs a barrier behind it.
    fn note_stack_spill(&mut self, slot: &StackSlot, at: usize, size: u32, v: Value) {
        if self.leaks_ok() {
            return;
        }
        let pointer = matches!(v, Value::Reg(r) if self.r(r).is_pointer());
        let bytes = (0..size as usize).map(|i| slot.types[(at + 8 - i) % 8]);
        let data = |t| matches!(t, SlotType::Misc | SlotType::Zero);
        if pointer || !bytes.into_iter().all(data) {
            self.aux[self.insn_idx as usize].nospec_result = true;
        }
    }

    /// `save_register_state`.
    fn spill(&mut self, p: &RegState, spi: usize, reg: RegState, size: u32) {
        let slot = &mut self.stack_frame(p)[spi];
        slot.reg = reg;
        for (i, t) in slot.types.iter_mut().enumerate() {
            if i >= 8 - size as usize {
                *t = SlotType::Spill;
            } else if !matches!(t, SlotType::Zero | SlotType::Invalid) {
                *t = SlotType::Misc;
            }
        }
    }

    /// KERNEL v6.18 verifier.c:check_stack_write_fixed_off
    fn stack_write_fixed(&mut self, p: &RegState, off: i32, size: u32, v: Value) -> R {
        let (spi, at) = place(off);
        self.scratch_slot(spi);
        self.fastcall_contract(p.frameno, off);
        if size == 8 {
            self.mark_stack_write(p.frameno, 1 << spi);
        }
        let slot = self.stack_frame(p)[spi];
        if !self.leaks_ok() && slot.is_spill() && !slot.is_scalar_spill() && size != 8 {
            return no(EACCES, "attempt to corrupt spilled pointer on stack");
        }
        self.destroy_dynptr(p.frameno, spi)?;
        self.note_stack_spill(&slot, at, size, v);
        let aligned = off % 8 == 0 && self.capable();
        let spilled = match v {
            Value::Reg(r) if self.r(r).is_scalar() && aligned => {
                let mut x = *self.r(r);
                let fits = width_bits(&x.b) <= size * 8;
                if fits {
                    self.scalar_id(&mut x);
                    self.regs()[r.idx()] = x;
                } else {
                    x.id = 0;
                }
                self.spill(p, spi, x, size);
                true
            }
            Value::Imm(i) if aligned => {
                self.spill(p, spi, RegState::known(i as i64 as u64), size);
                true
            }
            Value::Reg(r) if self.r(r).is_spillable() => {
                let x = *self.r(r);
                if size != 8 {
                    return no(EACCES, "invalid size of register spill");
                }
                if p.frameno as usize != self.cur.curframe() && x.ty == RegType::Stack {
                    let m = "cannot spill pointers to stack into stack frame of the caller";
                    return no(EINVAL, m);
                }
                self.spill(p, spi, x, size);
                true
            }
            _ => false,
        };
        if spilled {
            self.note_slot(p, spi);
            return Ok(());
        }
        let zero = match v {
            Value::Reg(r) => self.r(r).is_null(),
            Value::Imm(i) => i == 0,
            Value::Misc => false,
        };
        if let (true, Value::Reg(r)) = (zero, v) {
            // An unaligned spill of zero: the slot type depends on the exact value.
            self.mark_precise(r)?;
        }
        let slot = &mut self.stack_frame(p)[spi];
        scrub(slot);
        for i in 0..size as usize {
            slot.types[(at + 8 - i) % 8] = if zero { SlotType::Zero } else { SlotType::Misc };
        }
        Ok(())
    }

    fn note_slot(&mut self, p: &RegState, spi: usize) {
        let stack = Some((p.frameno as u8, spi as u8));
        self.push_hist(HistFlags { stack, ..HistFlags::default() }, Default::default());
    }

    /// KERNEL v6.18 verifier.c:check_stack_write_var_off
    fn stack_write_var(&mut self, p: &RegState, off: i32, size: u32, v: Value) -> R {
        let (min, max) = (p.b.smin as i32 + off, p.b.smax as i32 + off + size as i32);
        let zero = match v {
            Value::Reg(r) => self.r(r).is_null(),
            Value::Imm(i) => i == 0,
            Value::Misc => false,
        };
        let (leaks, at_insn) = (self.leaks_ok(), self.insn_idx);
        let mut zero_used = false;
        self.fastcall_contract(p.frameno, min);
        for i in min..max {
            self.destroy_dynptr(p.frameno, place(i).0)?;
        }
        for i in min..max {
            let (spi, at) = place(i);
            self.scratch_slot(spi);
            let slot = &mut self.stack_frame(p)[spi];
            if !leaks && !matches!(slot.types[at], SlotType::Misc | SlotType::Zero) {
                let m = "spilled ptr in range of var-offset stack write; insn";
                return no_line(EINVAL, self, format!("{m} {at_insn}, ptr off: {i}"));
            }
            let spilled = slot.types[at] == SlotType::Spill && slot.is_scalar_spill();
            if zero && spilled && slot.reg.as_const() == Some(0) {
                zero_used = true;
                continue;
            }
            slot.reg.ty = RegType::NotInit;
            let keep = zero && slot.types[at] == SlotType::Zero;
            zero_used |= keep;
            slot.types[at] = if keep { SlotType::Zero } else { SlotType::Misc };
        }
        if let (true, Value::Reg(r)) = (zero_used, v) {
            self.mark_precise(r)?;
        }
        Ok(())
    }

    /// `get_constant_map_key`: a key on the stack that is zero bytes or a spilled constant.
    pub(crate) fn constant_map_key(&mut self, p: &RegState, size: usize) -> Option<u64> {
        if p.ty != RegType::Stack || !self.capable() {
            return None;
        }
        let (spi, at) = place(p.off.wrapping_add(p.b.as_const()? as i32));
        let slot = *self.cur.frames[p.frameno as usize].stack.get(spi)?;
        let run = |t| slot.types[..=at].iter().rev().take_while(|x| **x == t).count();
        if run(SlotType::Zero) >= size {
            return Some(0);
        }
        if !slot.is_scalar_spill() || run(SlotType::Spill) != size {
            return None;
        }
        let key = slot.reg.as_const()?;
        self.mark_slot_precise(p.frameno as usize, spi);
        Some(key)
    }

    /// `check_stack_read`. `dst` is none when the value goes nowhere (helpers, atomics).
    pub(crate) fn stack_read(
        &mut self,
        p: &RegState,
        off: i32,
        size: u32,
        regno: Reg,
        dst: Option<Reg>,
    ) -> R {
        if let Some(k) = p.b.as_const() {
            return self.stack_read_fixed(p, off.wrapping_add(k as i32), size, dst);
        }
        let t = p.b.var_off;
        let Some(dst) = dst else {
            let m = "variable offset stack pointer cannot be passed into helper function";
            return no(EACCES, format!("{m}; var_off={t} off={off} size={size}"));
        };
        if !self.leaks_ok() {
            let m = format!(
                "R{} variable offset stack access prohibited for !root, var_off={t}",
                regno.0
            );
            return no(EACCES, m);
        }
        self.stack_range_initialized(regno, p, off, size.into(), false, false)?;
        let (min, max) = (p.b.smin as i32 + off, p.b.smax as i32 + off);
        self.read_bytes(p, min, max + size as i32, dst);
        self.fastcall_contract(p.frameno, min);
        Ok(())
    }

    /// `mark_reg_stack_read`: zero when every byte is.
    fn read_bytes(&mut self, p: &RegState, min: i32, max: i32, dst: Reg) {
        let mut zero = true;
        for i in min..max {
            let (spi, at) = place(i);
            self.scratch_slot(spi);
            zero = self.cur.frames[p.frameno as usize].stack[spi].types[at] == SlotType::Zero;
            if !zero {
                break;
            }
        }
        let v = if zero { self.known(0) } else { self.unknown() };
        self.set(dst, v);
    }

    /// Every byte of a read must have been written.
    fn readable(&mut self, p: &RegState, off: i32, size: u32) -> R {
        let leaks = self.leaks_ok();
        for i in 0..size as i32 {
            let (spi, at) = place(off + i);
            let t = self.cur.frames[p.frameno as usize].stack[spi].types[at];
            let data = matches!(t, SlotType::Misc | SlotType::Zero | SlotType::Spill);
            if !(data || (t == SlotType::Invalid && leaks)) {
                let m = format!("invalid read from stack off {off}+{i} size {size}");
                return no(EACCES, m);
            }
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_stack_read_fixed_off
    fn stack_read_fixed(&mut self, p: &RegState, off: i32, size: u32, dst: Option<Reg>) -> R {
        let (spi, at) = place(off);
        self.scratch_slot(spi);
        self.fastcall_contract(p.frameno, off);
        self.mark_stack_read(p.frameno, 1 << spi);
        let slot = self.cur.frames[p.frameno as usize].stack[spi];
        if !slot.is_spill() {
            self.readable(p, off, size)?;
            if let Some(d) = dst {
                self.read_bytes(p, off, off + size as i32, d);
            }
            return Ok(());
        }
        let spilled = slot.types.iter().rev().take_while(|t| **t == SlotType::Spill).count() as u32;
        if size == 8 && spilled == 8 {
            let Some(d) = dst else {
                if !self.leaks_ok() && slot.reg.is_pointer() {
                    return no(EACCES, format!("leaking pointer from stack off {off}"));
                }
                self.note_slot(p, spi);
                return Ok(());
            };
            self.set(d, RegState { subreg_def: 0, ..slot.reg });
            self.note_slot(p, spi);
            return Ok(());
        }
        if !slot.reg.is_scalar() {
            return no(EACCES, "invalid size of register fill");
        }
        let Some(d) = dst else { return Ok(()) };
        let narrow_ok = if self.big_endian {
            (off + size as i32 - spilled as i32) % 8 == 0
        } else {
            off % 8 == 0
        };
        if size <= spilled && narrow_ok {
            let mut v = slot.reg;
            if width_bits(&v.b) > size * 8 {
                v.id = 0;
            }
            self.set(d, v);
            self.note_slot(p, spi);
            return Ok(());
        }
        self.readable(p, off, size)?;
        let types = (0..size as usize).map(|i| slot.types[(at + 8 - i) % 8]);
        let types: Vec<SlotType> = types.collect();
        let all = |t| types.iter().all(|x| *x == t);
        if all(SlotType::Spill) && slot.reg.as_const() == Some(0) {
            let z = self.known(0);
            self.set(d, z);
            self.note_slot(p, spi);
        } else {
            let v = if all(SlotType::Zero) { self.known(0) } else { self.unknown() };
            self.set(d, v);
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_stack_range_initialized
    pub(crate) fn stack_range_initialized(
        &mut self,
        regno: Reg,
        p: &RegState,
        off: i32,
        size: i64,
        write: bool,
        raw: bool,
    ) -> R {
        self.stack_in_bounds(regno, p, off, size, write)?;
        let fixed = p.b.as_const();
        if fixed.is_none() && !self.leaks_ok() {
            let m = "variable offset stack access prohibited for !root";
            return no(EACCES, format!("R{} {m}, var_off={}", regno.0, p.b.var_off));
        }
        let min = (p.b.smin + i64::from(off)) as i32;
        let max = (p.b.smax + i64::from(off) + size) as i32;
        if raw && fixed.is_some() {
            return self.no_dynptr_in(p, min, max);
        }
        for i in min..max {
            let (spi, at) = place(i);
            if !self.initialized_byte(p, spi, at, write) {
                return self.not_initialized(regno, p, off, i - min, size);
            }
            self.mark_stack_read(p.frameno, 1 << spi);
        }
        Ok(())
    }

    fn no_dynptr_in(&mut self, p: &RegState, min: i32, max: i32) -> R {
        for i in min..max {
            let (spi, at) = place(i);
            if self.stack_frame(p)[spi].types[at] == SlotType::Dynptr {
                return no(EACCES, format!("potential write to dynptr at off={i} disallowed"));
            }
        }
        Ok(())
    }

    /// The byte may be read; when it may be written too, it is unknown from here on.
    fn initialized_byte(&mut self, p: &RegState, spi: usize, at: usize, write: bool) -> bool {
        let leaks = self.leaks_ok();
        let slot = self.cur.frames[p.frameno as usize].stack[spi];
        match slot.types[at] {
            SlotType::Misc => {}
            SlotType::Zero if !write => {}
            SlotType::Zero => self.stack_frame(p)[spi].types[at] = SlotType::Misc,
            SlotType::Invalid if leaks && !write => {}
            SlotType::Invalid if leaks => self.stack_frame(p)[spi].types[at] = SlotType::Misc,
            _ if slot.is_spill() && (slot.reg.is_scalar() || leaks) => {
                if write {
                    clobber(&mut self.stack_frame(p)[spi]);
                }
            }
            _ => return false,
        }
        true
    }

    fn not_initialized(&self, regno: Reg, p: &RegState, off: i32, i: i32, size: i64) -> R {
        let n = regno.0;
        let m = match p.b.as_const() {
            Some(k) => {
                let min = off.wrapping_add(k as i32);
                format!("invalid read from stack R{n} off {min}+{i} size {size}")
            }
            None => {
                let t = p.b.var_off;
                format!("invalid read from stack R{n} var_off {t}+{i} size {size}")
            }
        };
        no(EACCES, m)
    }

    /// A helper writes these bytes: `check_mem_access(BPF_WRITE, value_regno -1)` per byte.
    pub(crate) fn stack_clobber(&mut self, p: &RegState, off: i32, size: i64) -> R {
        let min = (p.b.smin + i64::from(off)) as i32;
        let max = (p.b.smax + i64::from(off) + size) as i32;
        self.fastcall_contract(p.frameno, min);
        for i in min..max {
            let (spi, at) = place(i);
            let slot = self.cur.frames[p.frameno as usize].stack[spi];
            if !self.leaks_ok() && slot.is_spill() && !slot.is_scalar_spill() {
                return no(EACCES, "attempt to corrupt spilled pointer on stack");
            }
            self.destroy_dynptr(p.frameno, spi)?;
            self.note_stack_spill(&slot, at, 1, Value::Misc);
            self.scratch_slot(spi);
            let slot = &mut self.stack_frame(p)[spi];
            scrub(slot);
            slot.types[at] = SlotType::Misc;
        }
        Ok(())
    }

    /// A callee builds a kernel object of `slots` slots: it writes them eight bytes at a time.
    pub(crate) fn write_slots(&mut self, n: Reg, slots: usize) -> R {
        for off in (0..slots as i32).map(|i| i * 8) {
            let write = Some(Value::Misc);
            self.check_mem(Access { base: n, off, size: 8, write, dst: None, sext: false })?;
        }
        Ok(())
    }
}

/// `scrub_special_slot`: what a spilled register or kernel object leaves is bytes.
fn scrub(slot: &mut StackSlot) {
    if slot.is_special() {
        let written = slot.types.iter_mut().filter(|t| **t != SlotType::Invalid);
        written.for_each(|t| *t = SlotType::Misc);
    }
    slot.reg = RegState::NOT_INIT;
}

/// A helper may read or write a spilled register's bytes: it is unknown bytes from here on.
fn clobber(slot: &mut StackSlot) {
    scrub(slot);
}
