//! The library's sources, compiled for what its objects do not have: sizes of frames, and native
//! code to compare with. Nothing without clang.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use bpf::{Arch, Endian};
use kernel_model::types::Types;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

const CLANG: &str = "clang-19";

/// The object file that clang makes of a source with these arguments.
fn compiled(source: &Path, arch: Arch, args: &[&str]) -> Option<Vec<u8>> {
    let unique = source.file_name()?.to_string_lossy().into_owned();
    let dir = std::env::temp_dir().join(format!("orrery-{}-{unique}", std::process::id()));
    fs::create_dir_all(&dir).ok()?;
    fs::write(dir.join("vmlinux.h"), Types::of(arch).btf().to_c_header()).ok()?;
    let out = dir.join("x.o");
    let mut clang = Command::new(CLANG);
    clang.current_dir(source.parent()?).args(args).args(["-O2", "-g", "-c", "-w"]);
    clang.arg("-I").arg(tests::root().join("tests/corpus/include")).arg("-I").arg(&dir);
    clang.arg(source).arg("-o").arg(&out);
    let done = clang.output().ok()?;
    let bytes = fs::read(&out).ok().filter(|_| done.status.success());
    let _ = fs::remove_dir_all(&dir);
    bytes
}

/// As native code of this architecture.
pub(crate) fn native(source: &Path) -> Option<Vec<u8>> {
    let args = ["-target", "x86_64-linux-gnu", "-D__TARGET_ARCH_x86"];
    compiled(source, Arch::X86_64, &args)
}

/// Bytes of the frames of a source's functions, as LLVM lays them out for BPF.
pub(crate) fn frames(source: &Path, arch: Arch) -> Option<BTreeMap<String, u64>> {
    let (target, macros) = match arch.endian() {
        Endian::Little => ("bpfel", "-D__TARGET_ARCH_x86"),
        Endian::Big => ("bpfeb", "-D__TARGET_ARCH_s390"),
    };
    let of = if arch.endian() == Endian::Little { Arch::X86_64 } else { Arch::S390x };
    let args = ["-target", target, "-mcpu=v3", macros, "-fstack-size-section"];
    let bytes = compiled(source, of, &args)?;
    let file = object::File::parse(&*bytes).ok()?;
    let mut out = BTreeMap::new();
    for s in file.sections().filter(|s| s.name() == Ok(".stack_sizes")) {
        let data = s.data().ok()?;
        // Each is an address, relocated, and a number in LEB128.
        for (at, r) in s.relocations() {
            let object::RelocationTarget::Symbol(symbol) = r.target() else { continue };
            let section = file.symbol_by_index(symbol).ok()?.section_index()?;
            let at = usize::try_from(at).ok()?;
            let word: [u8; 8] = data.get(at..at + 8)?.try_into().ok()?;
            let addr = match arch.endian() {
                Endian::Little => u64::from_le_bytes(word),
                Endian::Big => u64::from_be_bytes(word),
            };
            let size = gimli::leb128::read::unsigned(&mut gimli::EndianSlice::new(
                data.get(at + 8..)?,
                gimli::LittleEndian,
            ));
            let function = file.symbols().find(|s| {
                s.kind() == object::SymbolKind::Text
                    && s.section_index() == Some(section)
                    && s.address() == addr
            });
            out.insert(function?.name().ok()?.to_owned(), size.ok()?);
        }
    }
    Some(out)
}
