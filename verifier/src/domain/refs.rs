//! Acquired references, locks and interrupt states: `struct bpf_reference_state` and the parts
//! of `struct bpf_verifier_state` that count them.
//!
//! All are in one list in the order of acquisition, because locks and interrupt flags must be
//! given back in reverse order. The protocol of the list, as a table (an empty cell is "not
//! found"; the message is the caller's):
//!
//! | held | released | result |
//! |---|---|---|
//! | `Ptr` id | `Ptr` same id | gone |
//! | `Lock` id, object | the same, the innermost | gone; the one before is innermost |
//! | `Lock` id, object | the same, not innermost | out of order |
//! | `Irq` id | the same, and it is the innermost flag | gone; the flag before is innermost |
//! | `Irq` id | the same, not innermost | out of order |

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefType {
    /// An object that must be released.
    Ptr,
    /// Interrupt flags that must be restored.
    Irq,
    /// `bpf_spin_lock`.
    Lock,
    /// `bpf_res_spin_lock`.
    ResLock,
    /// `bpf_res_spin_lock`, taken with interrupts off.
    ResLockIrq,
}

impl RefType {
    /// `REF_TYPE_LOCK_MASK`.
    #[must_use]
    pub const fn is_lock(self) -> bool {
        match self {
            RefType::Lock | RefType::ResLock | RefType::ResLockIrq => true,
            RefType::Ptr | RefType::Irq => false,
        }
    }
}

/// The object a lock is in: `bpf_reference_state::ptr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockPtr {
    /// Not a lock.
    None,
    /// A value of this map (index of the map).
    Map(u32),
    /// An allocated object: told apart by the id alone, all are of the program's BTF.
    Object,
}

/// One held thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefState {
    /// Kind.
    pub ty: RefType,
    /// Identity.
    pub id: u32,
    /// Where it was acquired.
    pub insn_idx: u32,
    /// Object of a lock.
    pub ptr: LockPtr,
}

/// Why a thing could not be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReleased {
    /// It is not held.
    Missing,
    /// Something acquired later must go first.
    OutOfOrder,
}

/// Everything a path holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Held {
    /// In the order of acquisition.
    pub refs: Vec<RefState>,
    /// Nesting of `bpf_preempt_disable`.
    pub preempt: u32,
    /// Inside `bpf_rcu_read_lock`.
    pub rcu: bool,
}

impl Held {
    /// `active_locks`: how many locks are held.
    #[must_use]
    pub fn locks(&self) -> usize {
        self.refs.iter().filter(|r| r.ty.is_lock()).count()
    }

    /// Any lock is held.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.refs.iter().any(|r| r.ty.is_lock())
    }

    /// `active_lock_id`, `active_lock_ptr`: the innermost lock.
    #[must_use]
    pub fn active_lock(&self) -> Option<&RefState> {
        self.refs.iter().rev().find(|r| r.ty.is_lock())
    }

    /// `active_irq_id`: the innermost saved flags; 0 when interrupts are on.
    #[must_use]
    pub fn active_irq(&self) -> u32 {
        self.refs.iter().rev().find(|r| r.ty == RefType::Irq).map_or(0, |r| r.id)
    }

    /// `find_lock_state`.
    #[must_use]
    pub fn has_lock(&self, types: &[RefType], id: u32, ptr: LockPtr) -> bool {
        self.refs.iter().any(|r| types.contains(&r.ty) && r.id == id && r.ptr == ptr)
    }

    /// `find_reference_state`.
    #[must_use]
    pub fn has_ptr(&self, id: u32) -> bool {
        self.refs.iter().any(|r| r.ty == RefType::Ptr && r.id == id)
    }

    /// Gives a pointer back.
    ///
    /// # Errors
    /// It is not held.
    pub fn release_ptr(&mut self, id: u32) -> Result<(), NotReleased> {
        let at = self.refs.iter().position(|r| r.ty == RefType::Ptr && r.id == id);
        self.refs.remove(at.ok_or(NotReleased::Missing)?);
        Ok(())
    }

    /// `release_lock_state`, with the check of the order before it.
    ///
    /// # Errors
    /// It is not held, or not the innermost lock.
    pub fn release_lock(&mut self, ty: RefType, id: u32, ptr: LockPtr) -> Result<(), NotReleased> {
        let same = |r: &RefState| r.ty == ty && r.id == id && r.ptr == ptr;
        let at = self.refs.iter().position(same).ok_or(NotReleased::Missing)?;
        if self.active_lock().is_some_and(|r| r.id != id || r.ptr != ptr) {
            return Err(NotReleased::OutOfOrder);
        }
        self.refs.remove(at);
        Ok(())
    }

    /// `release_irq_state`.
    ///
    /// # Errors
    /// These are not the innermost flags.
    pub fn release_irq(&mut self, id: u32) -> Result<(), NotReleased> {
        if id != self.active_irq() {
            return Err(NotReleased::OutOfOrder);
        }
        let at = self.refs.iter().position(|r| r.ty == RefType::Irq && r.id == id);
        self.refs.remove(at.ok_or(NotReleased::Missing)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(ty: RefType, id: u32) -> RefState {
        RefState { ty, id, insn_idx: 0, ptr: LockPtr::Map(0) }
    }

    #[test]
    fn locks_go_back_in_reverse_order() {
        let refs = vec![lock(RefType::ResLock, 1), lock(RefType::ResLock, 2)];
        let mut h = Held { refs, ..Held::default() };
        let map = LockPtr::Map(0);
        assert_eq!(h.release_lock(RefType::ResLock, 3, map), Err(NotReleased::Missing));
        assert_eq!(h.release_lock(RefType::ResLock, 1, map), Err(NotReleased::OutOfOrder));
        assert_eq!(h.release_lock(RefType::ResLock, 2, map), Ok(()));
        assert_eq!(h.active_lock().map(|l| l.id), Some(1));
        assert_eq!(h.release_lock(RefType::ResLock, 1, map), Ok(()));
        assert!(!h.locked());
    }

    #[test]
    fn interrupt_flags_are_a_stack() {
        let irq = |id| RefState { ty: RefType::Irq, id, insn_idx: 0, ptr: LockPtr::None };
        let mut h = Held { refs: vec![irq(4), lock(RefType::Lock, 5), irq(6)], ..Held::default() };
        assert_eq!(h.release_irq(4), Err(NotReleased::OutOfOrder));
        assert_eq!(h.release_irq(6), Ok(()));
        assert_eq!(h.active_irq(), 4);
        assert_eq!(h.release_irq(4), Ok(()));
        assert_eq!(h.active_irq(), 0);
    }
}
