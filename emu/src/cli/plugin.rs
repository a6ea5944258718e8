//! `orrery plugin [MEM] [OPTIONS]`: the protocol of the public conformance runner, for each
//! architecture. The program comes as hex on standard input, r0 goes to standard output.

use std::ffi::OsString;
use std::io::Read as _;

use bpf::insn::{Slot, decode_all};
use bpf::{Arch, Endian};

use super::{Exit, arch, out};
use crate::conform::INSNS_MAX;
use crate::conform::engines::{Miss, Native, Ran};
use crate::conform::vector::{Memory, Vector};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Memory that r1 points to: bytes as hex
    #[arg(value_name = "MEM")]
    mem: Option<String>,
    /// Machine to run on
    #[arg(long, value_parser = arch, default_value = "x86_64")]
    arch: Arch,
    /// The input is an ELF object: its function main is run
    #[arg(long)]
    elf: bool,
    /// The program, instead of standard input
    #[arg(long, value_name = "HEX")]
    program: Option<String>,
    /// Native code, which is what is run anyway
    #[arg(long, conflicts_with = "interpret")]
    jit: bool,
    /// The reference interpreter, in the byte order of the machine
    #[arg(long)]
    interpret: bool,
    /// Say what is run, on standard error
    #[arg(long)]
    debug: bool,
}

/// The runner puts a vector's memory before the options that it was told to pass, so that
/// `--plugin_options "plugin --arch s390x"` comes as `orrery MEM plugin --arch s390x`.
pub(super) fn verb_first(mut args: Vec<OsString>) -> Vec<OsString> {
    let hex = |mem: &OsString| {
        let digit = |b: &u8| b.is_ascii_hexdigit() || b.is_ascii_whitespace();
        mem.as_encoded_bytes().iter().all(digit)
    };
    if args.get(2).is_some_and(|verb| verb == "plugin") && hex(&args[1]) {
        args.swap(1, 2);
    }
    args
}

pub(super) fn run(args: &Args) -> Exit {
    let vector = match vector(args) {
        Ok(v) => v,
        Err(e) => {
            out::error(&e, "the protocol is MEM as an argument, the program on standard input");
            return Exit::BadInput;
        }
    };
    if args.debug {
        let text = bpf::insn::disasm::disasm_all(&vector.insns, &bpf::insn::NoNames);
        let notes: String = vector.notes.iter().map(|n| format!("note: {n}\n")).collect();
        out::warn(&format!("{text}{notes}"));
    }
    match play(args, &vector) {
        Ok(ran) => {
            out::line(&format!("{:x}", ran.r0));
            Exit::Ok
        }
        Err(miss) => {
            out::warn(&format!("{miss}\n"));
            match miss {
                Miss::Unsupported(_) => Exit::Unsupported,
                Miss::Broken(_) | Miss::Absent(_) => Exit::Internal,
                Miss::Refused(_) | Miss::Fault(_) => Exit::NotMet,
            }
        }
    }
}

fn play(args: &Args, v: &Vector) -> Result<Ran, Miss> {
    let mut machine = Native::new(args.arch, INSNS_MAX)?;
    let loaded = machine.load(v)?;
    if args.interpret { machine.interpret(v, &loaded) } else { machine.run(v, &loaded) }
}

fn vector(args: &Args) -> Result<Vector, String> {
    let program = match &args.program {
        Some(hex) => bytes(hex)?,
        None => {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            read.map_err(|e| format!("standard input: {e}"))?;
            bytes(&text)?
        }
    };
    let insns = if args.elf { of_elf(&program)? } else { of_bytes(&program)? };
    if insns.is_empty() {
        return Err("there is no program".into());
    }
    let lines = vec![0; insns.len()];
    let mut v = Vector::new(insns, lines);
    let mem = args.mem.as_deref().map(bytes).transpose()?;
    v.mem = mem.filter(|m| !m.is_empty()).map(Memory::bytes);
    Ok(v)
}

/// Pairs of hexadecimal digits, with blanks anywhere.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| {
        let text: String = pair.iter().collect();
        let value = u8::from_str_radix(&text, 16).ok().filter(|_| pair.len() == 2);
        value.ok_or_else(|| format!("'{text}' is no byte in hex"))
    };
    digits.chunks(2).map(byte).collect()
}

/// Instructions as the runner writes them: little-endian.
fn of_bytes(bytes: &[u8]) -> Result<Vec<bpf::Insn>, String> {
    let (slots, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(format!("{} bytes are no whole number of instructions", bytes.len()));
    }
    let slots: Vec<Slot> = slots.iter().map(|s| Slot::from_bytes(*s, Endian::Little)).collect();
    decode_all(&slots).map_err(|e| format!("insn {}: {}", e.at.0, e.message))
}

/// The function `main` and what follows it in `.text`; the runner writes no relocations.
fn of_elf(bytes: &[u8]) -> Result<Vec<bpf::Insn>, String> {
    let elf = goblin::elf::Elf::parse(bytes).map_err(|e| e.to_string())?;
    let name = |at: usize| elf.shdr_strtab.get_at(at).unwrap_or_default();
    let found = elf.section_headers.iter().position(|s| name(s.sh_name) == ".text");
    let index =
        found.ok_or("the object has no .text (programs with a prolog for xdp are not run)")?;
    if elf.shdr_relocs.iter().any(|(_, r)| !r.is_empty()) {
        return Err("the object has relocations: orrery verify and replay link objects".into());
    }
    let is_main =
        |s: &goblin::elf::Sym| s.st_shndx == index && elf.strtab.get_at(s.st_name) == Some("main");
    let start = elf.syms.iter().find(is_main).map_or(0, |s| s.st_value as usize);
    let text = elf.section_headers[index].file_range().and_then(|r| bytes.get(r));
    let code = text.and_then(|t| t.get(start..)).ok_or("the object ends before its code")?;
    of_bytes(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_as_the_runner_writes_it() {
        assert_eq!(bytes("b7  00  00  00  \n").unwrap(), [0xb7, 0, 0, 0]);
        assert_eq!(bytes("b700").unwrap(), [0xb7, 0]);
        assert!(bytes("b7 0").is_err() && bytes("xy").is_err());
    }

    #[test]
    fn instructions_are_whole() {
        assert_eq!(of_bytes(&[0x95, 0, 0, 0, 0, 0, 0, 0]).unwrap().len(), 1);
        assert!(of_bytes(&[0x95, 0]).is_err());
    }
}
