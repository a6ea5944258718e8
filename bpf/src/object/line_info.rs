//! `.BTF.ext`: which function and which source line an instruction belongs to, and what CO-RE
//! has to patch. Records are kept per ELF section with byte offsets turned into slots.

use std::collections::BTreeMap;

use super::error::ObjectError;
use crate::btf::TypeId;
use crate::{Endian, btf::Btf};

/// `struct bpf_core_relo` of one section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreRecord {
    /// Slot in the section.
    pub slot: u32,
    /// Root type in the object's BTF.
    pub type_id: TypeId,
    /// Access string, e.g. `0:1:2`.
    pub access: String,
    /// `enum bpf_core_relo_kind`.
    pub kind: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    pub(super) slot: u32,
    pub(super) file_off: u32,
    pub(super) text_off: u32,
    pub(super) line: u32,
    pub(super) col: u32,
}

/// Records of one section, ordered by slot.
#[derive(Clone, Debug, Default)]
pub(super) struct SectionRecords {
    pub(super) funcs: Vec<(u32, TypeId)>,
    pub(super) lines: Vec<RawLine>,
    pub(super) core: Vec<CoreRecord>,
}

struct Reader<'a> {
    data: &'a [u8],
    endian: Endian,
}

fn error(what: impl Into<String>) -> ObjectError {
    ObjectError::new(".BTF.ext", what)
}

impl<'a> Reader<'a> {
    fn u32_at(&self, at: usize) -> Option<u32> {
        let b = self.data.get(at..)?.first_chunk::<4>()?;
        Some(match self.endian {
            Endian::Little => u32::from_le_bytes(*b),
            Endian::Big => u32::from_be_bytes(*b),
        })
    }

    fn word(&self, at: usize) -> Result<u32, ObjectError> {
        self.u32_at(at).ok_or_else(|| error("cut short").offset(at as u64))
    }

    fn sub(&self, start: usize, len: usize, name: &str) -> Result<Reader<'a>, ObjectError> {
        let data = start.checked_add(len).and_then(|end| self.data.get(start..end));
        let data = data.ok_or_else(|| error(format!("{name} reaches past the section's end")))?;
        Ok(Reader { data, endian: self.endian })
    }

    /// Walks one table: a record size, then per ELF section a name, a count and records.
    fn table(
        &self,
        name: &str,
        min_bytes: u32,
        btf: &Btf,
        mut record: impl FnMut(&str, [u32; 4]),
    ) -> Result<(), ObjectError> {
        if self.data.is_empty() {
            return Ok(());
        }
        let size = self.word(0)?;
        if size < min_bytes || size % 4 != 0 || size > 1024 {
            return Err(error(format!("{name}: record size {size} is not supported")));
        }
        let mut at = 4;
        while at < self.data.len() {
            let (sec_off, count) = (self.word(at)?, self.word(at + 4)?);
            at += 8;
            let section = btf.str(sec_off);
            let bytes = u64::from(count) * u64::from(size);
            if count == 0 || bytes > (self.data.len() - at) as u64 {
                return Err(error(format!("{name}: {count} records for '{section}' do not fit")));
            }
            for _ in 0..count {
                let mut words = [0; 4];
                for (i, w) in words.iter_mut().enumerate().take(min_bytes as usize / 4) {
                    *w = self.word(at + i * 4)?;
                }
                if words[0] % 8 != 0 {
                    let what = format!("{name}: instruction offset {:#x} is odd", words[0]);
                    return Err(error(what));
                }
                record(section, words);
                at += size as usize;
            }
        }
        Ok(())
    }
}

/// Parses the section against the object's BTF, which has its strings.
pub(super) fn parse(
    data: &[u8],
    btf: &Btf,
) -> Result<BTreeMap<String, SectionRecords>, ObjectError> {
    let endian = match data.first_chunk::<2>() {
        Some([0x9f, 0xeb]) => Endian::Little,
        Some([0xeb, 0x9f]) => Endian::Big,
        _ => return Err(error("invalid magic")),
    };
    let r = Reader { data, endian };
    let header = r.word(4)? as usize;
    if header < 24 || header > data.len() || !header.is_multiple_of(4) {
        return Err(error(format!("header length {header} is out of range")));
    }
    let area = |at: usize, name: &str| -> Result<Reader<'_>, ObjectError> {
        if at + 8 > header {
            return Ok(Reader { data: &[], endian });
        }
        let (off, len) = (r.word(at)? as usize, r.word(at + 4)? as usize);
        r.sub(header + off, len, name)
    };
    let mut out: BTreeMap<String, SectionRecords> = BTreeMap::new();
    area(8, "func_info")?.table("func_info", 8, btf, |section, w| {
        out.entry(section.to_owned()).or_default().funcs.push((w[0] / 8, w[1]));
    })?;
    area(16, "line_info")?.table("line_info", 16, btf, |section, w| {
        out.entry(section.to_owned()).or_default().lines.push(RawLine {
            slot: w[0] / 8,
            file_off: w[1],
            text_off: w[2],
            line: w[3] >> 10,
            col: w[3] & 0x3ff,
        });
    })?;
    area(24, "core_relo")?.table("core_relo", 16, btf, |section, w| {
        // Access strings are short; a hostile blob must not make each record copy a long one.
        let access = btf.str(w[2]).chars().take(256).collect();
        out.entry(section.to_owned()).or_default().core.push(CoreRecord {
            slot: w[0] / 8,
            type_id: w[1],
            access,
            kind: w[3],
        });
    })?;
    for records in out.values_mut() {
        records.funcs.sort_by_key(|f| f.0);
        records.lines.sort_by_key(|l| l.slot);
        records.core.sort_by_key(|c| c.slot);
    }
    Ok(out)
}
