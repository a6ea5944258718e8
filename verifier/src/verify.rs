//! The whole of `BPF_PROG_LOAD`: attributes, maps, control flow, exploration, rewriting.

use std::borrow::Cow;

use bpf::btf::Btf;
use bpf::insn::{Imm64, Insn};
use bpf::uapi::{AttachType, ProgType};
use bpf::{Endian, Program};

use crate::attach;
use crate::btf::record;
use crate::cfg;
use crate::env::{KernelEnv, MapInfo};
use crate::explore::{self, Opts};
use crate::kfunc_calls;
use crate::map_rules;
use crate::reject::{E2BIG, EFAULT, EINVAL, ENOTSUPP, EPERM, Rejection};
use crate::rewrite;
use crate::tables::{self, Level, since};
use crate::target::{self, FuncFacts, Target};
use crate::verified::{Parts, Stats, Verified};

/// `EBADF`.
const EBADF: i32 = 9;
/// `EPROTO`.
const EPROTO: i32 = 71;
/// `ERANGE`.
const ERANGE: i32 = 34;
/// Bytes of a page of an arena.
const ARENA_PAGE: u64 = 4096;
/// `MAX_USED_MAPS`.
const MAX_USED_MAPS: usize = 64;
/// `BPF_MAX_VAR_OFF`.
const BPF_MAX_VAR_OFF: u32 = 1 << 29;
/// Longest program with and without `CAP_BPF`.
const INSNS_MAX: [usize; 2] = [1_000_000, 4096];
/// `BPF_F_STRICT_ALIGNMENT`.
const BPF_F_STRICT_ALIGNMENT: u32 = 1;
/// `BPF_F_TEST_STATE_FREQ`.
const BPF_F_TEST_STATE_FREQ: u32 = 1 << 3;
/// `BPF_F_SLEEPABLE`.
const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// `is_net_admin_prog_type`.
const NET_ADMIN_TYPES: &[ProgType] = &[
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::Xdp,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::SkSkb,
    ProgType::SkMsg,
    ProgType::FlowDissector,
    ProgType::CgroupDevice,
    ProgType::CgroupSock,
    ProgType::CgroupSockAddr,
    ProgType::CgroupSockopt,
    ProgType::CgroupSysctl,
    ProgType::SockOps,
    ProgType::Ext,
    ProgType::Netfilter,
];
/// `is_perfmon_prog_type`.
const PERFMON_TYPES: &[ProgType] = &[
    ProgType::Kprobe,
    ProgType::Tracepoint,
    ProgType::PerfEvent,
    ProgType::RawTracepoint,
    ProgType::RawTracepointWritable,
    ProgType::Tracing,
    ProgType::Lsm,
    ProgType::StructOps,
    ProgType::Ext,
];

/// What the loader passes besides the program.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Log level, capabilities, alignment, limits.
    pub opts: Opts,
    /// `fd_array`: map descriptors by the index that `Imm64::MapIdx` names.
    pub fd_array: &'a [i32],
    /// `prog_btf_fd`: the program's own BTF.
    pub prog_btf: Option<&'a Btf>,
    /// Byte order of the machine the program will run on.
    pub endian: Endian,
    /// `attach_prog_fd`: the loaded program this one is attached to.
    pub target: Option<Target<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            opts: Opts::default(),
            fd_array: &[],
            prog_btf: None,
            endian: Endian::Little,
            target: None,
        }
    }
}

/// What is known after a load, accepted or not.
#[derive(Debug)]
pub struct VerifyReport {
    /// The verdict.
    pub result: Result<Verified, Box<Rejection>>,
    /// Log by the requested level.
    pub log: String,
    /// Statistics.
    pub stats: Stats,
}

/// Verifies a program for a kernel.
///
/// # Errors
/// The kernel's refusal in its words, or what is not modelled.
pub fn verify(
    p: Program,
    env: &dyn KernelEnv,
    o: &Options<'_>,
) -> Result<Verified, Box<Rejection>> {
    verify_report(p, env, o).result
}

/// [`verify`] with log and statistics for both outcomes.
#[must_use]
pub fn verify_report(p: Program, env: &dyn KernelEnv, o: &Options<'_>) -> VerifyReport {
    let head = log_head(&p, o);
    match run(p, env, o) {
        Ok((verified, log)) => VerifyReport { stats: *verified.stats(), result: Ok(verified), log },
        Err(mut r) => {
            let log = log_of(&mut r, &head, o);
            VerifyReport { log, stats: r.stats, result: Err(r) }
        }
    }
}

/// What the kernel says of a program, without the proof.
#[derive(Debug)]
pub struct CheckReport {
    /// The verdict.
    pub result: Result<(), Box<Rejection>>,
    /// Log by the requested level.
    pub log: String,
    /// Statistics.
    pub stats: Stats,
    /// Stack bytes of each subprogram, the main one first; empty when not accepted.
    pub stack_depths: Vec<u32>,
    /// What each subprogram is to programs that are attached to it; empty when not accepted.
    pub funcs: Vec<FuncFacts>,
    /// What was done beyond the kernel's limits, where that was asked for and needed.
    pub beyond: Option<explore::beyond::Report>,
    /// What was believed at each instruction, with `Opts::record` and when accepted.
    pub trace: Option<explore::Trace>,
}

/// The verdict alone: all of [`verify`] but rewriting, which needs the kernel that will run the
/// program. So a program can be judged against the BTF of a kernel that is not there.
#[must_use]
pub fn check(p: &Program, env: &dyn KernelEnv, o: &Options<'_>) -> CheckReport {
    let head = log_head(p, o);
    match analyse(p, env, o) {
        Ok(a) => CheckReport {
            result: Ok(()),
            stack_depths: final_depths(p, &a),
            funcs: target::facts(&a.cfg, &a.explored),
            beyond: a.explored.beyond,
            log: a.explored.log,
            stats: a.explored.stats,
            trace: a.explored.trace,
        },
        Err(mut r) => {
            let log = log_of(&mut r, &head, o);
            let (stack_depths, funcs, beyond) = (Vec::new(), Vec::new(), r.beyond.take());
            let (stats, trace) = (r.stats, None);
            CheckReport { log, stats, stack_depths, funcs, beyond, trace, result: Err(r) }
        }
    }
}

/// Stack of each subprogram that is left, as `print_verification_stats` has it after the rewrites:
/// an inlined `bpf_loop` saves three registers, `may_goto` counts and takes the time.
fn final_depths(p: &Program, a: &Analysed) -> Vec<u32> {
    const LOOP: u32 = 3 * 8;
    const MAY_GOTO: u32 = 2 * 8;
    let depth = |(s, own): (&cfg::Subprog, &u32)| {
        let aux = &a.explored.aux[s.start.idx()..s.end.idx()];
        let code = &p.insns[s.start.idx()..s.end.idx()];
        let dead = a.opts.allow_ptr_leaks && !aux.iter().any(|x| x.seen);
        let inlined = aux.iter().any(|x| x.loop_inline.is_some());
        let counts = (code.iter().zip(aux))
            .any(|(i, x)| x.seen && matches!(i, Insn::MayGoto { off } if *off != 0));
        (!dead).then_some(own + LOOP * u32::from(inlined) + MAY_GOTO * u32::from(counts))
    };
    a.cfg.subprogs.iter().zip(&a.explored.stack_depth).filter_map(depth).collect()
}

/// The log of a refusal. What was refused before exploration has its message, between the list of
/// subprograms (level 2) and statistics of nothing.
fn log_of(r: &mut Rejection, head: &str, o: &Options<'_>) -> String {
    if r.log.is_empty() && o.opts.log_level != 0 && !r.message.is_empty() {
        let stats = explore::stats_text(o.opts.log_level, &r.stats, &[0]);
        r.log = format!("{head}{}\n{stats}", r.message);
    }
    r.log.clone()
}

/// What level 2 prints when the subprograms are known.
fn log_head(p: &Program, o: &Options<'_>) -> String {
    if o.opts.log_level & 2 == 0 {
        return String::new();
    }
    let starts = cfg::subprog_starts(p, o.opts.bpf_capable, o.prog_btf);
    starts.iter().enumerate().map(|(i, at)| format!("func#{i} @{at}\n")).collect()
}

/// What is known of a program that was accepted, before it is rewritten.
#[derive(Debug)]
struct Analysed {
    maps: UsedMaps,
    cfg: cfg::Cfg,
    opts: Opts,
    explored: explore::Explored,
}

fn analyse(p: &Program, env: &dyn KernelEnv, o: &Options<'_>) -> Result<Analysed, Box<Rejection>> {
    check_attributes(p, o)?;
    if o.opts.bpf_capable {
        kfunc_calls::check_calls(p, env, !o.fd_array.is_empty())?;
    }
    check_func_order(p)?;
    let subprogs = cfg::find_subprogs(p, &p.insns, o.opts.bpf_capable, o.prog_btf)?;
    check_func_info(p, &subprogs, o.prog_btf)?;
    check_level(p, o.opts.level)?;
    let maps = resolve_maps(p, env, o)?;
    kfunc_calls::check_variables(p, env)?;
    let own = effective(p, o);
    let cfg = cfg::build(&own, &maps.tables, o.opts.bpf_capable, env.btf(), o.prog_btf)?;
    let attach = attach::resolve(p, env, o, target::main_facts(&cfg))?;
    let mut opts = o.opts;
    opts.strict_alignment |= p.flags & BPF_F_STRICT_ALIGNMENT != 0;
    opts.test_state_freq |= p.flags & BPF_F_TEST_STATE_FREQ != 0;
    let explored = explore::explore(&explore::Input {
        program: &own,
        insns: &p.insns,
        cfg: &cfg,
        maps: &maps.maps,
        insn_map: &maps.of_insn,
        tables: &maps.tables,
        prog_btf: o.prog_btf,
        env,
        attach,
        extension: p.prog_type == ProgType::Ext,
        opts,
        endian: o.endian,
    })?;
    let analysed = Analysed { maps, cfg, opts, explored };
    check_func_addresses(p, &analysed)?;
    Ok(analysed)
}

/// An extension is judged as a program of the kind of its target.
fn effective<'p>(p: &'p Program, o: &Options<'_>) -> Cow<'p, Program> {
    match o.target {
        Some(t) if p.prog_type == ProgType::Ext => Cow::Owned(Program {
            prog_type: t.prog_type(),
            attach_type: t.program.attach_type,
            section: t.program.section.clone(),
            attach_to: t.program.attach_to.clone(),
            ..p.clone()
        }),
        _ => Cow::Borrowed(p),
    }
}

fn run(
    p: Program,
    env: &dyn KernelEnv,
    o: &Options<'_>,
) -> Result<(Verified, String), Box<Rejection>> {
    let Analysed { maps, cfg, opts, explored } = analyse(&p, env, o)?;
    let rewritten = rewrite::rewrite(&rewrite::Input {
        program: &effective(&p, o),
        cfg: &cfg,
        maps: &maps.maps,
        insn_map: &maps.of_insn,
        tables: &maps.tables,
        explored: &explored,
        env,
        endian: o.endian,
        bpf_capable: opts.bpf_capable,
        bypass_spec_v1: opts.allow_ptr_leaks,
    });
    let rewritten = rewritten.map_err(|mut r| {
        r.stats = explored.stats;
        r.log.clone_from(&explored.log);
        r
    })?;
    let verified = Verified::new(Parts {
        program: p,
        insns: rewritten.insns,
        facts: rewritten.facts,
        subprogs: rewritten.subprogs,
        stats: explored.stats,
        funcs: target::facts(&cfg, &explored),
        jump_tables: rewritten.jump_tables,
        arena: rewritten.arena,
        throws: rewritten.throws,
        layout: env.layout(),
        env_identity: env.identity(),
    });
    Ok((verified, explored.log))
}

/// `license_is_gpl_compatible`.
#[must_use]
pub fn is_gpl_compatible(license: &str) -> bool {
    const GPL: &[&str] = &[
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    ];
    GPL.contains(&license)
}

/// What `bpf_prog_load` and `check_attach_btf_id` refuse before looking at an instruction.
fn check_attributes(p: &Program, o: &Options<'_>) -> Result<(), Box<Rejection>> {
    let opts = &o.opts;
    let refuse = |errno, text: &str| Err(Box::new(Rejection::refuse(errno, text)));
    if p.flags & !since::prog_flags(opts.level) != 0 || !since::has_prog(p, opts.level) {
        return refuse(EINVAL, "");
    }
    if !may_load(p.prog_type, opts) {
        return refuse(EPERM, "");
    }
    let max = INSNS_MAX[usize::from(!opts.bpf_capable)];
    if p.insns.is_empty() || p.insns.len() > max {
        return Err(Box::new(Rejection::limit(E2BIG, "")));
    }
    if !attach_type_fits(p) {
        return refuse(EINVAL, "");
    }
    if p.prog_type == ProgType::StructOps && !is_gpl_compatible(&p.license) {
        return refuse(EINVAL, "struct ops programs must have a GPL compatible license");
    }
    if p.prog_type == ProgType::StructOps && p.attach_to.is_none() {
        return refuse(ENOTSUPP, "");
    }
    let sleepable = p.flags & BPF_F_SLEEPABLE != 0;
    if p.prog_type == ProgType::Syscall {
        return match sleepable {
            true => Ok(()),
            false => refuse(EINVAL, "Syscall programs can only be sleepable"),
        };
    }
    if sleepable && !can_be_sleepable(p) {
        let text = "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops programs can be \
                    sleepable";
        return refuse(EINVAL, text);
    }
    let traced = matches!(p.prog_type, ProgType::Tracing | ProgType::Lsm | ProgType::Ext);
    if traced && p.attach_to.is_none() && o.target.is_none() {
        return refuse(EINVAL, "Tracing programs must provide btf_id");
    }
    Ok(())
}

/// Instructions that the version of the kernel does not know.
fn check_level(p: &Program, level: Level) -> Result<(), Box<Rejection>> {
    let newer = |i: &Insn| tables::insn_since(i) > level;
    match p.insns.iter().position(newer) {
        None => Ok(()),
        Some(at) => {
            let text = tables::unknown_insn(&p.insns[at]);
            Err(Box::new(Rejection::invalid(text).at(cfg::slot(at))))
        }
    }
}

/// The capabilities `bpf_prog_load` asks for by program type.
fn may_load(ty: ProgType, opts: &Opts) -> bool {
    let unprivileged = matches!(ty, ProgType::SocketFilter | ProgType::CgroupSkb);
    (unprivileged || opts.bpf_capable)
        && (!NET_ADMIN_TYPES.contains(&ty) || opts.net_admin)
        && (!PERFMON_TYPES.contains(&ty) || opts.allow_ptr_leaks)
}

/// `can_be_sleepable`.
fn can_be_sleepable(p: &Program) -> bool {
    use AttachType as A;
    match p.prog_type {
        ProgType::Tracing => matches!(
            p.attach_type,
            Some(A::TraceFentry | A::TraceFexit | A::ModifyReturn | A::TraceIter)
        ),
        ProgType::Lsm | ProgType::Kprobe | ProgType::StructOps => true,
        _ => false,
    }
}

/// `bpf_prog_load_check_attach`, after `bpf_prog_load_fixup_attach_type`: types of program whose
/// `expected_attach_type` matters.
fn attach_type_fits(p: &Program) -> bool {
    use AttachType as A;
    let raw = p.attach_type.map_or(0, |a| a as u32);
    match p.prog_type {
        ProgType::CgroupSkb => raw <= A::CgroupInetEgress as u32,
        ProgType::CgroupSock => matches!(raw, 0 | 2 | 12 | 13 | 34),
        ProgType::CgroupSockAddr => matches!(raw, 8..=11 | 14 | 15 | 19 | 20 | 29..=32 | 49..=53),
        ProgType::CgroupSockopt => matches!(raw, 21 | 22),
        ProgType::SkLookup => raw == A::SkLookup as u32,
        ProgType::SkReuseport => matches!(raw, 0 | 39 | 40),
        ProgType::Netfilter => raw == A::Netfilter as u32,
        ProgType::Syscall | ProgType::Ext => raw == 0,
        ProgType::Unspec | ProgType::LircMode2 => false,
        _ => true,
    }
}

/// `check_btf_func_early`: records are in order.
fn check_func_order(p: &Program) -> Result<(), Box<Rejection>> {
    let Some(first) = p.funcs.first() else { return Ok(()) };
    if first.start.0 != 0 {
        let text = format!("nonzero insn_off {} for the first func info record", first.start.0);
        return Err(Box::new(Rejection::invalid(text)));
    }
    let unordered = p.funcs.windows(2).find(|w| w[1].start <= w[0].start);
    if let Some(w) = unordered {
        let text = format!(
            "same or smaller insn offset ({}) than previous func info record ({})",
            w[1].start.0, w[0].start.0
        );
        return Err(Box::new(Rejection::invalid(text)));
    }
    Ok(())
}

/// `check_btf_func`: every subprogram has one record, and its type says whether it may end early.
fn check_func_info(
    p: &Program,
    subprogs: &[cfg::Subprog],
    own: Option<&Btf>,
) -> Result<(), Box<Rejection>> {
    let refuse = |text: &str| Err(Box::new(Rejection::invalid(text)));
    let typed = p.funcs.iter().all(|f| f.type_id != 0) && !p.funcs.is_empty();
    if !typed && !p.funcs.is_empty() {
        // The assembler's records: names without types.
        return Ok(());
    }
    if typed && p.funcs.len() != subprogs.len() {
        return refuse("number of funcs in func_info doesn't match number of subprogs");
    }
    if typed && p.funcs.iter().zip(subprogs).any(|(f, s)| f.start != s.start) {
        return refuse("func_info BTF section doesn't match subprog layout in BPF program");
    }
    for s in &subprogs[1..] {
        let scalar = own.filter(|_| typed).map(|btf| returns_scalar(btf, s.type_id));
        let how = match scalar {
            Some(true) => continue,
            Some(false) => "only allowed in functions that return 'int'.",
            None => "not allowed in subprogs without BTF",
        };
        if s.has_ld_abs {
            return refuse(&format!("LD_ABS is {how}"));
        }
        if s.has_tail_call {
            return refuse(&format!("tail_call is {how}"));
        }
    }
    Ok(())
}

/// `btf_type_is_small_int` or an enumeration.
fn returns_scalar(btf: &Btf, func: u32) -> bool {
    use bpf::btf::Body;
    let Body::Func { proto, .. } = btf.body(func) else { return false };
    let Body::FuncProto { ret, .. } = btf.body(*proto) else { return false };
    match btf.body(btf.resolve(*ret)) {
        Body::Int { size, .. } => *size <= 8,
        Body::Enum { .. } | Body::Enum64 { .. } => true,
        _ => false,
    }
}

/// What `jit_subprogs` finds when dead code is gone: a callback that nothing calls is gone, too,
/// and its address is where another subprogram has moved to, or of nothing.
fn check_func_addresses(p: &Program, a: &Analysed) -> Result<(), Box<Rejection>> {
    let lives = live_slots(p, a);
    let subs = a.cfg.subprogs.iter().map(|s| s.start.idx());
    let starts: Vec<usize> = subs.filter(|s| lives[*s]).collect();
    if !a.opts.bpf_capable || starts.len() < 2 {
        return Ok(());
    }
    let left = |to: usize| lives[..to].iter().filter(|l| **l).count();
    for (at, insn) in p.insns.iter().enumerate().filter(|(at, _)| lives[*at]) {
        let Insn::LdImm64 { imm: Imm64::Func(off), .. } = *insn else { continue };
        let to = (at as i64 + 1 + i64::from(off)) as usize;
        if lives.get(to) != Some(&false) {
            continue;
        }
        // Dead code goes a run at a time. The one that the target is in leaves its number as it
        // is, which then is that of a slot as many further on; what goes later moves that.
        let first = lives[..to].iter().rposition(|l| *l).map_or(0, |i| i + 1);
        let end = lives[to..].iter().position(|l| *l).map_or(lives.len(), |i| to + i);
        let now = to + (end - first);
        let target = left(now.min(lives.len())) + now.saturating_sub(lives.len());
        if !starts.iter().any(|s| left(*s) == target) {
            let at_last = target - nops(p, &lives, target);
            let text = format!("verifier bug: No program to jit at insn {at_last} (subprog < 0)");
            let mut r = Rejection::refuse(EFAULT, text);
            r.stats = a.explored.stats;
            return Err(Box::new(r.at(cfg::slot(at))));
        }
    }
    Ok(())
}

/// Jumps among the first `n` slots that are left which lead to the next one: `opt_remove_nops`.
fn nops(p: &Program, lives: &[bool], n: usize) -> usize {
    let next = |from: usize| (from..lives.len()).find(|i| lives[*i]);
    let is_nop = |at: usize| {
        let to = p.insns[at].jump_off().and_then(|off| usize::try_from(cfg::target(at, off)).ok());
        let falls = lives.get(at + 1) == Some(&true);
        match (&p.insns[at], to) {
            (Insn::Jmp { .. }, Some(to)) if falls => !lives[to],
            (Insn::Jmp { .. } | Insn::Ja { .. }, Some(to)) => next(at + 1) == Some(to),
            _ => false,
        }
    };
    (0..lives.len()).filter(|at| lives[*at]).take(n).filter(|at| is_nop(*at)).count()
}

/// Slots that some path reaches; both of a 16-byte load.
fn live_slots(p: &Program, a: &Analysed) -> Vec<bool> {
    let mut lives: Vec<bool> = a.explored.aux.iter().map(|x| x.seen).collect();
    for at in 1..lives.len() {
        lives[at] |= p.insns[at] == Insn::LdImm64Hi && lives[at - 1];
    }
    lives
}

/// Distinct maps, and which one each `ld_imm64` names.
#[derive(Debug)]
struct UsedMaps {
    maps: Vec<MapInfo>,
    /// Per map: the instructions of an `insn_array`.
    tables: Vec<Vec<u32>>,
    of_insn: Vec<Option<u32>>,
}

/// `resolve_pseudo_ldimm64`.
fn resolve_maps(
    p: &Program,
    env: &dyn KernelEnv,
    o: &Options<'_>,
) -> Result<UsedMaps, Box<Rejection>> {
    let (insns, fd_array) = (&p.insns, o.fd_array);
    let mut used =
        UsedMaps { maps: Vec::new(), tables: Vec::new(), of_insn: vec![None; insns.len()] };
    for (at, insn) in insns.iter().enumerate() {
        let Insn::LdImm64 { imm, .. } = *insn else { continue };
        let (fd, off) = match imm {
            Imm64::MapFd(fd) => (fd, None),
            Imm64::MapValue { fd, off } => (fd, Some(off)),
            Imm64::MapIdx(idx) => (fd_of(fd_array, idx)?, None),
            Imm64::MapIdxValue { idx, off } => (fd_of(fd_array, idx)?, Some(off)),
            Imm64::Const(_) | Imm64::BtfId { .. } | Imm64::Func(_) => continue,
        };
        let Some(map) = env.map_by_fd(fd) else {
            let text = format!("fd {fd} is not pointing to valid bpf_map");
            return Err(Box::new(Rejection::refuse(EBADF, text).at(cfg::slot(at))));
        };
        if let Some(off) = off {
            check_direct_value(&map, off).map_err(|r| Box::new((*r).at(cfg::slot(at))))?;
        }
        if !since::has_map_type(map.map_type, o.opts.level) {
            let (level, name) = (o.opts.level, map.map_type.name());
            let text = format!("{level} has no maps of type {name}");
            return Err(Box::new(Rejection::invalid(text).at(cfg::slot(at))));
        }
        let known = used.maps.iter().position(|m| m.id == map.id);
        if known.is_none() {
            let record = record::of_map(&map, o.prog_btf, env.btf());
            let fits = map_rules::compatible(p, &map, &record);
            let mapped = env.arena_is_mapped(&map);
            let fits = fits.and_then(|()| map_rules::together(&used.maps, &map, &o.opts, mapped));
            let table = fits.and_then(|()| map_rules::jump_table(p, &map, o.endian));
            used.tables.push(table.map_err(|r| Box::new((*r).at(cfg::slot(at))))?);
        }
        if known.is_none() && used.maps.len() == MAX_USED_MAPS {
            let text = format!(
                "The total number of maps per program has reached the limit of {MAX_USED_MAPS}"
            );
            return Err(Box::new(Rejection::limit(E2BIG, text)));
        }
        let n = known.unwrap_or_else(|| {
            used.maps.push(map);
            used.maps.len() - 1
        });
        used.of_insn[at] = u32::try_from(n).ok();
    }
    Ok(used)
}

fn fd_of(fd_array: &[i32], idx: i32) -> Result<i32, Box<Rejection>> {
    if fd_array.is_empty() {
        let text = "fd_idx without fd_array is invalid";
        return Err(Box::new(Rejection::refuse(EPROTO, text)));
    }
    let fd = usize::try_from(idx).ok().and_then(|i| fd_array.get(i));
    fd.copied().ok_or_else(|| Box::new(Rejection::refuse(EFAULT, "")))
}

/// `map_direct_value_addr` of the map type.
fn check_direct_value(map: &MapInfo, off: u32) -> Result<(), Box<Rejection>> {
    if off >= BPF_MAX_VAR_OFF {
        let text = format!("direct value offset of {off} is not allowed");
        return Err(Box::new(Rejection::invalid(text)));
    }
    use bpf::uapi::MapType as M;
    let direct = matches!(map.map_type, M::Array | M::Arena | M::InsnArray);
    if !direct {
        let text = "no direct value access support for this map type";
        return Err(Box::new(Rejection::invalid(text)));
    }
    let text = |v| format!("invalid access to map value pointer, value_size={v} off={off}");
    if map.map_type == M::Arena {
        let bytes = u64::from(map.max_entries) * ARENA_PAGE;
        return match u64::from(off) > bytes {
            true => Err(Box::new(Rejection::refuse(ERANGE, text(map.value_size)))),
            false => Ok(()),
        };
    }
    if map.map_type == M::InsnArray {
        return match !off.is_multiple_of(8) || off / 8 >= map.max_entries {
            true => Err(Box::new(Rejection::invalid(text(map.value_size)))),
            false => Ok(()),
        };
    }
    if map.value_addr.is_none() {
        return Err(Box::new(Rejection::refuse(ENOTSUPP, text(map.value_size))));
    }
    if map.map_type == M::Array && off >= map.value_size {
        return Err(Box::new(Rejection::invalid(text(map.value_size))));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
