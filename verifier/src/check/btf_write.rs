//! Members of kernel structures that programs may write: `btf_struct_access` of the program type.

use bpf::btf::Kind;
use bpf::uapi::ProgType;

use crate::btf::BtfSrc;
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::reject::EACCES;
use crate::tables::struct_ops::{self, Field, Rule, Writable, Writes};

/// Begin and end of an access, and of a member.
type Range = (i64, i64);

impl Ver<'_> {
    /// The table of the program; `None` when nothing may be written.
    fn write_table(&self) -> R<Option<&'static Writes>> {
        match self.prog_type() {
            ProgType::SchedCls | ProgType::SchedAct | ProgType::Xdp => {
                Ok(Some(&struct_ops::CONNTRACK))
            }
            ProgType::StructOps => match struct_ops::ops(self.ops_name()) {
                Some(ops) => Ok(Some(&ops.writes)),
                None => {
                    let what = format!("writes of struct {}", self.ops_name());
                    unsupported(what, "verifier.c:check_ptr_to_btf_access")
                }
            },
            _ => Ok(None),
        }
    }

    /// `env->ops->btf_struct_access` of a write. False: the program type has none.
    pub(super) fn write_hook(&self, p: &RegState, off: i32, size: u32) -> R<bool> {
        let Some(w) = self.write_table()? else { return Ok(false) };
        let name = self.btf_name(p.btf, p.btf_id);
        let found = w.structs.iter().find(|s| s.types.contains(&name));
        let Some(s) = found.filter(|_| p.btf == BtfSrc::Vmlinux) else {
            return no(EACCES, w.other);
        };
        let access = (i64::from(off), i64::from(off) + i64::from(size));
        let whole = self.btf_of(p.btf).and_then(|b| b.size_of(p.btf_id)).unwrap_or(0);
        let text = match w.rule {
            Rule::Whole if access.1 <= i64::from(whole) => None,
            Rule::Whole => Some(format!("write access at off {off} with size {size}")),
            Rule::Begins => self.write_begins(s, p.btf_id, access),
            Rule::Inside => self.write_outside(s, p.btf_id, access).then(String::new),
            Rule::Ranges => {
                let at = format!("at off {off} with size {size}");
                if access.1 > i64::from(whole) {
                    Some(format!("write access for struct {name} {at}"))
                } else {
                    let outside = self.write_outside(s, p.btf_id, access);
                    outside.then(|| format!("write access {at} on read-only part of {name}"))
                }
            }
        };
        text.map_or(Ok(true), |m| no(EACCES, m))
    }

    /// [`Rule::Begins`]: what is wrong with a write.
    fn write_begins(&self, s: &Writable, ty: u32, (begin, end): Range) -> Option<String> {
        let found = s.fields.iter().find_map(|f| {
            let (from, to) = self.field_range(ty, f)?;
            let inside = f.parts && from < begin && begin < to;
            (from == begin || inside).then_some(to)
        });
        let Some(stop) = found else {
            return Some(format!("no write support to {} at off {begin}", s.name));
        };
        (end > stop).then(|| {
            let m = format!("beyond the member of {} ended at {stop}", s.name);
            format!("write access at off {begin} with size {} {m}", end - begin)
        })
    }

    /// [`Rule::Inside`]: a write is not inside of one member.
    fn write_outside(&self, s: &Writable, ty: u32, (begin, end): Range) -> bool {
        let holds = |(from, to): Range| from <= begin && end <= to;
        !s.fields.iter().any(|f| self.field_range(ty, f).is_some_and(holds))
    }

    /// Begin and end of a member.
    fn field_range(&self, ty: u32, f: &Field) -> Option<Range> {
        let (from, to) = self.member_range(ty, f.path)?;
        let Some((name, member)) = f.over else {
            return Some((from.into(), i64::from(to) - i64::from(f.keep_last)));
        };
        let over = self.input.env.btf()?.find(name, Kind::Struct)?;
        let (first, last) = self.member_range(over, member)?;
        Some((i64::from(from + first), i64::from(from + last)))
    }

    /// Begin and end of a member, looked for in the structures that come first in this one.
    fn member_range(&self, ty: u32, path: &str) -> Option<(u32, u32)> {
        let btf = self.input.env.btf()?;
        let mut ty = ty;
        loop {
            let mut at = (0, ty);
            let found = path.split('.').all(|part| match btf.member(at.1, part) {
                Some(m) => {
                    at = (at.0 + m.bit_off / 8, m.ty);
                    true
                }
                None => false,
            });
            if found {
                return Some((at.0, at.0 + btf.size_of(at.1)?));
            }
            let first = btf.members(ty).next()?;
            ty = btf.resolve(first.ty);
            if first.bit_off != 0 || btf.kind(ty) != Kind::Struct {
                return None;
            }
        }
    }

    /// The structure of a struct_ops program's member.
    pub(crate) fn ops_name(&self) -> &str {
        let target = self.input.program.attach_to.as_deref().unwrap_or_default();
        target.split('/').next().unwrap_or_default()
    }
}
