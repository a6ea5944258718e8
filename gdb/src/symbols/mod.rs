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
//! of its image alone: the same bytes every time.

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

use crate::{Image, KernelImage, View};
use bpf::Arch;
use elf::{Executable, Symbol, Text};
use gimli::write::{Dwarf, EndianVec, Sections};
use input::Input;

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
pub fn listing(image: &Image) -> String {
    listing::text(image)
}

/// The executable of a program.
#[must_use]
pub fn program(image: &Image, view: View) -> Vec<u8> {
    let text = vec![Text { addr: image.base, bytes: &image.code }];
    let frames = frames::of_program(image);
    let described = match view {
        View::Source => source(image),
        View::Bpf => None,
    };
    // What clang wrote may be more than we can write: the listing always is there.
    let described = described.and_then(|mut d| sections(image.arch, &mut d, &frames).ok());
    let sections = described.unwrap_or_else(|| {
        let mut dwarf = Dwarf::new();
        listing::describe(image, &mut dwarf);
        sections(image.arch, &mut dwarf, &frames).expect("what we wrote is well-formed")
    });
    elf::write(&Executable {
        arch: image.arch,
        // Nothing starts here: a debugger ends backtraces at the first byte of an entry point.
        entry: 0,
        text,
        symbols: symbols(image),
        sections,
    })
}

/// Describes a program by its source; none when nothing is known of it.
fn source(image: &Image) -> Option<Dwarf> {
    let origin = image.origin.as_ref()?;
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
