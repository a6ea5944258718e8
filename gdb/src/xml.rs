//! What gdb is told in XML: the target description, the list of programs, the memory map.

use std::fmt::Write;
use std::sync::Arc;

use crate::arch::{BPF_FEATURE, GdbArch};
use crate::{Image, View, symbols};

/// `target.xml`. The OS ABI is none: with GNU/Linux, which stock builds take otherwise, gdb ignores
/// the generic list of libraries.
pub(crate) fn target<A: GdbArch>() -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n\
         <target version=\"1.0\">\n<architecture>{}</architecture>\n<osabi>none</osabi>\n",
        A::NAME
    );
    let mut feature = "";
    for (number, reg) in A::all().enumerate() {
        if reg.feature != feature {
            let close = if feature.is_empty() { "" } else { "</feature>\n" };
            let _ = writeln!(xml, "{close}<feature name=\"{}\">", reg.feature);
            feature = reg.feature;
        }
        let group = if feature == BPF_FEATURE { " group=\"bpf\"" } else { "" };
        let (name, bits, kind) = (reg.name, reg.bits, reg.kind);
        let _ = writeln!(
            xml,
            "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"{group}/>"
        );
    }
    xml + "</feature>\n</target>\n"
}

/// The programs, each a library of its own.
pub(crate) fn libraries(images: &[Arc<Image>], view: View) -> String {
    let mut xml = "<library-list version=\"1.0\">\n".to_owned();
    for image in images {
        let _ = writeln!(
            xml,
            "<library name=\"{}\"><segment address=\"{:#x}\"/></library>",
            escape(&symbols::file_name(image, view)),
            image.base
        );
    }
    xml + "</library-list>\n"
}

/// All there may be, as memory that can be written: gdb asks once, and programs, tasks and packets
/// come and go. Where there is none, a read says so.
pub(crate) const MEMORY_MAP: &str = "<?xml version=\"1.0\"?>\n\
    <!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\" \
    \"http://sourceware.org/gdb/gdb-memory-map.dtd\">\n<memory-map>\n\
    <memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/>\n\
    <memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/>\n\
    </memory-map>\n";

fn escape(text: &str) -> String {
    let escaped = |c| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c => String::from(c),
    };
    text.chars().map(escaped).collect()
}
