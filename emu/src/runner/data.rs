//! Typed values: a scenario's trees against the program's own BTF, in either byte order.
//!
//! Numbers in a file are in host order everywhere; a `__be16`, `__be32` or `__be64` of the
//! program is stored big-endian, so that a file means the same on every architecture.

mod text;

use bpf::Endian;
use bpf::btf::{Body, Btf};
use scenarios::leaf::{Is, Leaf, Mac, int_of};
use scenarios::tree::{Kind, Node};
use scenarios::{Finding, Span, leaf};

pub use text::hex;

/// The types of one object and its byte order.
#[derive(Clone, Copy, Debug)]
pub struct Types<'a> {
    /// BTF of the object.
    pub btf: &'a Btf,
    /// Byte order of its memory.
    pub endian: Endian,
}

/// Where a value is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In words, with the way to the member.
    pub why: String,
    /// Place of the expected part.
    pub at: Span,
    /// What would be right there, as RON.
    pub fix: Option<String>,
}

impl Difference {
    fn new(node: &Node, why: impl Into<String>) -> Difference {
        Difference { why: why.into(), at: node.span, fix: None }
    }

    /// The same, seen from the value around it.
    fn within(self, member: &str) -> Difference {
        Difference { why: format!("{member}: {}", self.why), ..self }
    }
}

/// `OneOf([..])` and `Not(..)`, of values or patterns of any type.
fn pick(
    node: &Node,
    (name, args): (&str, &[Node]),
    differs: &dyn Fn(&Node) -> Result<Option<Difference>, Finding>,
) -> Result<Option<Difference>, Finding> {
    let (list, wanted) = match (name, args) {
        ("OneOf", [Node { kind: Kind::List(items), .. }]) => (items.as_slice(), true),
        ("OneOf", _) => return refuse(node, "OneOf takes a list, as in OneOf([1, 2])"),
        (_, [one]) => (std::slice::from_ref(one), false),
        _ => return refuse(node, "Not takes one value, as in Not(5)"),
    };
    let mut why = None;
    for item in list {
        let difference = differs(item)?;
        if difference.is_none() == wanted {
            return Ok(None);
        }
        why = why.or(difference);
    }
    let is = why.map_or("is what it must not be".to_owned(), |d| {
        d.why.split(", expected").next().unwrap_or_default().to_owned()
    });
    let more = if wanted { ", none of these" } else { "" };
    Ok(Some(Difference::new(node, format!("{is}{more}"))))
}

/// A constant of the kernel's own enums, `XDP_DROP`: programs that hold it in a plain integer
/// have no enum of it.
fn kernel_constant(name: &str) -> Option<i128> {
    let btf = kernel_model::types::Types::of(bpf::Arch::X86_64).btf();
    let enums = btf.ids().filter(|id| {
        matches!(btf.body(*id), Body::Enum { .. } | Body::Enum64 { .. }) && !name.is_empty()
    });
    let mut values = enums.flat_map(|id| btf.enumerators(id));
    values.find(|(n, _)| *n == name).map(|(_, v)| i128::from(v.cast_signed()))
}

fn refuse<T>(node: &Node, message: impl Into<String>) -> Result<T, Finding> {
    Err(Finding::error(node.span, message))
}

/// Puts an integer of `out.len()` bytes.
pub fn put_int(out: &mut [u8], value: u64, endian: Endian) {
    let n = out.len().min(8);
    match endian {
        Endian::Little => out[..n].copy_from_slice(&value.to_le_bytes()[..n]),
        Endian::Big => out[..n].copy_from_slice(&value.to_be_bytes()[8 - n..]),
    }
}

/// Reads an integer of `bytes.len()` bytes (at most 8).
#[must_use]
pub fn get_int(bytes: &[u8], endian: Endian) -> u64 {
    let join = |n: u64, b: &u8| n << 8 | u64::from(*b);
    match endian {
        Endian::Little => bytes.iter().rev().fold(0, join),
        Endian::Big => bytes.iter().fold(0, join),
    }
}

impl Types<'_> {
    /// Byte order of an integer: that of memory, or big-endian for `__be*`.
    fn order(&self, mut ty: u32) -> Endian {
        loop {
            match self.btf.body(ty) {
                Body::Typedef(next) => {
                    if matches!(self.btf.name(ty), "__be16" | "__be32" | "__be64") {
                        return Endian::Big;
                    }
                    ty = *next;
                }
                Body::Const(next) | Body::Volatile(next) => ty = *next,
                _ => return self.endian,
            }
        }
    }

    /// The one struct of a size that has the members a record's pattern names; none when all that
    /// have them are of another size.
    ///
    /// # Errors
    /// The names of several, or of none.
    pub fn record(&self, node: &Node, len: usize) -> Result<Option<u32>, Vec<&str>> {
        let members: &[_] = match &node.kind {
            Kind::Record(None, members) => members,
            _ => &[],
        };
        let has = |id: u32| members.iter().all(|m| self.btf.member(id, &m.name).is_some());
        let structs = self.btf.ids().filter(|id| matches!(self.btf.body(*id), Body::Struct { .. }));
        let mut all: Vec<u32> = structs.filter(|id| !members.is_empty() && has(*id)).collect();
        all.sort_by_key(|id| self.btf.name(*id));
        all.dedup_by_key(|id| self.btf.name(*id));
        let fit: Vec<u32> = all.iter().copied().filter(|id| self.size(*id) == len).collect();
        match fit.as_slice() {
            [one] => Ok(Some(*one)),
            [] if !all.is_empty() => Ok(None),
            several => Err(several.iter().map(|id| self.btf.name(*id)).collect()),
        }
    }

    fn size(&self, ty: u32) -> usize {
        self.btf.size_of(ty).unwrap_or(0) as usize
    }

    /// Writes a value over `out`; members that are left out keep their bytes.
    ///
    /// # Errors
    /// What does not fit the type, at its place.
    pub fn write(&self, node: &Node, ty: u32, out: &mut [u8]) -> Result<(), Finding> {
        let id = self.btf.resolve(ty);
        match self.btf.body(id) {
            Body::Struct { .. } | Body::Union { .. } => self.write_struct(node, id, out),
            Body::Array { elem, nelems, .. } => self.write_array(node, *elem, *nelems, out),
            _ => self.write_scalar(node, ty, out),
        }
    }

    fn write_struct(&self, node: &Node, id: u32, out: &mut [u8]) -> Result<(), Finding> {
        let members = match &node.kind {
            Kind::Record(None, members) => members,
            Kind::Tuple(items) if items.is_empty() => return Ok(()),
            // A struct around one address, such as in6_addr.
            Kind::Str(_) => return self.write_bytes(node, out),
            _ => {
                let name = self.btf.name(id);
                let found = node.describe();
                return refuse(node, format!("struct {name} is written as (..), found {found}"));
            }
        };
        for m in members {
            let Some(member) = self.btf.member(id, &m.name) else {
                return Err(self.unknown_member(id, m));
            };
            let at = member.byte_off() as usize;
            if member.bits != 0 {
                self.write_bits(&m.value, member.bit_off, member.bits, out)?;
                continue;
            }
            let size = self.size(member.ty);
            let Some(part) = out.get_mut(at..at + size) else {
                return refuse(&m.value, format!("{} lies beyond the value", m.name));
            };
            self.write(&m.value, member.ty, part)?;
        }
        Ok(())
    }

    fn unknown_member(&self, id: u32, m: &scenarios::tree::Member) -> Finding {
        let name = self.btf.name(id);
        let known: Vec<&str> = self.btf.members(id).map(|m| m.name).collect();
        let message = format!("unknown member of struct {name} `{}`", m.name);
        let finding = Finding::error(m.name_span, message);
        match leaf::suggest(&m.name, known.iter().copied()) {
            Some(s) => finding.hint(format!("did you mean `{s}`?")),
            None => finding.hint(format!("known: {}", known.join(", "))),
        }
    }

    fn write_bits(
        &self,
        node: &Node,
        bit_off: u32,
        bits: u8,
        out: &mut [u8],
    ) -> Result<(), Finding> {
        let value = match &node.kind {
            Kind::Bool(b) => i128::from(*b),
            _ => match int_of(node) {
                Some(value) => value,
                None => return refuse(node, "a bit-field is a number"),
            },
        };
        if value >= 1 << bits || value < -(1 << (bits - 1)) {
            return refuse(node, format!("{value} does not fit into {bits} bits"));
        }
        for n in 0..u32::from(bits) {
            let bit = value >> n & 1 == 1;
            let at = match self.endian {
                Endian::Little => bit_off + n,
                Endian::Big => bit_off + u32::from(bits) - 1 - n,
            };
            let shift = match self.endian {
                Endian::Little => at % 8,
                Endian::Big => 7 - at % 8,
            };
            if let Some(byte) = out.get_mut(at as usize / 8) {
                *byte = *byte & !(1 << shift) | u8::from(bit) << shift;
            }
        }
        Ok(())
    }

    fn write_array(
        &self,
        node: &Node,
        elem: u32,
        nelems: u32,
        out: &mut [u8],
    ) -> Result<(), Finding> {
        match &node.kind {
            Kind::List(items) => {
                if items.len() > nelems as usize {
                    return refuse(node, format!("the array has {nelems} elements"));
                }
                let size = self.size(elem);
                for (n, item) in items.iter().enumerate() {
                    self.write(item, elem, &mut out[n * size..(n + 1) * size])?;
                }
                Ok(())
            }
            Kind::Str(_) | Kind::Call(..) => self.write_bytes(node, out),
            _ => refuse(node, format!("an array is written as [..], found {}", node.describe())),
        }
    }

    /// Addresses and text in an array of bytes, and `Hex("..")` anywhere.
    fn write_bytes(&self, node: &Node, out: &mut [u8]) -> Result<(), Finding> {
        let bytes = match &node.kind {
            Kind::Call(name, args) if name == "Hex" && args.len() == 1 => {
                scenarios::schema::packet::HexBytes::from_node(&args[0])?.0
            }
            Kind::Str(text) => {
                address(text, out.len()).unwrap_or_else(|| text.clone().into_bytes())
            }
            _ => return refuse(node, "bytes are text, an address or Hex(\"..\")"),
        };
        if bytes.len() > out.len() {
            return refuse(node, format!("{} bytes do not fit into {}", bytes.len(), out.len()));
        }
        out.fill(0);
        out[..bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    fn write_scalar(&self, node: &Node, ty: u32, out: &mut [u8]) -> Result<(), Finding> {
        if let Kind::Call(name, args) = &node.kind {
            return match (name.as_str(), args.as_slice()) {
                ("Hex", _) => self.write_bytes(node, out),
                ("Be", [value]) => self.put_checked(value, ty, Endian::Big, out),
                _ => refuse(node, format!("{} is no value", node.describe())),
            };
        }
        if let Kind::Str(text) = &node.kind {
            return match address(text, out.len()) {
                Some(bytes) if bytes.len() == out.len() => {
                    out.copy_from_slice(&bytes);
                    Ok(())
                }
                _ => refuse(node, format!("\"{text}\" is no value of {} bytes", out.len())),
            };
        }
        self.put_checked(node, ty, self.order(ty), out)
    }

    fn put_checked(
        &self,
        node: &Node,
        ty: u32,
        endian: Endian,
        out: &mut [u8],
    ) -> Result<(), Finding> {
        let value = self.number(node, ty)?;
        let bits = (out.len() as u32 * 8).max(8);
        let fits = value >= -(1i128 << (bits - 1).min(126)) && value < 1i128 << bits.min(126);
        if !fits {
            return refuse(node, format!("{value} does not fit into {bits} bits"));
        }
        put_int(out, value as u64, endian);
        Ok(())
    }

    /// A number, or a name of the program's enumerators.
    fn number(&self, node: &Node, ty: u32) -> Result<i128, Finding> {
        match &node.kind {
            Kind::Int { .. } => Ok(int_of(node).expect("an integer")),
            Kind::Bool(b) => Ok(i128::from(*b)),
            Kind::Name(name) if name == "NULL" => Ok(0),
            Kind::Name(name) => self.enumerator(node, name, ty),
            _ => refuse(node, format!("a number was expected, found {}", node.describe())),
        }
    }

    fn enumerator(&self, node: &Node, name: &str, ty: u32) -> Result<i128, Finding> {
        let id = self.btf.resolve(ty);
        let own: Vec<(&str, u64)> = match self.btf.body(id) {
            Body::Enum { .. } | Body::Enum64 { .. } => self.btf.enumerators(id).collect(),
            _ => Vec::new(),
        };
        if let Some((_, v)) = own.iter().find(|e| e.0 == name) {
            return Ok(i128::from(v.cast_signed()));
        }
        // A plain integer may hold a constant of any enum of the program.
        if own.is_empty() {
            for id in self.btf.ids() {
                if let Body::Enum { .. } | Body::Enum64 { .. } = self.btf.body(id)
                    && let Some((_, v)) = self.btf.enumerators(id).find(|e| e.0 == name)
                {
                    return Ok(i128::from(v.cast_signed()));
                }
            }
        }
        if own.is_empty()
            && let Some(value) = kernel_constant(name)
        {
            return Ok(value);
        }
        if own.is_empty() {
            let message = format!("no enum of the object has the name `{name}`");
            let hint = "an object has the enums that its maps, globals and functions use";
            return Err(Finding::error(node.span, message).hint(hint));
        }
        let known: Vec<&str> = own.iter().map(|e| e.0).collect();
        let finding = Finding::error(
            node.span,
            format!("unknown name of enum {} `{name}`", self.btf.name(id)),
        );
        Err(match leaf::suggest(name, known.iter().copied()) {
            Some(s) => finding.hint(format!("did you mean {s}?")),
            None => finding.hint(format!("known: {}", known.join(", "))),
        })
    }

    /// Whether bytes are what a value or pattern says; `Some` tells the difference.
    ///
    /// # Errors
    /// A pattern that does not fit the type.
    pub fn differs(
        &self,
        node: &Node,
        ty: u32,
        bytes: &[u8],
    ) -> Result<Option<Difference>, Finding> {
        let id = self.btf.resolve(ty);
        match (self.btf.body(id), &node.kind) {
            (_, Kind::Name(n)) if n == "_" => Ok(None),
            (_, Kind::Call(n, args)) if n == "OneOf" || n == "Not" => {
                pick(node, (n, args), &|item| self.differs(item, ty, bytes))
            }
            (Body::Struct { .. } | Body::Union { .. }, Kind::Record(None, members)) => {
                for m in members {
                    let Some(member) = self.btf.member(id, &m.name) else {
                        return Err(self.unknown_member(id, m));
                    };
                    let found = self.member_differs(&member, &m.value, bytes)?;
                    if let Some(why) = found {
                        return Ok(Some(why.within(&m.name)));
                    }
                }
                Ok(None)
            }
            (Body::Array { nelems, .. }, Kind::List(items)) if items.len() > *nelems as usize => {
                refuse(node, format!("the array has {nelems} elements"))
            }
            (Body::Array { elem, .. }, Kind::List(items)) => {
                let size = self.size(*elem);
                for (n, item) in items.iter().enumerate() {
                    let part = bytes.get(n * size..(n + 1) * size).unwrap_or_default();
                    if let Some(why) = self.differs(item, *elem, part)? {
                        return Ok(Some(why.within(&format!("[{n}]"))));
                    }
                }
                Ok(None)
            }
            (Body::Struct { .. } | Body::Union { .. } | Body::Array { .. }, _) => {
                let mut wanted = vec![0; bytes.len()];
                self.write(node, ty, &mut wanted)?;
                let why = || format!("is {bytes:02x?}, expected {wanted:02x?}");
                Ok((wanted != bytes).then(|| Difference {
                    fix: bytes_as(node, bytes),
                    ..Difference::new(node, why())
                }))
            }
            _ => self.scalar_differs(node, ty, bytes),
        }
    }

    fn member_differs(
        &self,
        member: &bpf::btf::Member<'_>,
        node: &Node,
        bytes: &[u8],
    ) -> Result<Option<Difference>, Finding> {
        if member.bits != 0 {
            return self.bits_differ(member, node, bytes);
        }
        let at = member.byte_off() as usize;
        let part = bytes.get(at..at + self.size(member.ty)).unwrap_or_default();
        self.differs(node, member.ty, part)
    }

    fn bits_differ(
        &self,
        member: &bpf::btf::Member<'_>,
        node: &Node,
        bytes: &[u8],
    ) -> Result<Option<Difference>, Finding> {
        let bits = member.bits;
        let raw = self.bits(member, bytes);
        let negative = self.is_signed(member.ty) && raw >> (bits - 1) & 1 == 1;
        let found = if negative { raw - (1 << bits) } else { raw };
        let same = match &node.kind {
            Kind::Name(n) if n == "_" => true,
            Kind::Bool(b) => raw == i128::from(*b),
            // A negative number means the same bits, whatever the type is called.
            Kind::Int { .. } => int_of(node).is_some_and(|v| v == found || v == raw - (1 << bits)),
            Kind::Call(n, args) if n == "OneOf" || n == "Not" => {
                let one = |item: &Node| self.bits_differ(member, item, bytes);
                return pick(node, (n, args), &one);
            }
            _ => Is::<i64>::from_node(node)?.matches(&(found as i64)),
        };
        let why = Difference::new(node, format!("is {found}"));
        Ok((!same).then(|| Difference { fix: Some(found.to_string()), ..why }))
    }

    fn scalar_differs(
        &self,
        node: &Node,
        ty: u32,
        bytes: &[u8],
    ) -> Result<Option<Difference>, Finding> {
        let raw = get_int(bytes, self.order(ty));
        let signed = self.is_signed(ty);
        let found = self.signed(ty, raw, bytes.len());
        if matches!(node.kind, Kind::Range { .. }) {
            let matches = if signed {
                Is::<i64>::from_node(node)?.matches(&(found as i64))
            } else {
                Is::<u64>::from_node(node)?.matches(&(found as u64))
            };
            let difference = Difference::new(node, format!("is {found}"));
            return Ok(
                (!matches).then(|| Difference { fix: Some(found.to_string()), ..difference })
            );
        }
        let mut wanted = vec![0; bytes.len()];
        self.write_scalar(node, ty, &mut wanted)?;
        let expected = get_int(&wanted, self.order(ty));
        if wanted == bytes {
            return Ok(None);
        }
        let say = |bytes: &[u8], raw: u64, n: i128| {
            bytes_as(node, bytes).unwrap_or_else(|| self.written(node, ty, raw, n))
        };
        let (is, not) = (
            say(bytes, raw, found),
            say(&wanted, expected, self.signed(ty, expected, bytes.len())),
        );
        let difference = Difference::new(node, format!("is {is}, expected {not}"));
        Ok(Some(Difference { fix: Some(is), ..difference }))
    }

    /// A bit-field of a struct, as a number without sign.
    fn bits(&self, member: &bpf::btf::Member<'_>, bytes: &[u8]) -> i128 {
        let (from, bits) = (member.bit_off, u32::from(member.bits));
        let bit = |at: u32| match self.endian {
            Endian::Little => bytes.get(at as usize / 8).is_some_and(|b| b >> (at % 8) & 1 == 1),
            Endian::Big => bytes.get(at as usize / 8).is_some_and(|b| b >> (7 - at % 8) & 1 == 1),
        };
        let at = |n: u32| match self.endian {
            Endian::Little => from + n,
            Endian::Big => from + bits - 1 - n,
        };
        (0..bits).fold(0i128, |v, n| v | i128::from(bit(at(n))) << n)
    }

    fn is_signed(&self, ty: u32) -> bool {
        match self.btf.body(self.btf.resolve(ty)) {
            Body::Int { enc, .. } => enc.signed,
            Body::Enum { signed, .. } | Body::Enum64 { signed, .. } => *signed,
            _ => false,
        }
    }

    /// The number that the bytes of an integer mean.
    fn signed(&self, ty: u32, raw: u64, size: usize) -> i128 {
        let shift = 64 - (size.min(8) as u32 * 8).max(1);
        if self.is_signed(ty) {
            i128::from((raw << shift).cast_signed() >> shift)
        } else {
            i128::from(raw)
        }
    }

    /// A number as the node next to it is written: a name where a name stood, else a number.
    fn written(&self, node: &Node, ty: u32, raw: u64, found: i128) -> String {
        let id = self.btf.resolve(ty);
        match (&node.kind, self.btf.body(id)) {
            (Kind::Name(_), Body::Enum { .. } | Body::Enum64 { .. }) => {
                let name = self.btf.enumerators(id).find(|(_, v)| *v == raw);
                name.map_or_else(|| found.to_string(), |(n, _)| n.to_owned())
            }
            (Kind::Bool(_), _) if raw < 2 => (raw == 1).to_string(),
            _ => found.to_string(),
        }
    }
}

/// Bytes in the form of the node next to them: an address, text or `Hex`.
fn bytes_as(node: &Node, bytes: &[u8]) -> Option<String> {
    let text = match &node.kind {
        Kind::Str(was) if address(was, bytes.len()).is_some() => match bytes.len() {
            4 => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
            6 => Mac(bytes.try_into().ok()?).to_string(),
            _ => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
        },
        Kind::Str(_) => {
            let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            std::str::from_utf8(&bytes[..end]).ok()?.to_owned()
        }
        Kind::Call(name, _) if name == "Hex" => {
            let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            return Some(format!("Hex(\"{}\")", digits.join(" ")));
        }
        _ => return None,
    };
    Some(format!("{text:?}"))
}

/// An address as bytes in network order, by the size that is wanted.
fn address(text: &str, len: usize) -> Option<Vec<u8>> {
    match len {
        4 => text.parse::<std::net::Ipv4Addr>().ok().map(|a| a.octets().to_vec()),
        6 => Mac::parse(text).map(|m| m.0.to_vec()),
        16 => text.parse::<std::net::Ipv6Addr>().ok().map(|a| a.octets().to_vec()),
        _ => None,
    }
}

/// A value without BTF: an integer of the right size, or `Hex`.
///
/// # Errors
/// The node is neither.
pub fn untyped(node: &Node, size: usize, endian: Endian) -> Result<Vec<u8>, Finding> {
    let mut out = vec![0; size];
    match &node.kind {
        Kind::Tuple(items) if items.is_empty() && size == 0 => {}
        Kind::Call(name, args) if name == "Hex" && args.len() == 1 => {
            let bytes = scenarios::schema::packet::HexBytes::from_node(&args[0])?.0;
            if bytes.len() != size {
                return refuse(node, format!("{} bytes given, {size} needed", bytes.len()));
            }
            out = bytes;
        }
        _ => match int_of(node) {
            Some(value) if size <= 8 => put_int(&mut out, value as u64, endian),
            _ => return refuse(node, format!("without BTF, {size} bytes are written as Hex(..)")),
        },
    }
    Ok(out)
}
