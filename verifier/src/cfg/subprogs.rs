//! Subprograms and the range of jumps: `add_subprog_and_kfunc` and `check_subprogs`.

use std::collections::BTreeSet;

use bpf::Program;
use bpf::btf::{Body, Btf, Kind, Linkage};
use bpf::insn::{Call, Imm64, Insn, InsnIdx};

use super::{Subprog, target};
use crate::reject::{E2BIG, EPERM, Rejection};
use crate::rewrite::TAIL_CALL;

/// `ENOENT`.
const ENOENT: i32 = 2;
/// `EEXIST`.
const EEXIST: i32 = 17;

/// `BPF_MAX_SUBPROGS`.
const BPF_MAX_SUBPROGS: usize = 256;

/// Subprograms in order, named after the function info.
///
/// # Errors
/// Calls out of the program, too many subprograms, calls without `CAP_BPF`.
pub(super) fn find(
    program: &Program,
    insns: &[Insn],
    bpf_capable: bool,
    own: Option<&Btf>,
) -> Result<Vec<Subprog>, Box<Rejection>> {
    let mut starts = BTreeSet::from([0usize]);
    for (at, insn) in insns.iter().enumerate() {
        let off = match *insn {
            Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. } => off,
            Insn::Call(Call::Kfunc { .. }) if bpf_capable => continue,
            Insn::Call(Call::Kfunc { .. }) => return Err(needs_cap()),
            _ => continue,
        };
        if !bpf_capable {
            return Err(needs_cap());
        }
        let Some(to) = usize::try_from(target(at, off)).ok().filter(|t| *t < insns.len()) else {
            return Err(Box::new(Rejection::invalid("call to invalid destination")));
        };
        starts.insert(to);
        if starts.len() > BPF_MAX_SUBPROGS {
            return Err(Box::new(Rejection::limit(E2BIG, "too many subprograms")));
        }
    }
    starts.extend(exception_callback(program, own)?.map(InsnIdx::idx));
    let starts: Vec<usize> = starts.into_iter().collect();
    let ends = starts.iter().copied().skip(1).chain([insns.len()]);
    Ok(starts.iter().zip(ends).map(|(&start, end)| describe(program, insns, start, end)).collect())
}

/// `bpf_find_exception_callback_insn_off`: the start of the function that the main program's tag
/// `exception_callback:NAME` names.
///
/// # Errors
/// In the kernel's words.
pub(super) fn exception_callback(
    program: &Program,
    own: Option<&Btf>,
) -> Result<Option<InsnIdx>, Box<Rejection>> {
    let (Some(btf), Some(main)) = (own, program.funcs.first()) else { return Ok(None) };
    let tags = btf.decl_tags(main.type_id).filter(|(arg, _)| *arg == -1);
    let mut names = tags.filter_map(|(_, tag)| tag.strip_prefix("exception_callback:"));
    let Some(name) = names.next() else { return Ok(None) };
    if names.next().is_some() {
        let text = "multiple exception callback tags for main subprog";
        return Err(Box::new(Rejection::refuse(EEXIST, text)));
    }
    let Some(id) = btf.find(name, Kind::Func) else {
        let text = format!("exception callback '{name}' could not be found in BTF");
        return Err(Box::new(Rejection::refuse(ENOENT, text)));
    };
    let func = program.funcs.iter().rfind(|f| f.type_id == id);
    let declared = || matches!(btf.body(id), Body::Func { linkage: Linkage::Global, .. });
    if !func.map_or_else(declared, |f| f.global) {
        let text = format!("exception callback '{name}' must have global linkage");
        return Err(Box::new(Rejection::invalid(text)));
    }
    match func {
        Some(f) if f.start.0 != 0 => Ok(Some(f.start)),
        Some(_) => {
            let text = "invalid exception callback insn_off in func_info: 0";
            Err(Box::new(Rejection::invalid(text)))
        }
        None => {
            let text = "exception callback type id not found in func_info";
            Err(Box::new(Rejection::invalid(text)))
        }
    }
}

fn needs_cap() -> Box<Rejection> {
    let text = "loading/calling other bpf or kernel functions are allowed for CAP_BPF and \
                CAP_SYS_ADMIN";
    Box::new(Rejection::refuse(EPERM, text))
}

fn describe(program: &Program, insns: &[Insn], start: usize, end: usize) -> Subprog {
    let at = idx(start);
    let func = program.funcs.iter().find(|f| f.start == at);
    let body = &insns[start..end];
    let is_ld_abs = |i: &Insn| matches!(i, Insn::LdAbs { .. } | Insn::LdInd { .. });
    Subprog {
        start: at,
        end: idx(end),
        name: func.map(|f| f.name.clone()).unwrap_or_default(),
        type_id: func.map_or(0, |f| f.type_id),
        is_global: func.is_some_and(|f| f.global),
        has_ld_abs: body.iter().any(is_ld_abs),
        has_tail_call: body.contains(&Insn::Call(Call::Helper(TAIL_CALL))),
        might_sleep: false,
        changes_pkt_data: false,
    }
}

/// Jumps stay in their subprogram, and none falls into the next one.
///
/// # Errors
/// In the kernel's words.
pub(super) fn check(insns: &[Insn], subprogs: &[Subprog]) -> Result<(), Box<Rejection>> {
    for sub in subprogs {
        let range = sub.start.idx()..sub.end.idx();
        for at in range.clone() {
            if let Some(off) = insns[at].jump_off() {
                let to = target(at, off);
                if !usize::try_from(to).is_ok_and(|t| range.contains(&t)) {
                    return Err(out_of_range(at, to));
                }
            }
        }
        if !insns[range.end - 1].ends_block() {
            let text = "last insn is not an exit or jmp";
            return Err(Box::new(Rejection::invalid(text).at(idx(range.end - 1))));
        }
    }
    Ok(())
}

/// "jump out of range".
pub(super) fn out_of_range(at: usize, to: i64) -> Box<Rejection> {
    let text = format!("jump out of range from insn {at} to {to}");
    Box::new(Rejection::invalid(text).at(idx(at)))
}

/// A slice index as an instruction index.
pub(crate) fn idx(at: usize) -> InsnIdx {
    InsnIdx(u32::try_from(at).expect("programs are shorter than 2^32 slots"))
}
