//! Dynptrs: two stack slots that only the kernel reads and writes, the slices taken from them.
//!
//! | event | no dynptr there | unreferenced | referenced (ring buffer) |
//! |---|---|---|---|
//! | constructed | a dynptr with a new id | the old one dies, then as before | refused |
//! | read, written, sliced | refused | allowed | allowed |
//! | submitted, discarded | refused | refused | it, its clones and slices die |
//! | a store hits a slot | | it and its slices die | refused |
//!
//! A callback's dynptr argument (`CONST_PTR_TO_DYNPTR`) is no stack slot: it may be used where
//! the callee does not change it.

use bpf::insn::Reg;

use super::args::Meta;
use super::kfunc::meta::{KfuncMeta, Special};
use super::slots::{NoSlots, slots_mask};
use crate::domain::reg::{DynptrType, Obj, RegState, RegType};
use crate::domain::stack::{SlotType, StackSlot};
use crate::explore::ver::{R, Ver, no};
use crate::proto::{ArgBase, ArgType, Flags, FuncProto};
use crate::reject::{EACCES, EINVAL};
use crate::render::log::type_of;
use crate::tables;

/// `BPF_DYNPTR_NR_SLOTS`.
pub(crate) const DYNPTR_SLOTS: usize = 2;

const DYNPTR_FROM_MEM: i32 = 197;
const DYNPTR_WRITE: i32 = 202;
const DYNPTR_DATA: i32 = 203;

/// What a callee does with a dynptr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Constructs one of this kind. The number is the reference a clone shares, 0 for none.
    Init(DynptrType, u32),
    /// Neither changes nor destroys it.
    Const(Option<DynptrType>),
    /// May change it.
    Mutable(Option<DynptrType>),
}

/// Kinds, their type flags (`get_dynptr_type_flag`) and names (`dynptr_type_str`).
const KINDS: [(DynptrType, Flags, &str); 6] = [
    (DynptrType::Local, Flags::DYNPTR_TYPE_LOCAL, "local"),
    (DynptrType::Ringbuf, Flags::DYNPTR_TYPE_RINGBUF, "ringbuf"),
    (DynptrType::Skb, Flags::DYNPTR_TYPE_SKB, "skb"),
    (DynptrType::Xdp, Flags::DYNPTR_TYPE_XDP, "xdp"),
    (DynptrType::SkbMeta, Flags::DYNPTR_TYPE_SKB_META, "skb_meta"),
    (DynptrType::File, Flags::DYNPTR_TYPE_FILE, "file"),
];

impl DynptrType {
    fn row(self) -> &'static (DynptrType, Flags, &'static str) {
        KINDS.iter().find(|k| k.0 == self).expect("the table has all kinds")
    }

    /// `get_dynptr_type_flag`.
    fn flag(self) -> Flags {
        self.row().1
    }

    /// `dynptr_type_str`.
    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }

    /// `dynptr_type_refcounted`.
    fn refcounted(self) -> bool {
        self == DynptrType::Ringbuf || self == DynptrType::File
    }

    /// `arg_to_dynptr_type`.
    fn of_flags(f: Flags) -> Option<DynptrType> {
        KINDS.iter().find(|k| f.has(k.1)).map(|k| k.0)
    }

    /// Slices of these die when packet data may have moved.
    pub(crate) const PACKET: Flags =
        Flags::DYNPTR_TYPE_SKB.or(Flags::DYNPTR_TYPE_XDP).or(Flags::DYNPTR_TYPE_SKB_META);
}

/// The kind of a dynptr in a slot or register.
fn kind(r: &RegState) -> Option<DynptrType> {
    match r.obj {
        Obj::Dynptr { ty, .. } => Some(ty),
        Obj::None | Obj::Iter { .. } | Obj::Irq { .. } => None,
    }
}

fn is_first(r: &RegState) -> bool {
    matches!(r.obj, Obj::Dynptr { first: true, .. })
}

impl Ver<'_> {
    fn slot(&mut self, frameno: u32, spi: usize) -> &mut StackSlot {
        &mut self.cur.frames[frameno as usize].stack[spi]
    }

    fn dynptr_spi(&self, r: &RegState) -> Result<usize, NoSlots> {
        self.object_slots(r, "dynptr", DYNPTR_SLOTS)
    }

    /// The dynptr an argument stands for: the register itself or its first slot.
    pub(crate) fn dynptr(&self, r: &RegState) -> Option<RegState> {
        if r.ty == RegType::ConstDynptr {
            return Some(*r);
        }
        let spi = self.dynptr_spi(r).ok()?;
        Some(self.cur.frames[r.frameno as usize].stack[spi].reg)
    }

    /// KERNEL v6.18 verifier.c:process_dynptr_func
    pub(crate) fn dynptr_arg(&mut self, n: Reg, how: Use) -> R {
        let r = *self.r(n);
        let i = n.0 - 1;
        if !matches!(r.ty, RegType::Stack | RegType::ConstDynptr) {
            let m = format!("arg#{i} expected pointer to stack or const struct bpf_dynptr");
            return no(EINVAL, m);
        }
        let want = match how {
            Use::Init(ty, clone) => return self.dynptr_init(n, &r, ty, clone),
            Use::Mutable(_) if r.ty == RegType::ConstDynptr => {
                let m = "cannot pass pointer to const bpf_dynptr, the helper mutates it";
                return no(EINVAL, m);
            }
            Use::Const(want) | Use::Mutable(want) => want,
        };
        self.dynptr_initialized(&r)
            .map_err(|m| Box::new(crate::reject::Rejection::invalid(m(i))))?;
        let have = self.dynptr(&r).and_then(|d| kind(&d));
        if let Some(t) = want.filter(|t| have != Some(*t)) {
            return no(EINVAL, format!("Expected a dynptr of type {} as arg #{i}", t.name()));
        }
        if let (RegType::Stack, Ok(spi)) = (r.ty, self.dynptr_spi(&r)) {
            self.read_object(r.frameno, spi, DYNPTR_SLOTS);
        }
        Ok(())
    }

    /// `is_dynptr_reg_valid_init`.
    fn dynptr_initialized(&self, r: &RegState) -> Result<(), impl FnOnce(u8) -> String + use<>> {
        let missing = |before: Option<NoSlots>| {
            move |i: u8| {
                let m = format!("Expected an initialized dynptr as arg #{i}");
                before.map_or(m.clone(), |b| b.under(&m))
            }
        };
        if r.ty == RegType::ConstDynptr {
            return Ok(());
        }
        let spi = self.dynptr_spi(r).map_err(|e| missing(Some(e)))?;
        let stack = &self.cur.frames[r.frameno as usize].stack;
        let whole = |s: &StackSlot| s.types == [SlotType::Dynptr; 8];
        if is_first(&stack[spi].reg) && whole(&stack[spi]) && whole(&stack[spi - 1]) {
            return Ok(());
        }
        Err(missing(None))
    }

    /// `MEM_UNINIT`: the slots are written, then hold a dynptr.
    fn dynptr_init(&mut self, n: Reg, r: &RegState, ty: DynptrType, clone: u32) -> R {
        let bad = "Dynptr has to be an uninitialized dynptr";
        if r.ty == RegType::ConstDynptr {
            return no(EINVAL, bad);
        }
        if let Err(e @ NoSlots::Bad(_)) = self.dynptr_spi(r) {
            return no(EINVAL, e.under(bad));
        }
        self.write_slots(n, DYNPTR_SLOTS)?;
        let Ok(spi) = self.dynptr_spi(r) else { return no(EINVAL, bad) };
        self.mark_dynptr(r.frameno, spi, ty, clone)
    }

    /// `mark_stack_slots_dynptr`.
    fn mark_dynptr(&mut self, frameno: u32, spi: usize, ty: DynptrType, clone: u32) -> R {
        self.destroy_dynptr(frameno, spi)?;
        self.destroy_dynptr(frameno, spi - 1)?;
        let id = self.new_id();
        let ref_obj_id = match ty.refcounted() {
            true if clone != 0 => clone,
            true => self.acquire(),
            false => 0,
        };
        for (at, first) in [(spi, true), (spi - 1, false)] {
            let obj = Obj::Dynptr { ty, first };
            let reg = RegState::pointer(RegType::ConstDynptr, Flags::NONE);
            let reg = RegState { obj, id, ref_obj_id, ..reg };
            *self.slot(frameno, at) = StackSlot { reg, types: [SlotType::Dynptr; 8] };
        }
        Ok(())
    }

    /// `destroy_if_dynptr_stack_slot`: a store into one slot ends the whole dynptr and its
    /// slices.
    pub(crate) fn destroy_dynptr(&mut self, frameno: u32, spi: usize) -> R {
        let slot = *self.slot(frameno, spi);
        if slot.types[0] != SlotType::Dynptr {
            return Ok(());
        }
        let spi = if is_first(&slot.reg) { spi } else { spi + 1 };
        let d = self.slot(frameno, spi).reg;
        if kind(&d).is_some_and(DynptrType::refcounted) {
            return no(EINVAL, "cannot overwrite referenced dynptr");
        }
        self.log.scratched_slots |= 0b11 << (spi - 1).min(62);
        let dead = self.dead();
        let plain = |f: Flags| f == Flags::NONE || f == Flags::PTR_MAYBE_NULL;
        for r in self.cur.all_regs_mut() {
            if r.ty == RegType::Mem && plain(r.flags) && r.dynptr_id == d.id {
                *r = dead;
            }
        }
        self.forget_dynptr(frameno, spi);
        Ok(())
    }

    /// `invalidate_dynptr`.
    fn forget_dynptr(&mut self, frameno: u32, spi: usize) {
        self.mark_stack_write(frameno, slots_mask(spi, DYNPTR_SLOTS));
        *self.slot(frameno, spi) = StackSlot::INVALID;
        *self.slot(frameno, spi - 1) = StackSlot::INVALID;
    }

    /// The release argument: only a dynptr on the stack that holds a reference can be released.
    pub(crate) fn dynptr_release_arg(&self, n: Reg, r: &RegState) -> R {
        if r.ty != RegType::Stack {
            return no(EINVAL, "cannot release unowned const bpf_dynptr");
        }
        let bad = format!("arg {} is an unacquired reference", n.0);
        match self.dynptr_spi(r) {
            Ok(spi) if self.cur.frames[r.frameno as usize].stack[spi].reg.ref_obj_id != 0 => Ok(()),
            Ok(_) => no(EINVAL, bad),
            Err(e) => no(EINVAL, e.under(&bad)),
        }
    }

    /// `unmark_stack_slots_dynptr`: the dynptr, its clones and all slices die. False when it is
    /// not held.
    pub(crate) fn release_dynptr(&mut self, n: Reg) -> bool {
        let r = *self.r(n);
        let Ok(spi) = self.dynptr_spi(&r) else { return false };
        let d = self.slot(r.frameno, spi).reg;
        if !kind(&d).is_some_and(DynptrType::refcounted) {
            self.forget_dynptr(r.frameno, spi);
            return true;
        }
        if self.release(d.ref_obj_id).is_err() {
            return false;
        }
        let clone = |s: &StackSlot| {
            s.types[0] == SlotType::Dynptr && is_first(&s.reg) && s.reg.ref_obj_id == d.ref_obj_id
        };
        let stack = &self.cur.frames[r.frameno as usize].stack;
        let clones: Vec<usize> = (1..stack.len()).filter(|i| clone(&stack[*i])).collect();
        for at in clones {
            self.forget_dynptr(r.frameno, at);
        }
        true
    }

    /// `ARG_PTR_TO_DYNPTR` of a helper.
    pub(crate) fn helper_dynptr(&mut self, n: Reg, arg: &ArgType) -> R {
        let ty = DynptrType::of_flags(arg.flags);
        match ty {
            Some(t) if arg.flags.has(Flags::MEM_UNINIT) => self.dynptr_arg(n, Use::Init(t, 0)),
            _ if arg.flags.has(Flags::MEM_RDONLY) => self.dynptr_arg(n, Use::Const(ty)),
            _ => self.dynptr_arg(n, Use::Mutable(ty)),
        }
    }

    /// What helpers do with dynptrs beyond their arguments. True: packet pointers die.
    pub(crate) fn dynptr_helper(&mut self, p: &FuncProto, meta: &mut Meta) -> R<bool> {
        if p.id == DYNPTR_FROM_MEM {
            let r = self.r(Reg::R1);
            if !r.is(RegType::MapValue) {
                let m = format!("Unsupported reg type {} for bpf_dynptr_from_mem data", type_of(r));
                return no(EACCES, m);
            }
        }
        let at = p.args.iter().position(|a| a.base == ArgBase::PtrToDynptr);
        let Some(d) = at.and_then(|i| self.dynptr(self.r(Reg(i as u8 + 1)))) else {
            return Ok(false);
        };
        if p.id == DYNPTR_DATA {
            (meta.dynptr_id, meta.ref_obj_id) = (d.id, d.ref_obj_id);
        }
        let skb = matches!(kind(&d), Some(DynptrType::Skb | DynptrType::SkbMeta));
        Ok(p.id == DYNPTR_WRITE && skb)
    }
}

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_DYNPTR`.
    pub(crate) fn kf_dynptr_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
    ) -> R {
        if meta.suffix(i, "__uninit") {
            let parent = meta.dynptr.as_ref();
            let (ty, clone) = match meta.which {
                Some(Special::DynptrFromSkb) => (Some(DynptrType::Skb), 0),
                Some(Special::DynptrFromSkbMeta) => (Some(DynptrType::SkbMeta), 0),
                Some(Special::DynptrFromXdp) => (Some(DynptrType::Xdp), 0),
                _ => (parent.and_then(kind), parent.map_or(0, |d| d.ref_obj_id)),
            };
            let Some(ty) = ty else {
                return no(EINVAL, "verifier bug: no dynptr type for parent of clone");
            };
            return self.dynptr_arg(n, Use::Init(ty, clone));
        }
        let constant = r.ty == RegType::ConstDynptr;
        self.dynptr_arg(n, if constant { Use::Const(None) } else { Use::Mutable(None) })?;
        meta.dynptr = self.dynptr(r);
        Ok(())
    }

    /// `bpf_dynptr_slice` and `bpf_dynptr_slice_rdwr`.
    pub(crate) fn dynptr_slice_result(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        let rdwr = meta.is(&[Special::DynptrSliceRdwr]);
        let ty = meta.dynptr.as_ref().and_then(kind);
        let access = if rdwr { Flags::NONE } else { Flags::MEM_RDONLY };
        let mut r = RegState::pointer(RegType::Mem, ty.map_or(access, |t| access.or(t.flag())));
        if rdwr && !tables::packet_access(self.input.program, true) {
            return no(EINVAL, "the prog does not allow writes to packet data");
        }
        r.mem_size = u32::try_from(meta.constant.unwrap_or(0)).unwrap_or(u32::MAX);
        r.dynptr_id = meta.dynptr.map_or(0, |d| d.id);
        Ok(r)
    }
}
