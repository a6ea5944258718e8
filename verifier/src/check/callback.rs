//! Helpers that call back: `push_callback_call` and the state each callback starts with.
//!
//! | helper | callback arguments | when |
//! |---|---|---|
//! | `bpf_loop` | index, context | now |
//! | `bpf_for_each_map_elem` | map, key, value, context | now |
//! | `bpf_find_vma` | task, vma, context | now |
//! | `bpf_user_ringbuf_drain` | constant dynptr, context | now |
//! | `bpf_timer_set_callback`, `bpf_wq_set_callback` | map, key, value | later, on a fresh stack |
//!
//! A callback that runs now is a frame above its caller; its exit leads back to the call, which
//! is looked at again until nothing new comes of it.

use bpf::insn::Reg;
use bpf::uapi::MapType;

use super::args::Meta;
use super::kfunc::meta::{KfArg, KfuncMeta, Special};
use crate::btf::record::FieldKind;
use crate::domain::reg::{DynptrType, Obj, RegState, RegType};
use crate::domain::state::{Callback, FuncState, MAX_CALL_FRAMES};
use crate::explore::MapState;
use crate::explore::ver::{Pending, R, Ver, blank_state, no};
use crate::marks::hit;
use crate::proto::Flags;
use crate::reject::{E2BIG, EFAULT, EINVAL, ENOTSUPP, Rejection};

pub(super) const FOR_EACH_MAP_ELEM: i32 = 164;
const TIMER_SET_CALLBACK: i32 = 170;
const FIND_VMA: i32 = 180;
const LOOP: i32 = 181;
const USER_RINGBUF_DRAIN: i32 = 209;

/// `BPF_COMPLEXITY_LIMIT_JMP_SEQ`.
const JMP_SEQ_MAX: usize = 8192;

/// Maps with `map_for_each_callback`.
pub(super) const FOR_EACH: [MapType; 6] = [
    MapType::Array,
    MapType::PercpuArray,
    MapType::Hash,
    MapType::LruHash,
    MapType::PercpuHash,
    MapType::LruPercpuHash,
];

/// How a callback starts: registers from r1 on, and what it may return.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// r1, r2, …
    pub(crate) args: Vec<RegState>,
    /// `callback_ret_range`.
    pub(crate) ret: (i32, i32),
}

impl Entry {
    /// Synchronous callbacks stop the iteration by returning 1.
    pub(crate) fn new(args: Vec<RegState>) -> Entry {
        Entry { args, ret: (0, 1) }
    }
}

impl Ver<'_> {
    /// Callbacks of helpers.
    pub(crate) fn callbacks(&mut self, id: i32, meta: &Meta) -> R {
        match id {
            LOOP => self.loop_callback(meta),
            FOR_EACH_MAP_ELEM => {
                let map = *self.r(Reg::R1);
                if !FOR_EACH.contains(&self.maps[map.map as usize].map_type) {
                    return no(ENOTSUPP, "callback function not allowed for map");
                }
                let (k, v) = (elem(RegType::MapKey, &map), elem(RegType::MapValue, &map));
                let args = vec![map, k, v, *self.r(Reg::R3)];
                self.push_callback(meta.subprog, Entry::new(args))
            }
            TIMER_SET_CALLBACK => {
                let e = self.elem_entry(&self.r(Reg::R1).clone());
                self.push_async_callback(meta.subprog, e, false)
            }
            FIND_VMA => {
                let vma = self.btf_struct("vm_area_struct")?;
                let vma = RegState { btf_id: vma, ..zero(RegType::BtfId) };
                let args = vec![*self.r(Reg::R1), vma, *self.r(Reg(4))];
                self.push_callback(meta.subprog, Entry::new(args))
            }
            USER_RINGBUF_DRAIN => {
                let obj = Obj::Dynptr { ty: DynptrType::Local, first: true };
                let id = self.new_id();
                let sample = RegState { obj, id, ..zero(RegType::ConstDynptr) };
                let args = vec![sample, *self.r(Reg::R3)];
                self.push_callback(meta.subprog, Entry::new(args))
            }
            _ => Ok(()),
        }
    }

    /// The callback of a timer or a workqueue: map, key and value of the element it is in.
    pub(crate) fn elem_entry(&self, r: &RegState) -> Entry {
        let of = |ty| elem(ty, r);
        let args = vec![of(RegType::ConstMapPtr), of(RegType::MapKey), of(RegType::MapValue)];
        Entry { args, ret: (0, 0) }
    }

    /// `bpf_loop`: the number of iterations bounds how often the callback is entered.
    fn loop_callback(&mut self, meta: &Meta) -> R {
        let flags = self.r(Reg(4)).as_const();
        // `loop_flag_is_zero`: only what was relied on is precise.
        if flags == Some(0) {
            self.mark_precise(Reg(4))?;
        }
        self.note_loop(meta.subprog, flags);
        if self.capable() && !self.r(Reg::R1).is_scalar() {
            // KERNEL v6.18 verifier.c:__mark_chain_precision takes scalars alone.
            return no(EFAULT, "verifier bug: backtracking misuse");
        }
        self.mark_precise(Reg::R1)?;
        if u64::from(self.cur.frame().callback_depth) >= self.r(Reg::R1).b.umax {
            hit!("limit: bpf_loop trips");
            self.cur.frame_mut().callback_depth = 0;
            if self.log.level2() {
                let frame = self.cur.curframe();
                self.log.put(&format!("frame{frame} bpf_loop iteration limit reached\n"));
            }
            return Ok(());
        }
        let args = vec![self.unknown(), *self.r(Reg::R3)];
        self.push_callback(meta.subprog, Entry::new(args))
    }

    /// `update_loop_inline_state`.
    fn note_loop(&mut self, subprog: Option<u32>, flags: Option<u64>) {
        let aux = &mut self.aux[self.insn_idx as usize];
        let fresh = aux.loop_inline.is_none() && aux.map == MapState::None;
        let fits = subprog.filter(|_| flags == Some(0));
        match (fresh, fits) {
            (true, Some(s)) => aux.loop_inline = Some(s),
            (false, Some(s)) if aux.loop_inline == Some(s) => {}
            _ => (aux.loop_inline, aux.map) = (None, MapState::Poisoned),
        }
    }

    /// KERNEL v6.18 verifier.c:push_callback_call
    ///
    /// A frame of the callback is walked later; here the helper returns.
    pub(crate) fn push_callback(&mut self, subprog: Option<u32>, entry: Entry) -> R {
        let Some(sub) = subprog else { return no(EINVAL, "callback is not a subprogram") };
        self.is_callback[sub as usize] = true;
        let at = self.insn_idx;
        if self.cur.frames.len() >= MAX_CALL_FRAMES {
            let n = self.cur.frames.len() + 1;
            return no(E2BIG, format!("the call stack of {n} frames is too deep"));
        }
        let start = self.input.cfg.subprogs[sub as usize].start.0;
        let st = self.push_stack(start, at)?;
        st.callback_unroll_depth += 1;
        st.frame_mut().callback_depth += 1;
        let mut f = FuncState::new(at, st.frames.len() as u32, sub);
        f.callback = Callback::Sync;
        f.callback_ret = entry.ret;
        f.regs[1..=entry.args.len()].copy_from_slice(&entry.args);
        st.push_frame(f);
        self.cur.frame_mut().callback_depth = 0;
        // `init_func_state` forgets what was printed.
        self.log.scratch_all();
        Ok(())
    }

    /// `push_async_cb`: it runs on a stack of its own, and nothing of the caller matters.
    pub(crate) fn push_async_callback(
        &mut self,
        subprog: Option<u32>,
        entry: Entry,
        in_sleepable: bool,
    ) -> R {
        let Some(sub) = subprog else { return no(EINVAL, "callback is not a subprogram") };
        self.is_callback[sub as usize] = true;
        self.is_async[sub as usize] = true;
        let start = self.input.cfg.subprogs[sub as usize].start.0;
        let mut state = blank_state();
        state.in_sleepable = in_sleepable;
        (state.first_insn_idx, state.insn_idx) = (start, start);
        let f = state.frame_mut();
        f.subprog = sub;
        f.callback = Callback::Async;
        f.callback_ret = entry.ret;
        f.async_entry_cnt = self.cur.frame().async_entry_cnt + 1;
        f.regs[1..=entry.args.len()].copy_from_slice(&entry.args);
        self.log.scratch_all();
        let (prev_insn_idx, log_pos) = (self.insn_idx, self.log.text.len());
        self.pending.push(Pending { state, insn_idx: start, prev_insn_idx, log_pos });
        if self.pending.len() > JMP_SEQ_MAX && !self.is_beyond() {
            let n = self.pending.len();
            let m = format!("The sequence of {n} jumps is too complex for async cb.");
            return Err(Box::new(Rejection::limit(E2BIG, m)));
        }
        Ok(())
    }
}

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_WORKQUEUE`, `KF_ARG_PTR_TO_TASK_WORK`.
    pub(crate) fn kf_async_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        kind: KfArg,
    ) -> R {
        if !r.is(RegType::MapValue) {
            return no(EINVAL, format!("arg#{i} doesn't point to a map value"));
        }
        let wq = kind == KfArg::Workqueue;
        let field = if wq { FieldKind::Workqueue } else { FieldKind::TaskWork };
        self.map_field_pointer(n, r, field)?;
        meta.map = Some((r.map, r.map_uid));
        Ok(())
    }

    /// The map argument is not the one that holds the work queue.
    pub(crate) fn kf_map_differs(&mut self, uid: u32, r: &RegState) -> R {
        let record = self.map_records.get(r.map as usize);
        let has = |k| record.is_some_and(|x| x.find(k).is_some());
        let (what, a, b) = if has(FieldKind::TaskWork) {
            ("bpf_task_work", "R2", "R3")
        } else {
            // Without any special field 6.18 dereferences an error pointer here and dies; the
            // map is another one all the same.
            ("workqueue", "R1", "R2")
        };
        let m = format!("doesn't match map pointer in {b} map_uid={}", r.map_uid);
        no(EINVAL, format!("{what} pointer in {a} map_uid={uid} {m}"))
    }

    /// `set_timer_callback_state`, `set_task_work_schedule_callback_state`: both may sleep.
    pub(crate) fn push_kf_async_callback(&mut self, meta: &KfuncMeta<'a>) -> R {
        let work = meta.is(&[Special::TaskWorkSchedule]);
        let of = *self.r(if work { Reg::R3 } else { Reg::R1 });
        let mut entry = self.elem_entry(&of);
        if work {
            entry.ret = (i32::MIN, i32::MAX);
        }
        self.push_async_callback(meta.subprog, entry, true)
    }
}

/// A pointer at offset 0.
fn zero(ty: RegType) -> RegState {
    RegState::pointer(ty, Flags::NONE)
}

/// Map, key or value of the map a register belongs to.
fn elem(ty: RegType, of: &RegState) -> RegState {
    RegState { map: of.map, map_uid: of.map_uid, ..zero(ty) }
}
