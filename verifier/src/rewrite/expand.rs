//! What one instruction becomes: `do_misc_fixups` and `resolve_pseudo_ldimm64`.

use bpf::insn::{AluOp, Call, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::uapi::{AttachType, MapType, ProgType};

use super::{
    GET_SMP_PROCESSOR_ID, Input, LD_ABS_8, LD_ABS_16, LD_ABS_32, MAP_LOOKUP_ELEM, TIMED_MAY_GOTO,
    ctx,
};
use crate::cfg::target;
use crate::explore::{MapState, PtrClass};
use crate::reject::{EINVAL, EOPNOTSUPP, Rejection};

/// `BPF_MAX_LOOPS`: iterations a `may_goto` allows per entry of the subprogram.
const BPF_MAX_LOOPS: i32 = 8 * 1024 * 1024;
/// `BPF_MAX_TIMED_LOOPS`: iterations after which it looks at the time.
const BPF_MAX_TIMED_LOOPS: i32 = 0xffff;
/// `BPF_F_INNER_MAP`: the array's size is that of the map found at run time.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Helpers that read what a trampoline left.
const GET_FUNC_IP: i32 = 173;
const GET_FUNC_ARG: i32 = 183;
const GET_FUNC_RET: i32 = 184;
const GET_FUNC_ARG_CNT: i32 = 185;

/// Where an instruction leads, by original index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The offset stands as it is.
    Stays,
    /// Jump.
    Jump(i64),
    /// Start of a subprogram, its prologue included.
    Entry(i64),
}

/// Instructions that replace one.
#[derive(Clone, Debug, Default)]
pub(super) struct Seq(pub(super) Vec<(Insn, To)>);

impl Seq {
    pub(super) fn one(insn: Insn) -> Seq {
        Seq(vec![(insn, To::Stays)])
    }

    pub(super) fn of(insns: impl IntoIterator<Item = Insn>) -> Seq {
        Seq(insns.into_iter().map(|i| (i, To::Stays)).collect())
    }
}

pub(super) fn alu(width: Width, op: AluOp, dst: Reg, src: Src) -> Insn {
    Insn::Alu { width, op, dst, src }
}

fn jmp(width: Width, op: JmpOp, dst: Reg, imm: i32, off: i16) -> Insn {
    Insn::Jmp { width, op, dst, src: Src::Imm(imm), off }
}

fn ja(off: i32) -> Insn {
    Insn::Ja { off, long: false }
}

/// Expands the instruction at an original index. `hidden` is the frame offset of the `may_goto`
/// counter of its subprogram.
///
/// # Errors
/// `Unsupported` context fields and instructions.
pub(super) fn expand(
    input: &Input<'_>,
    at: usize,
    insn: Insn,
    hidden: i16,
) -> Result<Seq, Box<Rejection>> {
    if input.aux(at).arena_w32 {
        return Ok(Seq::one(low_half(insn)));
    }
    if let Some((what, place)) = not_lowered(input, at, &insn) {
        return Err(Box::new(Rejection::unsupported(what, place).at(crate::cfg::slot(at))));
    }
    match insn {
        Insn::Alu { width, op, dst, src } if is_division(op) => Ok(division(width, op, dst, src)),
        Insn::Load { .. } | Insn::Store { .. } => memory(input, at, insn),
        Insn::LdImm64 { dst, imm } => ld_imm64(input, at, dst, imm),
        Insn::LdAbs { size, imm } => Ok(ld_abs(size, alu_mov(Src::Imm(imm)), None)),
        Insn::LdInd { size, src, imm } => {
            let add = (imm != 0).then(|| alu(Width::W64, AluOp::Add, Reg::R2, Src::Imm(imm)));
            Ok(ld_abs(size, alu_mov(Src::Reg(src)), add))
        }
        Insn::Ja { off, .. } => Ok(Seq(vec![(insn, To::Jump(target(at, off)))])),
        Insn::Jmp { off, .. } => Ok(Seq(vec![(insn, To::Jump(target(at, i32::from(off))))])),
        Insn::MayGoto { off } => {
            Ok(may_goto(target(at, i32::from(off)), hidden, input.env.timed_may_goto()))
        }
        Insn::Call(Call::Local(off)) => Ok(Seq(vec![(insn, To::Entry(target(at, off)))])),
        Insn::Call(Call::Helper(MAP_LOOKUP_ELEM)) => {
            Ok(map_lookup(input, at).unwrap_or_else(|| Seq::one(insn)))
        }
        Insn::Call(Call::Helper(GET_SMP_PROCESSOR_ID)) => {
            Ok(processor_id(input.env.layout().cpu_number))
        }
        Insn::Call(Call::Helper(id)) if input.program.prog_type == ProgType::Tracing => {
            let after = !matches!(input.program.attach_type, Some(AttachType::TraceFentry));
            Ok(of_trampoline(id, after).unwrap_or_else(|| Seq::one(insn)))
        }
        Insn::Call(_) if input.kfunc(&insn).is_some_and(is_cast) => {
            Ok(Seq::one(alu(Width::W64, AluOp::Mov, Reg::R0, Src::Reg(Reg::R1))))
        }
        _ => Ok(Seq::one(insn)),
    }
}

/// Kernel functions that give back their first argument, as another type
/// (`verifier.c:fixup_kfunc_call`).
fn is_cast(kfunc: &str) -> bool {
    matches!(kfunc, "bpf_cast_to_kern_ctx" | "bpf_rdonly_cast")
}

/// What the kernel leaves to its JITs and no back end has.
fn not_lowered(input: &Input<'_>, at: usize, insn: &Insn) -> Option<(&'static str, &'static str)> {
    match *insn {
        Insn::Load { src: Reg::PARAMS, .. } | Insn::Store { dst: Reg::PARAMS, .. } => {
            Some(("stack arguments", "verifier.c:check_stack_arg_read"))
        }
        Insn::Gotox { .. } if !input.env.runs_indirect() => {
            Some(("gotox", "verifier.c:check_indirect_jump"))
        }
        Insn::Callx { .. } if !input.env.runs_indirect() => {
            Some(("callx", "proposal: indirect calls"))
        }
        Insn::AddrSpaceCast { .. } if input.arena().is_none() => {
            Some(("addr_space_cast", "verifier.c:BPF_ADDR_SPACE_CAST"))
        }
        _ if input.aux(at).ptr == PtrClass::Arena && input.arena().is_none() => {
            Some(("arena access", "verifier.c:BPF_PROBE_MEM32"))
        }
        _ => None,
    }
}

/// An operation on an arena pointer in 32 bits, casts to it as a plain move.
fn low_half(insn: Insn) -> Insn {
    let width = Width::W32;
    match insn {
        Insn::Alu { op, dst, src, .. } => Insn::Alu { width, op, dst, src },
        Insn::AddrSpaceCast { dst, src, .. } => alu(width, AluOp::Mov, dst, Src::Reg(src)),
        _ => insn,
    }
}

fn is_division(op: AluOp) -> bool {
    matches!(op, AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod)
}

/// Division by a register that may be zero, signed division that may be by -1. Sequences as 6.18
/// emits them.
fn division(width: Width, op: AluOp, dst: Reg, src: Src) -> Seq {
    let insn = alu(width, op, dst, src);
    let clear = |w| alu(w, AluOp::Mov, dst, Src::Imm(0));
    let zext = alu(Width::W32, AluOp::Mov, dst, Src::Reg(dst));
    let Src::Reg(by) = src else {
        return match (op, src) {
            (AluOp::SDiv, Src::Imm(-1)) => Seq::one(Insn::Neg { width, dst }),
            (AluOp::SMod, Src::Imm(-1)) => Seq::one(clear(Width::W32)),
            _ => Seq::one(insn),
        };
    };
    let plus_one = [
        alu(Width::W64, AluOp::Mov, Reg::AX, Src::Reg(by)),
        alu(width, AluOp::Add, Reg::AX, Src::Imm(1)),
    ];
    let w32 = width == Width::W32;
    match op {
        AluOp::Div => Seq::of([
            jmp(width, JmpOp::Ne, by, 0, 2),
            alu(Width::W32, AluOp::Xor, dst, Src::Reg(dst)),
            ja(1),
            insn,
        ]),
        AluOp::Mod if w32 => Seq::of([jmp(width, JmpOp::Eq, by, 0, 2), insn, ja(1), zext]),
        AluOp::Mod => Seq::of([jmp(width, JmpOp::Eq, by, 0, 1), insn]),
        // ax is 0 for a divisor of -1 and 1 for 0: dst is negated or cleared (-0 is 0).
        AluOp::SDiv => Seq::of(plus_one.into_iter().chain([
            jmp(width, JmpOp::Gt, Reg::AX, 1, 4),
            jmp(width, JmpOp::Eq, Reg::AX, 0, 1),
            clear(width),
            Insn::Neg { width, dst },
            ja(1),
            insn,
        ])),
        _ => {
            let skip = if w32 { 4 } else { 3 };
            let head = plus_one.into_iter().chain([
                jmp(width, JmpOp::Gt, Reg::AX, 1, 3),
                jmp(width, JmpOp::Eq, Reg::AX, 1, skip),
                clear(Width::W32),
                ja(1),
                insn,
            ]);
            Seq::of(head.chain(w32.then_some([ja(1), zext]).into_iter().flatten()))
        }
    }
}

fn memory(input: &Input<'_>, at: usize, insn: Insn) -> Result<Seq, Box<Rejection>> {
    let aux = input.aux(at);
    match ctx::converts(aux.ptr) {
        false => Ok(Seq::one(insn)),
        true => ctx::convert(input, at, insn, aux.ptr, aux.ctx_field_size),
    }
}

fn ld_imm64(input: &Input<'_>, at: usize, dst: Reg, imm: Imm64) -> Result<Seq, Box<Rejection>> {
    let map = || {
        let n = input.insn_map.get(at).copied().flatten();
        n.and_then(|n| input.maps.get(n as usize)).ok_or_else(|| {
            let text = format!("verifier bug: map of insn {at} was not resolved");
            Box::new(Rejection::refuse(crate::reject::EFAULT, text))
        })
    };
    let value = match imm {
        Imm64::Const(v) => v,
        Imm64::MapFd(_) | Imm64::MapIdx(_) => map()?.addr.0,
        Imm64::MapValue { off, .. } | Imm64::MapIdxValue { off, .. } => {
            let map = map()?;
            let Some(value) = map.value_addr else {
                let what = format!("address of the value of a {:?} map", map.map_type);
                let gone = Rejection::unsupported(what, "map_direct_value_addr");
                return Err(Box::new(gone.at(crate::cfg::slot(at))));
            };
            value.0.wrapping_add(u64::from(off))
        }
        Imm64::BtfId { .. } => input.aux(at).btf_addr.ok_or_else(|| {
            Box::new(Rejection::unsupported("kernel symbol address", "check_pseudo_btf_id"))
        })?,
        Imm64::Func(off) => {
            return Ok(Seq(vec![(Insn::LdImm64 { dst, imm }, To::Entry(target(at, off)))]));
        }
    };
    Ok(Seq::one(Insn::LdImm64 { dst, imm: Imm64::Const(value) }))
}

fn alu_mov(src: Src) -> Insn {
    alu(Width::W64, AluOp::Mov, Reg::R2, src)
}

/// `bpf_gen_ld_abs`: leaves the (sub)program with 0 when the packet is too short.
fn ld_abs(size: Size, offset: Insn, add: Option<Insn>) -> Seq {
    let helper = match size {
        Size::B => LD_ABS_8,
        Size::H => LD_ABS_16,
        Size::W | Size::DW => LD_ABS_32,
    };
    let tail = [
        alu(Width::W64, AluOp::Mov, Reg::R1, Src::Reg(Reg(6))),
        Insn::Call(Call::Helper(helper)),
        jmp(Width::W64, JmpOp::Sge, Reg::R0, 0, 2),
        alu(Width::W32, AluOp::Xor, Reg::R0, Src::Reg(Reg::R0)),
        Insn::Exit,
    ];
    Seq::of([offset].into_iter().chain(add).chain(tail))
}

/// `may_goto`: leaves the loop when the count is used up, or, with time, when the callee says so.
fn may_goto(to: i64, hidden: i16, timed: bool) -> Seq {
    let (size, ax) = (Size::DW, Reg::AX);
    let mut seq = Seq(vec![
        (Insn::Load { size, sext: false, dst: ax, src: Reg::FP, off: hidden }, To::Stays),
        (jmp(Width::W64, JmpOp::Eq, ax, 0, 0), To::Jump(to)),
        (alu(Width::W64, AluOp::Sub, ax, Src::Imm(1)), To::Stays),
    ]);
    if timed {
        seq.0.extend(
            Seq::of([
                jmp(Width::W64, JmpOp::Ne, ax, 0, 2),
                alu(Width::W64, AluOp::Mov, ax, Src::Imm(hidden.into())),
                Insn::Call(Call::Helper(TIMED_MAY_GOTO)),
            ])
            .0,
        );
    }
    let keep = Insn::Store { size, dst: Reg::FP, off: hidden, src: Src::Reg(ax) };
    seq.0.push((keep, To::Stays));
    seq
}

/// What a subprogram with `may_goto` does first.
pub(super) fn may_goto_prologue(hidden: i16, timed: bool) -> Vec<Insn> {
    let store = |off, imm| Insn::Store { size: Size::DW, dst: Reg::FP, off, src: Src::Imm(imm) };
    match timed {
        true => vec![store(hidden, BPF_MAX_TIMED_LOOPS), store(hidden + 8, 0)],
        false => vec![store(hidden, BPF_MAX_LOOPS)],
    }
}

/// `array_map_gen_lookup`, `percpu_array_map_gen_lookup`, `array_of_map_gen_lookup`; `None` when
/// the call stays.
fn map_lookup(input: &Input<'_>, at: usize) -> Option<Seq> {
    let MapState::Unique(n) = input.aux(at).map else { return None };
    let map = input.maps.get(n as usize)?;
    if map.flags & BPF_F_INNER_MAP != 0 {
        return None;
    }
    let (r0, r1, r2) = (Reg::R0, Reg::R1, Reg::R2);
    let imm = |v: u32| Src::Imm(v.cast_signed());
    let found = match map.map_type {
        MapType::Array => {
            let size = map.value_size.checked_next_multiple_of(8)?;
            let scale = match size.is_power_of_two() {
                true => (AluOp::Lsh, size.trailing_zeros()),
                false => (AluOp::Mul, size),
            };
            vec![
                alu(Width::W64, scale.0, r0, imm(scale.1)),
                alu(Width::W64, AluOp::Add, r0, Src::Reg(r1)),
            ]
        }
        MapType::PercpuArray => vec![
            alu(Width::W64, AluOp::Lsh, r0, Src::Imm(3)),
            alu(Width::W64, AluOp::Add, r0, Src::Reg(r1)),
            Insn::Load { size: Size::DW, sext: false, dst: r0, src: r0, off: 0 },
            Insn::MovPercpu { dst: r0, src: r0 },
        ],
        MapType::ArrayOfMaps => vec![
            alu(Width::W64, AluOp::Lsh, r0, Src::Imm(3)),
            alu(Width::W64, AluOp::Add, r0, Src::Reg(r1)),
            Insn::Load { size: Size::DW, sext: false, dst: r0, src: r0, off: 0 },
            jmp(Width::W64, JmpOp::Eq, r0, 0, 1),
        ],
        _ => return None,
    };
    let mask = map.max_entries.checked_next_power_of_two()?.wrapping_sub(1);
    let masked = (!input.bypass_spec_v1).then(|| alu(Width::W32, AluOp::And, r0, imm(mask)));
    let over = found.len() + usize::from(masked.is_some()) + 1;
    let over = i16::try_from(over).expect("a few instructions");
    let head = [
        alu(Width::W64, AluOp::Add, r1, Src::Imm(input.env.layout().array_value.into())),
        Insn::Load { size: Size::W, sext: false, dst: r0, src: r2, off: 0 },
        jmp(Width::W64, JmpOp::Ge, r0, map.max_entries.cast_signed(), over),
    ];
    let tail = [ja(1), alu(Width::W64, AluOp::Mov, r0, Src::Imm(0))];
    Some(Seq::of(head.into_iter().chain(masked).chain(found).chain(tail)))
}

/// What a trampoline left before the context: `bpf_get_func_ip`, `bpf_get_func_arg`,
/// `bpf_get_func_ret` (of a function that has returned) and `bpf_get_func_arg_cnt`.
fn of_trampoline(id: i32, after: bool) -> Option<Seq> {
    let (r0, r1, r2, r3) = (Reg::R0, Reg::R1, Reg::R2, Reg::R3);
    let size = Size::DW;
    let load = |dst, src, off| Insn::Load { size, sext: false, dst, src, off };
    let store = |dst, src| Insn::Store { size, dst, off: 0, src: Src::Reg(src) };
    let op = |op, dst, src| alu(Width::W64, op, dst, src);
    let result = |v| op(AluOp::Mov, r0, Src::Imm(v));
    let count = load(r0, r1, -8);
    Some(match id {
        GET_FUNC_IP => Seq::one(load(r0, r1, -16)),
        GET_FUNC_ARG_CNT => Seq::one(count),
        GET_FUNC_ARG => Seq::of([
            count,
            Insn::Jmp { width: Width::W32, op: JmpOp::Ge, dst: r2, src: Src::Reg(r0), off: 6 },
            // 6.18 shifts all 64 bits, of which only the lower half was compared.
            alu(Width::W32, AluOp::Lsh, r2, Src::Imm(3)),
            op(AluOp::Add, r2, Src::Reg(r1)),
            load(r0, r2, 0),
            store(r3, r0),
            result(0),
            ja(1),
            result(-EINVAL),
        ]),
        GET_FUNC_RET if after => Seq::of([
            count,
            op(AluOp::Lsh, r0, Src::Imm(3)),
            op(AluOp::Add, r0, Src::Reg(r1)),
            load(r0, r0, 0),
            store(r2, r0),
            result(0),
        ]),
        GET_FUNC_RET => Seq::one(result(-EOPNOTSUPP)),
        _ => return None,
    })
}

/// `bpf_get_smp_processor_id` as 6.18 has it on x86-64. The JITs of arm64 and riscv64 read the same
/// number from `thread_info`; here all read it where x86-64 does, so that all retire the same.
fn processor_id(number: i32) -> Seq {
    let r0 = Reg::R0;
    Seq::of([
        alu(Width::W64, AluOp::Mov, r0, Src::Imm(number)),
        Insn::MovPercpu { dst: r0, src: r0 },
        Insn::Load { size: Size::W, sext: false, dst: r0, src: r0, off: 0 },
    ])
}
