//! ALU instructions over registers: scalars by `alu`, pointers by `adjust_ptr_min_max_vals`.

use bpf::insn::{AluOp, EndianOp, Imm64, Reg, Src, Width};

use super::alu;
use super::sanitize::PtrOp;
use crate::domain::reg::{ADD_CONST, ADD_CONST32, ADD_CONST64, RegState, RegType};
use crate::domain::scalar::Bounds;
use crate::explore::ver::{R, Ver, no};
use crate::explore::{MapState, step::Next};
use crate::kfunc_calls;
use crate::proto::Flags;
use crate::reject::{EACCES, EFAULT, EINVAL};
use crate::render::log::type_of;

/// `BPF_MAX_VAR_OFF`.
pub(crate) const BPF_MAX_VAR_OFF: i64 = 1 << 29;

/// `BPF_F_TEST_REG_INVARIANTS`.
const BPF_F_TEST_REG_INVARIANTS: u32 = 1 << 7;

/// `bpf_alu_string`.
fn symbol(op: AluOp) -> &'static str {
    match op {
        AluOp::Add => "+=",
        AluOp::Sub => "-=",
        AluOp::Mul => "*=",
        // `bpf_alu_string` is told by the opcode, which signed operations have in common.
        AluOp::Div | AluOp::SDiv => "/=",
        AluOp::Mod | AluOp::SMod => "%=",
        AluOp::Or => "|=",
        AluOp::And => "&=",
        AluOp::Xor => "^=",
        AluOp::Lsh => "<<=",
        AluOp::Rsh => ">>=",
        AluOp::Arsh => "s>>=",
        AluOp::Mov => "=",
    }
}

/// `check_reg_sane_offset`.
fn sane_offset(r: &RegState, what: &str) -> R {
    let known = r.b.as_const().map(|v| v as i64);
    if let Some(v) = known.filter(|v| !(-BPF_MAX_VAR_OFF < *v && *v < BPF_MAX_VAR_OFF)) {
        return no(EINVAL, format!("math between {what} pointer and {v} is not allowed"));
    }
    let off = i64::from(r.off);
    if !(-BPF_MAX_VAR_OFF < off && off < BPF_MAX_VAR_OFF) {
        return no(EINVAL, format!("{what} pointer offset {off} is not allowed"));
    }
    let smin = r.b.smin;
    if smin == i64::MIN {
        let m = "pointer and register with unbounded min value is not allowed";
        return no(EINVAL, format!("math between {what} {m}"));
    }
    if !(-BPF_MAX_VAR_OFF < smin && smin < BPF_MAX_VAR_OFF) {
        return no(EINVAL, format!("value {smin} makes {what} pointer be out of bounds"));
    }
    Ok(())
}

/// `get_reg_width`.
pub(crate) fn width_bits(b: &Bounds) -> u32 {
    64 - b.umax.leading_zeros()
}

impl Ver<'_> {
    /// `assign_scalar_id_before_mov`: copies of an unknown scalar share what is learnt later.
    pub(crate) fn scalar_id(&mut self, r: &mut RegState) {
        if !r.is_scalar() || r.b.as_const().is_some() {
            return;
        }
        if r.id & ADD_CONST != 0 {
            (r.id, r.off) = (0, 0);
        }
        if r.id == 0 {
            r.id = self.new_id();
        }
    }

    /// `reg_bounds_sanity_check`: ranges that contradict each other are forgotten, or refused with
    /// `BPF_F_TEST_REG_INVARIANTS`.
    pub(crate) fn keep_sane(&mut self, b: &mut Bounds, place: &str) -> R {
        let Some(what) = b.violation() else { return Ok(()) };
        let t = b.var_off;
        self.log.put(&format!(
            "verifier bug: REG INVARIANTS VIOLATION ({place}): {what} u64=[{:#x}, {:#x}] \
             s64=[{:#x}, {:#x}] u32=[{:#x}, {:#x}] s32=[{:#x}, {:#x}] var_off=({:#x}, {:#x})\n",
            b.umin,
            b.umax,
            b.smin,
            b.smax,
            b.u32_min,
            b.u32_max,
            b.s32_min,
            b.s32_max,
            t.value,
            t.mask
        ));
        if self.input.program.flags & BPF_F_TEST_REG_INVARIANTS != 0 {
            self.log.refusal_said = true;
            return no(EFAULT, format!("verifier bug: REG INVARIANTS VIOLATION ({place})"));
        }
        b.unbound64();
        b.unbound32();
        Ok(())
    }

    /// The end of `check_alu_op`.
    fn settle(&mut self, mut r: RegState) -> R<RegState> {
        self.keep_sane(&mut r.b, "alu")?;
        r.precise |= r.is_scalar() && !self.capable();
        Ok(r)
    }

    pub(crate) fn check_neg(&mut self, width: Width, dst: Reg) -> R<Next> {
        let mut d = self.read(dst)?;
        self.writable(dst)?;
        if self.is_pointer_value(dst) {
            return no(EACCES, format!("R{} pointer arithmetic prohibited", dst.0));
        }
        if d.is_scalar() {
            alu::neg(width, &mut d.b);
            (d.off, d.id) = (0, 0);
            d = self.settle(d)?;
        } else {
            d = self.unknown();
        }
        self.set(dst, d);
        Ok(Next::Fall)
    }

    pub(crate) fn check_end(&mut self, bits: u8, op: EndianOp, dst: Reg) -> R<Next> {
        let mut d = self.read(dst)?;
        self.writable(dst)?;
        if self.is_pointer_value(dst) {
            return no(EACCES, format!("R{} pointer arithmetic prohibited", dst.0));
        }
        if d.is_scalar() {
            let swaps = match op {
                EndianOp::Swap => true,
                EndianOp::ToLe => self.big_endian,
                EndianOp::ToBe => !self.big_endian,
            };
            if swaps || bits < 64 {
                (d.off, d.id) = (0, 0);
            }
            alu::byte_swap(&mut d.b, bits.into(), swaps);
            d = self.settle(d)?;
        } else {
            d = self.unknown();
        }
        self.set(dst, d);
        Ok(Next::Fall)
    }

    /// `BPF_MOV` of the ALU classes.
    fn check_mov(&mut self, width: Width, dst: Reg, src: Src) -> R<Next> {
        let Src::Reg(s) = src else {
            self.writable(dst)?;
            let Src::Imm(imm) = src else { unreachable!("a source is a register or immediate") };
            let v = if width == Width::W64 { imm as i64 as u64 } else { u64::from(imm as u32) };
            let k = self.known(v);
            self.set(dst, k);
            return Ok(Next::Fall);
        };
        let mut v = self.read(s)?;
        self.writable(dst)?;
        if width == Width::W64 {
            self.scalar_id(&mut v);
            if v != *self.r(s) {
                self.regs()[s.idx()] = v;
            }
            let v = self.settle(v)?;
            self.set(dst, v);
            return Ok(Next::Fall);
        }
        if self.is_pointer_value(s) {
            return no(EACCES, format!("R{} partial copy of pointer", s.0));
        }
        if !v.is_scalar() {
            v = self.unknown();
            v.b.truncate(4);
            self.set(dst, v);
            return Ok(Next::Fall);
        }
        let fits = width_bits(&v.b) <= 32;
        if fits {
            self.scalar_id(&mut v);
            self.regs()[s.idx()] = v;
        } else {
            v.id = 0;
        }
        v.b.zext_32_to_64();
        let v = self.settle(v)?;
        self.set(dst, v);
        Ok(Next::Fall)
    }

    pub(crate) fn check_movsx(&mut self, width: Width, dst: Reg, src: Reg, bits: u8) -> R<Next> {
        let mut v = self.read(src)?;
        self.writable(dst)?;
        if self.is_pointer_value(src) {
            let what =
                if width == Width::W64 { "sign-extension part of" } else { "partial copy of" };
            return no(EACCES, format!("R{} {what} pointer", src.0));
        }
        let size = u32::from(bits) / 8;
        if !v.is_scalar() {
            let mut v = self.unknown();
            if width == Width::W32 {
                v.b.zext_32_to_64();
            }
            self.set(dst, v);
            return Ok(Next::Fall);
        }
        let bound = 1u64 << (bits - 1);
        if v.b.umax < bound {
            self.scalar_id(&mut v);
            self.regs()[src.idx()] = v;
        } else {
            v.id = 0;
        }
        if width == Width::W64 {
            v.b.sign_extend64(size);
        } else {
            v.b.sign_extend32(size);
            v.b.zext_32_to_64();
        }
        let v = self.settle(v)?;
        self.set(dst, v);
        Ok(Next::Fall)
    }

    /// KERNEL v6.18 verifier.c:check_alu_op
    pub(crate) fn check_alu(&mut self, width: Width, op: AluOp, dst: Reg, src: Src) -> R<Next> {
        if op == AluOp::Mov {
            return self.check_mov(width, dst, src);
        }
        if let Src::Reg(s) = src {
            self.read(s)?;
        }
        self.read(dst)?;
        if let Some(m) = bpf::insn::operand_error(self.insn(self.insn_idx)) {
            return no(EINVAL, m);
        }
        self.writable(dst)?;
        self.adjust(width, op, dst, src)?;
        Ok(Next::Fall)
    }

    /// KERNEL v6.18 verifier.c:adjust_reg_min_max_vals
    fn adjust(&mut self, width: Width, op: AluOp, dst: Reg, src: Src) -> R {
        let d = *self.r(dst);
        let s = match src {
            Src::Reg(r) => *self.r(r),
            Src::Imm(i) => self.known(i as i64 as u64),
        };
        if d.ty == RegType::Arena {
            if width == Width::W64 {
                self.arena_alu();
            }
            return Ok(());
        }
        match (d.is_scalar(), s.is_scalar(), src) {
            (false, false, _) => {
                if op == AluOp::Sub && self.leaks_ok() {
                    let u = self.unknown();
                    self.set(dst, u);
                    return Ok(());
                }
                let m = format!("R{} pointer {} pointer prohibited", dst.0, symbol(op));
                no(EACCES, m)
            }
            (true, false, _) => {
                self.mark_precise(dst)?;
                let d = *self.r(dst);
                self.adjust_ptr(width, (op, dst, src), &s, &d, true)
            }
            (false, true, _) => {
                if let Src::Reg(r) = src {
                    self.mark_precise(r)?;
                }
                self.adjust_ptr(width, (op, dst, src), &d, &s, false)
            }
            (true, true, _) => {
                if let (true, Src::Reg(r)) = (d.precise, src) {
                    self.mark_precise(r)?;
                }
                if alu::computable(op, width, &s.b) {
                    self.sanitize_scalar(op, dst, src)?;
                }
                let d = self.fork_scalar(op, dst, d, &s)?;
                let v = self.adjust_scalar(width, op, d, &s, src == Src::Reg(dst));
                let v = self.settle(v)?;
                self.set(dst, v);
                Ok(())
            }
        }
    }

    /// `maybe_fork_scalars`: a mask that is all ones or all zeroes (what compilers make of a
    /// condition) is walked as two values. Zero is walked later, from this instruction.
    fn fork_scalar(&mut self, op: AluOp, dst: Reg, d: RegState, s: &RegState) -> R<RegState> {
        if !matches!(op, AluOp::And | AluOp::Or) || s.as_const().is_none() {
            return Ok(d);
        }
        let known = |r: &RegState, v: u64| RegState {
            subreg_def: r.subreg_def,
            precise: r.precise,
            ..RegState::known(v)
        };
        let (mut ones, mut zero) = (d, d);
        if (d.b.smin, d.b.smax) == (-1, 0) {
            (ones, zero) = (known(&d, u64::MAX), known(&d, 0));
        } else if (d.b.s32_min, d.b.s32_max) == (-1, 0) {
            ones.b.set_known32(u32::MAX);
            zero.b.set_known32(0);
        } else {
            return Ok(d);
        }
        let at = self.insn_idx;
        let forked = self.push_stack(at, at)?;
        forked.frame_mut().regs[dst.idx()] = zero;
        Ok(ones)
    }

    /// Two scalars, with `BPF_ADD_CONST` for `rX += constant` of a linked register. `same`: both
    /// operands are one register.
    fn adjust_scalar(
        &self,
        width: Width,
        op: AluOp,
        mut d: RegState,
        s: &RegState,
        same: bool,
    ) -> RegState {
        let narrow = width_bits(&d.b) <= 32;
        alu::scalar(op, width, &mut d.b, &s.b);
        let off = Self::link_offset(width, op, &s.b).filter(|_| !same && self.capable());
        let flag = if width == Width::W64 { ADD_CONST64 } else { ADD_CONST32 };
        match off {
            // A second constant cannot be added to the first.
            Some(off) if d.id != 0 && d.id & ADD_CONST == 0 && (narrow || width == Width::W64) => {
                (d.off, d.id) = (off, d.id | flag);
            }
            _ => (d.off, d.id) = (0, 0),
        }
        d
    }

    /// The constant a linked register moves by.
    fn link_offset(width: Width, op: AluOp, s: &Bounds) -> Option<i32> {
        let v = match width {
            Width::W64 => i32::try_from(s.as_const()? as i64).ok()?,
            Width::W32 if s.var_off.subreg_is_const() => s.var_off.value as i32,
            Width::W32 => return None,
        };
        match op {
            AluOp::Add => Some(v),
            AluOp::Sub => v.checked_neg(),
            _ => None,
        }
    }

    /// The pointer types that arithmetic is allowed on.
    fn arithmetic_ok(p: &RegState, off: &RegState, op: AluOp) -> bool {
        use RegType as T;
        let known = off.b.as_const();
        match p.ty {
            T::FlowKeys if known.is_some() => true,
            T::FlowKeys | T::ConstMapPtr => known == Some(0) && op == AluOp::Add,
            T::Ctx | T::MapValue | T::MapKey | T::Stack | T::PacketMeta | T::Packet => true,
            T::TpBuffer | T::BtfId | T::Mem | T::Buf | T::Func | T::ConstDynptr => true,
            _ => false,
        }
    }

    /// KERNEL v6.18 verifier.c:adjust_ptr_min_max_vals
    fn adjust_ptr(
        &mut self,
        width: Width,
        (op, dst, src): (AluOp, Reg, Src),
        p: &RegState,
        off: &RegState,
        scalar_is_dst: bool,
    ) -> R {
        let b = &off.b;
        let known = b.as_const().is_some();
        if (known && (b.smin != b.smax || b.umin != b.umax)) || b.smin > b.smax || b.umin > b.umax {
            // An offset with contradicting bounds, from a dead branch.
            let u = self.unknown();
            self.set(dst, u);
            return Ok(());
        }
        let n = dst.0;
        if width == Width::W32 {
            if op == AluOp::Sub && self.leaks_ok() {
                let u = self.unknown();
                self.set(dst, u);
                return Ok(());
            }
            return no(EACCES, format!("R{n} 32-bit pointer arithmetic prohibited"));
        }
        let what = type_of(p);
        if p.may_be_null() {
            let m = format!("R{n} pointer arithmetic on {what} prohibited, null-check it first");
            return no(EACCES, m);
        }
        if p.ty == RegType::Mem && p.flags.has(Flags::PTR_UNTRUSTED) {
            return Ok(());
        }
        if !Self::arithmetic_ok(p, off, op) {
            return no(EACCES, format!("R{n} pointer arithmetic on {what} prohibited"));
        }
        sane_offset(off, &what)?;
        sane_offset(p, &what)?;
        let o = PtrOp { op, dst, src, off, scalar_is_dst };
        let mut from = *p;
        from.b.unbound32();
        let mask = self.sanitize_before(&o, &from)?;
        let mut r = self.moved(op, dst, p, off, scalar_is_dst)?;
        sane_offset(&r, &what)?;
        r.b.sync();
        self.sanitize_after(&o, &r, mask)?;
        self.set(dst, r);
        Ok(())
    }

    /// The pointer after `p op off`.
    fn moved(
        &mut self,
        op: AluOp,
        dst: Reg,
        p: &RegState,
        off: &RegState,
        scalar_is_dst: bool,
    ) -> R<RegState> {
        let n = dst.0;
        let mut r = *p;
        r.b.unbound32();
        match op {
            AluOp::Add => {}
            AluOp::Sub if scalar_is_dst => {
                return no(EACCES, format!("R{n} tried to subtract pointer from scalar"));
            }
            AluOp::Sub if p.ty == RegType::Stack => {
                return no(EACCES, format!("R{n} subtraction from stack pointer prohibited"));
            }
            AluOp::Sub => {}
            AluOp::And | AluOp::Or | AluOp::Xor => {
                let m = format!("R{n} bitwise operator {} on pointer prohibited", symbol(op));
                return no(EACCES, m);
            }
            _ => {
                let m = format!("R{n} pointer arithmetic with {} operator prohibited", symbol(op));
                return no(EACCES, m);
            }
        }
        let fixed = off.b.as_const().and_then(|v| {
            let (a, v) = (i64::from(p.off), v as i64);
            let sum = if op == AluOp::Add { a.checked_add(v) } else { a.checked_sub(v) };
            sum.and_then(|s| i32::try_from(s).ok())
        });
        if let Some(o) = fixed {
            r.off = o;
            return Ok(r);
        }
        let range = (p.range, r.b);
        if op == AluOp::Add {
            alu::add(&mut r.b, &off.b);
        } else {
            alu::sub(&mut r.b, &off.b);
            if range.1.umin < off.b.umax {
                (r.b.umin, r.b.umax) = (0, u64::MAX);
            }
        }
        r.b.unbound32();
        if p.is_pkt_pointer() {
            r.id = self.new_id();
            if op == AluOp::Add || off.b.smin < 0 {
                r.range = 0;
            }
        }
        Ok(r)
    }

    /// KERNEL v6.18 verifier.c:check_ld_imm
    pub(crate) fn check_ld_imm(&mut self, dst: Reg, imm: Imm64) -> R<Next> {
        self.writable(dst)?;
        let at = self.insn_idx;
        let map = self.input.insn_map.get(at as usize).copied().flatten();
        let lost =
            || Box::new(crate::reject::Rejection::invalid("fd is not pointing to valid bpf_map"));
        let v = match imm {
            Imm64::Const(c) => self.known(c),
            Imm64::Func(off) => {
                let sub = self.input.cfg.subprog_starting(bpf::insn::InsnIdx(self.target(off)));
                if self.input.program.funcs.is_empty() {
                    return no(EINVAL, "missing btf func_info");
                }
                let Some(sub) = sub else { return no(EINVAL, "func target is not a subprogram") };
                if self.input.cfg.subprogs[sub].is_global {
                    return no(EINVAL, "callback function not static");
                }
                let mut r = RegState::pointer(RegType::Func, Flags::NONE);
                r.btf_id = sub as u32;
                r
            }
            Imm64::MapFd(_) | Imm64::MapIdx(_) => {
                let mut r = RegState::pointer(RegType::ConstMapPtr, Flags::NONE);
                r.map = map.ok_or_else(lost)?;
                self.aux[at as usize].map = MapState::Unique(r.map);
                r
            }
            Imm64::MapValue { off, .. } | Imm64::MapIdxValue { off, .. } => {
                let mut r = RegState::pointer(RegType::MapValue, Flags::NONE);
                r.map = map.ok_or_else(lost)?;
                // The only value of its map: no id tells two of them apart.
                r.off = off as i32;
                let arena = self.maps[r.map as usize].map_type == bpf::uapi::MapType::Arena;
                if arena { self.unknown() } else { r }
            }
            Imm64::BtfId { id, .. } => {
                let id = id.cast_unsigned();
                let name = self.btf_name(crate::btf::BtfSrc::Vmlinux, id);
                self.aux[at as usize].btf_addr = self.input.env.symbol(name).map(|a| a.0);
                kfunc_calls::variable(self.input.env, id)?
            }
        };
        self.set(dst, v);
        Ok(Next::Goto(at + 2))
    }
}
