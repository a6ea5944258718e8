//! `btf_struct_walk`: which member an access touches, through nested structures and arrays.

use bpf::btf::{Body, Btf, Kind, Member, TypeId};

use crate::explore::ver::{R, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EFAULT, EINVAL};

/// What lies at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk<'a> {
    /// A pointer to a structure, with the flags of its type tag, and the member's name.
    Ptr(TypeId, &'a str),
    /// A pointer to something else.
    OtherPtr,
    /// Data.
    Scalar,
    /// A nested structure begins exactly here.
    Struct(TypeId),
}

/// One access, and what walking it found out on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walker<'a> {
    btf: &'a Btf,
    off: u32,
    size: u32,
    /// Flags of a pointer that is found: `MEM_RCU` and its like, `PTR_UNTRUSTED` after a union.
    pub(crate) flags: Flags,
    /// Beyond the end of a structure that ends in an array of any length.
    flexible: bool,
}

/// A member as the walk sees it: of an array, the element the access begins in.
struct Place {
    ty: TypeId,
    start: u32,
    size: u32,
    /// End of the whole member.
    end: u32,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(btf: &'a Btf, off: u32, size: u32, flexible: bool) -> Walker<'a> {
        Walker { btf, off, size, flags: Flags::NONE, flexible }
    }

    /// KERNEL v6.18 btf.c:btf_struct_walk
    pub(crate) fn walk(&mut self, mut ty: TypeId) -> R<Walk<'a>> {
        let btf = self.btf;
        loop {
            ty = btf.resolve(ty);
            let (kind, name) = (btf.kind(ty), btf.name(ty));
            if kind != Kind::Struct && kind != Kind::Union {
                return no(EINVAL, format!("Type '{name}' is not a struct"));
            }
            if kind == Kind::Union && btf.members(ty).len() != 1 {
                self.flags = self.flags.or(Flags::PTR_UNTRUSTED);
            }
            if self.off.saturating_add(self.size) > btf.size_of(ty).unwrap_or(0) {
                match self.beyond(ty)? {
                    Some(elem) => ty = elem,
                    None => return Ok(Walk::Scalar),
                }
                continue;
            }
            let Some((m, place)) = self.member(ty)? else {
                return Ok(Walk::Scalar);
            };
            if !matches!(btf.kind(place.ty), Kind::Struct | Kind::Union) {
                return self.leaf(ty, &m, &place);
            }
            if self.off == place.start {
                self.off = 0;
                return Ok(Walk::Struct(place.ty));
            }
            self.off -= place.start;
            ty = place.ty;
        }
    }

    /// An access past the end is one of a trailing array, or none. `Ok(None)`: of integers.
    fn beyond(&mut self, ty: TypeId) -> R<Option<TypeId>> {
        let btf = self.btf;
        let last = btf.members(ty).last().filter(|_| self.flexible);
        let array = last.and_then(|m| match *btf.body(btf.resolve(m.ty)) {
            Body::Array { elem, nelems: 0, .. } => Some((m.bit_off / 8, btf.resolve(elem))),
            _ => None,
        });
        if let Some((start, elem)) = array.filter(|a| self.off >= a.0) {
            let size = btf.size_of(elem).unwrap_or(0);
            match btf.kind(elem) {
                Kind::Int => return Ok(None),
                Kind::Struct | Kind::Union if size != 0 => {
                    self.off = (self.off - start) % size;
                    return Ok(Some(elem));
                }
                _ => {}
            }
        }
        let (name, off, size) = (btf.name(ty), self.off, self.size);
        no(EACCES, format!("access beyond struct {name} at off {off} size {size}"))
    }

    /// The member the access begins in; `None` for a bitfield.
    fn member(&self, ty: TypeId) -> R<Option<(Member<'a>, Place)>> {
        let btf = self.btf;
        for m in btf.members(ty) {
            let start = m.bit_off / 8;
            if self.off + self.size <= start {
                break;
            }
            if m.bits != 0 {
                let end = (m.bit_off + u32::from(m.bits)).div_ceil(8);
                if self.off <= start && end <= self.off + self.size {
                    return Ok(None);
                }
                continue;
            }
            if self.off < start {
                break;
            }
            let Some(total) = btf.size_of(m.ty) else {
                return no(EFAULT, format!("field {} doesn't have size", m.name));
            };
            if self.off >= start + total {
                continue;
            }
            let mut place = Place { ty: btf.resolve(m.ty), start, size: total, end: start + total };
            while let Body::Array { elem, .. } = *btf.body(place.ty) {
                place.ty = btf.resolve(elem);
                place.size = btf.size_of(place.ty).unwrap_or(1).max(1);
            }
            place.start += (self.off - start) / place.size.max(1) * place.size;
            return Ok(Some((m, place)));
        }
        let name = btf.name(ty);
        no(EINVAL, format!("struct {name} doesn't have field at offset {}", self.off))
    }

    /// A pointer or a scalar.
    fn leaf(&mut self, ty: TypeId, m: &Member<'a>, place: &Place) -> R<Walk<'a>> {
        let (btf, off, size) = (self.btf, self.off, self.size);
        let (name, member) = (btf.name(ty), m.name);
        if let Body::Ptr(to) = *btf.body(place.ty) {
            if place.size != size || off != place.start {
                let m = format!("cannot access ptr member {member} with moff {}", place.start);
                return no(EACCES, format!("{m} in struct {name} with off {off} size {size}"));
            }
            let to_struct = btf.resolve(to);
            if !matches!(btf.kind(to_struct), Kind::Struct | Kind::Union) {
                return Ok(Walk::OtherPtr);
            }
            self.flags = self.flags.or(tag_flags(btf, to));
            return Ok(Walk::Ptr(to_struct, member));
        }
        if off + size > place.end && !self.flags.has(Flags::PTR_UNTRUSTED) {
            let m = format!("access beyond the end of member {member} (mend:{})", place.end);
            return no(EACCES, format!("{m} in struct {name} with off {off} size {size}"));
        }
        Ok(Walk::Scalar)
    }
}

/// `__user`, `__percpu` and `__rcu` of a pointee.
pub(crate) fn tag_flags(btf: &Btf, pointee: TypeId) -> Flags {
    let Body::TypeTag { attr: false, .. } = *btf.body(pointee) else { return Flags::NONE };
    match btf.name(pointee) {
        "user" => Flags::MEM_USER,
        "percpu" => Flags::MEM_PERCPU,
        "rcu" => Flags::MEM_RCU,
        _ => Flags::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::btf::BtfBuilder;

    /// `struct in { int a[4]; struct obj *p; };`
    /// `struct out { long x; union { struct in i; long y; }; }`
    fn types() -> (Btf, TypeId) {
        let mut b = BtfBuilder::new();
        let (int, long) = (b.int("int", 4, true), b.int("long", 8, true));
        let four = b.array(int, int, 4);
        let obj = b.structure("obj", 8, &[("v", long, 0, 0)]);
        let rcu = b.type_tag("rcu", obj);
        let p = b.ptr(rcu);
        let inner = b.structure("in", 24, &[("a", four, 0, 0), ("p", p, 128, 0)]);
        let either = b.union("", 24, &[("i", inner, 0, 0), ("y", long, 0, 0)]);
        let out = b.structure("out", 40, &[("x", long, 0, 0), ("u", either, 64, 0)]);
        (b.finish().expect("well-formed types"), out)
    }

    fn at(off: u32, size: u32) -> Result<(Walk<'static>, Flags), String> {
        let (btf, out) = types();
        let btf: &'static Btf = Box::leak(Box::new(btf));
        let mut w = Walker::new(btf, off, size, true);
        let mut ty = out;
        loop {
            match w.walk(ty).map_err(|e| e.message)? {
                Walk::Struct(t) => ty = t,
                found => return Ok((found, w.flags)),
            }
        }
    }

    #[test]
    fn members_by_offset() {
        let untrusted = Flags::PTR_UNTRUSTED;
        assert_eq!(at(0, 8), Ok((Walk::Scalar, Flags::NONE)));
        assert_eq!(at(12, 4), Ok((Walk::Scalar, untrusted)));
        let Ok((Walk::Ptr(_, "p"), flags)) = at(24, 8) else { panic!("{:?}", at(24, 8)) };
        assert_eq!(flags, untrusted.or(Flags::MEM_RCU));
        let m = "cannot access ptr member p with moff 16 in struct in with off 16 size 4";
        assert_eq!(at(24, 4), Err(m.into()));
        assert_eq!(at(32, 8), Err("struct out doesn't have field at offset 32".into()));
        assert_eq!(at(40, 8), Err("access beyond struct out at off 40 size 8".into()));
        let m = "access beyond the end of member x (mend:8) in struct out with off 4 size 8";
        assert_eq!(at(4, 8), Err(m.into()));
    }
}
