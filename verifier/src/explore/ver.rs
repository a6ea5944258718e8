//! One verification: the current path, the paths still to walk and the states kept for pruning.

use std::collections::{BTreeMap, BTreeSet};

use bpf::insn::{Insn, InsnIdx, Reg};

use super::beyond::{Beyond, Past};
use super::fastcall::Frame;
use super::live::{About, Liveness};
use super::scc::Visits;
use super::trace::Recorder;
use super::{Explored, Input, InsnAux, PtrClass};
use crate::btf::record::{self, Record};
use crate::check::func_args::FuncArg;
use crate::domain::reg::{RegState, RegType};
use crate::domain::stack::StackSlot;
use crate::domain::state::{FuncState, Hist, HistFlags, LinkedRegs, Shared, VState};
use crate::env::MapInfo;
use crate::marks::hit;
use crate::proto::Flags;
use crate::reject::{EACCES, ENOMEM, Rejection};
use crate::render::log::{Log, Names};
use crate::verified::Stats;

/// Result of everything that may refuse.
pub(crate) type R<T = ()> = Result<T, Box<Rejection>>;

/// Refuses with errno and message.
pub(crate) fn no<T>(errno: i32, message: impl Into<String>) -> R<T> {
    Err(Box::new(Rejection::refuse(errno, message)))
}

/// Refuses with a message that the kernel prints without a new line.
pub(crate) fn no_line<T>(errno: i32, v: &mut Ver<'_>, message: impl Into<String>) -> R<T> {
    let r = Rejection::refuse(errno, message);
    v.log.put(&r.message);
    v.log.refusal_said = true;
    Err(Box::new(r))
}

/// Not modelled.
pub(crate) fn unsupported<T>(what: impl Into<String>, kernel_ref: &'static str) -> R<T> {
    Err(Box::new(Rejection::unsupported(what, kernel_ref)))
}

/// A path to be walked later: `struct bpf_verifier_stack_elem`.
pub(crate) struct Pending {
    pub(crate) state: VState,
    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: u32,
    pub(crate) log_pos: usize,
}

/// The end of a list of kept states.
pub(crate) const NONE: u32 = u32::MAX;

/// A kept state: `struct bpf_verifier_state_list`.
pub(crate) struct Kept {
    pub(crate) state: VState,
    pub(crate) branches: u32,
    pub(crate) miss_cnt: u32,
    pub(crate) hit_cnt: u32,
    pub(crate) cleaned: bool,
    /// `in_free_list`: no longer compared with.
    pub(crate) evicted: bool,
    /// The next older state of the bucket.
    pub(crate) next: u32,
    /// Bytes it was charged for.
    pub(crate) bytes: u64,
    /// Beyond the kernel's limits: how it came about, and what walking from it took.
    pub(crate) past: Option<Box<Past>>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            state: VState::nothing(),
            branches: 0,
            miss_cnt: 0,
            hit_cnt: 0,
            cleaned: false,
            evicted: false,
            next: NONE,
            bytes: 0,
            past: None,
        }
    }
}

/// What a pending path is counted as when its number has no limit.
const PENDING_BYTES: u64 = 4096;
/// `BPF_COMPLEXITY_LIMIT_JMP_SEQ`.
const JMP_SEQ_MAX: usize = 8192;

/// The verification.
pub(crate) struct Ver<'a> {
    pub(crate) input: Input<'a>,
    /// `Input::maps` and behind them the templates of inner maps.
    pub(crate) maps: Vec<MapInfo>,
    /// Special fields of the values of `maps`.
    pub(crate) map_records: Vec<Record>,
    /// `struct_meta_tab`: structures of the program with special fields.
    pub(crate) obj_records: BTreeMap<u32, Record>,
    /// References that arguments of a struct_ops member came with: argument and id.
    pub(crate) ctx_refs: Vec<(usize, u32)>,
    /// Arguments of subprograms as their BTF says, once they were asked for.
    pub(crate) func_args: Vec<Option<Vec<FuncArg>>>,
    /// Indirect calls: instruction and function.
    pub(crate) indirect_calls: BTreeSet<(u32, usize)>,
    /// Per subprogram: arguments on the stack that it stores, and that its callees take.
    pub(crate) args_written: Vec<usize>,
    /// See `args_written`.
    pub(crate) args_needed: Vec<usize>,
    /// Subprograms whose BTF does not fit how they are called (`unreliable`).
    pub(crate) unreliable: Vec<bool>,
    pub(crate) cur: VState,
    pub(crate) pending: Vec<Pending>,
    pub(crate) kept: Vec<Kept>,
    /// The newest kept state by instruction and call site.
    pub(crate) explored: Vec<u32>,
    pub(crate) insn_idx: u32,
    pub(crate) prev_insn_idx: u32,
    pub(crate) id_gen: u32,
    pub(crate) aux: Vec<InsnAux>,
    pub(crate) log: Log,
    pub(crate) stats: Stats,
    pub(crate) jmps_processed: u32,
    pub(crate) prev_jmps: u32,
    pub(crate) prev_insns: u32,
    /// `explored_states_size`.
    pub(crate) live_states: u32,
    /// `free_list_size`: evicted, and still referred to.
    pub(crate) freed_states: u32,
    pub(crate) visits: Visits,
    pub(super) recorder: Option<Recorder>,
    /// What 6.18 calls a bug of its verifier came up.
    pub(super) bug: Option<String>,
    pub(crate) liveness: Liveness,
    /// Bytes of the kept states.
    pub(crate) state_bytes: u64,
    /// The history entry of the current instruction.
    pub(crate) cur_hist: Option<usize>,
    /// As the limits count it.
    pub(crate) stack_depth: Vec<u32>,
    /// Spills and fills around calls by subprogram.
    pub(crate) fastcall: Vec<Frame>,
    pub(crate) is_callback: Vec<bool>,
    pub(crate) is_async: Vec<bool>,
    /// Global subprograms that are called.
    pub(crate) called_globals: Vec<bool>,
    /// The main program or the global subprogram being verified.
    pub(crate) root: usize,
    /// `explore_alu_limits`: scalars have to match exactly.
    pub(crate) explore_alu_limits: bool,
    /// `strict_alignment_once`: the next access is atomic.
    pub(crate) strict_once: bool,
    /// Big-endian target: narrow fills of spills read other bytes.
    pub(crate) big_endian: bool,
    /// What goes on beyond the kernel's limits.
    pub(super) beyond: Option<Box<Beyond>>,
}

impl<'a> Ver<'a> {
    pub(crate) fn new(input: &Input<'a>) -> Ver<'a> {
        let n = input.insns.len();
        let subs = input.cfg.subprogs.len();
        let mut maps = input.maps.to_vec();
        // KERNEL v6.18 map_in_map.c:bpf_map_meta_alloc keeps no name.
        let inner = input.maps.iter().filter_map(|m| m.inner.as_deref().cloned());
        maps.extend(inner.map(|m| MapInfo { name: String::new(), ..m }));
        let (own, kernel) = (input.prog_btf, input.env.btf());
        Ver {
            input: *input,
            map_records: maps.iter().map(|m| record::of_map(m, own, kernel)).collect(),
            ctx_refs: Vec::new(),
            func_args: vec![None; subs],
            indirect_calls: BTreeSet::new(),
            args_written: vec![0; subs],
            args_needed: vec![0; subs],
            unreliable: vec![false; subs],
            obj_records: own.map(|b| record::struct_metas(b, kernel)).unwrap_or_default(),
            maps,
            cur: blank_state(),
            pending: Vec::new(),
            kept: Vec::new(),
            explored: vec![NONE; n],
            insn_idx: 0,
            prev_insn_idx: 0,
            id_gen: 0,
            aux: vec![InsnAux::default(); n],
            log: Log::new(input.opts.log_level),
            stats: Stats::default(),
            jmps_processed: 0,
            prev_jmps: 0,
            prev_insns: 0,
            live_states: 0,
            freed_states: 0,
            visits: Visits::default(),
            recorder: Recorder::new(input.opts.record),
            bug: None,
            liveness: Liveness::default(),
            state_bytes: 0,
            cur_hist: None,
            stack_depth: vec![0; subs],
            fastcall: vec![Frame::default(); subs],
            is_callback: vec![false; subs],
            is_async: vec![false; subs],
            called_globals: vec![false; subs],
            root: 0,
            explore_alu_limits: false,
            strict_once: false,
            big_endian: input.endian == bpf::Endian::Big,
            beyond: None,
        }
    }

    /// Index of the inner map's template of a map.
    pub(crate) fn inner_map(&self, map: u32) -> Option<u32> {
        let before = self.input.maps[..].iter().take(map as usize);
        self.input.maps.get(map as usize)?.inner.as_ref()?;
        let nth = before.filter(|m| m.inner.is_some()).count();
        Some((self.input.maps.len() + nth) as u32)
    }

    pub(crate) fn names(&self) -> Names<'_> {
        Names { maps: &self.maps, btf: self.input.env.btf(), prog_btf: self.input.prog_btf }
    }

    pub(crate) fn insn(&self, at: u32) -> &'a Insn {
        &self.input.insns[at as usize]
    }

    pub(crate) fn new_id(&mut self) -> u32 {
        self.id_gen += 1;
        self.id_gen
    }

    pub(crate) fn regs(&mut self) -> &mut [RegState; 11] {
        &mut self.cur.frame_mut().regs
    }

    pub(crate) fn r(&self, r: Reg) -> &RegState {
        &self.cur.frame().regs[r.idx()]
    }

    /// `bpf_capable`.
    pub(crate) fn capable(&self) -> bool {
        self.input.opts.bpf_capable
    }

    /// `allow_ptr_leaks` and `allow_uninit_stack`.
    pub(crate) fn leaks_ok(&self) -> bool {
        self.input.opts.allow_ptr_leaks
    }

    /// `is_pointer_value`.
    pub(crate) fn is_pointer_value(&self, r: Reg) -> bool {
        !self.leaks_ok() && self.r(r).is_pointer()
    }

    pub(crate) fn known(&self, v: u64) -> RegState {
        RegState { precise: !self.capable(), ..RegState::known(v) }
    }

    pub(crate) fn unknown(&self) -> RegState {
        RegState { precise: !self.capable(), ..RegState::unknown() }
    }

    /// `check_reg_arg(SRC_OP)`.
    pub(crate) fn read(&mut self, r: Reg) -> R<RegState> {
        self.log.scratched_regs |= 1 << r.0;
        let v = *self.r(r);
        if v.ty == RegType::NotInit {
            return no(EACCES, format!("R{} !read_ok", r.0));
        }
        Ok(v)
    }

    /// `check_reg_arg(DST_OP)` up to marking: the frame pointer is read-only.
    pub(crate) fn writable(&mut self, r: Reg) -> R {
        self.log.scratched_regs |= 1 << r.0;
        if r == Reg::FP {
            return no(EACCES, "frame pointer is read only");
        }
        Ok(())
    }

    /// Writes a register.
    pub(crate) fn set(&mut self, r: Reg, v: RegState) {
        self.log.scratched_regs |= 1 << r.0;
        self.regs()[r.idx()] = v;
    }

    /// `push_jmp_history`: joins the entry of the same instruction.
    pub(crate) fn push_hist(&mut self, flags: HistFlags, linked: LinkedRegs) {
        if let Some(h) = self.cur_hist.and_then(|i| self.cur.hist.get_mut(i)) {
            h.flags.stack = h.flags.stack.or(flags.stack);
            h.flags.dst_stack |= flags.dst_stack;
            h.flags.src_stack |= flags.src_stack;
            h.linked = linked;
            return;
        }
        let (idx, prev_idx) = (self.insn_idx, self.prev_insn_idx);
        self.cur.hist.push(Hist { idx, prev_idx, flags, linked });
        self.cur_hist = Some(self.cur.hist.len() - 1);
    }

    /// `bpf_mark_stack_read`: the current instruction may read these slots of a frame.
    pub(crate) fn mark_stack_read(&mut self, frame: u32, mask: u64) {
        let (at, cfg) = (self.insn_idx, self.input.cfg);
        self.liveness.read(&self.cur, frame as usize, at, mask, cfg);
    }

    /// `bpf_mark_stack_write`: the current instruction writes all of these slots of a frame.
    pub(crate) fn mark_stack_write(&mut self, frame: u32, mask: u64) {
        self.liveness.write(frame as usize, mask);
    }

    /// `bpf_update_live_stack`.
    pub(crate) fn update_live_stack(&mut self) {
        let about = About { cfg: self.input.cfg, verbose: self.log.level2() };
        self.liveness.update(&self.cur, &about, &mut self.log.text);
    }

    /// Counts what a kept state needs beyond what it shares with the one before it.
    pub(crate) fn charge_state(&mut self, state: &VState) -> u64 {
        let before = state.parent.map(|p| &self.kept[p as usize].state.frames);
        let mut bytes = size_of::<Kept>() + state.hist.len() * size_of::<Hist>();
        for (i, f) in state.frames.iter().enumerate() {
            let other = before.and_then(|b| b.get(i));
            if other.is_some_and(|o| Shared::same(o, f)) {
                continue;
            }
            bytes += size_of::<FuncState>();
            if !other.is_some_and(|o| Shared::same(&o.stack, &f.stack)) {
                bytes += f.stack.len() * size_of::<StackSlot>();
            }
        }
        self.state_bytes += bytes as u64;
        bytes as u64
    }

    /// State memory has a limit, and reaching it is a verdict.
    pub(crate) fn within_memory(&self) -> R {
        let mut bytes = self.state_bytes + self.liveness.bytes;
        if self.beyond.is_some() {
            bytes += self.pending.len() as u64 * PENDING_BYTES;
        }
        let max = self.input.opts.state_memory_max;
        if bytes <= max {
            return Ok(());
        }
        hit!("limit: state memory");
        let m =
            format!("state memory limit of {max} bytes reached with {} states", self.live_states);
        Err(Box::new(Rejection::limit(ENOMEM, m)))
    }

    /// `push_stack`: a copy of the current state to be walked later.
    pub(crate) fn push_stack(&mut self, insn_idx: u32, prev: u32) -> R<&mut VState> {
        let mut state = self.cur.clone();
        state.insn_idx = insn_idx;
        if let Some(p) = state.parent {
            self.kept[p as usize].branches += 1;
        }
        let log_pos = self.log.text.len();
        self.pending.push(Pending { state, insn_idx, prev_insn_idx: prev, log_pos });
        if self.pending.len() > JMP_SEQ_MAX && self.beyond.is_none() {
            hit!("limit: pending jumps");
            let m = format!("The sequence of {} jumps is too complex.", self.pending.len());
            return Err(Box::new(Rejection::limit(crate::reject::E2BIG, m)));
        }
        Ok(&mut self.pending.last_mut().expect("just pushed").state)
    }

    /// `save_aux_ptr_type`: one instruction may not need different rewrites on two paths. A load
    /// that is trusted on one path and not on another is a probe (`trust_may_differ`).
    pub(crate) fn note_ptr(&mut self, p: &RegState, trust_may_differ: bool) -> R {
        let now = (p.ty, p.flags);
        let seen = self.aux[self.insn_idx as usize].ptr_type;
        let merged = match seen {
            None => now,
            Some(old) if old == now || (mismatch_ok(old.0) && mismatch_ok(now.0)) => old,
            Some(old) if trust_may_differ && mem_or_btf(old.0) && mem_or_btf(now.0) => {
                let mem = old.0 == RegType::Mem || now.0 == RegType::Mem;
                let kept = Flags::PTR_UNTRUSTED.or(Flags::MEM_RDONLY).0;
                let flags = Flags((old.1.0 | now.1.0) & kept);
                (if mem { RegType::Mem } else { RegType::BtfId }, flags)
            }
            Some(_) => {
                let m = "same insn cannot be used with different pointers";
                return no(crate::reject::EINVAL, m);
            }
        };
        let class = self.class_of(merged);
        let aux = &mut self.aux[self.insn_idx as usize];
        (aux.ptr_type, aux.ptr) = (Some(merged), class);
        Ok(())
    }

    /// What the rewriter makes of an access (`convert_ctx_accesses`).
    fn class_of(&self, (ty, flags): (RegType, Flags)) -> PtrClass {
        use RegType as T;
        let rdonly = Flags::MEM_RDONLY.or(Flags::PTR_UNTRUSTED);
        match ty {
            // A trampoline's arguments are read as they are.
            T::Ctx if self.is_trampoline() => PtrClass::Plain,
            T::Ctx => PtrClass::Ctx,
            T::SockCommon => PtrClass::SockCommon,
            T::Socket => PtrClass::Socket,
            T::TcpSock => PtrClass::TcpSock,
            T::XdpSock => PtrClass::XdpSock,
            T::Arena => PtrClass::Arena,
            T::BtfId if flags == Flags::NONE || flags.has(Flags::PTR_UNTRUSTED) => PtrClass::Probe,
            T::Mem if flags == rdonly => PtrClass::Probe,
            _ => PtrClass::Plain,
        }
    }

    pub(crate) fn finish(mut self) -> Explored {
        for a in &mut self.aux {
            a.div_may_be_zero = true;
        }
        let roots = (self.called_globals.iter().zip(&self.input.cfg.subprogs))
            .filter_map(|(called, s)| called.then_some(s.start.0))
            .collect();
        let (liveness, maps) = (&mut self.liveness, self.maps);
        let trace = self.recorder.and_then(|r| r.finish(liveness, self.input.cfg, maps, roots));
        let mut stats = self.stats;
        stats.stack_depth = self.stack_depth.iter().copied().max().unwrap_or(0);
        Explored {
            aux: self.aux,
            stack_depth: self.stack_depth,
            is_callback: self.is_callback,
            unreliable: self.unreliable,
            stats,
            log: self.log.text,
            beyond: None,
            trace,
        }
    }

    /// Adds position, log and statistics to a refusal.
    pub(crate) fn refused(mut self, mut e: Box<Rejection>) -> Box<Rejection> {
        e.insn.get_or_insert(InsnIdx(self.insn_idx));
        let line = format!("{}\n", e.message);
        if !e.is_unsupported() && !self.log.refusal_said {
            self.log.say(&line);
        }
        self.log_stats();
        e.log = self.log.text;
        e.stats = self.stats;
        e
    }
}

/// A state with one empty frame.
pub(crate) fn blank_state() -> VState {
    VState {
        frames: vec![Shared::new(FuncState::new(u32::MAX, 0, 0))],
        // KERNEL v6.18 verifier.c:do_check_common starts with no instruction before.
        last_insn_idx: u32::MAX,
        ..VState::nothing()
    }
}

/// `reg_type_mismatch_ok`: accesses that are not rewritten.
fn mismatch_ok(ty: RegType) -> bool {
    use RegType as T;
    !matches!(
        ty,
        T::Ctx | T::Socket | T::SockCommon | T::TcpSock | T::XdpSock | T::BtfId | T::Arena
    )
}

/// `is_ptr_to_mem_or_btf_id`.
fn mem_or_btf(ty: RegType) -> bool {
    matches!(ty, RegType::Mem | RegType::BtfId)
}
