//! Slots, instructions and text: every way there and back, and what is refused.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]
use bpf::Endian;
use bpf::insn::asm::{NoSymbols, assemble, assemble_insns};
use bpf::insn::disasm::{disasm_all, disasm_op};
use bpf::insn::generate::{Options, Rng, any_insn, program};
use bpf::insn::{Call, Insn, NoNames, Slot, decode, decode_all, disasm, encode, encode_all};
use proptest::prelude::*;

fn slots(hex: &str) -> Vec<Slot> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |d: &[u8]| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    bytes.chunks(8).map(|c| Slot::from_bytes(c.try_into().unwrap(), Endian::Little)).collect()
}

/// A program of random instructions, not one that makes sense.
fn jumble(seed: u64, len: u32) -> Vec<Insn> {
    let mut rng = Rng(seed);
    let mut out = Vec::new();
    for _ in 0..len {
        let insn = any_insn(&mut rng);
        out.push(insn);
        if matches!(insn, Insn::LdImm64 { .. }) {
            out.push(Insn::LdImm64Hi);
        }
    }
    out
}

#[test]
fn decode_table() {
    for row in include_str!("insn_decode.txt").lines().filter(|l| !l.trim().is_empty()) {
        if row.starts_with('#') {
            continue;
        }
        let (hex, want) = row.split_once('|').expect("hex | text");
        let mut program = slots(hex);
        program.extend(slots("9500000000000000"));
        let got = match decode_all(&program) {
            Ok(insns) => disasm_op(&insns[0], &NoNames),
            Err(e) => format!("! {e}"),
        };
        assert_eq!(got, want.trim(), "{row}");
        if !got.starts_with('!') {
            let want = &program[..program.len() - 1];
            assert_eq!(encode_all(&decode_all(want).unwrap()), want, "{row}");
        }
    }
}

#[test]
fn shapes_are_refused_before_fields() {
    // add with a source register, then an opcode that does not exist
    let e = decode_all(&slots("0710000001000000 ff00000000000000")).unwrap_err();
    assert_eq!((e.at.0, e.message.as_str()), (1, "unknown opcode ff"));
}

proptest! {
    #[test]
    fn slots_of_instructions(seed: u64) {
        let insns = jumble(seed, 30);
        let slots = encode_all(&insns);
        prop_assert_eq!(&decode_all(&slots).unwrap(), &insns);
        for endian in [Endian::Little, Endian::Big] {
            for slot in &slots {
                prop_assert_eq!(Slot::from_bytes(slot.to_bytes(endian), endian), *slot);
            }
        }
    }

    #[test]
    fn instructions_of_slots(code: u8, regs: u8, off: i16, imm: i32, plain: bool) {
        let (off, imm) = if plain { (off & 1, imm & 1) } else { (off, imm) };
        let slot = Slot { code, dst: regs & 15, src: regs >> 4, off, imm };
        // The kernel ignores the offset of an exit and the upper half of a function's address.
        if let Ok(insn) = decode(&[slot, Slot::default()]) && insn != Insn::Exit {
            prop_assert_eq!(encode(&insn), slot);
        }
    }

    #[test]
    fn text_of_instructions(seed: u64) {
        let mut insns = jumble(seed, 30);
        for insn in &mut insns {
            // The index of a kfunc's BTF is not printed.
            if let Insn::Call(Call::Kfunc { off, .. }) = insn {
                *off = 0;
            }
        }
        let log = disasm_all(&insns, &NoNames);
        prop_assert_eq!(&assemble_insns(&log).unwrap(), &insns, "{}", log);
        let bare: Vec<String> = insns.iter().map(|i| disasm(i, &NoNames)).collect();
        let bare = bare.join("\n");
        prop_assert_eq!(&assemble_insns(&bare).unwrap(), &insns, "{}", bare);
    }

    #[test]
    fn no_text_panics(text in "[rwlc(*)ugoto +=<>&0-9:;\\[\\]mapx\n-]{0,60}", any in ".{0,40}") {
        let _ = assemble(&text, &NoSymbols);
        let _ = assemble(&any, &NoSymbols);
    }
}

#[test]
fn generated_programs_decode() {
    for seed in 0..200 {
        let insns = program(seed, Options::default());
        assert_eq!(decode_all(&encode_all(&insns)).unwrap(), insns, "seed {seed}");
        assert!(insns.iter().all(|i| bpf::insn::operand_error(i).is_none()), "seed {seed}");
    }
}

const SAMPLE: &str = "
    ; map hits array 4 8 16
    ; prog xdp count
        r6 = r1                      ; the context
        *(u32 *)(r10 - 4) = 0
        r1 = map[hits] ll
        r2 = r10
        r2 += -4
        call bpf_map_lookup_elem
        if r0 == 0 goto out
        r1 = r0
        call bump
    out:
        r0 = 2
        exit
    bump:
        r2 = 1
        lock *(u64 *)(r1 + 0) += r2
        r0 = 0
        exit
    ; prog tc/ingress pass
    r0 = 0
    exit
";

#[test]
fn names_and_functions() {
    let asm = assemble(SAMPLE, &NoSymbols).unwrap();
    assert_eq!((asm.maps.len(), asm.maps[0].value_size, asm.progs.len()), (1, 8, 2));
    let p = &asm.progs[0];
    assert_eq!(p.funcs.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["count", "bump"]);
    assert_eq!((p.funcs[1].start.0, asm.progs[1].name.as_str()), (12, "pass"));
    expect_test::expect![[r#"
        0: (bf) r6 = r1
        1: (62) *(u32 *)(r10 -4) = 0
        2: (18) r1 = map[0] ll
        4: (bf) r2 = r10
        5: (07) r2 += -4
        6: (85) call bpf_map_lookup_elem#1
        7: (15) if r0 == 0x0 goto pc+2
        8: (bf) r1 = r0
        9: (85) call pc+2
        10: (b7) r0 = 2
        11: (95) exit
        12: (b7) r2 = 1
        13: (db) lock *(u64 *)(r1 +0) += r2
        14: (b7) r0 = 0
        15: (95) exit
    "#]]
    .assert_eq(&disasm_all(&p.insns, &NoNames));
}

#[test]
fn mistakes_are_explained() {
    let cases = [
        "r1 = 5 6",
        "r11 = 0",
        "r1 = w2",
        "r1 = 0x123456789",
        "r1 &= 0xffffffff",
        "r1 = r2 + r3",
        "goto nowhere\nexit",
        "done:\n if r1 == 0 goto dune\nexit",
        "call bpf_map_lookup_elm",
        "exot",
        "r1 = *(u33 *)(r2 +0)",
        "r1 = *(u32 *)(r2 +40000)",
        "lock *(u8 *)(r1 +0) += r2",
        "r1 = map[hits] ll",
        "; map hits arry 4 8 1\nexit",
        "; prog xpd count\nexit",
        "a:\na:\nexit",
        "*(u32 *)(r10 -4)",
        "r1 = be16 r2",
        "r3 = atomic_fetch_add((u64 *)(r1 +0), r3)",
    ];
    let told = cases.map(|c| match assemble(c, &NoSymbols) {
        Ok(_) => format!("{c}: accepted"),
        Err(e) => e.to_string(),
    });
    expect_test::expect_file!["insn_asm_errors.txt"].assert_eq(&(told.join("\n") + "\n"));
}
