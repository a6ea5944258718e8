//! Does an abstract state allow what a run has in its registers and stack slots?

use verifier::domain::reg::{
    ADD_CONST, ADD_CONST32, AT_PKT_END, BEYOND_PKT_END, RegState, RegType,
};
use verifier::domain::stack::{SlotType, StackSlot};
use verifier::env::MapInfo;
use verifier::explore::{Seen, Trace};
use verifier::proto::Flags;

use super::memory::{Kind, Memory};

/// Why a state does not explain a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The value is outside.
    Wrong(String),
    /// A kind of pointer there is no memory for here: nothing can be said.
    Unmodelled,
}

/// A run before an instruction: its frames, outermost first.
#[derive(Clone, Debug)]
pub(super) struct Now {
    /// Registers of each frame; of callers only r6 to r10 are what they were.
    pub(super) regs: Vec<[u64; 11]>,
    /// The call instruction of each frame but the first.
    pub(super) sites: Vec<u32>,
}

impl Now {
    /// The frames from the one on that is verified on its own.
    pub(super) fn since(&self, frame: usize) -> Now {
        let sites = self.sites.get(frame..).unwrap_or_default().to_vec();
        Now { regs: self.regs[frame..].to_vec(), sites }
    }
}

/// Values of one identity: scalars less their difference, pointers less their fixed offset.
struct Same {
    id: u32,
    value: u64,
    bits: u64,
}

/// Checks a state against a run.
pub(super) struct Check<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) trace: &'a Trace,
    same: Vec<Same>,
}

impl<'a> Check<'a> {
    pub(super) fn new(memory: &'a mut Memory, trace: &'a Trace) -> Check<'a> {
        Check { memory, trace, same: Vec::new() }
    }

    /// A state of the same call chain that allows all there is.
    pub(super) fn explain(&mut self, at: usize, now: &Now) -> Result<(), Doubt> {
        let mut doubt = Doubt::Wrong("no path leads here".to_owned());
        let trace = self.trace;
        for seen in trace.at.get(at).into_iter().flatten() {
            let sites = seen.frames[1..].iter().map(|f| f.callsite);
            if !sites.eq(now.sites.iter().copied()) {
                continue;
            }
            match self.state(seen, now) {
                Ok(()) => return Ok(()),
                Err(Doubt::Unmodelled) => return Err(Doubt::Unmodelled),
                Err(Doubt::Wrong(why)) => {
                    doubt = Doubt::Wrong(format!("{why}\n  in{}", trace.text(seen).trim_end()));
                }
            }
        }
        Err(doubt)
    }

    fn state(&mut self, seen: &Seen, now: &Now) -> Result<(), Doubt> {
        self.same.clear();
        for (f, frame) in seen.frames.iter().enumerate() {
            let inner = f + 1 == seen.frames.len();
            let name = if inner { String::new() } else { format!("frame {f} ") };
            let tops: Vec<u64> = now.regs.iter().map(|r| r[10]).collect();
            for r in (0..11).filter(|r| seen.live[f] >> r & 1 == 1 || *r == 10) {
                let value = now.regs[f][r];
                self.value(&frame.regs[r], value, &tops)
                    .map_err(|d| d.at(&format!("{name}R{r}"), Some(value)))?;
            }
            for (s, slot) in frame.stack.iter().enumerate() {
                if seen.alive[f] >> s & 1 == 1 {
                    let top = tops[f];
                    self.slot(slot, top - 8 * (s as u64 + 1), &tops)
                        .map_err(|d| d.at(&format!("{name}fp-{}", 8 * (s + 1)), None))?;
                }
            }
        }
        Ok(())
    }

    /// All frames' stack pointers are relative to `tops`.
    fn value(&mut self, r: &RegState, v: u64, tops: &[u64]) -> Result<(), Doubt> {
        use RegType as T;
        match r.ty {
            T::NotInit => return Ok(()),
            T::Scalar => {
                wrong(r.b.contains(v), "is outside")?;
                return self.linked(r, v);
            }
            _ => {}
        }
        if r.may_be_null() {
            self.agree(r.id | NULLNESS, u64::from(v == 0), u64::MAX, "is NULL as others are not")?;
            if v == 0 {
                return Ok(());
            }
        }
        let unknown = Flags::PTR_UNTRUSTED.or(Flags::MEM_PERCPU).or(Flags::MEM_USER);
        if r.flags.any(unknown) {
            return Err(Doubt::Unmodelled);
        }
        self.pointer(r, v, tops)
    }

    fn pointer(&mut self, r: &RegState, v: u64, tops: &[u64]) -> Result<(), Doubt> {
        use RegType as T;
        if matches!(r.ty, T::Func | T::ConstDynptr) {
            return Ok(());
        }
        let modelled = matches!(
            r.ty,
            T::Stack
                | T::Ctx
                | T::ConstMapPtr
                | T::MapValue
                | T::MapKey
                | T::Packet
                | T::PacketMeta
                | T::PacketEnd
                | T::Mem
        );
        let packet = matches!(r.ty, T::Packet | T::PacketMeta | T::PacketEnd);
        if !modelled || self.inner_map(r) || packet && !self.memory.has_packet() {
            return Err(Doubt::Unmodelled);
        }
        let place = self.memory.place(v).map(|(region, off)| (region.clone_head(), off));
        let Some((region, off)) = place else {
            return Err(Doubt::Wrong("is no pointer".to_owned()));
        };
        let fixed = i64::from(r.off);
        let [meta, data, end] = self.memory.packet();
        let kind = region.kind;
        let moved = match r.ty {
            T::Stack => {
                wrong(kind == Kind::Stack, "is no stack pointer")?;
                let top = tops.get(r.frameno as usize).copied().unwrap_or_default();
                v.wrapping_sub(top).cast_signed() - fixed
            }
            T::Ctx => {
                wrong(kind == Kind::Ctx, "is not the context")?;
                off - fixed
            }
            T::ConstMapPtr => {
                wrong(kind == Kind::Map(self.map(r).id), "is not that map")?;
                off - fixed
            }
            T::MapValue => {
                wrong(kind == Kind::Value(self.map(r).id), "is no value of that map")?;
                off - fixed
            }
            T::MapKey => {
                wrong(kind == Kind::Key(self.map(r).id), "is no key of that map")?;
                off - fixed
            }
            T::PacketEnd => return wrong(v == end, "is not the end of the packet"),
            T::Packet | T::PacketMeta => {
                let (base, limit) = if r.ty == T::Packet { (data, end) } else { (meta, data) };
                wrong(kind == Kind::Packet && !region.gone, "is not in the packet")?;
                self.ranged(r, v, limit)?;
                v.wrapping_sub(base).cast_signed() - fixed
            }
            T::Mem => return self.mem(r, v, off, &region),
            _ => return Err(Doubt::Unmodelled),
        };
        wrong(r.b.contains(moved.cast_unsigned()), "has another offset")
    }

    /// What a comparison with the end of the packet says.
    fn ranged(&mut self, r: &RegState, v: u64, limit: u64) -> Result<(), Doubt> {
        match r.range {
            0 => {}
            BEYOND_PKT_END => wrong(v > limit, "is not behind the end of the packet")?,
            AT_PKT_END => wrong(v >= limit, "is before the end of the packet")?,
            n => {
                let first = v.wrapping_sub(i64::from(r.off).cast_unsigned());
                let last = first.wrapping_add(i64::from(n).cast_unsigned());
                wrong(last <= limit, "has a range behind the end of the packet")?;
            }
        }
        if r.id == 0 {
            return Ok(());
        }
        let base = v.wrapping_sub(i64::from(r.off).cast_unsigned());
        self.agree(r.id, base, u64::MAX, "is not where the pointers of its id are")
    }

    fn mem(&self, r: &RegState, v: u64, off: i64, region: &Head) -> Result<(), Doubt> {
        wrong(!region.gone, "is memory that was given back")?;
        let size = i64::from(r.mem_size);
        if r.flags.has(Flags::MEM_RINGBUF) {
            let moved = off - i64::from(r.off);
            wrong(r.b.contains(moved.cast_unsigned()), "has another offset")?;
            return wrong(size <= region.end, "is memory of less bytes");
        }
        // Of a slice and of a global function's argument the beginning is not known here.
        let Some(moved) = r.b.as_const() else { return Ok(()) };
        let base = v.wrapping_sub(i64::from(r.off).cast_unsigned()).wrapping_sub(moved);
        let start = self.memory.place(base).map(|(_, off)| off);
        let inside = start.is_some_and(|s| s >= region.low && s + size <= region.end);
        wrong(inside, "is memory of less bytes")
    }

    fn map(&self, r: &RegState) -> &MapInfo {
        &self.trace.maps[r.map as usize]
    }

    /// Inner maps have no elements here.
    fn inner_map(&self, r: &RegState) -> bool {
        let of_map = matches!(r.ty, RegType::ConstMapPtr | RegType::MapValue | RegType::MapKey);
        of_map && (r.map_uid != 0 || self.map(r).inner.is_some())
    }

    /// Scalars of one identity differ by what they say.
    fn linked(&mut self, r: &RegState, v: u64) -> Result<(), Doubt> {
        let id = r.id & !ADD_CONST;
        if id == 0 {
            return Ok(());
        }
        let delta = if r.id & ADD_CONST == 0 { 0 } else { i64::from(r.off).cast_unsigned() };
        let bits = if r.id & ADD_CONST32 == 0 { u64::MAX } else { 0xffff_ffff };
        self.agree(id, v.wrapping_sub(delta), bits, "is not what the registers of its id are")
    }

    fn agree(&mut self, id: u32, value: u64, bits: u64, why: &str) -> Result<(), Doubt> {
        match self.same.iter_mut().find(|s| s.id == id) {
            Some(s) => {
                let both = s.bits & bits;
                wrong(s.value & both == value & both, why)?;
                if bits > s.bits {
                    (s.value, s.bits) = (value, bits);
                }
            }
            None => self.same.push(Same { id, value, bits }),
        }
        Ok(())
    }

    fn slot(&mut self, slot: &StackSlot, addr: u64, tops: &[u64]) -> Result<(), Doubt> {
        let outside = |_| Doubt::Wrong("is outside the stack".to_owned());
        let word = self.memory.number(addr, 8).map_err(outside)?;
        for (i, ty) in slot.types.iter().enumerate() {
            let byte = word >> (8 * (7 - i)) & 0xff;
            wrong(*ty != SlotType::Zero || byte == 0, "is not zero")?;
        }
        if !slot.is_spill() {
            return Ok(());
        }
        let n = slot.types.iter().filter(|t| **t == SlotType::Spill).count() as u32;
        let value = if n < 8 { word & ((1 << (8 * n)) - 1) } else { word };
        if n == 8 {
            return self.value(&slot.reg, value, tops).map_err(|d| d.at("spilled", Some(value)));
        }
        // The register is wider than what was stored of it.
        let mut b = slot.reg.b;
        b.truncate(n);
        let fits = !slot.reg.is_scalar() || b.contains(value);
        wrong(fits, "is outside").map_err(|d| d.at("spilled", Some(value)))
    }
}

/// Ids of pointers that are NULL together, apart from those of scalars.
const NULLNESS: u32 = 1 << 29;

/// What is to be known of a region.
struct Head {
    kind: Kind,
    low: i64,
    end: i64,
    gone: bool,
}

impl super::memory::Region {
    fn clone_head(&self) -> Head {
        Head { kind: self.kind, low: self.low, end: self.end(), gone: self.gone }
    }
}

impl Doubt {
    fn at(self, place: &str, value: Option<u64>) -> Doubt {
        let value = value.map_or(String::new(), |v| format!(" = {v:#x}"));
        match self {
            Doubt::Wrong(why) => Doubt::Wrong(format!("{place}{value} {why}")),
            Doubt::Unmodelled => Doubt::Unmodelled,
        }
    }
}

fn wrong(holds: bool, why: &str) -> Result<(), Doubt> {
    if holds { Ok(()) } else { Err(Doubt::Wrong(why.to_owned())) }
}
