//! Native code as text, by capstone.

use bpf::Arch;
use capstone::{Arch as CsArch, Capstone, Endian, ExtraMode, Mode, NO_EXTRA_MODE};

/// One native instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Native {
    /// Offset in the code.
    pub(crate) at: u32,
    /// Text; bytes where the disassembler does not know them.
    pub(crate) text: String,
}

/// Disassembles `code`, which begins at offset `at` of its program.
///
/// # Errors
/// The disassembler cannot be opened.
pub(crate) fn disassemble(arch: Arch, code: &[u8], at: u32) -> Result<Vec<Native>, String> {
    let cs = open(arch).map_err(|e| format!("capstone for {arch}: {e}"))?;
    let (mut out, mut done) = (Vec::new(), 0);
    while done < code.len() {
        let here = at + done as u32;
        let found = cs.disasm_count(&code[done..], u64::from(here), 1);
        let found = found.map_err(|e| e.to_string())?;
        let (len, text) = match found.iter().next() {
            Some(i) => {
                let words = [i.mnemonic().unwrap_or("?"), i.op_str().unwrap_or("")];
                (i.bytes().len(), words.join(" ").trim_end().to_owned())
            }
            None => {
                let len = length(arch, &code[done..]).min(code.len() - done);
                let bytes: Vec<String> =
                    code[done..done + len].iter().map(|b| format!("{b:#04x}")).collect();
                (len, format!(".byte {}", bytes.join(", ")))
            }
        };
        out.push(Native { at: here, text });
        done += len.max(1);
    }
    Ok(out)
}

fn open(arch: Arch) -> capstone::CsResult<Capstone> {
    let none = NO_EXTRA_MODE;
    match arch {
        Arch::X86_64 => Capstone::new_raw(CsArch::X86, Mode::Mode64, none, None),
        Arch::Arm64 => Capstone::new_raw(CsArch::ARM64, Mode::Arm, none, None),
        Arch::Riscv64 => {
            let compressed = std::iter::once(ExtraMode::RiscVC);
            Capstone::new_raw(CsArch::RISCV, Mode::RiscV64, compressed, None)
        }
        Arch::S390x => Capstone::new_raw(CsArch::SYSZ, Mode::Default, none, Some(Endian::Big)),
    }
}

/// Bytes of an instruction that the disassembler does not know.
fn length(arch: Arch, code: &[u8]) -> usize {
    let first = code.first().copied().unwrap_or(0);
    match arch {
        Arch::X86_64 => 1,
        Arch::Arm64 => 4,
        Arch::Riscv64 => {
            if first & 3 == 3 {
                4
            } else {
                2
            }
        }
        // The two leading bits of the opcode.
        Arch::S390x => match first >> 6 {
            0 => 2,
            1 | 2 => 4,
            _ => 6,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_has_a_disassembler() {
        let text = |arch, code: &[u8]| disassemble(arch, code, 0).unwrap()[0].text.clone();
        assert_eq!(text(Arch::X86_64, &[0xc3]), "ret");
        assert_eq!(text(Arch::Arm64, &[0xc0, 0x03, 0x5f, 0xd6]), "ret");
        assert_eq!(text(Arch::Riscv64, &[0x67, 0x80, 0, 0]), "ret");
        assert_eq!(text(Arch::S390x, &[0x07, 0xfe]), "br %r14");
    }

    #[test]
    fn unknown_bytes_are_shown_and_passed_over() {
        let all = disassemble(Arch::S390x, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x07, 0xfe], 4);
        let all = all.unwrap();
        assert_eq!((all.len(), all[1].at), (2, 10));
        assert!(all[0].text.starts_with(".byte 0xff"));
    }
}
