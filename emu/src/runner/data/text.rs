//! Typed bytes as text, in the notation that values of a scenario are written in.

use std::fmt::Write as _;

use bpf::Endian;
use bpf::btf::{Body, Member};

use super::{Types, get_int};

/// Elements of an array beyond which equal ones at its end are counted.
const ELEMENTS: usize = 16;

impl Types<'_> {
    /// A value: `(hits: 3, from: "10.0.0.1", kind: TCP)`. What can be written in a scenario reads
    /// so that it can be written back.
    #[must_use]
    pub fn text(&self, ty: u32, bytes: &[u8]) -> String {
        let id = self.btf.resolve(ty);
        match self.btf.body(id) {
            Body::Struct { .. } | Body::Union { .. } => {
                let members = self.members_text(id, bytes, 0);
                format!("({})", members.join(", "))
            }
            Body::Datasec { vars, .. } => {
                let var = |v: &bpf::btf::SecVar| {
                    let part = part(bytes, v.offset as usize, v.size as usize);
                    let Body::Var { ty, .. } = self.btf.body(v.ty) else { return hex(part) };
                    format!("{}: {}", self.btf.name(v.ty), self.text(*ty, part))
                };
                format!("({})", vars.iter().map(var).collect::<Vec<_>>().join(", "))
            }
            Body::Array { elem, nelems, .. } => self.array_text(*elem, *nelems as usize, bytes),
            Body::Int { .. } | Body::Enum { .. } | Body::Enum64 { .. } | Body::Ptr(_) => {
                self.scalar_text(ty, id, bytes)
            }
            _ => hex(bytes),
        }
    }

    /// A member of a structure by name.
    #[must_use]
    pub fn member_text(&self, ty: u32, name: &str, bytes: &[u8]) -> Option<String> {
        let m = self.btf.member(ty, name)?;
        Some(self.one_text(&m, bytes))
    }

    /// A member, whose offset is that in `bytes`.
    fn one_text(&self, m: &Member<'_>, bytes: &[u8]) -> String {
        match m.bits {
            0 => self.text(m.ty, part(bytes, m.byte_off() as usize, self.size(m.ty))),
            _ => self.bits_text(m, bytes),
        }
    }

    /// Members; those of structs and unions without a name as if they were its own.
    fn members_text(&self, id: u32, bytes: &[u8], at: usize) -> Vec<String> {
        let mut out = Vec::new();
        for m in self.btf.members(id) {
            let from = at + m.byte_off() as usize;
            let inner = self.btf.resolve(m.ty);
            let nests = matches!(self.btf.body(inner), Body::Struct { .. } | Body::Union { .. });
            if m.name.is_empty() {
                if nests {
                    out.extend(self.members_text(inner, bytes, from));
                }
                continue;
            }
            let text = self.one_text(&m, bytes.get(at..).unwrap_or_default());
            out.push(format!("{}: {text}", m.name));
        }
        out
    }

    fn bits_text(&self, m: &Member<'_>, bytes: &[u8]) -> String {
        let raw = self.bits(m, bytes);
        let negative = self.is_signed(m.ty) && raw >> (m.bits - 1) & 1 == 1;
        if negative { (raw - (1 << m.bits)).to_string() } else { raw.to_string() }
    }

    fn array_text(&self, elem: u32, count: usize, bytes: &[u8]) -> String {
        let size = self.size(elem);
        if size == 1 {
            return bytes_text(bytes, self.btf.name(self.btf.resolve(elem)) == "char");
        }
        let all: Vec<String> =
            (0..count).map(|n| self.text(elem, part(bytes, n * size, size))).collect();
        let last = all.last();
        let same = all.iter().rev().take_while(|e| Some(*e) == last).count();
        match last {
            Some(last) if count > ELEMENTS && same > 2 => {
                let mut out = String::from("[");
                for e in &all[..count - same] {
                    let _ = write!(out, "{e}, ");
                }
                let _ = write!(out, "{last} ({same} times)]");
                out
            }
            _ => format!("[{}]", all.join(", ")),
        }
    }

    fn scalar_text(&self, ty: u32, id: u32, bytes: &[u8]) -> String {
        if bytes.is_empty() || bytes.len() > 8 {
            return hex(bytes);
        }
        let order = self.order(ty);
        let raw = get_int(bytes, order);
        match self.btf.body(id) {
            Body::Ptr(_) if raw == 0 => "NULL".to_owned(),
            Body::Ptr(_) => format!("{raw:#x}"),
            Body::Enum { .. } | Body::Enum64 { .. } => {
                let name = self.btf.enumerators(id).find(|(_, v)| *v == raw);
                name.map_or_else(|| raw.to_string(), |(name, _)| name.to_owned())
            }
            Body::Int { enc, .. } if enc.bool && raw < 2 => (raw == 1).to_string(),
            // Four bytes in network order are an address more often than not.
            _ if order == Endian::Big && self.is_be32(ty) && raw > 0xffff => {
                format!("\"{}\"", std::net::Ipv4Addr::from(raw as u32))
            }
            _ => self.signed(ty, raw, bytes.len()).to_string(),
        }
    }

    fn is_be32(&self, mut ty: u32) -> bool {
        while let Body::Typedef(next) | Body::Const(next) | Body::Volatile(next) = self.btf.body(ty)
        {
            if self.btf.name(ty) == "__be32" {
                return true;
            }
            ty = *next;
        }
        false
    }
}

fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    bytes.get(at..at + len).unwrap_or_default()
}

/// `Hex("01 02")`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("Hex(\"{}\")", digits.join(" "))
}

/// Bytes as text when they are one, with zeros behind it alone.
fn bytes_text(bytes: &[u8], chars: bool) -> String {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    let printable = bytes[..end].iter().all(|b| (0x20..0x7f).contains(b));
    match printable && (chars || end > 3) {
        true => format!("{:?}", String::from_utf8_lossy(&bytes[..end])),
        false => hex(bytes),
    }
}
