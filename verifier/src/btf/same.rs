//! `btf_struct_ids_match`: whether a pointer into one structure is a pointer to another.

use bpf::btf::{Body, Kind};

use super::BtfSrc;
use crate::explore::ver::Ver;

impl Ver<'_> {
    /// `btf_types_are_same`: by id within one BTF; across BTFs types are never the same object.
    fn same_type(&self, a: (BtfSrc, u32), b: (BtfSrc, u32)) -> bool {
        a == b
    }

    /// KERNEL v6.18 btf.c:btf_struct_ids_match
    ///
    /// The structure itself at offset 0, or (unless `strict`) the one that lies at this offset.
    pub(crate) fn struct_ids_match(
        &self,
        outer: (BtfSrc, u32),
        off: i32,
        inner: (BtfSrc, u32),
        strict: bool,
    ) -> bool {
        let Ok(mut at) = u32::try_from(off) else { return false };
        if at == 0 && self.same_type(outer, inner) {
            return true;
        }
        let Some(btf) = self.btf_of(outer.0).filter(|_| !strict) else { return false };
        let mut ty = btf.resolve(outer.1);
        loop {
            let size = btf.size_of(ty).unwrap_or(0);
            if at >= size {
                return false;
            }
            let next = btf.members(ty).find_map(|m| {
                let (start, t) = (m.bit_off / 8, btf.resolve(m.ty));
                let (elem, len) = match *btf.body(t) {
                    Body::Array { elem, .. } => (btf.resolve(elem), btf.size_of(t).unwrap_or(0)),
                    _ => (t, btf.size_of(t).unwrap_or(0)),
                };
                let inside = m.bits == 0 && start <= at && at < start + len;
                let aggregate = matches!(btf.kind(elem), Kind::Struct | Kind::Union);
                let one = btf.size_of(elem).unwrap_or(1).max(1);
                (inside && aggregate).then(|| (elem, (at - start) % one))
            });
            let Some((t, rest)) = next else { return false };
            (ty, at) = (t, rest);
            if at == 0 && self.same_type((outer.0, ty), inner) {
                return true;
            }
        }
    }

    /// `btf_type_ids_nocast_alias`: `TYPE___init` is not to be passed where `TYPE` is wanted.
    pub(crate) fn nocast_alias(&self, reg: (BtfSrc, u32), arg: (BtfSrc, u32)) -> bool {
        let (r, a) = (self.btf_name(reg.0, reg.1), self.btf_name(arg.0, arg.1));
        let base =
            |long: &str, short: &str| long.strip_suffix("___init").is_some_and(|b| b == short);
        base(r, a) || base(a, r)
    }
}
