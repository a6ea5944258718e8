//! Programs without `CAP_PERFMON` under speculation: pointer arithmetic must be maskable, and
//! mispredicted branches are walked as well. Source: `sanitize_ptr_alu` and what is around it.
//!
//! A path under speculation that does something unsafe is not refused: a barrier is put before
//! the instruction (`nospec`), and the path ends there.

use bpf::insn::{AluOp, Reg, Src};

use crate::domain::reg::{RegState, RegType};
use crate::domain::state::MAX_BPF_STACK;
use crate::explore::ver::{R, Ver, no};
use crate::reject::{EACCES, EINVAL, EPERM, Rejection};

/// `BPF_ALU_SANITIZE_SRC`.
const ALU_SANITIZE_SRC: u32 = 1;
/// `BPF_ALU_SANITIZE_DST`.
const ALU_SANITIZE_DST: u32 = 1 << 1;
/// `BPF_ALU_NEG_VALUE`.
const ALU_NEG_VALUE: u32 = 1 << 2;
/// `BPF_ALU_NON_POINTER`.
const ALU_NON_POINTER: u32 = 1 << 3;
/// `BPF_ALU_IMMEDIATE`.
const ALU_IMMEDIATE: u32 = 1 << 4;

/// `REASON_*`: why an operation cannot be masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Bounds,
    Type,
    Paths,
    Limit,
}

/// `struct bpf_sanitize_info`: what the first half of the check leaves to the second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mask {
    alu_state: u32,
    alu_limit: u32,
    to_left: bool,
}

/// A pointer operation: registers and operands before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PtrOp<'a> {
    pub(crate) op: AluOp,
    pub(crate) dst: Reg,
    pub(crate) src: Src,
    pub(crate) off: &'a RegState,
    /// The scalar is in dst.
    pub(crate) scalar_is_dst: bool,
}

/// `error_recoverable_with_nospec`.
pub(crate) fn recoverable(e: &Rejection) -> bool {
    !e.is_unsupported() && matches!(e.errno, EPERM | EACCES | EINVAL)
}

impl Ver<'_> {
    /// `bypass_spec_v1`.
    fn bypass_spec(&self) -> bool {
        self.leaks_ok()
    }

    /// `can_skip_alu_sanitation`.
    fn needs_no_mask(&self, src: Src) -> bool {
        let nospec = self.aux[self.insn_idx as usize].nospec;
        self.bypass_spec() || matches!(src, Src::Imm(_)) || nospec
    }

    /// `retrieve_ptr_limit` of a pointer on its way left or right.
    fn ptr_limit(&self, p: &RegState, left: bool) -> Result<u32, Reason> {
        let off = i64::from(p.off);
        let (max, limit) = match p.ty {
            RegType::Stack => {
                let at = (p.b.var_off.value as i64).wrapping_add(off);
                (MAX_BPF_STACK as u32 + u32::from(left), at.wrapping_neg() as u32)
            }
            RegType::MapValue => {
                let v = if left { p.b.smin } else { p.b.umax as i64 };
                (self.maps[p.map as usize].value_size, v.wrapping_add(off) as u32)
            }
            _ => return Err(Reason::Type),
        };
        if limit >= max { Err(Reason::Limit) } else { Ok(limit) }
    }

    /// `update_alu_sanitation_state`: all paths must agree.
    fn note_alu(&mut self, state: u32, limit: u32) -> Result<(), Reason> {
        let aux = &mut self.aux[self.insn_idx as usize];
        if aux.alu_state != 0 && (aux.alu_state, aux.alu_limit) != (state, limit) {
            return Err(Reason::Paths);
        }
        (aux.alu_state, aux.alu_limit) = (state, limit);
        Ok(())
    }

    /// `sanitize_val_alu`: addition and subtraction of numbers.
    pub(crate) fn sanitize_scalar(&mut self, op: AluOp, dst: Reg, src: Src) -> R {
        if !matches!(op, AluOp::Add | AluOp::Sub) || self.needs_no_mask(src) {
            return Ok(());
        }
        let result = self.note_alu(ALU_NON_POINTER, 0);
        result.or_else(|_| no(EACCES, prohibited(Reason::Paths, op, dst, src, true)))
    }

    /// KERNEL v6.18 verifier.c:sanitize_ptr_alu before the operation, with the pointer `p`.
    pub(crate) fn sanitize_before(&mut self, o: &PtrOp<'_>, p: &RegState) -> R<Mask> {
        let mut mask = Mask::default();
        if !matches!(o.op, AluOp::Add | AluOp::Sub) || self.needs_no_mask(o.src) {
            return Ok(mask);
        }
        let known = o.off.b.as_const().is_some();
        if !self.cur.speculative
            && let Err(reason) = self.plan_mask(o, p, known, &mut mask)
        {
            return no(EACCES, prohibited(reason, o.op, o.dst, o.src, o.scalar_is_dst));
        }
        if known {
            return Ok(mask);
        }
        // What the masked operation does when the offset is not what it was expected to be:
        // the pointer stays where it is.
        let (saved, at) = (*self.r(o.dst), self.insn_idx);
        self.regs()[o.dst.idx()] = *p;
        let pushed = self.push_speculative(at + 1, at);
        self.regs()[o.dst.idx()] = saved;
        pushed?;
        Ok(mask)
    }

    fn plan_mask(
        &mut self,
        o: &PtrOp<'_>,
        p: &RegState,
        known: bool,
        mask: &mut Mask,
    ) -> Result<(), Reason> {
        let negative = o.off.b.smin < 0;
        if !known && negative != (o.off.b.smax < 0) {
            return Err(Reason::Bounds);
        }
        mask.to_left = (o.op == AluOp::Add) == negative;
        mask.alu_limit = self.ptr_limit(p, mask.to_left)?;
        mask.alu_state = if negative { ALU_NEG_VALUE } else { 0 }
            | if known { ALU_IMMEDIATE } else { 0 }
            | if o.scalar_is_dst { ALU_SANITIZE_DST } else { ALU_SANITIZE_SRC };
        self.explore_alu_limits |= !known;
        Ok(())
    }

    /// `sanitize_check_bounds` and the second half of `sanitize_ptr_alu`, with the result `r`.
    pub(crate) fn sanitize_after(&mut self, o: &PtrOp<'_>, r: &RegState, mask: Mask) -> R {
        if self.bypass_spec() {
            return Ok(());
        }
        self.ptr_in_bounds(o.dst, r)?;
        let alu = matches!(o.op, AluOp::Add | AluOp::Sub);
        if !alu || self.needs_no_mask(o.src) || self.cur.speculative {
            return Ok(());
        }
        let limit = self.ptr_limit(r, mask.to_left);
        let noted = limit.and_then(|l| self.note_alu(mask.alu_state, mask.alu_limit.abs_diff(l)));
        noted.or_else(|reason| no(EACCES, prohibited(reason, o.op, o.dst, o.src, o.scalar_is_dst)))
    }

    /// `sanitize_check_bounds`: the pointer itself must stay inside.
    fn ptr_in_bounds(&mut self, dst: Reg, r: &RegState) -> R {
        let n = dst.0;
        match r.ty {
            RegType::Stack => {
                let t = r.b.var_off;
                let off = r.off.wrapping_add(t.value as i32);
                if !t.is_const() {
                    let m = "variable stack access prohibited for !root, var_off";
                    return no(EACCES, format!("R{n} {m}={t} off={off}"));
                }
                if !(-MAX_BPF_STACK..0).contains(&off) {
                    let m = "stack pointer arithmetic goes out of range, prohibited for !root";
                    return no(EACCES, format!("R{n} {m}; off={off}"));
                }
                Ok(())
            }
            RegType::MapValue => {
                self.map_access(dst, r, (r.off, 1), false, true).map_err(|mut e| {
                    let m =
                        "pointer arithmetic of map value goes out of range, prohibited for !root";
                    e.message = format!("{}\nR{n} {m}", e.message);
                    e
                })
            }
            _ => Ok(()),
        }
    }

    /// `sanitize_speculative_path` of a branch that is not taken: its operands may be anything.
    pub(crate) fn speculate_branch(&mut self, to: u32, dst: Reg, src: Src) -> R {
        if self.bypass_spec() {
            return Ok(());
        }
        let at = self.insn_idx;
        self.push_speculative(to, at)?;
        let unknown = self.unknown();
        let pushed = self.pending.last_mut().expect("just pushed");
        let regs = &mut pushed.state.frame_mut().regs;
        let src = match src {
            Src::Reg(r) => Some(r),
            Src::Imm(_) => None,
        };
        for r in [Some(dst), src].into_iter().flatten() {
            regs[r.idx()] = RegState { subreg_def: regs[r.idx()].subreg_def, ..unknown };
        }
        Ok(())
    }

    fn push_speculative(&mut self, to: u32, at: u32) -> R {
        self.push_stack(to, at)?.speculative = true;
        Ok(())
    }
}

/// `sanitize_err`.
fn prohibited(reason: Reason, op: AluOp, dst: Reg, src: Src, scalar_is_dst: bool) -> String {
    let how = "pointer arithmetic with it prohibited for !root";
    let verb = if op == AluOp::Add { "add" } else { "sub" };
    let other = match src {
        Src::Reg(r) => r,
        Src::Imm(_) => dst,
    };
    let (scalar, pointer) = if scalar_is_dst { (dst, other) } else { (other, dst) };
    match reason {
        Reason::Bounds => {
            format!("R{} has unknown scalar with mixed signed bounds, {how}", scalar.0)
        }
        Reason::Type => {
            format!("R{} has pointer with unsupported alu operation, {how}", pointer.0)
        }
        Reason::Paths => {
            let m = format!("R{} tried to {verb} from different maps, paths or scalars", dst.0);
            format!("{m}, {how}")
        }
        Reason::Limit => format!("R{} tried to {verb} beyond pointer bounds, {how}", dst.0),
    }
}
