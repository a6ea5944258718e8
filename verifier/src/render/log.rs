//! The kernel's verifier log, levels 1 and 2: register states, instructions, positions.
//! Source: `kernel/bpf/log.c` of 6.18.

use std::fmt::Write as _;

use crate::btf::BtfSrc;
use crate::domain::reg::{ADD_CONST, IterState, Obj, RegState, RegType};
use crate::domain::scalar::Bounds;
use crate::domain::stack::{SlotType, StackSlot};
use crate::domain::state::{Callback, VState};
use crate::env::MapInfo;
use crate::proto::Flags;

/// `BPF_LOG_ALIGNMENT`.
const ALIGNMENT: usize = 40;

/// The log and what is needed to append to its last line.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Text so far.
    pub(crate) text: String,
    /// `log_level`.
    pub(crate) level: u32,
    /// Where the printed instruction ended, to put the state on its line.
    prev_end: usize,
    prev_insn_len: usize,
    /// Registers of the current frame changed since the last print.
    pub(crate) scratched_regs: u16,
    /// Slots of the current frame changed since the last print.
    pub(crate) scratched_slots: u64,
    /// The message of the refusal is in the text already.
    pub(crate) refusal_said: bool,
    /// Source line printed last.
    pub(crate) last_line: Option<usize>,
}

/// What names need: maps and structure names.
pub(crate) struct Names<'a> {
    pub(crate) maps: &'a [MapInfo],
    pub(crate) btf: Option<&'a bpf::btf::Btf>,
    pub(crate) prog_btf: Option<&'a bpf::btf::Btf>,
}

impl Log {
    pub(crate) fn new(level: u32) -> Log {
        Log { level, scratched_regs: 0x7ff, ..Log::default() }
    }

    /// Any of levels 1 and 2.
    pub(crate) fn on(&self) -> bool {
        self.level & 3 != 0
    }

    /// Level 2.
    pub(crate) fn level2(&self) -> bool {
        self.level & 2 != 0
    }

    /// Text of every level: refusals and statistics.
    pub(crate) fn say(&mut self, s: &str) {
        if self.level != 0 {
            self.text.push_str(s);
        }
    }

    pub(crate) fn put(&mut self, s: &str) {
        if self.on() {
            self.text.push_str(s);
        }
    }

    /// `mark_verifier_state_scratched`.
    pub(crate) fn scratch_all(&mut self) {
        (self.scratched_regs, self.scratched_slots) = (0x7ff, u64::MAX);
    }

    pub(crate) fn scratched(&self) -> bool {
        self.scratched_regs != 0 || self.scratched_slots != 0
    }

    /// One instruction's line.
    pub(crate) fn insn(&mut self, idx: u32, text: &str) {
        let start = self.text.len();
        let _ = writeln!(self.text, "{idx}: {text}");
        self.prev_end = self.text.len();
        self.prev_insn_len = self.text.len() - start;
    }

    /// `print_insn_state`: on the instruction's line when nothing came in between.
    pub(crate) fn insn_state(&mut self, idx: u32, s: &VState, frame: usize, n: &Names<'_>) {
        if self.prev_end != 0 && self.prev_end == self.text.len() {
            self.text.truncate(self.prev_end - 1);
            // `vlog_alignment`; the length includes the new line.
            let pos = self.prev_insn_len;
            let to = (pos + 4).max(ALIGNMENT).next_multiple_of(8);
            let _ = write!(self.text, "{:1$};", "", to - pos - 1);
        } else {
            let _ = write!(self.text, "{idx}:");
        }
        self.state(s, frame, false, n);
    }

    /// `print_verifier_state`.
    pub(crate) fn state(&mut self, s: &VState, frame: usize, all: bool, n: &Names<'_>) {
        if !self.on() {
            return;
        }
        let (regs, slots) =
            if all { (u16::MAX, u64::MAX) } else { (self.scratched_regs, self.scratched_slots) };
        self.text.push_str(&state_text(s, frame, regs, slots, n));
        self.text.push('\n');
        if !all {
            (self.scratched_regs, self.scratched_slots) = (0, 0);
        }
    }
}

/// One state's registers and slots, those of the masks.
fn state_text(s: &VState, frame: usize, regs: u16, slots: u64, n: &Names<'_>) -> String {
    let f = &s.frames[frame];
    let mut t = String::new();
    if f.frameno != 0 {
        let _ = write!(t, " frame{}:", f.frameno);
    }
    for (i, r) in f.regs.iter().enumerate() {
        if r.ty != RegType::NotInit && regs >> i & 1 == 1 {
            let _ = write!(t, " R{i}={}", reg(r, f.frameno, n));
        }
    }
    stack_text(&f.stack, slots, f.frameno, n, &mut t);
    let ids: Vec<String> =
        s.held.refs.iter().filter(|r| r.id != 0).map(|r| r.id.to_string()).collect();
    if !ids.is_empty() {
        let _ = write!(t, " refs={}", ids.join(","));
    }
    match f.callback {
        Callback::No | Callback::Exception => {}
        Callback::Sync => t.push_str(" cb"),
        Callback::Async => t.push_str(" async_cb"),
    }
    t
}

/// The stack slots of a state, those of the mask.
fn stack_text(stack: &[StackSlot], slots: u64, frameno: u32, n: &Names<'_>, t: &mut String) {
    let mut i = 0;
    while let Some(mut slot) = stack.get(i) {
        let untouched = i < 64 && slots >> i & 1 == 0;
        let kind = slot.types[7];
        if !untouched && kind == SlotType::Dynptr {
            // The identity is printed at the lower slot.
            i += 1;
            slot = stack.get(i).unwrap_or(slot);
        }
        let off = -8 * (i as i32 + 1);
        i += 1;
        if untouched || slot.types == [SlotType::Invalid; 8] {
            continue;
        }
        let all = || slot.types.iter().map(|t| t.char()).collect::<String>();
        let _ = match kind {
            SlotType::Spill => {
                let head = slot.types.iter().take_while(|t| **t != SlotType::Spill);
                let head: String = head.map(|t| t.char()).collect();
                write!(t, " fp{off}={head}{}", reg(&slot.reg, frameno, n))
            }
            SlotType::Dynptr => write!(t, " fp{off}={}", dynptr_text(&slot.reg)),
            // The other slots of an iterator have no reference.
            SlotType::Iter if slot.reg.ref_obj_id == 0 => Ok(()),
            SlotType::Iter => write!(t, " fp{off}={}", iter_text(&slot.reg, n)),
            SlotType::Invalid | SlotType::Misc | SlotType::Zero | SlotType::IrqFlag => {
                write!(t, " fp{off}={}", all())
            }
        };
    }
}

/// `dynptr_local(id=1,dynptr_id=1)`: the kernel reads `first_slot` as an id, which is 1.
fn dynptr_text(r: &RegState) -> String {
    let Obj::Dynptr { ty, .. } = r.obj else { return "dynptr_".into() };
    let held = match r.ref_obj_id {
        0 => String::new(),
        id => format!(",ref_id={id}"),
    };
    format!("dynptr_{}(id={}{held},dynptr_id=1)", ty.name(), r.id)
}

/// `iter_num(ref_id=1,state=active,depth=0)`.
fn iter_text(r: &RegState, n: &Names<'_>) -> String {
    let Obj::Iter { state, depth } = r.obj else { return "iter_".into() };
    let name = n.btf.map_or("?", |b| b.name(r.btf_id));
    let name = name.strip_prefix("bpf_iter_").unwrap_or(name);
    let state = match state {
        IterState::Active => "active",
        IterState::Drained => "drained",
    };
    format!("iter_{name}(ref_id={},state={state},depth={depth})", r.ref_obj_id)
}

/// `verbose_unum`.
fn unum(x: u64) -> String {
    if x <= u64::from(u16::MAX) { x.to_string() } else { format!("{x:#x}") }
}

/// `verbose_snum`.
fn snum(x: i64) -> String {
    if i16::try_from(x).is_ok() { x.to_string() } else { format!("{x:#x}") }
}

/// `reg_type_str`.
pub(crate) fn type_str(ty: RegType, flags: Flags) -> String {
    const PREFIX: &[(Flags, &str)] = &[
        (Flags::MEM_RDONLY, "rdonly_"),
        (Flags::MEM_RINGBUF, "ringbuf_"),
        (Flags::MEM_USER, "user_"),
        (Flags::MEM_PERCPU, "percpu_"),
        (Flags::MEM_RCU, "rcu_"),
        (Flags::PTR_UNTRUSTED, "untrusted_"),
        (Flags::PTR_TRUSTED, "trusted_"),
    ];
    let mut s: String = PREFIX.iter().filter(|p| flags.has(p.0)).map(|p| p.1).collect();
    s.push_str(base_str(ty));
    if flags.has(Flags::PTR_MAYBE_NULL) {
        s.push_str(if ty == RegType::BtfId { "or_null_" } else { "_or_null" });
    }
    s
}

/// The base part of `reg_type_str`.
fn base_str(ty: RegType) -> &'static str {
    match ty {
        RegType::NotInit => "?",
        RegType::Scalar => "scalar",
        RegType::Ctx => "ctx",
        RegType::ConstMapPtr => "map_ptr",
        RegType::MapValue => "map_value",
        RegType::MapKey => "map_key",
        RegType::Stack => "fp",
        RegType::PacketMeta => "pkt_meta",
        RegType::Packet => "pkt",
        RegType::PacketEnd => "pkt_end",
        RegType::FlowKeys => "flow_keys",
        RegType::Socket => "sock",
        RegType::SockCommon => "sock_common",
        RegType::TcpSock => "tcp_sock",
        RegType::TpBuffer => "tp_buffer",
        RegType::XdpSock => "xdp_sock",
        RegType::BtfId => "ptr_",
        RegType::Mem => "mem",
        RegType::Arena => "arena",
        RegType::Buf => "buf",
        RegType::Func => "func",
        RegType::Insn => "insn",
        RegType::ConstDynptr => "dynptr_ptr",
    }
}

/// The name of a register's type as messages print it.
pub(crate) fn type_of(r: &RegState) -> String {
    type_str(r.ty, r.flags)
}

/// `print_scalar_ranges`: bounds that are equal share their value.
fn ranges(b: &Bounds, out: &mut Vec<String>) {
    let s32 = |x: i32| if i16::try_from(x).is_ok() { i64::from(x) } else { i64::from(x as u32) };
    let mut rows = [
        ("smin", b.smin as u64, b.smin == i64::MIN),
        ("smax", b.smax as u64, b.smax == i64::MAX),
        ("umin", b.umin, b.umin == 0),
        ("umax", b.umax, b.umax == u64::MAX),
        ("smin32", s32(b.s32_min) as u64, b.s32_min == i32::MIN),
        ("smax32", s32(b.s32_max) as u64, b.s32_max == i32::MAX),
        ("umin32", b.u32_min.into(), b.u32_min == 0),
        ("umax32", b.u32_max.into(), b.u32_max == u32::MAX),
    ];
    let negative = |(name, v, _): (&str, u64, bool)| name.starts_with('s') && (v as i64) < 0;
    for i in 0..rows.len() {
        if rows[i].2 {
            continue;
        }
        let mut s = format!("{}=", rows[i].0);
        for j in (i + 2..rows.len()).step_by(2) {
            if !rows[j].2 && rows[j].1 == rows[i].1 && negative(rows[j]) == negative(rows[i]) {
                rows[j].2 = true;
                let _ = write!(s, "{}=", rows[j].0);
            }
        }
        let v = rows[i].1;
        s.push_str(&if rows[i].0.starts_with('s') { snum(v as i64) } else { unum(v) });
        out.push(s);
    }
}

/// `print_reg_state`.
pub(crate) fn reg(r: &RegState, frameno: u32, n: &Names<'_>) -> String {
    let mut head = String::new();
    if r.is_scalar() && r.precise {
        head.push('P');
    }
    if let Some(v) = r.as_const() {
        return head + &snum(v as i64);
    }
    head.push_str(&type_of(r));
    if r.ty == RegType::Stack {
        if r.frameno != frameno {
            let _ = write!(head, "[{}]", r.frameno);
        }
        if let Some(v) = r.b.as_const() {
            return head + &snum((v as i64).wrapping_add(r.off.into()));
        }
    }
    if r.ty == RegType::BtfId {
        let btf = if r.btf == BtfSrc::Vmlinux { n.btf } else { n.prog_btf };
        head.push_str(btf.map_or("?", |b| b.name(r.btf_id)));
    }
    let mut parts = Vec::new();
    identity(r, n, &mut parts);
    if let Some(v) = r.b.as_const() {
        if v != 0 {
            parts.push(format!("imm={}", snum(v as i64)));
        }
    } else {
        ranges(&r.b, &mut parts);
        if !r.b.var_off.is_unknown() {
            parts.push(format!("var_off={}", r.b.var_off));
        }
    }
    format!("{head}({})", parts.join(","))
}

/// Ids, map, offset and sizes.
fn identity(r: &RegState, n: &Names<'_>, parts: &mut Vec<String>) {
    let id = r.id & !ADD_CONST;
    if id != 0 {
        let delta = if r.id & ADD_CONST != 0 { format!("{:+}", r.off) } else { String::new() };
        parts.push(format!("id={id}{delta}"));
    }
    if r.ref_obj_id != 0 {
        parts.push(format!("ref_obj_id={}", r.ref_obj_id));
    }
    if r.flags.has(Flags::MEM_ALLOC) && r.flags.has(Flags::NON_OWN_REF) {
        parts.push("non_own_ref".into());
    }
    if matches!(r.ty, RegType::ConstMapPtr | RegType::MapValue | RegType::MapKey) {
        let m = &n.maps[r.map as usize];
        if !m.name.is_empty() {
            parts.push(format!("map={}", m.name));
        }
        parts.push(format!("ks={},vs={}", m.key_size, m.value_size));
    }
    if !r.is_scalar() && r.off != 0 {
        parts.push(format!("off={}", snum(r.off.into())));
    }
    if matches!(r.ty, RegType::Packet | RegType::PacketMeta) {
        parts.push(format!("r={}", unum(i64::from(r.range) as u64)));
    }
    if r.ty == RegType::Mem {
        parts.push(format!("sz={}", unum(r.mem_size.into())));
    }
    if let (RegType::ConstDynptr, Obj::Dynptr { ty, .. }) = (r.ty, r.obj) {
        parts.push(format!("type={}", ty.name()));
    }
}
