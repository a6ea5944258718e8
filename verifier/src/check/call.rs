//! Helper calls: `check_helper_call`, what a call may do where, and what it returns.

use bpf::insn::Reg;
use bpf::uapi::MapType;

use super::args::Meta;
use super::callback;
use crate::domain::reg::{DynptrType, RegState, RegType};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no, no_line, unsupported};
use crate::explore::{KeyState, MapState};
use crate::proto::{ArgBase, Flags, FuncProto, RetBase};
use crate::reject::{EINVAL, ENOTSUPP};
use crate::tables::{self, Availability};

/// Helper ids with rules of their own.
mod id {
    pub(super) const MAP_UPDATE_ELEM: i32 = 2;
    pub(super) const MAP_DELETE_ELEM: i32 = 3;
    pub(super) use crate::rewrite::{GET_SMP_PROCESSOR_ID, MAP_LOOKUP_ELEM, TAIL_CALL};
    pub(super) const SNPRINTF: i32 = 165;
    pub(super) const DYNPTR_DATA: i32 = 203;
    pub(super) const GET_STACK: i32 = 67;
    pub(super) const GET_TASK_STACK: i32 = 141;
    pub(super) const PROBE_READ_STR: [i32; 3] = [45, 114, 115];
    /// `is_acquire_function`: socket lookups, ring buffer reservations, kernel pointers.
    pub(super) const ACQUIRE: [i32; 5] = [84, 85, 99, 131, 194];
    /// `is_ptr_cast_function`: the result dies with the argument.
    pub(super) const CAST: [i32; 7] = [95, 96, 137, 138, 139, 140, 207];
}

/// `check_map_func_compatibility`, from the map's side: types and the helpers they are for.
#[rustfmt::skip]
const MAP_FUNCS: &[(MapType, &[i32])] = &[
    (MapType::ProgArray, &[12]),
    (MapType::PerfEventArray, &[22, 25, 111, 55, 121]),
    (MapType::Ringbuf, &[130, 131, 132, 133, 134, 198, 199, 200]),
    (MapType::UserRingbuf, &[209]),
    (MapType::StackTrace, &[27]),
    (MapType::CgroupArray, &[33, 37]),
    (MapType::CgroupStorage, &[81]),
    (MapType::PercpuCgroupStorage, &[81]),
    (MapType::Devmap, &[51, 1]),
    (MapType::DevmapHash, &[51, 1]),
    (MapType::Cpumap, &[51]),
    (MapType::Xskmap, &[51, 1]),
    (MapType::ArrayOfMaps, &[1]),
    (MapType::HashOfMaps, &[1]),
    (MapType::Sockmap, &[52, 53, 60, 82, 1]),
    (MapType::Sockhash, &[72, 70, 71, 82, 1]),
    (MapType::ReuseportSockarray, &[82]),
    (MapType::Queue, &[89, 88, 87]),
    (MapType::Stack, &[89, 88, 87]),
    (MapType::SkStorage, &[107, 108, 194]),
    (MapType::InodeStorage, &[145, 146, 194]),
    (MapType::TaskStorage, &[156, 157, 194]),
    (MapType::CgrpStorage, &[210, 211, 194]),
    (MapType::BloomFilter, &[89, 87]),
];

/// The same from the helper's side.
#[rustfmt::skip]
const FUNC_MAPS: &[(&[i32], &[MapType])] = &[
    (&[12], &[MapType::ProgArray]),
    (&[22, 25, 55, 111, 121], &[MapType::PerfEventArray]),
    (&[130, 131, 134, 198], &[MapType::Ringbuf]),
    (&[209], &[MapType::UserRingbuf]),
    (&[27], &[MapType::StackTrace]),
    (&[33, 37], &[MapType::CgroupArray]),
    (&[51], &[MapType::Devmap, MapType::DevmapHash, MapType::Cpumap, MapType::Xskmap]),
    (&[52, 53, 60], &[MapType::Sockmap]),
    (&[70, 71, 72], &[MapType::Sockhash]),
    (&[81], &[MapType::CgroupStorage, MapType::PercpuCgroupStorage]),
    (&[82], &[MapType::ReuseportSockarray, MapType::Sockmap, MapType::Sockhash]),
    (&[87], &[MapType::Queue, MapType::Stack, MapType::BloomFilter]),
    (&[89], &[MapType::Queue, MapType::Stack, MapType::BloomFilter]),
    (&[88], &[MapType::Queue, MapType::Stack]),
    (&[107, 108], &[MapType::SkStorage]),
    (&[145, 146], &[MapType::InodeStorage]),
    (&[156, 157], &[MapType::TaskStorage]),
    (&[210, 211], &[MapType::CgrpStorage]),
    (&[195], &[MapType::PercpuArray, MapType::PercpuHash, MapType::LruPercpuHash]),
];

/// Types of maps that a helper takes, when it takes no others; empty when it says nothing.
#[must_use]
pub fn map_types_of(helper: i32) -> &'static [MapType] {
    FUNC_MAPS.iter().find(|r| r.0.contains(&helper)).map_or(&[], |r| r.1)
}

/// Whether a helper takes maps of a type; sockmaps are also changed by programs that may.
#[must_use]
pub fn takes_map(helper: i32, ty: MapType) -> bool {
    let listed = MAP_FUNCS.iter().find(|r| r.0 == ty).is_none_or(|r| r.1.contains(&helper));
    let called_back = helper != callback::FOR_EACH_MAP_ELEM || callback::FOR_EACH.contains(&ty);
    let by_func = FUNC_MAPS.iter().find(|r| r.0.contains(&helper));
    listed && called_back && by_func.is_none_or(|r| r.1.contains(&ty))
}

impl Ver<'_> {
    /// Whether the program may call the helper at all.
    fn callable(&self, id: i32) -> R<&'static FuncProto> {
        let program = self.input.program;
        if id == 0 {
            return no(EINVAL, "program of this type cannot use helper bpf_unspec#0");
        }
        let known = id < tables::helper_max(self.input.opts.level);
        let Some(p) = tables::helper_for(id, program.prog_type).filter(|_| known) else {
            return no(EINVAL, format!("invalid func unknown#{id}"));
        };
        let opts = &self.input.opts;
        let available = match tables::helper_permitted(id, opts.bpf_capable, opts.allow_ptr_leaks) {
            true => tables::helper_available(program, id),
            false => Availability::No,
        };
        match available {
            Availability::Yes => {}
            Availability::NotInProbe => {
                return no(EINVAL, "helper call is not allowed in probe");
            }
            Availability::FuncIp => {
                let m = match program.prog_type as u32 {
                    26 => "supported only for fentry/fexit/fmod_ret programs".to_owned(),
                    t => format!("not supported for program type {t}"),
                };
                return no(ENOTSUPP, format!("func {}#{id} {m}", p.name));
            }
            Availability::No => {
                let m = format!("program of this type cannot use helper {}#{id}", p.name);
                return no(EINVAL, m);
            }
            Availability::Sleepable if self.cur.in_sleepable => {}
            Availability::Sleepable => {
                return no(EINVAL, "helper call might sleep in a non-sleepable prog");
            }
            Availability::Unknown => {
                let what = format!("helpers of {}", program.prog_type.name());
                return unsupported(what, "verifier.c:get_helper_proto");
            }
        }
        let gpl = ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL"];
        let compatible =
            gpl.contains(&program.license.as_str()) || program.license == "Dual MPL/GPL";
        if p.gpl_only && !compatible {
            let m = "cannot call GPL-restricted function from non-GPL compatible program";
            return no(EINVAL, m);
        }
        self.may_sleep_here(p)?;
        Ok(p)
    }

    /// Helpers that sleep, in critical sections.
    fn may_sleep_here(&self, p: &FuncProto) -> R {
        if !p.might_sleep {
            return Ok(());
        }
        let held = &self.cur.held;
        let place = if !self.cur.in_sleepable {
            return no(EINVAL, "helper call might sleep in a non-sleepable prog");
        } else if held.rcu {
            "rcu_read_lock"
        } else if held.preempt != 0 {
            "non-preemptible"
        } else if held.active_irq() != 0 {
            "IRQ-disabled"
        } else {
            return Ok(());
        };
        no(EINVAL, format!("sleepable helper {}#{} in {place} region", p.name, p.id))
    }

    /// KERNEL v6.18 verifier.c:check_helper_call
    pub(crate) fn check_helper_call(&mut self, id: i32) -> R<Next> {
        let p = self.callable(id)?;
        let mut meta = Meta::default();
        for i in 0..5 {
            self.check_arg(p, i, &mut meta)?;
        }
        self.note_map(id, &meta);
        self.check_tail_map(id, &meta)?;
        if let Some((n, size)) = meta.fills {
            let r = *self.r(n);
            self.stack_clobber(&r, r.off, size)?;
        }
        self.helper_release(p, &meta)?;
        self.callbacks(id, &meta)?;
        let moved = self.dynptr_helper(p, &mut meta)?;
        if id == id::SNPRINTF {
            self.snprintf_format()?;
        }
        if id == id::TAIL_CALL {
            self.resource_leak(false, true, "tail_call")?;
            self.note_tail_call()?;
        }
        let percpu = match p.ret.base {
            RetBase::PtrToMemOrBtfId => Some(self.percpu_result(&meta, p.ret.flags)?),
            _ => None,
        };
        for r in 0..6 {
            self.set(Reg(r), RegState::NOT_INIT);
        }
        self.returned(p, id, &meta, percpu)?;
        self.map_compatible(p, &meta)?;
        if id == id::TAIL_CALL {
            return self.tail_called();
        }
        if p.changes_pkt_data || moved {
            self.clear_packet_pointers();
        }
        Ok(Next::Fall)
    }

    /// After a tail call of a subprogram its caller goes on, with what the new program returned;
    /// when the call fails the subprogram does.
    fn tail_called(&mut self) -> R<Next> {
        if self.cur.curframe() == 0 {
            return Ok(Next::Fall);
        }
        self.log.scratched_regs |= 1;
        let at = self.insn_idx;
        self.push_stack(at + 1, at)?;
        self.clear_packet_pointers();
        let u = self.unknown();
        self.set(Reg::R0, u);
        self.liveness.commit(self.input.cfg);
        self.liveness.frames_changed();
        self.func_exit()
    }

    /// The argument that the helper takes over.
    fn helper_release(&mut self, p: &FuncProto, meta: &Meta) -> R {
        let Some(n) = meta.release else { return Ok(()) };
        let arg = p.args[usize::from(n.0 - 1)];
        let done = if arg.base == ArgBase::PtrToDynptr {
            self.release_dynptr(n)
        } else if meta.kptr.is_some() && meta.ref_obj_id != 0 {
            self.kptr_xchg_release(meta.ref_obj_id)
        } else {
            self.r(n).is_null() || self.release(meta.ref_obj_id).is_ok()
        };
        if done {
            return Ok(());
        }
        let m = format!("func {}#{} reference has not been acquired before", p.name, p.id);
        no(EINVAL, m)
    }

    /// `clear_all_pkt_pointers`.
    pub(crate) fn clear_packet_pointers(&mut self) {
        let dead = self.dead();
        let slice = |r: &RegState| r.ty == RegType::Mem && r.flags.any(DynptrType::PACKET);
        self.cur.update_regs(|r| r.is_pkt_pointer_any() || slice(r), |r| *r = dead);
    }

    /// KERNEL v6.18 verifier.c:check_map_func_compatibility
    fn map_compatible(&self, p: &FuncProto, meta: &Meta) -> R {
        let Some(m) = meta.map else { return Ok(()) };
        let ty = self.maps[m as usize].map_type;
        let by_map = MAP_FUNCS.iter().find(|r| r.0 == ty).is_none_or(|r| r.1.contains(&p.id));
        let sockets = matches!(ty, MapType::Sockmap | MapType::Sockhash);
        if sockets && !by_map {
            if self.may_update_sockmap(p.id) {
                return Ok(());
            }
            let m = format!("cannot pass map_type {} into func {}#{}", ty as u32, p.name, p.id);
            let updates = matches!(p.id, id::MAP_UPDATE_ELEM | id::MAP_DELETE_ELEM);
            let why = if updates { "cannot update sockmap in this context\n" } else { "" };
            return no(EINVAL, format!("{why}{m}"));
        }
        let by_func = FUNC_MAPS.iter().find(|r| r.0.contains(&p.id));
        if by_map && by_func.is_none_or(|r| r.1.contains(&ty)) {
            return Ok(());
        }
        let m = format!("cannot pass map_type {} into func {}#{}", ty as u32, p.name, p.id);
        no(EINVAL, m)
    }

    /// `may_update_sockmap`: programs that cannot have got at a locked socket.
    fn may_update_sockmap(&self, id: i32) -> bool {
        use bpf::uapi::{AttachType, ProgType as P};
        let update = id == id::MAP_UPDATE_ELEM;
        if !update && id != id::MAP_DELETE_ELEM {
            return false;
        }
        match self.prog_type() {
            P::Tracing => self.input.program.attach_type == Some(AttachType::TraceIter),
            // Updates go through helpers of their own, which look at the event.
            P::SockOps => !update,
            P::SocketFilter | P::SchedCls | P::SchedAct | P::Xdp => true,
            P::SkReuseport | P::FlowDissector | P::SkLookup => true,
            _ => false,
        }
    }

    /// `record_func_key`: what a tail call looks into.
    fn check_tail_map(&mut self, id: i32, meta: &Meta) -> R {
        let programs = |m: u32| self.maps[m as usize].map_type == MapType::ProgArray;
        if id != id::TAIL_CALL || meta.map.is_some_and(programs) {
            return Ok(());
        }
        no_line(EINVAL, self, "expected prog array map for tail call")
    }

    /// `record_func_map`: the map, for inlining.
    fn note_map(&mut self, id: i32, meta: &Meta) {
        const RECORDED: [i32; 11] = [1, 2, 3, 12, 51, 87, 88, 89, 164, 195, 22];
        let Some(m) = meta.map.filter(|_| RECORDED.contains(&id)) else { return };
        let real = (m as usize) < self.input.maps.len();
        let aux = &mut self.aux[self.insn_idx as usize];
        aux.map = match aux.map {
            MapState::None if real => MapState::Unique(m),
            MapState::Unique(x) if x == m => MapState::Unique(x),
            _ => MapState::Poisoned,
        };
    }

    /// `record_func_key`.
    fn note_tail_call(&mut self) -> R {
        let key = *self.r(Reg::R3);
        let max = match self.aux[self.insn_idx as usize].map {
            MapState::Unique(m) => u64::from(self.maps[m as usize].max_entries),
            _ => 0,
        };
        let now = key.as_const().filter(|v| *v < max).map_or(KeyState::Poisoned, KeyState::Const);
        if matches!(now, KeyState::Const(_)) {
            self.mark_precise(Reg::R3)?;
        }
        let aux = &mut self.aux[self.insn_idx as usize];
        aux.key = match aux.key {
            KeyState::None => now,
            old if old == now => old,
            _ => KeyState::Poisoned,
        };
        Ok(())
    }

    /// R0 after the call.
    fn returned(&mut self, p: &FuncProto, id: i32, meta: &Meta, percpu: Option<RegState>) -> R {
        use RegType as T;
        let flags = p.ret.flags;
        let mut r = match p.ret.base {
            RetBase::Integer => {
                let mut r = self.unknown();
                self.refine_return(id, meta, &mut r);
                r
            }
            RetBase::Void => return Ok(()),
            RetBase::PtrToMapValue => {
                let Some(m) = meta.map else {
                    return no(EINVAL, "kernel subsystem misconfigured verifier");
                };
                let inside = |k| k < u64::from(self.maps[m as usize].max_entries);
                let found = id == id::MAP_LOOKUP_ELEM && meta.const_key.is_some_and(inside);
                let maybe = if found { Flags::PTR_MAYBE_NULL } else { Flags::NONE };
                let mut r = RegState::pointer(T::MapValue, flags.without(maybe));
                (r.map, r.map_uid) = (m, meta.map_uid);
                if !r.may_be_null() && self.may_hold_lock(&r) {
                    r.id = self.new_id();
                }
                r
            }
            RetBase::PtrToSocket => RegState::pointer(T::Socket, flags),
            RetBase::PtrToSockCommon => RegState::pointer(T::SockCommon, flags),
            RetBase::PtrToTcpSock => RegState::pointer(T::TcpSock, flags),
            RetBase::PtrToMem => {
                let mut r = RegState::pointer(T::Mem, flags);
                r.mem_size = u32::try_from(meta.mem_size).unwrap_or(u32::MAX);
                r.dynptr_id = meta.dynptr_id;
                r
            }
            RetBase::PtrToBtfId if let Some(f) = meta.kptr => self.kptr_xchg_result(&f, flags),
            RetBase::PtrToBtfId => {
                let mut r = RegState::pointer(T::BtfId, flags);
                if p.ret.btf.is_empty() {
                    return unsupported(
                        format!("result of {}", p.name),
                        "verifier.c:check_helper_call",
                    );
                }
                r.btf_id = self.btf_struct(p.ret.btf)?;
                r
            }
            RetBase::PtrToMemOrBtfId => percpu.unwrap_or_else(|| self.unknown()),
        };
        if r.may_be_null() {
            r.id = self.new_id();
        }
        let sock_map = meta.map.map(|m| self.maps[m as usize].map_type);
        let lookup = id == id::MAP_LOOKUP_ELEM
            && matches!(sock_map, Some(MapType::Sockmap | MapType::Sockhash));
        if id::CAST.contains(&id) || id == id::DYNPTR_DATA {
            r.ref_obj_id = meta.ref_obj_id;
        } else if id::ACQUIRE.contains(&id) || lookup {
            let i = self.acquire();
            (r.id, r.ref_obj_id) = (i, i);
        }
        self.set(Reg::R0, r);
        Ok(())
    }

    /// `do_refine_retval_range`.
    fn refine_return(&self, id: i32, meta: &Meta, r: &mut RegState) {
        let errno = -4095;
        if id == id::GET_STACK || id == id::GET_TASK_STACK || id::PROBE_READ_STR.contains(&id) {
            (r.b.smin, r.b.smax) = (errno, meta.msize_max);
            (r.b.s32_min, r.b.s32_max) = (errno as i32, meta.msize_max as i32);
            r.b.sync();
        } else if id == id::GET_SMP_PROCESSOR_ID {
            // KERNEL v6.18 verifier.c:do_refine_retval_range uses nr_cpu_ids - 1.
            let max = self.input.env.nr_cpu_ids().saturating_sub(1);
            (r.b.umin, r.b.umax, r.b.smin, r.b.smax) = (0, max.into(), 0, max.into());
            (r.b.u32_min, r.b.u32_max, r.b.s32_min, r.b.s32_max) = (0, max, 0, max as i32);
            r.b.sync();
        }
    }
}
