//! Structures of the UAPI as tables of named fields at byte offsets.
//!
//! A structure is declared once; reading and writing it in either byte order come from the table.
//! There is no `repr(C)`: the target's byte order need not be the host's, and an older or newer
//! caller may give a shorter or longer structure than the kernel knows.

use crate::Endian;

/// A value that has a place in a structure.
pub trait Field: Sized {
    /// Bytes it takes.
    const LEN: usize;
    /// Reads it; `b` has `LEN` bytes.
    fn get(b: &[u8], endian: Endian) -> Self;
    /// Writes it; `b` has `LEN` bytes.
    fn put(&self, b: &mut [u8], endian: Endian);
}

macro_rules! number {
    ($($t:ty)*) => { $(
        impl Field for $t {
            const LEN: usize = size_of::<$t>();
            fn get(b: &[u8], endian: Endian) -> $t {
                let b = b.try_into().expect("a field's range has its length");
                match endian {
                    Endian::Little => <$t>::from_le_bytes(b),
                    Endian::Big => <$t>::from_be_bytes(b),
                }
            }
            fn put(&self, b: &mut [u8], endian: Endian) {
                b.copy_from_slice(&match endian {
                    Endian::Little => self.to_le_bytes(),
                    Endian::Big => self.to_be_bytes(),
                });
            }
        }
    )* };
}

number!(u8 u16 u32 u64 i32);

impl<const N: usize> Field for [u8; N] {
    const LEN: usize = N;
    fn get(b: &[u8], _: Endian) -> [u8; N] {
        b.try_into().expect("a field's range has its length")
    }
    fn put(&self, b: &mut [u8], _: Endian) {
        b.copy_from_slice(self);
    }
}

/// A structure of the UAPI.
pub trait Struct: Default {
    /// Name in the kernel's headers.
    const NAME: &'static str;
    /// Bytes, padding at the end included.
    const SIZE: usize;
    /// End of the last field.
    const END: usize;
    /// Name, offset and length of each field.
    const FIELDS: &'static [(&'static str, usize, usize)];

    /// Reads it. What is missing at the end reads as zero.
    fn decode(bytes: &[u8], endian: Endian) -> Self;
    /// Writes its fields over the first bytes of `out`; fields that do not fit are left out.
    fn encode_into(&self, out: &mut [u8], endian: Endian);

    /// The structure as bytes.
    fn encode(&self, endian: Endian) -> Vec<u8> {
        let mut out = vec![0; Self::SIZE];
        self.encode_into(&mut out, endian);
        out
    }
}

/// Reads a field, zero where the bytes end before it does.
pub(super) fn get<F: Field>(bytes: &[u8], at: usize, endian: Endian) -> F {
    match bytes.get(at..at + F::LEN) {
        Some(b) => F::get(b, endian),
        None => {
            let mut b = vec![0; F::LEN];
            let have = bytes.get(at..).unwrap_or_default();
            b[..have.len()].copy_from_slice(have);
            F::get(&b, endian)
        }
    }
}

/// Writes a field, unless the bytes end before it does.
pub(super) fn put<F: Field>(v: &F, out: &mut [u8], at: usize, endian: Endian) {
    if let Some(b) = out.get_mut(at..at + F::LEN) {
        v.put(b, endian);
    }
}

/// Declares structures: `Name "kernel name", size { field: type @ offset, ... }`.
macro_rules! uapi_structs {
    ($(
        $(#[$meta:meta])*
        $name:ident $kernel:literal, $size:literal {
            $($field:ident: $t:ty = $at:literal,)*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names are the kernel's")]
        pub struct $name { $(pub $field: $t,)* }

        impl Default for $name {
            fn default() -> $name {
                $crate::uapi::fields::Struct::decode(&[], $crate::Endian::Little)
            }
        }

        impl $crate::uapi::fields::Struct for $name {
            const NAME: &'static str = $kernel;
            const SIZE: usize = $size;
            const END: usize = {
                let mut end = 0;
                $(
                    let e = $at + <$t as $crate::uapi::fields::Field>::LEN;
                    if e > end { end = e; }
                )*
                end
            };
            const FIELDS: &'static [(&'static str, usize, usize)] = &[
                $((stringify!($field), $at, <$t as $crate::uapi::fields::Field>::LEN),)*
            ];
            fn decode(bytes: &[u8], endian: $crate::Endian) -> $name {
                $name { $($field: $crate::uapi::fields::get(bytes, $at, endian),)* }
            }
            fn encode_into(&self, out: &mut [u8], endian: $crate::Endian) {
                $($crate::uapi::fields::put(&self.$field, out, $at, endian);)*
            }
        }
    )* };
}
pub(super) use uapi_structs;

/// A name of at most 15 bytes as `char[BPF_OBJ_NAME_LEN]`.
#[must_use]
pub fn obj_name(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let n = name.len().min(15);
    out[..n].copy_from_slice(&name.as_bytes()[..n]);
    out
}

/// The text of a `char[BPF_OBJ_NAME_LEN]`.
#[must_use]
pub fn obj_name_text(name: &[u8; 16]) -> String {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}
