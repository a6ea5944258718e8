//! Memory of the process that calls: what the pointers in `union bpf_attr` refer to.

use std::collections::BTreeMap;

use crate::Errno;

/// Memory of a process.
pub trait UserMemory {
    /// `copy_from_user`.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read(&self, addr: u64, len: usize) -> Result<Vec<u8>, Errno>;

    /// `copy_to_user`.
    ///
    /// # Errors
    /// `EFAULT`.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// `strncpy_from_user`: at most `max` bytes, without the NUL.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read_str(&self, addr: u64, max: usize) -> Result<String, Errno> {
        let mut out = Vec::new();
        while out.len() < max {
            let b = self.read(addr + out.len() as u64, 1)?[0];
            if b == 0 {
                break;
            }
            out.push(b);
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// Where the first buffer of a [`UserSpace`] lies: above what is never mapped.
const BASE: u64 = 0x10_0000;
/// Distance between buffers, unmapped.
const GUARD: u64 = 0x1000;

/// A process as a few separate buffers; anything outside them is `EFAULT`.
#[derive(Clone, Debug, Default)]
pub struct UserSpace {
    buffers: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl UserSpace {
    /// Nothing is mapped.
    #[must_use]
    pub fn new() -> UserSpace {
        UserSpace { buffers: BTreeMap::new(), next: BASE }
    }

    /// Maps a buffer with these bytes; none is NULL.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let at = self.next.max(BASE);
        self.next = (at + bytes.len() as u64).next_multiple_of(GUARD) + GUARD;
        self.buffers.insert(at, bytes.to_vec());
        at
    }

    /// Maps a zeroed buffer.
    pub fn room(&mut self, len: usize) -> u64 {
        self.put(&vec![0; len])
    }

    /// The whole buffer at an address.
    #[must_use]
    pub fn bytes(&self, addr: u64) -> &[u8] {
        self.buffers.get(&addr).map_or(&[], |b| b)
    }

    /// The rest of the buffer that an address lies in, for a caller that hands it on.
    pub fn rest_mut(&mut self, addr: u64) -> Option<&mut [u8]> {
        let (at, b) = self.buffers.range_mut(..=addr).next_back()?;
        b.get_mut(usize::try_from(addr - at).ok()?..).filter(|b| !b.is_empty())
    }
}

impl UserMemory for UserSpace {
    fn read(&self, addr: u64, len: usize) -> Result<Vec<u8>, Errno> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let (at, b) = self.buffers.range(..=addr).next_back().ok_or(Errno::EFAULT)?;
        let from = usize::try_from(addr - at).map_err(|_| Errno::EFAULT)?;
        let end = from.checked_add(len).ok_or(Errno::EFAULT)?;
        b.get(from..end).map(<[u8]>::to_vec).ok_or(Errno::EFAULT)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        let rest = self.rest_mut(addr).and_then(|b| b.get_mut(..bytes.len()));
        rest.ok_or(Errno::EFAULT)?.copy_from_slice(bytes);
        Ok(())
    }
}
