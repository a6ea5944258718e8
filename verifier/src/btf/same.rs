//! `btf_struct_ids_match`: whether a pointer into one structure is a pointer to another.

use super::BtfSrc;
use super::walk::{Walk, Walker};
use crate::explore::ver::Ver;

impl Ver<'_> {
    /// KERNEL v6.18 btf.c:btf_struct_ids_match
    ///
    /// The structure itself at offset 0, or (unless `strict`) the one that begins at this offset.
    /// Types of different BTFs are never the same.
    pub(crate) fn struct_ids_match(
        &self,
        outer: (BtfSrc, u32),
        off: i32,
        inner: (BtfSrc, u32),
        strict: bool,
    ) -> bool {
        if off == 0 && outer == inner {
            return true;
        }
        let Some(btf) = self.btf_of(outer.0).filter(|_| !strict) else { return false };
        let Ok(off) = u32::try_from(off) else { return false };
        let mut walker = Walker::new(btf, off, 1, false);
        let mut ty = outer.1;
        while let Ok(Walk::Struct(nested)) = walker.walk(ty) {
            if (outer.0, nested) == inner {
                return true;
            }
            ty = nested;
        }
        false
    }

    /// `btf_type_ids_nocast_alias`: `TYPE___init` is not to be passed where `TYPE` is wanted.
    pub(crate) fn nocast_alias(&self, reg: (BtfSrc, u32), arg: (BtfSrc, u32)) -> bool {
        let (r, a) = (self.btf_name(reg.0, reg.1), self.btf_name(arg.0, arg.1));
        let base =
            |long: &str, short: &str| long.strip_suffix("___init").is_some_and(|b| b == short);
        base(r, a) || base(a, r)
    }
}
