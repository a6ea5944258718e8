//! Encoders against llvm-mc over their operand space.

use super::*;
use crate::isa::mc::{self, Case};

/// Every bit of a register field is seen set and clear.
const REGS: [u8; 8] = [0, 1, 2, 5, 9, 15, 16, 30];
const IMMS: [i64; 9] = [-2048, -1366, -2, -1, 0, 1, 682, 1365, 2047];

fn check(cases: &[(String, u32)]) {
    let cases: Vec<Case> =
        cases.iter().map(|(t, w)| (t.clone(), w.to_le_bytes().to_vec())).collect();
    mc::check("riscv64", "+m,+a,+c", ".option norvc", &cases);
}

fn check_compressed(cases: &[(String, Option<u16>)]) {
    let bytes = |(t, w): &(String, Option<u16>)| {
        let w = w.unwrap_or_else(|| panic!("{t}: has a compressed form"));
        (t.clone(), w.to_le_bytes().to_vec())
    };
    let cases: Vec<Case> = cases.iter().map(bytes).collect();
    mc::check("riscv64", "+m,+a,+c", "", &cases);
}

#[test]
fn three_registers() {
    let ops = [
        (Op::Add, "add"),
        (Op::Sub, "sub"),
        (Op::Sll, "sll"),
        (Op::Xor, "xor"),
        (Op::Srl, "srl"),
        (Op::Sra, "sra"),
        (Op::Or, "or"),
        (Op::And, "and"),
        (Op::Mul, "mul"),
        (Op::Div, "div"),
        (Op::Divu, "divu"),
        (Op::Rem, "rem"),
        (Op::Remu, "remu"),
        (Op::Addw, "addw"),
        (Op::Subw, "subw"),
        (Op::Sllw, "sllw"),
        (Op::Srlw, "srlw"),
        (Op::Sraw, "sraw"),
        (Op::Mulw, "mulw"),
        (Op::Divw, "divw"),
        (Op::Divuw, "divuw"),
        (Op::Remw, "remw"),
        (Op::Remuw, "remuw"),
    ];
    let mut cases = Vec::new();
    for (o, text) in ops {
        for d in REGS {
            for n in REGS {
                for m in REGS {
                    cases.push((format!("{text} x{d}, x{n}, x{m}"), op(o, Gpr(d), Gpr(n), Gpr(m))));
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn immediates() {
    let ops = [
        (OpI::Addi, "addi"),
        (OpI::Sltiu, "sltiu"),
        (OpI::Xori, "xori"),
        (OpI::Ori, "ori"),
        (OpI::Andi, "andi"),
        (OpI::Addiw, "addiw"),
        (OpI::Jalr, "jalr"),
    ];
    let shifts = [
        (Shift::Slli, "slli", 64),
        (Shift::Srli, "srli", 64),
        (Shift::Srai, "srai", 64),
        (Shift::Slliw, "slliw", 32),
        (Shift::Srliw, "srliw", 32),
        (Shift::Sraiw, "sraiw", 32),
    ];
    let mut cases = Vec::new();
    for d in REGS {
        for n in REGS {
            for (o, text) in ops {
                for imm in IMMS {
                    cases.push((format!("{text} x{d}, x{n}, {imm}"), op_i(o, Gpr(d), Gpr(n), imm)));
                }
            }
            for (s, text, bits) in shifts {
                for i in 0..bits {
                    cases.push((format!("{text} x{d}, x{n}, {i}"), shift(s, Gpr(d), Gpr(n), i)));
                }
            }
        }
        for imm in [-0x8_0000, -0x5_5556, -1, 0, 1, 0x5_5555, 0x7_ffff] {
            let shown = imm & 0xf_ffff;
            cases.push((format!("lui x{d}, {shown}"), lui(Gpr(d), imm)));
            cases.push((format!("auipc x{d}, {shown}"), auipc(Gpr(d), imm)));
        }
    }
    check(&cases);
}

#[test]
fn memory() {
    let sizes = [(Size::B, "b"), (Size::H, "h"), (Size::W, "w"), (Size::DW, "d")];
    let mut cases = Vec::new();
    for (s, text) in sizes {
        for d in REGS {
            for n in REGS {
                for off in IMMS {
                    let at = format!("x{d}, {off}(x{n})");
                    cases.push((format!("l{text} {at}"), load(s, true, Gpr(d), Gpr(n), off)));
                    cases.push((format!("s{text} {at}"), store(s, Gpr(d), Gpr(n), off)));
                    if s != Size::DW {
                        cases.push((format!("l{text}u {at}"), load(s, false, Gpr(d), Gpr(n), off)));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn branches() {
    let conds = [
        (Cond::Eq, "beq"),
        (Cond::Ne, "bne"),
        (Cond::Lt, "blt"),
        (Cond::Ge, "bge"),
        (Cond::Ltu, "bltu"),
        (Cond::Geu, "bgeu"),
    ];
    let mut cases = Vec::new();
    for (c, text) in conds {
        for n in REGS {
            for m in REGS {
                for disp in [-4096, -2732, -2, 0, 2, 1366, 2728, 4094] {
                    let ours = branch(c, Gpr(n), Gpr(m), disp);
                    cases.push((format!("{text} x{n}, x{m}, {disp}"), ours));
                }
            }
        }
    }
    for d in REGS {
        for disp in [-0x10_0000, -0xa_aaac, -2, 0, 2, 0x5_5556, 0xa_aaa8, 0xf_fffe] {
            cases.push((format!("jal x{d}, {disp}"), jal(Gpr(d), disp)));
        }
    }
    check(&cases);
}

#[test]
fn atomics() {
    let ops = [
        (Amo::Add, "amoadd"),
        (Amo::Swap, "amoswap"),
        (Amo::Xor, "amoxor"),
        (Amo::Or, "amoor"),
        (Amo::And, "amoand"),
        (Amo::Sc, "sc"),
    ];
    let orders = [(Order::Relaxed, ""), (Order::Release, ".rl"), (Order::AcqRel, ".aqrl")];
    let mut cases = Vec::new();
    for (s, size) in [(Size::W, "w"), (Size::DW, "d")] {
        for (order, suffix) in orders {
            for d in REGS {
                for n in REGS {
                    for (a, text) in ops {
                        for m in [0, 15, 16] {
                            let ours = amo(a, s, order, Gpr(d), Gpr(m), Gpr(n));
                            cases.push((format!("{text}.{size}{suffix} x{d}, x{m}, (x{n})"), ours));
                        }
                    }
                    if order != Order::Release {
                        let ours = amo(Amo::Lr, s, order, Gpr(d), ZERO, Gpr(n));
                        cases.push((format!("lr.{size}{suffix} x{d}, (x{n})"), ours));
                    }
                }
            }
        }
    }
    for (p, pred) in [(2, "r"), (3, "rw"), (1, "w"), (15, "iorw")] {
        for (s, succ) in [(1, "w"), (3, "rw"), (12, "io")] {
            cases.push((format!("fence {pred}, {succ}"), fence(p, s)));
        }
    }
    check(&cases);
}

#[test]
fn compressed_immediates() {
    let mut cases = Vec::new();
    for d in 1..32 {
        let rd = Gpr(d);
        for imm in -32..32 {
            if imm != 0 {
                cases.push((format!("c.addi x{d}, {imm}"), c_addi(rd, imm)));
            }
            cases.push((format!("c.addiw x{d}, {imm}"), c_addiw(rd, imm)));
            cases.push((format!("c.li x{d}, {imm}"), c_li(rd, imm)));
            if d != 2 && imm != 0 {
                let shown = imm & 0xf_ffff;
                cases.push((format!("c.lui x{d}, {shown}"), c_lui(rd, imm)));
            }
            if (8..16).contains(&d) {
                cases.push((format!("c.andi x{d}, {imm}"), c_andi(rd, imm)));
            }
        }
        for n in 1..64 {
            cases.push((format!("c.slli x{d}, {n}"), c_slli(rd, n)));
            if (8..16).contains(&d) {
                cases.push((format!("c.srli x{d}, {n}"), c_srxi(false, rd, n)));
                cases.push((format!("c.srai x{d}, {n}"), c_srxi(true, rd, n)));
            }
        }
    }
    for imm in (-512..512).step_by(16).filter(|i| *i != 0) {
        cases.push((format!("c.addi16sp sp, {imm}"), c_addi16sp(imm)));
    }
    for imm in (4..1024).step_by(4) {
        let d = 8 + (imm / 4 % 8) as u8;
        cases.push((format!("c.addi4spn x{d}, sp, {imm}"), c_addi4spn(Gpr(d), imm)));
    }
    check_compressed(&cases);
}

#[test]
fn compressed_registers() {
    let ops = [
        (Op::Sub, "c.sub"),
        (Op::Xor, "c.xor"),
        (Op::Or, "c.or"),
        (Op::And, "c.and"),
        (Op::Subw, "c.subw"),
        (Op::Addw, "c.addw"),
    ];
    let mut cases = Vec::new();
    for d in 1..32 {
        for n in 1..32 {
            cases.push((format!("c.mv x{d}, x{n}"), c_mv(Gpr(d), Gpr(n))));
            cases.push((format!("c.add x{d}, x{n}"), c_add(Gpr(d), Gpr(n))));
            if (8..16).contains(&d) && (8..16).contains(&n) {
                for (o, text) in ops {
                    cases.push((format!("{text} x{d}, x{n}"), c_op(o, Gpr(d), Gpr(n))));
                }
            }
        }
        cases.push((format!("c.jr x{d}"), c_jr(Gpr(d))));
        cases.push((format!("c.jalr x{d}"), c_jalr(Gpr(d))));
    }
    check_compressed(&cases);
}

#[test]
fn compressed_memory() {
    let mut cases = Vec::new();
    for d in 8..16 {
        for n in 8..16 {
            for k in 0..32 {
                for (s, size) in [(Size::W, "w"), (Size::DW, "d")] {
                    let off = k * i64::from(s.bytes());
                    let at = format!("x{d}, {off}(x{n})");
                    cases.push((format!("c.l{size} {at}"), c_load(s, Gpr(d), Gpr(n), off)));
                    cases.push((format!("c.s{size} {at}"), c_store(s, Gpr(d), Gpr(n), off)));
                }
            }
        }
    }
    for d in 0..32 {
        for off in (0..512).step_by(8) {
            if d != 0 {
                cases.push((format!("c.ldsp x{d}, {off}(sp)"), c_ldsp(Gpr(d), off)));
            }
            cases.push((format!("c.sdsp x{d}, {off}(sp)"), c_sdsp(Gpr(d), off)));
        }
    }
    check_compressed(&cases);
}

#[test]
fn compressed_branches() {
    let mut cases = Vec::new();
    for disp in (-2048..2048).step_by(2) {
        cases.push((format!("c.j {disp}"), c_j(disp)));
    }
    for disp in (-256..256).step_by(2) {
        for n in 8..16 {
            cases.push((format!("c.beqz x{n}, {disp}"), c_branch(Cond::Eq, Gpr(n), disp)));
            cases.push((format!("c.bnez x{n}, {disp}"), c_branch(Cond::Ne, Gpr(n), disp)));
        }
    }
    check_compressed(&cases);
}

#[test]
fn does_not_compress() {
    assert_eq!(c_addi(A0, 0), None, "c.nop");
    assert_eq!(c_addi(A0, 32), None);
    assert_eq!(c_lui(SP, 1), None, "c.addi16sp");
    assert_eq!(c_addi16sp(8), None);
    assert_eq!(c_addi4spn(A0, 0), None, "reserved");
    assert_eq!(c_mv(A0, ZERO), None, "c.jr");
    assert_eq!(c_jr(ZERO), None, "reserved");
    assert_eq!(c_op(Op::Sub, A0, Gpr(5)), None, "t0 has no three-bit number");
    assert_eq!(c_load(Size::DW, A0, Gpr(11), 4), None);
    assert_eq!(c_load(Size::W, A0, Gpr(11), -4), None);
    assert_eq!(c_load(Size::H, A0, Gpr(11), 0), None, "Zcb");
    assert_eq!(c_ldsp(ZERO, 0), None, "reserved");
    assert_eq!(c_j(2048), None);
    assert_eq!(c_branch(Cond::Lt, A0, 2), None);
}

#[test]
fn upper_and_lower_parts() {
    for v in [0, 1, 0x7ff, 0x800, 0xfff, 0x1000, -1, -0x800, -0x801, 0x7fff_f7ff, -0x8000_0000] {
        let (hi, lo) = hi_lo(v).unwrap();
        assert_eq!((hi << 12) + lo, v);
        assert!(fits(lo, 12) && fits(hi, 20));
    }
    assert_eq!(hi_lo(0x7fff_f800), None, "carries out of 32 bits");
}

#[test]
fn patches_write_what_the_encoders_do() {
    let word = |w: u32, patch: crate::buffer::Patch, disp| {
        let mut code = w.to_le_bytes();
        patch(&mut code, disp).then(|| u32::from_le_bytes(code))
    };
    let half = |w: u16, patch: crate::buffer::Patch, disp| {
        let mut code = w.to_le_bytes();
        patch(&mut code, disp).then(|| u16::from_le_bytes(code))
    };
    for disp in [0, 2, -2, 254, -256, 2046, -2048, 4094, -4096, 1_048_574, -1_048_576, 1 << 20] {
        let far = |disp| branch(Cond::Ltu, Gpr(9), Gpr(30), disp);
        let fits13 = (-4096..4096).contains(&disp);
        assert_eq!(word(far(0), patch_branch, disp), fits13.then(|| far(disp)), "{disp}");
        let fits21 = (-(1 << 20)..1 << 20).contains(&disp);
        let jump = |disp| jal(Gpr(17), disp);
        assert_eq!(word(jump(0), patch_jal, disp), fits21.then(|| jump(disp)), "{disp}");
        let near = |disp| c_branch(Cond::Ne, Gpr(13), disp);
        assert_eq!(half(near(0).unwrap(), patch_c_branch, disp), near(disp), "{disp}");
        assert_eq!(half(c_j(0).unwrap(), patch_c_j, disp), c_j(disp), "{disp}");
    }
    assert_eq!((c_j(2048), c_branch(Cond::Eq, Gpr(8), 256)), (None, None));
    for disp in [0, 1, -1, 2047, 2048, -2048, -2049, 0x1234_5678, -0x1234_5678] {
        let pair = |hi, lo| [auipc(Gpr(1), hi), op_i(OpI::Jalr, Gpr(1), Gpr(1), lo)];
        let mut code = pair(0, 0).map(u32::to_le_bytes).concat();
        assert!(patch_pair(&mut code, disp));
        let (hi, lo) = hi_lo(disp).unwrap();
        assert_eq!(code, pair(hi, lo).map(u32::to_le_bytes).concat(), "{disp:#x}");
        assert_eq!((hi << 12) + lo, disp, "{disp:#x}");
    }
    assert!(!patch_pair(&mut [0; 8], 1 << 31));
}

#[test]
fn nothing_is_two_bytes() {
    check_compressed(&[("c.nop".to_owned(), Some(C_NOP))]);
    assert_eq!((by_width(Width::W32, 1, 2), by_width(Width::W64, 1, 2)), (1, 2));
    assert_eq!(short::mv(Gpr(8), Gpr(9)), short::Word::Half(c_mv(Gpr(8), Gpr(9)).unwrap()));
    let shift = short::shift(Shift::Slli, Gpr(8), Gpr(9), 3);
    assert_eq!(shift, short::Word::Full(super::shift(Shift::Slli, Gpr(8), Gpr(9), 3)));
}
