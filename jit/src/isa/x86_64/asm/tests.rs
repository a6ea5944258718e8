//! Encoders against llvm-mc over their operand space: every register in every position, and
//! immediates and displacements around the edges of the short forms.

use super::*;
use crate::isa::mc::{self, Case};

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::DW];
const WORDS: [Size; 2] = [Size::W, Size::DW];
const DISPS: [i32; 7] = [0, 1, -128, 127, 128, -32768, 32767];
const IMMS: [i32; 10] = [0, 1, -1, 127, -128, 128, 255, 0x7fff_ffff, i32::MIN, 0x1234_5678];

/// Names of a register by operand size.
fn name(r: R, size: Size) -> String {
    const LOW: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    let (high, low) = (r >= 8, LOW[usize::from(r & 7)]);
    match size {
        Size::DW if high => format!("r{r}"),
        Size::W if high => format!("r{r}d"),
        Size::H if high => format!("r{r}w"),
        Size::B if high => format!("r{r}b"),
        Size::DW => format!("r{low}"),
        Size::W => format!("e{low}"),
        Size::H => low.to_owned(),
        Size::B if r < 4 => format!("{}l", &low[..1]),
        Size::B => format!("{low}l"),
    }
}

fn reg(w: Width, r: R) -> String {
    name(r, if w == Width::W64 { Size::DW } else { Size::W })
}

fn mem_text(size: Size, at: At) -> String {
    let ptr = match size {
        Size::B => "byte",
        Size::H => "word",
        Size::W => "dword",
        Size::DW => "qword",
    };
    format!("{ptr} ptr [{} + {}]", name(at.base, Size::DW), at.disp)
}

fn check(cases: &[(String, Code)]) {
    let cases: Vec<Case> = cases.iter().map(|(t, c)| (t.clone(), c.to_vec())).collect();
    mc::check("x86_64", "+bmi2", ".intel_syntax noprefix\n", &cases);
}

const OPS: [(Op, &str); 6] = [
    (Op::Add, "add"),
    (Op::Or, "or"),
    (Op::And, "and"),
    (Op::Sub, "sub"),
    (Op::Xor, "xor"),
    (Op::Cmp, "cmp"),
];
const SHIFTS: [(Shift, &str); 3] = [(Shift::Shl, "shl"), (Shift::Shr, "shr"), (Shift::Sar, "sar")];

#[test]
fn two_registers() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        for d in 0..16 {
            for s in 0..16 {
                let pair = format!("{}, {}", reg(w, d), reg(w, s));
                for (op, text) in OPS {
                    cases.push((format!("{text} {pair}"), alu_rr(w, op, d, s)));
                }
                cases.push((format!("mov {pair}"), mov_rr(w, d, s)));
                cases.push((format!("test {pair}"), test_rr(w, d, s)));
                cases.push((format!("imul {pair}"), imul_rr(w, d, s)));
                let wide = name(d, Size::DW);
                cases.push((format!("cmovbe {wide}, {}", name(s, Size::DW)), cmovbe(d, s)));
                for (size, text) in [(Size::B, "movzx"), (Size::H, "movzx")] {
                    let src = name(s, size);
                    let dst = name(d, Size::W);
                    cases.push((format!("{text} {dst}, {src}"), movzx_rr(d, s, size)));
                    let dst = reg(w, d);
                    cases.push((format!("movsx {dst}, {src}"), movsx_rr(w, d, s, size)));
                }
                if w == Width::W64 {
                    let text = format!("movsxd {wide}, {}", name(s, Size::W));
                    cases.push((text, movsx_rr(w, d, s, Size::W)));
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn register_and_immediate() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        for d in 0..16 {
            let r = reg(w, d);
            for imm in IMMS {
                for (op, text) in OPS {
                    cases.push((format!("{text} {r}, {imm}"), alu_ri(w, op, d, imm)));
                }
                cases.push((format!("test {r}, {imm}"), test_ri(w, d, imm)));
                for s in [0, 5, 12] {
                    let text = format!("imul {r}, {}, {imm}", reg(w, s));
                    cases.push((text, imul_rri(w, d, s, imm)));
                }
                let (wide, low) = (name(d, Size::DW), name(d, Size::W));
                cases.push((format!("mov {low}, {imm}"), mov_ri32(d, imm.cast_unsigned())));
                let big = 0x0123_4567_89ab_cdef ^ u64::from(imm.cast_unsigned());
                cases.push((format!("movabs {wide}, {big:#x}"), mov_ri64(d, big)));
                if imm < 0 {
                    cases.push((format!("mov {wide}, {imm}"), mov_ri32s(d, imm)));
                }
                let byte = imm.to_le_bytes()[0];
                cases.push((format!("test {}, {byte}", name(d, Size::B)), test_ri8(d, byte)));
            }
        }
    }
    check(&cases);
}

#[test]
fn one_register() {
    let unary_ops = [(Unary::Neg, "neg"), (Unary::Div, "div"), (Unary::Idiv, "idiv")];
    let bits =
        [(Bit::Test, "bt"), (Bit::Set, "bts"), (Bit::Reset, "btr"), (Bit::Complement, "btc")];
    let mut cases = vec![
        ("cdq".to_owned(), sign_into_rdx(Width::W32)),
        ("cqo".to_owned(), sign_into_rdx(Width::W64)),
        ("leave".to_owned(), Code::of(&LEAVE)),
        ("ret".to_owned(), Code::of(&RET)),
        ("nop".to_owned(), Code::of(&NOP)),
    ];
    for d in 0..16 {
        let wide = name(d, Size::DW);
        cases.push((format!("push {wide}"), push(d)));
        cases.push((format!("pop {wide}"), pop(d)));
        cases.push((format!("jmp {wide}"), jmp_r(d)));
        cases.push((format!("add {wide}, qword ptr gs:[16]"), add_gs(d, 16)));
        cases.push((format!("lea {wide}, [rip]"), lea_rip(d)));
        for w in WIDTHS {
            let r = reg(w, d);
            cases.push((format!("inc {r}"), inc_dec(w, false, d)));
            cases.push((format!("dec {r}"), inc_dec(w, true, d)));
            cases.push((format!("bswap {r}"), bswap(w, d)));
            for (op, text) in unary_ops {
                cases.push((format!("{text} {r}"), unary(w, op, d)));
            }
            for (op, text) in bits {
                cases.push((format!("{text} {r}, 31"), bit(w, op, d, 31)));
            }
            for (op, text) in SHIFTS {
                cases.push((format!("{text} {r}, cl"), shift_cl(w, op, d)));
                for count in [1, 2, 31] {
                    cases.push((format!("{text} {r}, {count}"), shift_ri(w, op, d, count)));
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn three_registers() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        for (op, text) in SHIFTS {
            for d in 0..16 {
                for s in [0, 3, 8, 15] {
                    for c in 0..16 {
                        let regs = [d, s, c].map(|r| reg(w, r)).join(", ");
                        cases.push((format!("{text}x {regs}"), shiftx(w, op, d, s, c)));
                    }
                }
            }
        }
    }
    for d in 0..16 {
        for (base, index) in [(6, 2), (0, 12), (10, 9), (4, 5)] {
            for disp in [1, 127, 128, 272] {
                let (d_name, b_name) = (name(d, Size::DW), name(base, Size::DW));
                let text =
                    format!("mov {d_name}, [{b_name} + 8*{} + {disp}]", name(index, Size::DW));
                cases.push((text, load_indexed8(d, base, index, disp)));
            }
        }
    }
    check(&cases);
}

#[test]
fn addresses() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        for d in 0..16 {
            for base in 0..16 {
                let base_name = name(base, Size::DW);
                for disp in DISPS {
                    let text = format!("lea {}, [{base_name} + {disp}]", reg(w, d));
                    cases.push((text, lea(w, d, At { base, disp })));
                }
                for index in (0..16).filter(|i| *i != RSP && base != RSP) {
                    // The assembler keeps the order, which is ours when there is a choice.
                    let swapped = base & 7 == RBP;
                    let (a, b) = if swapped { (index, base) } else { (base, index) };
                    let text = format!(
                        "lea {}, [{} + 1*{}]",
                        reg(w, d),
                        name(a, Size::DW),
                        name(b, Size::DW)
                    );
                    cases.push((text, lea_rr(w, d, base, index)));
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn loads_and_stores() {
    let mut cases = Vec::new();
    for base in 0..16 {
        for disp in DISPS {
            let at = At { base, disp };
            cases.push((format!("inc {}", mem_text(Size::W, at)), inc_mem32(at)));
            for imm in [0, 33, 127, -1, -128] {
                let text = format!("cmp {}, {imm}", mem_text(Size::W, at));
                cases.push((text, cmp_mem32_imm8(at, imm)));
            }
            for size in SIZES {
                let m = mem_text(size, at);
                for imm in [0, 1, -1] {
                    cases.push((format!("mov {m}, {imm}"), store_imm(size, at, imm)));
                }
                for r in 0..16 {
                    let wide = name(r, Size::DW);
                    let low = name(r, Size::W);
                    let (zx, sx) = match size {
                        Size::B | Size::H => (format!("movzx {low}, {m}"), "movsx"),
                        Size::W => (format!("mov {low}, {m}"), "movsxd"),
                        Size::DW => (format!("mov {wide}, {m}"), "mov"),
                    };
                    cases.push((zx, load(r, size, at)));
                    cases.push((format!("{sx} {wide}, {m}"), load_sx(r, size, at)));
                    cases.push((format!("mov {m}, {}", name(r, size)), store(size, at, r)));
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn locked() {
    let mut cases = Vec::new();
    for base in 0..16 {
        for disp in [0, -8, 512] {
            let at = At { base, disp };
            for size in WORDS {
                let m = mem_text(size, at);
                for r in 0..16 {
                    let s = name(r, size);
                    for (op, text) in &OPS[..5] {
                        cases.push((format!("lock {text} {m}, {s}"), lock_op(size, *op, at, r)));
                    }
                    cases.push((format!("lock xadd {m}, {s}"), lock_xadd(size, at, r)));
                    cases.push((format!("lock cmpxchg {m}, {s}"), lock_cmpxchg(size, at, r)));
                    cases.push((format!("xchg {m}, {s}"), xchg_mem(size, at, r)));
                }
            }
            let m = mem_text(Size::W, at);
            cases.push((format!("cmp {m}, {}", name(base, Size::W)), cmp_mem32_r(at, base)));
        }
    }
    check(&cases);
}

/// Branches as llvm-mc reads them: it leaves displacements that it writes to its linker.
#[test]
fn branches() {
    let conditions = [
        (Cc::B, "jb"),
        (Cc::Ae, "jae"),
        (Cc::E, "je"),
        (Cc::Ne, "jne"),
        (Cc::Be, "jbe"),
        (Cc::A, "ja"),
        (Cc::L, "jl"),
        (Cc::Ge, "jge"),
        (Cc::Le, "jle"),
        (Cc::G, "jg"),
    ];
    let (mut code, mut expected) = (Vec::new(), Vec::new());
    let mut case = |bytes: &[u8], text: &str, rel: i32| {
        code.extend(bytes);
        expected.push(format!("{text} {rel}"));
    };
    for rel in [0i32, 1, -1, 127, -128] {
        let patched = |mut b: [u8; 2]| {
            assert!(patch_rel8(&mut b, i64::from(rel) + 2));
            b
        };
        for (cc, text) in conditions {
            case(&patched(jcc8(cc)), text, rel);
        }
        case(&patched(JMP8), "jmp", rel);
        case(&patched(JRCXZ), "jrcxz", rel);
    }
    for rel in [0i32, -1, 128, -129, i32::MAX, i32::MIN] {
        for (cc, text) in conditions {
            let mut b = jcc32(jcc8(cc)[0]);
            assert!(patch_rel32::<6>(&mut b, i64::from(rel) + 6));
            case(&b, text, rel);
        }
        for (mut b, text) in [(JMP32, "jmp"), (CALL, "callq")] {
            assert!(patch_rel32::<5>(&mut b, i64::from(rel) + 5));
            case(&b, text, rel);
        }
    }
    let theirs = mc::disassemble("x86_64", "", &code);
    assert!(theirs.is_empty() || theirs == expected, "{theirs:?}");
}

#[test]
fn displacements() {
    let mut short = jcc8(Cc::Ne);
    assert!(patch_rel8(&mut short, 129) && short == [0x75, 127]);
    assert!(patch_rel8(&mut short, -126) && short == [0x75, 0x80]);
    assert!(!patch_rel8(&mut short, 130) && !patch_rel8(&mut short, -127));
    let mut long = jcc32(jcc8(Cc::Ne)[0]);
    assert!(patch_rel32::<6>(&mut long, 6 - 256));
    assert_eq!(long, [0x0f, 0x85, 0, 0xff, 0xff, 0xff]);
    assert!(!patch_rel32::<6>(&mut long, 1 << 32));
}
