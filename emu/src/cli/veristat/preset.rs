//! Presets of read-only globals: `-G 'var = value'`, with members and elements.

use std::path::Path;

use bpf::Endian;
use bpf::btf::{Body, Btf, Kind, TypeId};

use super::{Exit, bad};
use crate::cli::world::World;

/// `path = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    path: String,
    value: String,
}

pub(super) fn parse(text: &str) -> Result<Setting, String> {
    let parts = text.split_once('=').map(|(a, b)| (a.trim(), b.trim()));
    match parts {
        Some((path, value)) if !path.is_empty() && !value.is_empty() => {
            Ok(Setting { path: path.to_owned(), value: value.to_owned() })
        }
        _ => Err(format!("'{text}' sets nothing")),
    }
}

/// A place in a variable: type, byte offset, and the bits of a bit field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ty: TypeId,
    at: u32,
}

/// Follows `.member` and `[index]` from a variable.
fn follow(btf: &Btf, mut place: Place, rest: &str) -> Result<Place, String> {
    let mut rest = rest;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (index, after) = inner.split_once(']').ok_or("a ] is missing")?;
            let index: u32 =
                index.trim().parse().map_err(|_| format!("'{index}' is not an index"))?;
            let Body::Array { elem, nelems, .. } = btf.body(btf.resolve(place.ty)) else {
                return Err("an index on what is not an array".to_owned());
            };
            if index >= *nelems {
                return Err(format!("the array has {nelems} elements"));
            }
            let size = btf.size_of(*elem).ok_or("elements without size")?;
            place = Place { ty: *elem, at: place.at + index * size };
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            let name = &inner[..end];
            let m = btf.member(place.ty, name).ok_or_else(|| format!("no member '{name}'"))?;
            if m.bits != 0 {
                return Err(format!("'{name}' is a bit field"));
            }
            place = Place { ty: m.ty, at: place.at + m.byte_off() };
            rest = &inner[end..];
        } else {
            return Err(format!("'{rest}' is neither .member nor [index]"));
        }
    }
    Ok(place)
}

/// The value as a number: decimal, hexadecimal, true and false, an enumerator.
fn number(btf: &Btf, ty: TypeId, text: &str) -> Result<u64, String> {
    let id = btf.resolve(ty);
    if !matches!(btf.kind(id), Kind::Int | Kind::Enum | Kind::Enum64) {
        return Err(format!("a value of kind {} cannot be set", btf.kind(id)));
    }
    if let Some((_, value)) = btf.enumerators(id).find(|(name, _)| *name == text) {
        return Ok(value);
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if digits == "true" => Some(1),
        None if digits == "false" => Some(0),
        None => digits.parse().ok(),
    };
    let value = value.ok_or_else(|| format!("'{text}' is not a value of its type"))?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

/// Bytes of a value, when it fits.
fn bytes(btf: &Btf, ty: TypeId, value: u64, endian: Endian) -> Result<Vec<u8>, String> {
    let size = btf.size_of(ty).ok_or("a variable without size")? as usize;
    let bits = 8 * size.min(8) as u32;
    let fits = bits >= 64 || value >> bits == 0 || value.cast_signed() >> (bits - 1) == -1;
    if !fits {
        return Err(format!("{value:#x} does not fit into {size} bytes"));
    }
    Ok(match endian {
        Endian::Little => value.to_le_bytes()[..size.min(8)].to_vec(),
        Endian::Big => value.to_be_bytes()[8 - size.min(8)..].to_vec(),
    })
}

/// Sets the variables that the object has; an error has been reported.
pub(super) fn apply(world: &mut World, path: &Path, settings: &[Setting]) -> Result<(), Exit> {
    for s in settings {
        let failed = |why: String| bad(&format!("{}: '{}': {why}", path.display(), s.path), "");
        let end = s.path.find(['.', '[']).unwrap_or(s.path.len());
        let (name, rest) = s.path.split_at(end);
        let Some((map, var)) = world.object.global(name.trim()) else {
            return Err(failed("no such variable".to_owned()));
        };
        let Some(btf) = world.object.btf() else { return Err(failed("no BTF".to_owned())) };
        let start = Place { ty: var.ty, at: var.offset };
        let place = follow(btf, start, rest.trim()).map_err(failed)?;
        let value = number(btf, place.ty, &s.value).map_err(failed)?;
        let data = bytes(btf, place.ty, value, world.object.endian).map_err(failed)?;
        world.preset(map, place.at as usize, &data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let s = parse("cfg.mode = 7").unwrap();
        assert_eq!((s.path.as_str(), s.value.as_str()), ("cfg.mode", "7"));
        assert!(parse("nothing").is_err() && parse("= 3").is_err());
    }

    #[test]
    fn places_and_values() {
        let mut b = bpf::btf::BtfBuilder::default();
        let int = b.int("int", 4, true);
        let four = b.array(int, int, 4);
        let s = b.structure("s", 20, &[("a", int, 0, 0), ("v", four, 32, 0)]);
        let btf = b.finish().unwrap();
        let place = follow(&btf, Place { ty: s, at: 8 }, ".v[2]").unwrap();
        assert_eq!(place, Place { ty: int, at: 8 + 4 + 8 });
        assert!(follow(&btf, Place { ty: s, at: 0 }, ".v[4]").is_err());
        assert_eq!(number(&btf, int, "-1").unwrap(), u64::MAX);
        assert_eq!(bytes(&btf, int, u64::MAX, Endian::Little).unwrap(), [0xff; 4]);
        assert!(bytes(&btf, int, 1 << 40, Endian::Little).is_err());
    }
}
