//! The two private fields of Unicorn's engine that this layer uses.
//!
//! * `no_exit_request`: suppresses the exit check that Unicorn emits after every guest load and
//!   store. The check exists for memory hooks that refuse an access; faults here are raised by
//!   the TLB hook and need none. 2.5 to 3.8 times on load/store loops.
//! * `invalid_addr`: the exact address of a refused access (the hook is told the page only).
//!
//! `build.rs` reads the offsets from the crate's private header; the crate's version is pinned
//! exactly. The field must read as a false bool in a fresh engine, and [`super::selftest`] must
//! pass, or the engine runs as shipped.

#![allow(unsafe_code, reason = "two fields without an accessor")]

use super::PageTable;
use super::ffi::Engine;

const fn parse(s: &str) -> usize {
    let (b, mut i, mut v) = (s.as_bytes(), 0, 0);
    while i < b.len() {
        v = v * 10 + (b[i] - b'0') as usize;
        i += 1;
    }
    v
}

const NO_EXIT_REQUEST: usize = parse(env!("UC_OFF_NO_EXIT_REQUEST"));
const INVALID_ADDR: usize = parse(env!("UC_OFF_INVALID_ADDR"));

/// Turns the per-access exit check off; false when that is not available. Only for an engine in
/// which nothing has been translated yet.
pub(super) fn fast_mode(engine: &Engine) -> bool {
    if NO_EXIT_REQUEST == 0 {
        return false;
    }
    // SAFETY: the offset is that of a bool in the structure behind the live handle, as the header
    // of the linked version says; the engine is not running.
    unsafe {
        let field = engine.raw().cast::<u8>().add(NO_EXIT_REQUEST);
        if field.read() != 0 {
            return false;
        }
        field.write(1);
    }
    true
}

/// Address of the last refused access, when that is available.
pub(super) fn invalid_address(engine: &Engine) -> Option<u64> {
    if INVALID_ADDR == 0 {
        return None;
    }
    // SAFETY: as above, for a u64 field.
    Some(unsafe { engine.raw().cast::<u8>().add(INVALID_ADDR).cast::<u64>().read_unaligned() })
}

/// Forgets the lifetime of a page table lent to `Vcpu::run`, which clears the pointer before the
/// borrow ends.
pub(super) fn erase<'a>(table: &'a mut (dyn PageTable + 'a)) -> *mut dyn PageTable {
    let table: *mut (dyn PageTable + 'a) = table;
    // SAFETY: only the lifetime bound of the trait object changes; the layout is the same.
    unsafe { std::mem::transmute::<*mut (dyn PageTable + 'a), *mut dyn PageTable>(table) }
}
