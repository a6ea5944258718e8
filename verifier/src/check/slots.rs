//! Kernel objects on the stack (dynptrs, iterators, interrupt flags): where a pointer's slots are.

use crate::domain::reg::RegState;
use crate::explore::ver::Ver;

/// Why there are no slots: the kernel prints its line and goes on to the caller's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSlots {
    /// Not a place for the object; what to print first.
    Bad(String),
    /// Beyond what the frame has allocated so far.
    OutOfRange,
}

impl NoSlots {
    /// The caller's message under what was printed before.
    pub(crate) fn under(&self, message: &str) -> String {
        match self {
            NoSlots::Bad(first) => format!("{first}\n{message}"),
            NoSlots::OutOfRange => message.to_string(),
        }
    }
}

impl Ver<'_> {
    /// `mark_stack_slot_obj_read`: the object in `n` slots is looked at.
    pub(crate) fn read_object(&mut self, frameno: u32, spi: usize, n: usize) {
        self.mark_stack_read(frameno, slots_mask(spi, n));
        for k in 0..n {
            self.scratch_slot(spi - k);
        }
    }

    /// `stack_slot_obj_get_spi`: the slot with the lowest address of `n` slots.
    pub(crate) fn object_slots(
        &self,
        r: &RegState,
        kind: &str,
        n: usize,
    ) -> Result<usize, NoSlots> {
        let Some(v) = r.b.as_const() else {
            return Err(NoSlots::Bad(format!("{kind} has to be at a constant offset")));
        };
        let off = r.off.wrapping_add(v as i32);
        let bad = || Err(NoSlots::Bad(format!("cannot pass in {kind} at an offset={off}")));
        if off % 8 != 0 {
            return bad();
        }
        if off == 0 && n == 1 {
            // `__get_spi` rounds to zero; that nothing may be written there is said later.
            return Err(NoSlots::OutOfRange);
        }
        // Offsets above the frame pointer have no slot.
        let Some(spi) = usize::try_from(-i64::from(off) / 8 - 1).ok().filter(|s| s + 1 >= n) else {
            return bad();
        };
        if spi >= self.cur.frames[r.frameno as usize].stack.len() {
            return Err(NoSlots::OutOfRange);
        }
        Ok(spi)
    }
}

/// Slots of an object, its first being `spi`.
pub(crate) fn slots_mask(spi: usize, slots: usize) -> u64 {
    ((1u64 << slots) - 1) << (spi + 1 - slots)
}
