//! Conditional jumps over states: which branches are walked and what each one knows.

use std::collections::BTreeMap;

use bpf::insn::{JmpOp, Reg, Src, Width};

use super::jump::{self, Cond, collect_linked, find_good_pkt_pointers, mark_pkt_end, sync_linked};
use crate::btf::record::{FieldKind, Record};
use crate::domain::reg::{RegState, RegType};
use crate::domain::state::{HistFlags, LinkedRegs, VState};
use crate::env::MapInfo;
use crate::explore::equal::{IdMap, regs_exact};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::marks::hit;
use crate::proto::Flags;
use crate::reject::EACCES;
use bpf::uapi::MapType;

/// What null checks need to know of maps and allocated objects.
struct Facts {
    maps: Vec<MapInfo>,
    /// Which map an inner lookup leads to.
    inner: Vec<Option<u32>>,
    records: Vec<Record>,
    objects: BTreeMap<u32, Record>,
}

impl Facts {
    /// `reg_may_point_to_spin_lock`.
    fn may_hold_lock(&self, r: &RegState) -> bool {
        let rec = match r.ty {
            RegType::MapValue => self.records.get(r.map as usize),
            RegType::BtfId if r.flags.has(Flags::MEM_ALLOC) => self.objects.get(&r.btf_id),
            _ => None,
        };
        rec.is_some_and(|r| r.has(FieldKind::SpinLock) || r.has(FieldKind::ResSpinLock))
    }

    /// The uid of an inner map tells its timers from those of another.
    fn needs_uid(&self, map: u32) -> bool {
        let own = [FieldKind::Timer, FieldKind::Workqueue, FieldKind::TaskWork];
        self.records.get(map as usize).is_some_and(|r| own.iter().any(|k| r.has(*k)))
    }
}

/// `mark_ptr_not_null_reg`.
fn not_null(r: &mut RegState, facts: &Facts) {
    r.flags = r.flags.without(Flags::PTR_MAYBE_NULL);
    if r.ty != RegType::MapValue {
        return;
    }
    match facts.maps[r.map as usize].map_type {
        MapType::ArrayOfMaps | MapType::HashOfMaps => {
            if let Some(i) = facts.inner.get(r.map as usize).copied().flatten() {
                (r.ty, r.map) = (RegType::ConstMapPtr, i);
                if facts.needs_uid(i) {
                    r.map_uid = r.id;
                }
            }
        }
        MapType::Xskmap => r.ty = RegType::XdpSock,
        MapType::Sockmap | MapType::Sockhash => r.ty = RegType::Socket,
        _ => {}
    }
}

/// `mark_ptr_or_null_regs`.
fn null_regs(s: &mut VState, regno: Reg, is_null: bool, facts: &Facts) {
    let r = s.frame().regs[regno.idx()];
    if r.ref_obj_id != 0 && r.ref_obj_id == r.id && is_null {
        let _ = s.held.release_ptr(r.ref_obj_id);
    }
    let change = |x: &mut RegState| {
        if is_null {
            let def = x.subreg_def;
            *x = RegState { subreg_def: def, ..RegState::known(0) };
            return;
        }
        not_null(x, facts);
        if !facts.may_hold_lock(x) {
            x.id = 0;
        }
    };
    s.update_regs(|x| x.may_be_null() && x.id == r.id, change);
}

/// `try_match_pkt_pointers`: comparisons of a packet pointer with the end of its area.
fn match_pkt(
    op: JmpOp,
    d: (Reg, RegState),
    s: (Reg, RegState),
    fall: &mut VState,
    jump: &mut VState,
) -> bool {
    use RegType::{Packet, PacketEnd, PacketMeta};
    let ends = |a: &RegState, b: &RegState| {
        (a.is(Packet) && b.is(PacketEnd)) || (a.is(PacketMeta) && b.is_init_pkt_pointer(Packet))
    };
    // `pkt op end`, with the sides exchanged when the end is on the left.
    let ((r, pkt), op) = if ends(&d.1, &s.1) {
        (d, op)
    } else if ends(&s.1, &d.1) {
        (s, jump::flip(op))
    } else {
        return false;
    };
    // Branch on which pkt is inside, whether end may equal it (right-closed), by condition.
    let (good, bad, open) = match op {
        JmpOp::Gt => (fall, jump, false),
        JmpOp::Lt => (jump, fall, true),
        JmpOp::Ge => (fall, jump, true),
        JmpOp::Le => (jump, fall, false),
        _ => return false,
    };
    find_good_pkt_pointers(good, &pkt, open);
    mark_pkt_end(bad, r.idx(), !open);
    true
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:check_cond_jmp_op
    pub(crate) fn check_cond_jmp(
        &mut self,
        width: Width,
        op: JmpOp,
        dst: Reg,
        src: Src,
        off: i16,
    ) -> R<Next> {
        let is32 = width == Width::W32;
        let d = self.read(dst)?;
        let s = match src {
            Src::Reg(r) => {
                let s = self.read(r)?;
                let both = d.is_pkt_pointer_any() && s.is_pkt_pointer_any();
                if !both && self.is_pointer_value(r) {
                    return no(EACCES, format!("R{} pointer comparison prohibited", r.0));
                }
                s
            }
            Src::Imm(i) => RegState::known(i as i64 as u64),
        };
        let target = self.target(off.into());
        let on_stack = |r: &RegState| r.ty == RegType::Stack;
        let flags = HistFlags { stack: None, dst_stack: on_stack(&d), src_stack: on_stack(&s) };
        if flags != HistFlags::default() {
            self.push_hist(flags, Default::default());
        }
        if let Some(taken) = jump::branch_taken(op, is32, &d, &s) {
            self.mark_precise(dst)?;
            if let Src::Reg(r) = src {
                self.mark_precise(r)?;
            }
            let other = if taken { self.insn_idx + 1 } else { target };
            self.speculate_branch(other, dst, src)?;
            self.log_state();
            return Ok(if taken { Next::Goto(target) } else { Next::Fall });
        }
        let mut linked = LinkedRegs::default();
        let live = &self.input.cfg.live_regs_before;
        if let (Src::Reg(_), true) = (src, s.is_scalar() && s.id != 0) {
            collect_linked(&mut self.cur, s.id, live, &mut linked);
        }
        if d.is_scalar() && d.id != 0 {
            collect_linked(&mut self.cur, d.id, live, &mut linked);
        }
        if linked.list().len() > 1 {
            self.push_hist(Default::default(), linked);
        }
        let at = self.insn_idx;
        self.push_stack(target, at)?;
        let mut other = self.pending.pop().expect("just pushed");
        self.learn(is32, op, (dst, src), &mut other.state, &linked)?;
        let result = self.learn_pointers(is32, op, (dst, d), (src, s), &mut other.state);
        self.pending.push(other);
        result?;
        self.log_state();
        Ok(Next::Fall)
    }

    /// `reg_set_min_max` and `sync_linked_regs`, for both branches.
    fn learn(
        &mut self,
        is32: bool,
        op: JmpOp,
        (dst, src): (Reg, Src),
        jump: &mut VState,
        linked: &LinkedRegs,
    ) -> R {
        let operands = |st: &VState| {
            let regs = &st.frame().regs;
            let s = match src {
                Src::Reg(r) => regs[r.idx()],
                Src::Imm(i) => RegState::known(i as i64 as u64),
            };
            (regs[dst.idx()], s)
        };
        let (mut fall, mut taken) = (operands(&self.cur), operands(jump));
        if !fall.0.is_scalar() || !fall.1.is_scalar() {
            return Ok(());
        }
        if src == Src::Reg(dst) {
            jump::refine_same(jump::negate(op), is32, &mut fall.0.b);
            jump::refine_same(Cond::Is(op), is32, &mut taken.0.b);
            self.keep_sane(&mut taken.0.b, "true_reg1")?;
            self.keep_sane(&mut taken.0.b, "true_reg2")?;
            self.keep_sane(&mut fall.0.b, "false_reg1")?;
            self.keep_sane(&mut fall.0.b, "false_reg2")?;
            (fall.1, taken.1) = (fall.0, taken.0);
        } else {
            jump::refine(jump::negate(op), is32, &mut fall.0.b, &mut fall.1.b);
            jump::refine(Cond::Is(op), is32, &mut taken.0.b, &mut taken.1.b);
            self.keep_sane(&mut taken.0.b, "true_reg1")?;
            self.keep_sane(&mut taken.1.b, "true_reg2")?;
            self.keep_sane(&mut fall.0.b, "false_reg1")?;
            self.keep_sane(&mut fall.1.b, "false_reg2")?;
        }
        learnt(&mut self.cur, dst, src, fall, linked);
        learnt(jump, dst, src, taken, linked);
        Ok(())
    }

    /// Null checks and packet bounds.
    fn learn_pointers(
        &mut self,
        is32: bool,
        op: JmpOp,
        (dst, d): (Reg, RegState),
        (src, s): (Src, RegState),
        jump: &mut VState,
    ) -> R {
        let facts = Facts {
            inner: (0..self.maps.len()).map(|m| self.inner_map(m as u32)).collect(),
            maps: std::mem::take(&mut self.maps),
            records: std::mem::take(&mut self.map_records),
            objects: std::mem::take(&mut self.obj_records),
        };
        let equality = matches!(op, JmpOp::Eq | JmpOp::Ne);
        if let (Src::Reg(r), false, true) = (src, is32, equality) {
            let both = d.is_pointer() && s.is_pointer();
            let btf = d.ty == RegType::BtfId || s.ty == RegType::BtfId;
            if both && !btf && d.may_be_null() != s.may_be_null() {
                let st = if op == JmpOp::Eq { &mut *jump } else { &mut self.cur };
                let which = if s.may_be_null() { r } else { dst };
                not_null(&mut st.frame_mut().regs[which.idx()], &facts);
            }
        }
        let null_check = !is32 && equality && src == Src::Imm(0) && d.may_be_null();
        if null_check {
            null_regs(&mut self.cur, dst, op == JmpOp::Ne, &facts);
            null_regs(jump, dst, op == JmpOp::Eq, &facts);
        }
        (self.maps, self.map_records, self.obj_records) =
            (facts.maps, facts.records, facts.objects);
        let matched = match src {
            Src::Reg(r) if !is32 && !null_check => {
                match_pkt(op, (dst, d), (r, s), &mut self.cur, jump)
            }
            _ => false,
        };
        if !null_check && !matched && self.is_pointer_value(dst) {
            return no(EACCES, format!("R{} pointer comparison prohibited", dst.0));
        }
        Ok(())
    }

    /// `may_goto`: both ways, the loop until its budget is used up.
    pub(crate) fn check_may_goto(&mut self, off: i16) -> R<Next> {
        let (to, at) = (self.target(off.into()), self.insn_idx);
        // The newest kept state is the one of this visit.
        let parent = self.cur.parent.map(|p| &self.kept[p as usize].state);
        let before = parent.and_then(|p| self.find_prev_entry(p, at));
        // KERNEL v6.18 verifier.c:check_cond_jmp_op leaves the loop first, so that what must be
        // precise is known when the body is walked again.
        self.push_stack(at + 1, at)?;
        let mut body = self.pending.pop().expect("just pushed");
        body.state.may_goto_depth += 1;
        self.widen(&mut body.state, before);
        self.pending.push(body);
        Ok(Next::Goto(to))
    }

    /// `widen_imprecise_scalars` against the kept state of the last visit (`find_prev_entry`).
    pub(crate) fn widen(&self, st: &mut VState, before: Option<u32>) {
        let Some(i) = before else { return };
        let old = &self.kept[i as usize].state;
        let mut ids = IdMap::new(self.id_gen);
        for (o, c) in old.frames.iter().zip(&mut st.frames) {
            for (n, a) in o.regs.iter().enumerate() {
                if widens(a, &c.regs[n], &mut ids) {
                    hit!("widen: imprecise scalar of an iteration");
                    self.widen_reg(&mut c.regs[n]);
                }
            }
            for (n, a) in o.stack.iter().enumerate().filter(|(_, a)| a.is_spill()) {
                let spilled = c.stack.get(n).filter(|b| b.is_spill());
                if spilled.is_some_and(|b| widens(&a.reg, &b.reg, &mut ids)) {
                    hit!("widen: imprecise spill of an iteration");
                    self.widen_reg(&mut c.stack[n].reg);
                }
            }
        }
    }

    fn widen_reg(&self, r: &mut RegState) {
        *r = RegState { subreg_def: r.subreg_def, ..self.unknown() };
    }
}

/// Writes what a branch knows of its operands, and of what is linked with them.
fn learnt(st: &mut VState, dst: Reg, src: Src, (d, s): (RegState, RegState), linked: &LinkedRegs) {
    let regs = &mut st.frame_mut().regs;
    regs[dst.idx()] = d;
    if let Src::Reg(r) = src {
        regs[r.idx()] = s;
        if s.id != 0 {
            sync_linked(st, &s, linked);
        }
    }
    // What was learnt of src may have changed dst.
    let d = st.frame().regs[dst.idx()];
    if d.id != 0 {
        sync_linked(st, &d, linked);
    }
}

/// `maybe_widen_reg`: an imprecise scalar that changed in the loop becomes unknown.
fn widens(old: &RegState, cur: &RegState, ids: &mut IdMap) -> bool {
    let scalars = old.is_scalar() && cur.is_scalar();
    scalars && !old.precise && !cur.precise && !regs_exact(old, cur, ids)
}
