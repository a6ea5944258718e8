//! BTF bytes to types, in either byte order.
//!
//! The checks are those of the kernel's `btf_parse_hdr`, `btf_check_sec_info`, `btf_parse_str_sec`
//! and the `*_check_meta` functions, except where clang's output is completed by the loader first
//! (`DATASEC` sizes of 0). Messages begin with the type id like the kernel's log.

use super::check;
use super::types::{
    Body, Btf, Enumerator, IntEncoding, Kind, Linkage, Param, RawMember, SecVar, Type, TypeId,
};
use crate::Endian;

/// `BTF_MAGIC`.
pub(super) const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_header` as of version 1.
pub(super) const HEADER_LEN: u32 = 24;
/// `BTF_MAX_TYPE`.
const MAX_TYPES: usize = 0x000f_ffff;
/// `BTF_MAX_NAME_OFFSET`.
const MAX_NAME_OFFSET: u32 = 0x00ff_ffff;
/// `BTF_MAX_SIZE`: 16 MiB.
const MAX_SIZE: usize = 16 << 20;
/// `KSYM_NAME_LEN`, the kernel's limit on names.
const MAX_NAME: usize = 512;
/// Longest string of any use (source lines); bounds what a look-up can cost.
const MAX_STRING: usize = 16 << 10;

/// Why a BTF blob was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// The header or the section layout is wrong.
    #[error("BTF header: {0}")]
    Header(String),
    /// A type record is wrong.
    #[error("BTF type [{id}] {kind} {name:?}: {what}")]
    Type {
        /// Id of the type.
        id: TypeId,
        /// Its kind.
        kind: Kind,
        /// Its name, when that could be read.
        name: String,
        /// What is wrong.
        what: String,
    },
}

pub(super) struct Reader<'a> {
    data: &'a [u8],
    pos: usize,
    endian: Endian,
}

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a [u8], endian: Endian) -> Reader<'a> {
        Reader { data, pos: 0, endian }
    }

    fn left(&self) -> usize {
        self.data.len() - self.pos
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let b = self.data.get(self.pos..)?.first_chunk::<4>()?;
        self.pos += 4;
        Some(match self.endian {
            Endian::Little => u32::from_le_bytes(*b),
            Endian::Big => u32::from_be_bytes(*b),
        })
    }
}

struct Header {
    endian: Endian,
    types: std::ops::Range<usize>,
    strings: std::ops::Range<usize>,
}

fn header_error(what: impl Into<String>) -> BtfError {
    BtfError::Header(what.into())
}

/// `btf_parse_hdr` and `btf_check_sec_info`.
fn parse_header(data: &[u8]) -> Result<Header, BtfError> {
    if data.len() > MAX_SIZE {
        return Err(header_error(format!("{} bytes exceed the limit of 16 MiB", data.len())));
    }
    let endian = match data.first_chunk::<2>() {
        Some(b) if u16::from_le_bytes(*b) == MAGIC => Endian::Little,
        Some(b) if u16::from_be_bytes(*b) == MAGIC => Endian::Big,
        Some(b) => return Err(header_error(format!("invalid magic {b:02x?}"))),
        None => return Err(header_error("hdr_len not found: the blob is empty or cut short")),
    };
    let (version, flags) = match data.get(2..4) {
        Some(b) => (b[0], b[1]),
        None => return Err(header_error("cut short")),
    };
    if version != 1 {
        return Err(header_error(format!("unsupported version {version}")));
    }
    if flags != 0 {
        return Err(header_error(format!("unsupported flags {flags:#x}")));
    }
    let mut r = Reader { data, pos: 4, endian };
    let mut next = || r.u32().ok_or_else(|| header_error("btf_header not found: cut short"));
    let hdr_len = next()?;
    let (type_off, type_len, str_off, str_len) = (next()?, next()?, next()?, next()?);
    if hdr_len < HEADER_LEN || hdr_len as usize > data.len() {
        return Err(header_error(format!("hdr_len {hdr_len} is out of range")));
    }
    if data[HEADER_LEN as usize..hdr_len as usize].iter().any(|b| *b != 0) {
        return Err(header_error("unsupported btf_header: bytes after the known fields are set"));
    }
    let section = |name: &str, off: u32, len: u32| {
        let start = hdr_len as usize + off as usize;
        let end = start + len as usize;
        if end > data.len() {
            return Err(header_error(format!("{name} section {start}..{end} exceeds the blob")));
        }
        Ok(start..end)
    };
    let (types, strings) =
        (section("type", type_off, type_len)?, section("string", str_off, str_len)?);
    if type_off % 4 != 0 {
        return Err(header_error("unaligned type_off"));
    }
    if types.start < strings.end && strings.start < types.end {
        return Err(header_error("section overlap found"));
    }
    if types.is_empty() && type_len != 0 {
        return Err(header_error("no type found"));
    }
    Ok(Header { endian, types, strings })
}

/// `btf_parse_str_sec`.
fn parse_strings(bytes: &[u8]) -> Result<String, BtfError> {
    if bytes.first() != Some(&0) || bytes.last() != Some(&0) {
        return Err(header_error("invalid string section: it must begin and end with a NUL"));
    }
    if bytes.len() > MAX_NAME_OFFSET as usize {
        return Err(header_error("invalid string section: too long"));
    }
    if bytes.split(|b| *b == 0).any(|s| s.len() > MAX_STRING) {
        return Err(header_error(format!("string section: a string exceeds {MAX_STRING} bytes")));
    }
    match std::str::from_utf8(bytes) {
        Ok(s) => Ok(s.to_owned()),
        Err(e) => Err(header_error(format!("string section: not text at {}", e.valid_up_to()))),
    }
}

/// One record's fixed part, and where to report problems.
struct Record<'a> {
    id: TypeId,
    kind: Kind,
    name_off: u32,
    vlen: u32,
    kflag: bool,
    /// `size` or `type`.
    word: u32,
    strings: &'a str,
}

impl Record<'_> {
    fn error(&self, what: impl Into<String>) -> BtfError {
        BtfError::Type {
            id: self.id,
            kind: self.kind,
            name: self.str(self.name_off).unwrap_or("").to_owned(),
            what: what.into(),
        }
    }

    fn str(&self, off: u32) -> Option<&str> {
        Some(self.strings.get(off as usize..)?.split('\0').next().unwrap_or(""))
    }

    /// An offset that names something; 0 is allowed here and means anonymous.
    fn name(&self, off: u32) -> Result<u32, BtfError> {
        match self.str(off) {
            Some(s) if s.len() > MAX_NAME => Err(self.error("Invalid name: too long")),
            Some(_) if (off as usize) < self.strings.len() => Ok(off),
            _ => Err(self.error(format!("invalid name_offset:{off}"))),
        }
    }

    fn word(&self, r: &mut Reader<'_>) -> Result<u32, BtfError> {
        let left = r.left();
        r.u32().ok_or_else(|| self.error(format!("meta_left:{left} is too small")))
    }

    fn no_vlen(&self) -> Result<(), BtfError> {
        if self.vlen != 0 { Err(self.error("vlen != 0")) } else { Ok(()) }
    }

    fn no_kflag(&self) -> Result<(), BtfError> {
        if self.kflag { Err(self.error("Invalid btf_info kind_flag")) } else { Ok(()) }
    }

    fn no_name(&self) -> Result<(), BtfError> {
        if self.name_off != 0 { Err(self.error("Invalid name")) } else { Ok(()) }
    }

    fn named(&self) -> Result<(), BtfError> {
        if self.name_off == 0 || self.str(self.name_off) == Some("") {
            return Err(self.error("Invalid name"));
        }
        Ok(())
    }

    /// A list with one entry per `vlen`; the room is checked before anything is allocated.
    fn list<T>(
        &self,
        r: &mut Reader<'_>,
        entry_bytes: usize,
        mut entry: impl FnMut(&mut Reader<'_>) -> Result<T, BtfError>,
    ) -> Result<Vec<T>, BtfError> {
        let need = self.vlen as usize * entry_bytes;
        if need > r.left() {
            return Err(self.error(format!("meta_left:{} meta_needed:{need}", r.left())));
        }
        (0..self.vlen).map(|_| entry(r)).collect()
    }
}

/// `btf_int_check_meta`.
fn int(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.no_vlen()?;
    rec.no_kflag()?;
    let data = rec.word(r)?;
    let (bits, offset, enc) = (data & 0xff, (data >> 16) & 0xff, (data >> 24) & 0xf);
    if data & 0xf000_ff00 != 0 {
        return Err(rec.error(format!("Invalid int_data:{data:x}")));
    }
    if bits + offset > 128 || bits == 0 {
        return Err(rec.error("nr_bits exceeds 128"));
    }
    if (bits + offset).div_ceil(8) > rec.word {
        return Err(rec.error("nr_bits exceeds type_size"));
    }
    if !matches!(enc, 0 | 1 | 2 | 4) {
        return Err(rec.error("Unsupported encoding"));
    }
    let enc = IntEncoding { signed: enc & 1 != 0, char: enc & 2 != 0, bool: enc & 4 != 0 };
    Ok(Body::Int { size: rec.word, bits: bits as u8, offset: offset as u8, enc })
}

/// `btf_struct_check_meta`.
fn members(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Vec<RawMember>, BtfError> {
    let union = rec.kind == Kind::Union;
    let mut last = 0;
    rec.list(r, 12, |r| {
        let (name_off, ty, offset) = (rec.word(r)?, rec.word(r)?, rec.word(r)?);
        let name_off = rec.name(name_off)?;
        let (bit_off, bits) =
            if rec.kflag { (offset & 0x00ff_ffff, (offset >> 24) as u8) } else { (offset, 0) };
        if union && bit_off != 0 {
            return Err(rec.error("Invalid member bits_offset"));
        }
        if bit_off < last {
            return Err(rec.error(format!("Invalid member bits_offset {bit_off} after {last}")));
        }
        if bit_off.div_ceil(8) > rec.word {
            return Err(rec.error("Member bits_offset exceeds its struct size"));
        }
        last = bit_off;
        Ok(RawMember { name_off, ty, bit_off, bits })
    })
}

/// `btf_enum_check_meta`, `btf_enum64_check_meta`.
fn enumeration(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    let (size, signed) = (rec.word, rec.kflag);
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(rec.error("Unexpected size"));
    }
    if rec.kind == Kind::Enum64 {
        let values = rec.list(r, 12, |r| {
            let (name_off, lo, hi) = (rec.word(r)?, rec.word(r)?, rec.word(r)?);
            Ok(Enumerator {
                name_off: rec.name(name_off)?,
                value: u64::from(hi) << 32 | u64::from(lo),
            })
        })?;
        return Ok(Body::Enum64 { size, signed, values });
    }
    let values = rec.list(r, 8, |r| {
        let (name_off, value) = (rec.word(r)?, rec.word(r)?);
        let value = if signed { i64::from(value as i32) as u64 } else { u64::from(value) };
        Ok(Enumerator { name_off: rec.name(name_off)?, value })
    })?;
    Ok(Body::Enum { size, signed, values })
}

/// `btf_datasec_check_meta`; a size of 0 is clang's and is filled in by the loader.
fn datasec(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.named()?;
    rec.no_kflag()?;
    let vars = rec.list(r, 12, |r| {
        let (ty, offset, size) = (rec.word(r)?, rec.word(r)?, rec.word(r)?);
        if rec.word != 0 && u64::from(offset) + u64::from(size) > u64::from(rec.word) {
            return Err(rec.error(format!("Invalid offset+size {offset}+{size}")));
        }
        Ok(SecVar { ty, offset, size })
    })?;
    Ok(Body::Datasec { size: rec.word, vars })
}

/// `btf_array_check_meta`.
fn array(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.no_name()?;
    rec.no_vlen()?;
    rec.no_kflag()?;
    let (elem, index, nelems) = (rec.word(r)?, rec.word(r)?, rec.word(r)?);
    if elem == 0 || index == 0 {
        return Err(rec.error(if elem == 0 { "Invalid elem" } else { "Invalid index" }));
    }
    if rec.word != 0 {
        return Err(rec.error("size != 0"));
    }
    Ok(Body::Array { elem, index, nelems })
}

/// Kinds without a list or extra words beyond one, by `btf_ref_type_check_meta` and others.
fn reference(rec: &Record<'_>) -> Result<Body, BtfError> {
    rec.no_vlen()?;
    match rec.kind {
        Kind::Typedef => rec.named()?,
        Kind::TypeTag => rec.named()?,
        _ => rec.no_name()?,
    }
    if rec.kind != Kind::TypeTag {
        rec.no_kflag()?;
    }
    Ok(match rec.kind {
        Kind::Ptr => Body::Ptr(rec.word),
        Kind::Typedef => Body::Typedef(rec.word),
        Kind::Volatile => Body::Volatile(rec.word),
        Kind::Const => Body::Const(rec.word),
        Kind::Restrict => Body::Restrict(rec.word),
        _ => Body::TypeTag { ty: rec.word, attr: rec.kflag },
    })
}

fn func(rec: &Record<'_>) -> Result<Body, BtfError> {
    rec.named()?;
    rec.no_kflag()?;
    match Linkage::from_raw(rec.vlen) {
        Some(linkage) => Ok(Body::Func { proto: rec.word, linkage }),
        None => Err(rec.error("Invalid func linkage")),
    }
}

fn var(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.no_vlen()?;
    rec.no_kflag()?;
    rec.named()?;
    match Linkage::from_raw(rec.word(r)?) {
        // `extern void` is a symbol of which the address is wanted.
        Some(linkage) if rec.word == 0 && linkage != Linkage::Extern => {
            Err(rec.error("Invalid type_id"))
        }
        Some(linkage) => Ok(Body::Var { ty: rec.word, linkage }),
        None => Err(rec.error("Linkage not supported")),
    }
}

fn decl_tag(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.named()?;
    rec.no_vlen()?;
    let component = rec.word(r)? as i32;
    if component < -1 {
        return Err(rec.error("Invalid component_idx"));
    }
    Ok(Body::DeclTag { ty: rec.word, component, attr: rec.kflag })
}

fn func_proto(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    rec.no_name()?;
    rec.no_kflag()?;
    let params = rec.list(r, 8, |r| {
        let (name_off, ty) = (rec.word(r)?, rec.word(r)?);
        Ok(Param { name_off: rec.name(name_off)?, ty })
    })?;
    Ok(Body::FuncProto { ret: rec.word, params })
}

fn fwd(rec: &Record<'_>) -> Result<Body, BtfError> {
    rec.no_vlen()?;
    rec.named()?;
    if rec.word != 0 {
        return Err(rec.error("type != 0"));
    }
    Ok(Body::Fwd { union: rec.kflag })
}

fn float(rec: &Record<'_>) -> Result<Body, BtfError> {
    rec.no_vlen()?;
    rec.no_kflag()?;
    rec.named()?;
    if !matches!(rec.word, 2 | 4 | 8 | 12 | 16) {
        return Err(rec.error("Invalid type_size"));
    }
    Ok(Body::Float { size: rec.word })
}

// tidy: flat match
fn body(rec: &Record<'_>, r: &mut Reader<'_>) -> Result<Body, BtfError> {
    match rec.kind {
        Kind::Void => Err(rec.error("Invalid kind:0")),
        Kind::Int => int(rec, r),
        Kind::Array => array(rec, r),
        Kind::Struct => Ok(Body::Struct { size: rec.word, members: members(rec, r)? }),
        Kind::Union => Ok(Body::Union { size: rec.word, members: members(rec, r)? }),
        Kind::Enum | Kind::Enum64 => enumeration(rec, r),
        Kind::Fwd => fwd(rec),
        Kind::Ptr | Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict => reference(rec),
        Kind::TypeTag => reference(rec),
        Kind::Func => func(rec),
        Kind::FuncProto => func_proto(rec, r),
        Kind::Var => var(rec, r),
        Kind::Datasec => datasec(rec, r),
        Kind::Float => float(rec),
        Kind::DeclTag => decl_tag(rec, r),
    }
}

fn parse_type(id: TypeId, r: &mut Reader<'_>, strings: &str) -> Result<Type, BtfError> {
    let short = || header_error(format!("type section ends inside type [{id}]"));
    let name_off = r.u32().ok_or_else(short)?;
    let info = r.u32().ok_or_else(short)?;
    let word = r.u32().ok_or_else(short)?;
    // Wide form since 7.2: vlen bits 0-23, kind bits 24-30. Older blobs have the new bits clear.
    let number = (info >> 24) & 0x7f;
    let Some(kind) = Kind::from_raw(number) else {
        return Err(header_error(format!("[{id}] Invalid kind:{number}")));
    };
    let (vlen, kflag) = (info & 0x00ff_ffff, info >> 31 != 0);
    let rec = Record { id, kind, name_off, vlen, kflag, word, strings };
    rec.name(name_off)?;
    Ok(Type { name_off, body: body(&rec, r)? })
}

impl Btf {
    /// Parses a BTF blob in either byte order.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(data: &[u8]) -> Result<Btf, BtfError> {
        Ok(Btf::parse_with_endian(data)?.0)
    }

    /// As [`Btf::parse`], with the byte order the blob is in.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse_with_endian(data: &[u8]) -> Result<(Btf, Endian), BtfError> {
        let header = parse_header(data)?;
        let strings = parse_strings(&data[header.strings])?;
        let mut types = vec![Type { name_off: 0, body: Body::Void }];
        let mut r = Reader::new(&data[header.types], header.endian);
        while r.left() > 0 {
            if types.len() > MAX_TYPES {
                return Err(header_error("too many types"));
            }
            let id = types.len() as TypeId;
            types.push(parse_type(id, &mut r, &strings)?);
        }
        let btf = Btf::from_types(types, strings);
        check::check(&btf)?;
        Ok((btf, header.endian))
    }
}
