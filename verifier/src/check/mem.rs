//! Loads, stores and atomics: `check_mem_access` over all pointer types.

use bpf::insn::{AtomicOp, Insn, Reg, Size, Src};
use bpf::uapi::MapType;

use super::stack::Value;
use crate::btf::record::{Field, FieldKind};
use crate::domain::reg::{RegState, RegType};
use crate::domain::tnum::Tnum;
use crate::explore::PtrClass;
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL};
use crate::render::log::type_of;
use crate::tables;
use crate::transfer::pointer::BPF_MAX_VAR_OFF;

/// `BPF_F_RDONLY_PROG`.
const BPF_F_RDONLY_PROG: u32 = 1 << 7;
/// `BPF_F_WRONLY_PROG`.
const BPF_F_WRONLY_PROG: u32 = 1 << 8;
/// `sizeof(struct bpf_flow_keys)`.
const FLOW_KEYS_SIZE: i32 = 56;

/// One access of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Base register.
    pub(crate) base: Reg,
    /// Offset of the instruction.
    pub(crate) off: i32,
    /// Bytes.
    pub(crate) size: u32,
    /// What is written; `None` for loads.
    pub(crate) write: Option<Value>,
    /// Where a load goes.
    pub(crate) dst: Option<Reg>,
    /// Sign-extending load.
    pub(crate) sext: bool,
}

impl Ver<'_> {
    pub(crate) fn check_load(
        &mut self,
        size: Size,
        sext: bool,
        dst: Reg,
        src: Reg,
        off: i16,
    ) -> R<Next> {
        if src == Reg::PARAMS {
            let plain = size == Size::DW && !sext;
            return self.load_stack_arg(dst, off, plain);
        }
        self.read(src)?;
        self.writable(dst)?;
        let (off, size) = (off.into(), size.bytes());
        self.check_mem(Access { base: src, off, size, write: None, dst: Some(dst), sext })?;
        Ok(Next::Fall)
    }

    pub(crate) fn check_store(&mut self, size: Size, dst: Reg, off: i16, src: Src) -> R<Next> {
        if let Src::Reg(r) = src {
            self.read(r)?;
        }
        if dst == Reg::PARAMS {
            return self.store_stack_arg(off, size == Size::DW, src);
        }
        self.read(dst)?;
        let write = Some(Value::from(src));
        let (off, size) = (off.into(), size.bytes());
        self.check_mem(Access { base: dst, off, size, write, dst: None, sext: false })?;
        Ok(Next::Fall)
    }

    pub(crate) fn check_load_acquire(
        &mut self,
        size: Size,
        dst: Reg,
        src: Reg,
        off: i16,
    ) -> R<Next> {
        self.read(src)?;
        self.writable(dst)?;
        let p = *self.r(src);
        self.strict_once = true;
        self.check_load(size, false, dst, src, off)?;
        self.atomic_target(src, &p, "BPF_ATOMIC loads from")?;
        Ok(Next::Fall)
    }

    pub(crate) fn check_store_release(
        &mut self,
        size: Size,
        dst: Reg,
        off: i16,
        src: Reg,
    ) -> R<Next> {
        self.read(src)?;
        self.read(dst)?;
        self.strict_once = true;
        self.check_store(size, dst, off, Src::Reg(src))?;
        let p = *self.r(dst);
        self.atomic_target(dst, &p, "BPF_ATOMIC stores into")?;
        Ok(Next::Fall)
    }

    /// `atomic_ptr_type_ok`.
    fn atomic_target(&self, r: Reg, p: &RegState, what: &str) -> R {
        use RegType as T;
        if p.is_pkt_pointer() || p.is_sk_pointer() || matches!(p.ty, T::Ctx | T::FlowKeys) {
            let m = format!("{what} R{} {} is not allowed", r.0, type_of(p));
            return no(EACCES, m);
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_atomic_rmw
    pub(crate) fn check_atomic(
        &mut self,
        size: Size,
        op: AtomicOp,
        dst: Reg,
        off: i16,
        src: Reg,
    ) -> R<Next> {
        self.read(src)?;
        self.read(dst)?;
        if op == AtomicOp::Cmpxchg {
            self.read(Reg::R0)?;
            if self.is_pointer_value(Reg::R0) {
                return no(EACCES, "R0 leaks addr into mem");
            }
        }
        if self.is_pointer_value(src) {
            return no(EACCES, format!("R{} leaks addr into mem", src.0));
        }
        let p = *self.r(dst);
        self.atomic_target(dst, &p, "BPF_ATOMIC stores into")?;
        self.arena_atomic(dst, &p, op)?;
        let load = match op {
            AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => None,
            AtomicOp::Cmpxchg => Some(Reg::R0),
            _ => Some(src),
        };
        if let Some(r) = load {
            self.writable(r)?;
            let u = self.unknown();
            self.set(r, u);
        }
        let (base, off, size) = (dst, i32::from(off), size.bytes());
        let a = Access { base, off, size, write: None, dst: None, sext: false };
        let fetch = load.map(|r| Access { dst: Some(r), ..a });
        let store = Access { write: Some(Value::Misc), ..a };
        for a in [Some(a), fetch, Some(store)].into_iter().flatten() {
            self.strict_once = true;
            self.check_mem(a)?;
        }
        Ok(Next::Fall)
    }

    /// `check_ptr_alignment`: stack accesses are always aligned, others on request.
    pub(crate) fn check_alignment(
        &self,
        p: &RegState,
        off: i32,
        size: u32,
        strict_once: bool,
    ) -> R {
        use RegType as T;
        let what = match p.ty {
            T::FlowKeys => "flow keys ",
            T::MapKey => "key ",
            T::MapValue => "value ",
            T::Ctx => "context ",
            T::Stack => "stack ",
            T::SockCommon => "sock_common ",
            T::Socket => "sock ",
            T::TcpSock => "tcp_sock ",
            T::XdpSock => "xdp_sock ",
            T::Arena => return Ok(()),
            _ => "",
        };
        let strict = self.input.opts.strict_alignment || strict_once || p.ty == T::Stack;
        if !strict || size == 1 {
            return Ok(());
        }
        let total = i64::from(p.off) + i64::from(off);
        let pkt = p.is_pkt_pointer();
        let total = if pkt { total + 2 } else { total };
        if p.b.var_off.add(Tnum::constant(total as u64)).is_aligned(size.into()) {
            return Ok(());
        }
        let t = p.b.var_off;
        let m = if pkt {
            format!("misaligned packet access off 2+{t}+{}+{off} size {size}", p.off)
        } else {
            format!("misaligned {what}access off {t}+{}+{off} size {size}", p.off)
        };
        no(EACCES, m)
    }

    /// KERNEL v6.18 verifier.c:check_mem_access
    pub(crate) fn check_mem(&mut self, a: Access) -> R {
        use RegType as T;
        let p = *self.r(a.base);
        let strict = std::mem::take(&mut self.strict_once) || self.in_insn_array(&p);
        self.check_alignment(&p, a.off, a.size, strict)?;
        let off = a.off.wrapping_add(p.off);
        let here = Access { off, ..a };
        let maybe_null = p.may_be_null();
        match p.ty {
            _ if maybe_null => return self.bad_mem(&p, a.base),
            T::MapKey => self.mem_map_key(here, &p)?,
            T::MapValue => self.mem_map_value(here, &p)?,
            T::Mem => self.mem_mem(here, &p)?,
            T::Ctx => self.mem_ctx(here, &p)?,
            T::Stack => {
                self.stack_in_bounds(a.base, &p, off, a.size.into(), a.write.is_some())?;
                match a.write {
                    Some(v) => self.stack_write(&p, off, a.size, v)?,
                    None => self.stack_read(&p, off, a.size, a.base, a.dst)?,
                }
            }
            T::Packet | T::PacketMeta => self.mem_packet(here, &p)?,
            T::FlowKeys => self.mem_flow_keys(here)?,
            T::SockCommon | T::Socket | T::TcpSock | T::XdpSock => self.mem_sock(here, &p)?,
            T::BtfId => self.mem_btf(here, &p)?,
            T::TpBuffer | T::Buf => self.mem_buffer(here, &p)?,
            T::ConstMapPtr => self.mem_map_ptr(here, &p)?,
            T::Arena => self.mem_arena(here)?,
            _ => return self.bad_mem(&p, a.base),
        }
        let load = matches!(self.insn(self.insn_idx), Insn::Load { .. });
        self.note_ptr(&p, load && a.write.is_none())?;
        self.extend_loaded(a);
        Ok(())
    }

    /// A load of fewer than eight bytes zero- or sign-extends.
    fn extend_loaded(&mut self, a: Access) {
        let Some(d) = a.dst.filter(|_| a.write.is_none() && a.size < 8) else { return };
        let r = &mut self.regs()[d.idx()];
        if r.is_scalar() {
            if a.sext {
                r.b.sign_extend64(a.size);
            } else {
                r.b.truncate(a.size);
            }
        }
    }

    fn bad_mem(&self, p: &RegState, base: Reg) -> R {
        no(EACCES, format!("R{} invalid mem access '{}'", base.0, type_of(p)))
    }

    /// Stores must not leak pointers; loads give an unknown scalar.
    fn plain_data(&mut self, a: Access, into: &str) -> R {
        if let Some(Value::Reg(r)) = a.write
            && self.is_pointer_value(r)
        {
            return no(EACCES, format!("R{} leaks addr into {into}", r.0));
        }
        Ok(())
    }

    fn load_unknown(&mut self, a: Access) {
        if let Some(d) = a.dst.filter(|_| a.write.is_none()) {
            let u = self.unknown();
            self.set(d, u);
        }
    }

    /// `__check_mem_access`.
    fn region(&self, n: Reg, p: &RegState, off: i64, size: i64, total: i64, zero_ok: bool) -> R {
        let size_ok = size > 0 || (size == 0 && zero_ok);
        if off >= 0 && size_ok && off + size <= total {
            return Ok(());
        }
        let m = match p.ty {
            RegType::MapKey => {
                format!("invalid access to map key, key_size={total} off={off} size={size}")
            }
            RegType::MapValue => {
                format!("invalid access to map value, value_size={total} off={off} size={size}")
            }
            RegType::Packet | RegType::PacketMeta | RegType::PacketEnd => format!(
                "invalid access to packet, off={off} size={size}, R{}(id={},off={off},r={total})",
                n.0, p.id
            ),
            _ => format!("invalid access to memory, mem_size={total} off={off} size={size}"),
        };
        no(EACCES, m)
    }

    /// KERNEL v6.18 verifier.c:check_mem_region_access
    pub(crate) fn mem_region(
        &self,
        n: Reg,
        p: &RegState,
        off: i32,
        size: i64,
        total: u32,
        zero_ok: bool,
    ) -> R {
        let (i, total, off) = (n.0, i64::from(total), i64::from(off));
        let sum = p.b.smin.checked_add(off);
        if p.b.smin < 0 && sum.is_none_or(|s| i32::try_from(s).is_err() || s < 0) {
            return self.negative(n);
        }
        let low = self.region(n, p, p.b.smin.wrapping_add(off), size, total, zero_ok);
        with_line(low, || format!("R{i} min value is outside of the allowed memory range"))?;
        if p.b.umax >= BPF_MAX_VAR_OFF as u64 {
            let m = "unbounded memory access, make sure to bounds check any such access";
            return no(EACCES, format!("R{i} {m}"));
        }
        let high = self.region(n, p, p.b.umax as i64 + off, size, total, zero_ok);
        with_line(high, || format!("R{i} max value is outside of the allowed memory range"))
    }

    fn negative(&self, n: Reg) -> R {
        let m = "min value is negative, either use unsigned index or do a if (index >=0) check.";
        no(EACCES, format!("R{} {m}", n.0))
    }

    fn mem_map_key(&mut self, a: Access, p: &RegState) -> R {
        if a.write.is_some() {
            return no(EACCES, format!("write to change key R{} not allowed", a.base.0));
        }
        let total = self.maps[p.map as usize].key_size;
        self.mem_region(a.base, p, a.off, a.size.into(), total, false)?;
        self.load_unknown(a);
        Ok(())
    }

    /// `check_map_access_type`.
    pub(crate) fn map_access_type(&self, p: &RegState, off: i32, size: i64, write: bool) -> R {
        let m = &self.maps[p.map as usize];
        let (bit, what) = if write {
            (BPF_F_RDONLY_PROG, "write into")
        } else {
            (BPF_F_WRONLY_PROG, "read from")
        };
        if m.flags & bit != 0 {
            let v = m.value_size;
            return no(
                EACCES,
                format!("{what} map forbidden, value_size={v} off={off} size={size}"),
            );
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_map_access
    ///
    /// `helper`: the access is one of a helper, not of an instruction.
    pub(crate) fn map_access(
        &self,
        n: Reg,
        p: &RegState,
        (off, size): (i32, i64),
        zero: bool,
        helper: bool,
    ) -> R {
        self.mem_region(n, p, off, size, self.map_value_bytes(p.map), zero)?;
        let (lo, hi) = (p.b.smin + i64::from(off), p.b.umax as i64 + i64::from(off) + size);
        let touched = |f: &&Field| lo < i64::from(f.off + f.size) && i64::from(f.off) < hi;
        for f in self.map_records[p.map as usize].fields.iter().filter(touched) {
            if f.kind.is_kptr() || f.kind == FieldKind::Uptr {
                kptr_access(f, p, off, size, helper)?;
            } else {
                let name = f.kind.name();
                return no(EACCES, format!("{name} cannot be accessed directly by load/store"));
            }
        }
        Ok(())
    }

    /// Bytes a direct pointer into a value may reach: an array's only value is mapped whole, and
    /// of an `insn_array` the addresses of its instructions.
    pub(crate) fn map_value_bytes(&self, map: u32) -> u32 {
        let m = &self.maps[map as usize];
        match m.map_type {
            MapType::InsnArray => m.max_entries.saturating_mul(8),
            _ => m.value_size,
        }
    }

    fn mem_map_value(&mut self, a: Access, p: &RegState) -> R {
        self.plain_data(a, "map")?;
        let table = self.in_insn_array(p);
        if table && a.write.is_some() {
            return no(EACCES, "writes into insn_array not allowed");
        }
        self.map_access_type(p, a.off, a.size.into(), a.write.is_some())?;
        self.map_access(a.base, p, (a.off, a.size.into()), false, false)?;
        if let Some(f) = self.kptr_at(p, a.off) {
            return self.kptr_load_store(a, &f);
        }
        let Some(d) = a.dst.filter(|_| a.write.is_none()) else { return Ok(()) };
        if table {
            return self.load_insn(a, d, p);
        }
        let m = &self.maps[p.map as usize];
        let frozen = m
            .frozen_value
            .as_ref()
            .filter(|_| m.flags & BPF_F_RDONLY_PROG != 0 && m.map_type == MapType::Array);
        let bytes = match (frozen, p.b.as_const()) {
            (Some(v), Some(k)) => {
                let at = (i64::from(a.off) + k as i64) as usize;
                v.get(at..at + a.size as usize)
            }
            _ => None,
        };
        let v = match bytes {
            Some(b) => {
                let big = self.big_endian;
                let fold = |acc: u64, x: &u8| acc << 8 | u64::from(*x);
                let u = if big { b.iter().fold(0, fold) } else { b.iter().rev().fold(0, fold) };
                let n = 64 - a.size * 8;
                self.known(if a.sext { ((u << n) as i64 >> n) as u64 } else { u })
            }
            None => self.unknown(),
        };
        self.set(d, v);
        Ok(())
    }

    fn mem_mem(&mut self, a: Access, p: &RegState) -> R {
        let rdonly = p.flags.has(Flags::MEM_RDONLY);
        if a.write.is_some() && rdonly {
            return no(EACCES, format!("R{} cannot write into {}", a.base.0, type_of(p)));
        }
        self.plain_data(a, "mem")?;
        if !(rdonly && p.flags.has(Flags::PTR_UNTRUSTED)) {
            self.mem_region(a.base, p, a.off, a.size.into(), p.mem_size, false)?;
        }
        self.load_unknown(a);
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_packet_access
    pub(crate) fn packet_access(&self, n: Reg, p: &RegState, off: i32, size: i64, zero: bool) -> R {
        if p.b.smin < 0 {
            return self.negative(n);
        }
        let outside = || format!("R{} offset is outside of the packet", n.0);
        if p.range < 0 {
            return no(EINVAL, outside());
        }
        with_line(self.region(n, p, off.into(), size, p.range.into(), zero), outside)
    }

    fn mem_packet(&mut self, a: Access, p: &RegState) -> R {
        if a.write.is_some() && !tables::packet_access(self.input.program, true) {
            return no(EACCES, "cannot write into packet");
        }
        self.plain_data(a, "packet")?;
        self.packet_access(a.base, p, a.off, a.size.into(), false)?;
        self.load_unknown(a);
        Ok(())
    }

    fn mem_flow_keys(&mut self, a: Access) -> R {
        self.plain_data(a, "flow keys")?;
        if a.off < 0 || a.off + a.size as i32 > FLOW_KEYS_SIZE {
            let m = format!("invalid access to flow keys off={} size={}", a.off, a.size);
            return no(EACCES, m);
        }
        self.load_unknown(a);
        Ok(())
    }

    fn mem_sock(&mut self, a: Access, p: &RegState) -> R {
        let (n, what) = (a.base.0, type_of(p));
        if a.write.is_some() {
            return no(EACCES, format!("R{n} cannot write into {what}"));
        }
        if p.b.smin < 0 {
            return self.negative(a.base);
        }
        let class = match p.ty {
            RegType::SockCommon => PtrClass::SockCommon,
            RegType::Socket => PtrClass::Socket,
            RegType::TcpSock => PtrClass::TcpSock,
            _ => PtrClass::XdpSock,
        };
        if p.b.as_const() != Some(0) || !tables::sock_access(class, a.off, a.size) {
            let m = format!("R{n} invalid {what} access off={} size={}", a.off, a.size);
            return no(EACCES, m);
        }
        self.load_unknown(a);
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_buffer_access, check_tp_buffer_access
    pub(crate) fn buffer_place(&mut self, n: Reg, p: &RegState, off: i32, size: i64, w: bool) -> R {
        let (n, rdonly) = (n.0, p.flags.has(Flags::MEM_RDONLY));
        if w && rdonly {
            return no(EACCES, format!("R{n} cannot write into {}", type_of(p)));
        }
        let what = match p.ty {
            RegType::TpBuffer => "tracepoint",
            _ if rdonly => "rdonly",
            _ => "rdwr",
        };
        if off < 0 {
            let m = format!("R{n} invalid {what} buffer access: off={off}, size={size}");
            return no(EACCES, m);
        }
        if p.b.as_const() != Some(0) {
            let t = p.b.var_off;
            let m = format!("R{n} invalid variable buffer offset: off={off}, var_off={t}");
            return no(EACCES, m);
        }
        let end = u32::try_from(i64::from(off) + size).unwrap_or(u32::MAX);
        let furthest = match (p.ty, rdonly) {
            (RegType::TpBuffer, _) => return Ok(()),
            (_, true) => &mut self.stats.max_rdonly_access,
            (_, false) => &mut self.stats.max_rdwr_access,
        };
        *furthest = end.max(*furthest);
        Ok(())
    }

    fn mem_buffer(&mut self, a: Access, p: &RegState) -> R {
        self.buffer_place(a.base, p, a.off, a.size.into(), a.write.is_some())?;
        self.load_unknown(a);
        Ok(())
    }

    /// Legacy packet loads: `check_ld_abs`.
    pub(crate) fn check_ld_abs(&mut self, index: Option<Reg>) -> R<Next> {
        if !tables::ld_abs_allowed(self.input.program) {
            return no(EINVAL, "BPF_LD_[ABS|IND] instructions not allowed for this program type");
        }
        self.read(Reg::R6)?;
        self.resource_leak(false, true, "BPF_LD_[ABS|IND]")?;
        if !self.r(Reg::R6).is(RegType::Ctx) {
            return no(EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb");
        }
        if let Some(r) = index {
            self.read(r)?;
        }
        self.ctx_unmodified(Reg::R6)?;
        for r in 1..6 {
            self.set(Reg(r), RegState::NOT_INIT);
        }
        let u = self.unknown();
        self.set(Reg::R0, u);
        if self.cur.curframe() == 0 {
            return Ok(Next::Fall);
        }
        // `bpf_gen_ld_abs`: where there is no such byte, the function returns 0.
        self.push_stack(self.insn_idx + 1, self.insn_idx)?;
        let zero = self.known(0);
        self.set(Reg::R0, zero);
        self.liveness.frames_changed();
        self.func_exit()
    }
}

/// A kernel pointer in a map is read and written whole, by instructions.
fn kptr_access(f: &Field, p: &RegState, off: i32, size: i64, helper: bool) -> R {
    let name = f.kind.name();
    if helper {
        return no(EACCES, format!("{name} cannot be accessed indirectly by helper"));
    }
    let Some(v) = p.b.as_const() else {
        return no(EACCES, format!("{name} access cannot have variable offset"));
    };
    let at = i64::from(off).wrapping_add(v as i64);
    if at != i64::from(f.off) {
        let m = format!("{name} access misaligned expected={} off={at}", f.off);
        return no(EACCES, m);
    }
    if size != 8 {
        return no(EACCES, format!("{name} access size must be BPF_DW"));
    }
    Ok(())
}

/// Adds the kernel's second line to a refusal.
pub(crate) fn with_line(r: R, line: impl FnOnce() -> String) -> R {
    r.map_err(|mut e| {
        e.message = format!("{}\n{}", e.message, line());
        e
    })
}
