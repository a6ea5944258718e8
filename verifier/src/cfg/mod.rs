//! Control flow before exploration: subprograms, jump targets, prune points, loops.

mod live;
mod order;
mod subprogs;
mod walk;

use std::collections::BTreeMap;

use bpf::Program;
use bpf::btf::Btf;
use bpf::insn::{Call, Imm64, Insn, InsnIdx};

use crate::reject::Rejection;
use crate::tables::kfuncs::{self, KfFlags};

/// One subprogram: `struct bpf_subprog_info`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Subprog {
    /// First slot.
    pub start: InsnIdx,
    /// One past the last slot.
    pub end: InsnIdx,
    /// Name; empty without function info.
    pub name: String,
    /// `BTF_KIND_FUNC` id in the program's BTF; 0 when none.
    pub type_id: u32,
    /// Global linkage: verified on its own.
    pub is_global: bool,
    /// Contains LD_ABS or LD_IND.
    pub has_ld_abs: bool,
    /// Contains a tail call.
    pub has_tail_call: bool,
    /// It or a callee may sleep.
    pub might_sleep: bool,
    /// It or a callee changes packet data.
    pub changes_pkt_data: bool,
}

/// What `check_subprogs`, `check_cfg`, `compute_postorder` and `compute_scc` find out.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cfg {
    /// Subprograms in order of `start`; `[0]` is the main one.
    pub subprogs: Vec<Subprog>,
    /// States are compared and kept here.
    pub prune_point: Vec<bool>,
    /// Jump history is recorded here.
    pub jmp_point: Vec<bool>,
    /// A state is always kept here.
    pub force_checkpoint: Vec<bool>,
    /// Calls of helpers and kfuncs that call back before they return.
    pub calls_callback: Vec<bool>,
    /// Calls of `bpf_iter_*_next`.
    pub iter_next: Vec<bool>,
    /// `exception_callback_subprog`: entered by `bpf_throw`.
    pub exception_callback: Option<usize>,
    /// Strongly connected component, 0 when the instruction is in no loop.
    pub scc: Vec<u32>,
    /// Reachable in the static graph.
    pub reachable: Vec<bool>,
    /// Instructions of all subprograms in post order, subprogram after subprogram.
    pub postorder: Vec<InsnIdx>,
    /// Start of each subprogram's part of `postorder`, and its end as a last entry.
    pub postorder_start: Vec<u32>,
    /// Where each `gotox` may lead: all that the jump tables of its subprogram name.
    pub jump_tables: BTreeMap<usize, Vec<u32>>,
    /// Successors of each instruction inside its subprogram, but those of `gotox`.
    pub(crate) succ: Vec<[u32; 2]>,
    /// Predecessors of all instructions, instruction after instruction.
    pub(crate) pred: Vec<u32>,
    /// Start of each instruction's part of `pred`, and its end as a last entry.
    pub(crate) pred_start: Vec<u32>,
    /// Place of each instruction in its subprogram's part of `postorder`.
    pub(crate) place: Vec<u32>,
    /// Registers (bit n: rn) that may be read before they are written, before each instruction.
    pub live_regs_before: Vec<u16>,
}

/// Index a relative jump or call at `at` leads to, in the kernel's `int`: it wraps.
pub(crate) fn target(at: usize, off: i32) -> i64 {
    let at = i32::try_from(at).unwrap_or(i32::MAX - 1);
    i64::from((at + 1).wrapping_add(off))
}

pub(crate) use subprogs::idx as slot;

/// Builds and checks the static graph of a program. `tables` are the instructions
/// that its jump tables name, `kernel` has the prototypes of kfuncs, `own` is the program's BTF.
///
/// # Errors
/// What `check_subprogs` and `check_cfg` refuse, in their words.
pub fn build(
    program: &Program,
    tables: &[Vec<u32>],
    bpf_capable: bool,
    kernel: Option<&Btf>,
    own: Option<&Btf>,
) -> Result<Cfg, Box<Rejection>> {
    let insns = &program.insns[..];
    let n = insns.len();
    let subprogs = find_subprogs(program, insns, bpf_capable, own)?;
    let exception = subprogs::exception_callback(program, own)?;
    let mut cfg = Cfg {
        subprogs,
        prune_point: vec![false; n],
        jmp_point: vec![false; n],
        force_checkpoint: vec![false; n],
        calls_callback: vec![false; n],
        iter_next: vec![false; n],
        exception_callback: None,
        scc: vec![0; n],
        reachable: vec![false; n],
        postorder: Vec::new(),
        postorder_start: Vec::new(),
        jump_tables: BTreeMap::new(),
        succ: Vec::new(),
        pred: Vec::new(),
        pred_start: Vec::new(),
        place: vec![0; n],
        live_regs_before: Vec::new(),
    };
    cfg.exception_callback = exception.and_then(|at| cfg.subprog_starting(at));
    walk::walk(insns, tables, &mut cfg, bpf_capable, kernel)?;
    effects(program, insns, &mut cfg, kernel);
    cfg.succ = order::successors(insns, &cfg.subprogs);
    order::predecessors(&mut cfg);
    order::postorder(insns, &mut cfg);
    order::scc(insns, &mut cfg);
    cfg.live_regs_before = live::live_before(insns, &cfg, program.prog_type, kernel);
    Ok(cfg)
}

/// The first part of [`build`], which the kernel does before it resolves map references.
///
/// # Errors
/// What `add_subprog_and_kfunc` and `check_subprogs` refuse.
pub fn find_subprogs(
    program: &Program,
    insns: &[Insn],
    bpf_capable: bool,
    own: Option<&Btf>,
) -> Result<Vec<Subprog>, Box<Rejection>> {
    if insns.is_empty() {
        return Err(Box::new(Rejection::invalid("last insn is not an exit or jmp")));
    }
    let subprogs = subprogs::find(program, insns, bpf_capable, own)?;
    subprogs::check(insns, &subprogs)?;
    Ok(subprogs)
}

/// First slots of the subprograms; none when they cannot be told.
pub(crate) fn subprog_starts(program: &Program, bpf_capable: bool, own: Option<&Btf>) -> Vec<u32> {
    if program.insns.is_empty() {
        return Vec::new();
    }
    let found = subprogs::find(program, &program.insns, bpf_capable, own);
    found.map_or_else(|_| Vec::new(), |s| s.iter().map(|s| s.start.0).collect())
}

/// `merge_callee_effects`: what a subprogram does, its callees included.
fn effects(program: &Program, insns: &[Insn], cfg: &mut Cfg, kernel: Option<&Btf>) {
    let mut calls = Vec::new();
    for (at, insn) in insns.iter().enumerate() {
        let caller = cfg.subprog_at(subprogs::idx(at));
        match *insn {
            Insn::Call(Call::Helper(id)) => {
                if let Some(p) = crate::tables::helper_for(id, program.prog_type) {
                    cfg.subprogs[caller].might_sleep |= p.might_sleep;
                    cfg.subprogs[caller].changes_pkt_data |= p.changes_pkt_data;
                }
            }
            Insn::Call(Call::Kfunc { btf_id, off: 0 }) => {
                let name = kernel.map_or("", |b| b.name(btf_id.cast_unsigned()));
                let row = kfuncs::kfunc(name);
                let sleeps = row.is_some_and(|r| r.flags.has(KfFlags::SLEEPABLE));
                cfg.subprogs[caller].might_sleep |= sleeps;
                // `is_kfunc_pkt_changing`.
                cfg.subprogs[caller].changes_pkt_data |= name == "bpf_xdp_pull_data";
            }
            Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
                let to = u32::try_from(target(at, off)).unwrap_or(u32::MAX);
                calls.extend(cfg.subprog_starting(InsnIdx(to)).map(|callee| (caller, callee)));
            }
            _ => {}
        }
    }
    for _ in 0..cfg.subprogs.len() {
        for &(caller, callee) in &calls {
            let (sleeps, changes) =
                (cfg.subprogs[callee].might_sleep, cfg.subprogs[callee].changes_pkt_data);
            cfg.subprogs[caller].might_sleep |= sleeps;
            cfg.subprogs[caller].changes_pkt_data |= changes;
        }
    }
}

impl Cfg {
    /// The subprogram that contains a slot.
    #[must_use]
    pub fn subprog_at(&self, at: InsnIdx) -> usize {
        self.subprogs.partition_point(|s| s.start <= at).saturating_sub(1)
    }

    /// The subprogram that starts at a slot.
    #[must_use]
    pub fn subprog_starting(&self, at: InsnIdx) -> Option<usize> {
        self.subprogs.iter().position(|s| s.start == at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bare_program;
    use bpf::insn::{AluOp, JmpOp, Reg, Src, Width};
    use bpf::uapi::ProgType;

    fn mov(dst: u8, imm: i32) -> Insn {
        Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg(dst), src: Src::Imm(imm) }
    }

    fn jeq(off: i16) -> Insn {
        let (op, dst) = (JmpOp::Eq, Reg::R2);
        Insn::Jmp { width: Width::W64, op, dst, src: Src::Imm(0), off }
    }

    fn ja(off: i32) -> Insn {
        Insn::Ja { off, long: false }
    }

    fn ld64() -> [Insn; 2] {
        [Insn::LdImm64 { dst: Reg::R2, imm: Imm64::Const(1) }, Insn::LdImm64Hi]
    }

    fn run(insns: &[Insn], bpf_capable: bool) -> Result<Cfg, String> {
        let p = bare_program("t", ProgType::SocketFilter, insns.to_vec());
        build(&p, &[], bpf_capable, None, None).map_err(|r| r.message)
    }

    fn message(insns: &[Insn]) -> String {
        run(insns, true).err().unwrap_or_else(|| "ok".to_string())
    }

    /// `[mov r0; mov r2; J; ld64; ld64hi; exit]`, as the 6.18 measurements have it.
    fn around(jump: Insn) -> Vec<Insn> {
        let [lo, hi] = ld64();
        vec![mov(0, 0), mov(2, 0), jump, lo, hi, Insn::Exit]
    }

    #[test]
    fn kernel_messages() {
        let rows: &[(Vec<Insn>, &str)] = &[
            (around(ja(2)), "unreachable insn 3"),
            (around(jeq(1)), "jump into the middle of ldimm64 insn 3"),
            (around(Insn::MayGoto { off: 1 }), "jump into the middle of ldimm64 insn 3"),
            (around(jeq(3)), "jump out of range from insn 2 to 6"),
            (around(jeq(-4)), "jump out of range from insn 2 to -1"),
            (around(Insn::MayGoto { off: 100 }), "jump out of range from insn 2 to 103"),
            (around(jeq(2)), "ok"),
            (around(jeq(-3)), "ok"),
            (vec![mov(0, 0)], "last insn is not an exit or jmp"),
            (vec![], "last insn is not an exit or jmp"),
            (vec![mov(0, 0), Insn::Exit, Insn::Exit], "unreachable insn 2"),
            (vec![Insn::Call(Call::Local(5)), Insn::Exit], "call to invalid destination"),
        ];
        for (insns, want) in rows {
            assert_eq!(message(insns), *want, "{insns:?}");
        }
    }

    #[test]
    fn gotol_wraps_as_the_kernel_says() {
        let long = |off| around(Insn::Ja { off, long: true });
        assert_eq!(message(&long(i32::MIN)), "jump out of range from insn 2 to -2147483645");
        assert_eq!(message(&long(i32::MAX)), "jump out of range from insn 2 to -2147483646");
    }

    #[test]
    fn loops_need_cap_bpf() {
        let insns = [mov(0, 0), ja(-2)];
        assert_eq!(run(&insns, false).unwrap_err(), "back-edge from insn 1 to 0");
        let cfg = run(&insns, true).unwrap();
        assert_eq!(cfg.scc, [1, 1]);
        assert_eq!(cfg.prune_point, [true, false]);
    }

    #[test]
    fn subprograms_and_liveness() {
        let insns = [
            mov(1, 1),
            Insn::Call(Call::Local(1)),
            Insn::Exit,
            Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg::R0, src: Src::Reg(Reg::R1) },
            Insn::Exit,
        ];
        let cfg = run(&insns, true).unwrap();
        assert_eq!(cfg.subprogs.len(), 2);
        assert_eq!(cfg.subprogs[1].start, InsnIdx(3));
        assert_eq!(cfg.live_regs_before, [0b11_1100, 0b11_1110, 1, 0b10, 1]);
        assert_eq!(cfg.prune_point, [false, true, true, true, false]);
        let order: Vec<u32> = cfg.postorder.iter().map(|i| i.0).collect();
        assert_eq!((order, cfg.postorder_start), (vec![2, 1, 0, 4, 3], vec![0, 3, 5]));
        assert!(run(&insns, false).unwrap_err().starts_with("loading/calling other bpf"));
    }

    #[test]
    fn jump_across_subprograms() {
        let insns = [Insn::Call(Call::Local(2)), jeq(1), Insn::Exit, mov(0, 0), Insn::Exit];
        assert_eq!(message(&insns), "jump out of range from insn 1 to 3");
    }
}
