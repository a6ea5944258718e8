//! Files for the debugger: an executable with DWARF per program and view, and one of the kernel.
//!
//! ```text
//!  clang's object ─► input (relocated) ─► places (BPF ─► native) ─┬─► units, expr, lines ─┐
//!  BTF lines ─────────────────────────────────────────────────────┤                       ├─► elf
//!  listing ───────────────────────────────────────────────────────┴─► listing ──► frames ─┘
//! ```
//!
//! **Invariants.** A location is given for exactly the native instructions at which it holds; what
//! is not understood has none, so that the debugger says `<optimized out>`. Each file is a function
//! of its image, and in the BPF view of the verifier's states: the same bytes every time.

mod argument;
mod btf;
mod converted;
mod elf;
mod expr;
mod frames;
mod input;
mod kernel;
mod lines;
mod listing;
mod native;
mod ranges;
mod stack;
mod units;

pub use converted::{Place, WINDOW, place};

use crate::{Image, KernelImage, Origin, View};
use bpf::Arch;
use elf::{Executable, Symbol, Text};
use gimli::write::{Dwarf, EndianVec, Sections};
use input::Input;
use jit::NativeReg;
use std::collections::BTreeMap;

/// Folder that all files served have.
pub const FOLDER: &str = "/bpf";

/// Name of the kernel's file.
#[must_use]
pub fn kernel_file(arch: Arch) -> String {
    format!("{FOLDER}/kernel.{}.elf", arch.name())
}

/// Name of a program's file: another one for each view, so that a debugger loads it anew.
#[must_use]
pub fn file_name(image: &Image, view: View) -> String {
    let kind = match view {
        View::Source => "elf",
        View::Bpf => "bpf.elf",
    };
    format!("{FOLDER}/{}#{}.{kind}", image.name, image.id)
}

/// Name of the listing, as the BPF view's line table has it, in [`FOLDER`].
#[must_use]
pub fn listing_name(image: &Image) -> String {
    format!("{}#{}.bpfasm", image.name, image.id)
}

/// Text of the listing: line n is instruction n - 1, with the verifier's state before it and the
/// source line.
#[must_use]
pub fn listing(image: &Image, states: &[String]) -> String {
    listing::text(image, states)
}

/// The executable of a program; `states` ([`crate::Debuggee::states`]) are asked for where
/// registers of BPF are to be shown.
#[must_use]
pub fn program(image: &Image, view: View, states: &dyn Fn() -> Vec<String>) -> Vec<u8> {
    let text = vec![Text { addr: image.base, bytes: &image.code }];
    let frames = frames::of_program(image);
    let described = match view {
        View::Source => source(image),
        View::Bpf => None,
    };
    let one_unit = described.as_ref().is_none_or(|d| d.units.count() == 1);
    // What clang wrote may be more than we can write: the listing always is there.
    let described = described.and_then(|mut d| sections(image.arch, &mut d, &frames).ok());
    let mut sections = described.unwrap_or_else(|| {
        let mut dwarf = Dwarf::new();
        listing::describe(image, &states(), &mut dwarf);
        sections(image.arch, &mut dwarf, &frames).expect("what we wrote is well-formed")
    });
    if one_unit {
        sections.push((".debug_aranges", aranges(image)));
    }
    elf::write(&Executable {
        arch: image.arch,
        // Nothing starts here: a debugger ends backtraces at the first byte of an entry point.
        entry: 0,
        text,
        symbols: symbols(image),
        sections,
    })
}

/// Addresses of the one unit. Without this section gdb takes the addresses of variables for some of
/// its code, and finds them not to be.
fn aranges(image: &Image) -> Vec<u8> {
    let word = |n: u64, bytes: usize| match image.arch.endian() {
        bpf::Endian::Little => n.to_le_bytes()[..bytes].to_vec(),
        bpf::Endian::Big => n.to_be_bytes()[8 - bytes..].to_vec(),
    };
    // Version, place of the unit, bytes of addresses and of segments; a gap, as tuples are aligned.
    let mut body = [word(2, 2), word(0, 4), word(8, 1), word(0, 1), word(0, 4)].concat();
    for f in &image.debug.funcs {
        body.extend(word(image.base + u64::from(f.start.0), 8));
        body.extend(word(u64::from(f.end.0 - f.start.0), 8));
    }
    body.extend([0; 16]);
    [word(body.len() as u64, 4), body].concat()
}

/// Describes a program by its source; none when nothing is known of it.
fn source(image: &Image) -> Option<Dwarf> {
    image.origin.as_ref().and_then(|origin| clangs(image, origin)).or_else(|| {
        let mut dwarf = Dwarf::new();
        btf::describe(image, image.origin.as_ref(), &mut dwarf)?;
        Some(dwarf)
    })
}

/// As clang described it.
fn clangs(image: &Image, origin: &Origin) -> Option<Dwarf> {
    let input = Input::read(&origin.object).filter(Input::has_dwarf)?;
    let places = units::Places::new(image, origin);
    let mut dwarf = Dwarf::new();
    units::translate(&input, &places, &mut dwarf).ok()?;
    Some(dwarf)
}

/// The executable of the modelled kernel.
#[must_use]
pub fn kernel(image: &KernelImage) -> Vec<u8> {
    kernel::write(image)
}

/// Clang's debug information, relocated: section n of the object begins at `(n + 1) << 32`.
#[must_use]
pub fn clang_sections(object: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    Input::read(object).map(Input::into_debug)
}

/// Number that DWARF gives the general register with a number in encodings.
#[must_use]
pub fn dwarf_register(arch: Arch, num: u8) -> u16 {
    native::dwarf(arch, NativeReg { name: "", num }).0
}

/// The canonical frame address of a frame with this R10.
#[must_use]
pub fn cfa_of(arch: Arch, fp: u64) -> u64 {
    fp.wrapping_add_signed(-native::of(arch).fp_from_cfa)
}

/// The program and its functions, and the name that the kernel gives the program.
fn symbols(image: &Image) -> Vec<Symbol> {
    let mut out = Vec::new();
    for (n, f) in image.debug.funcs.iter().enumerate() {
        let addr = image.base + u64::from(f.start.0);
        let size = u64::from(f.end.0 - f.start.0);
        out.push(Symbol { name: f.name.clone(), addr, size, global: true });
        if n == 0 {
            let name = format!("bpf_prog_{}_{}", image.tag, image.name);
            out.push(Symbol { name, addr, size, global: false });
        }
    }
    out
}

/// The sections of debug information that are not empty.
fn sections(
    arch: Arch,
    dwarf: &mut Dwarf,
    frames: &gimli::write::FrameTable,
) -> Result<Vec<(&'static str, Vec<u8>)>, gimli::write::Error> {
    let mut out = Sections::new(EndianVec::new(native::endian(arch)));
    dwarf.write(&mut out)?;
    frames.write_debug_frame(&mut out.debug_frame)?;
    let mut list = Vec::new();
    let each = |id: gimli::SectionId, data: &EndianVec<gimli::RunTimeEndian>| {
        if !data.slice().is_empty() {
            list.push((id.name(), data.slice().to_vec()));
        }
        Ok::<(), gimli::write::Error>(())
    };
    out.for_each(each)?;
    Ok(list)
}
