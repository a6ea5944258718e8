//! Encoders against llvm-mc over their operand space.

use super::*;
use crate::isa::mc::{self, Case};

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::DW];
/// Every bit of a register field is seen set and clear.
const REGS: [u8; 8] = [0, 1, 2, 4, 8, 16, 21, 30];

fn check(cases: &[(String, u32)]) {
    let cases: Vec<Case> =
        cases.iter().map(|(t, w)| (t.clone(), w.to_le_bytes().to_vec())).collect();
    mc::check("aarch64", "+lse", "", &cases);
}

fn name(w: Width, n: u8, n31: &str) -> String {
    let c = if w == Width::W64 { "x" } else { "w" };
    match (n, n31) {
        (31, "sp") if w == Width::W64 => "sp".to_owned(),
        (31, "sp") => "wsp".to_owned(),
        (31, _) => format!("{c}zr"),
        _ => format!("{c}{n}"),
    }
}

fn reg(w: Width, n: u8) -> String {
    name(w, n, "zr")
}

fn base(n: u8) -> String {
    name(Width::W64, n, "sp")
}

#[test]
fn three_registers() {
    let ops = [
        (Op3::Add, "add"),
        (Op3::Sub, "sub"),
        (Op3::Subs, "subs"),
        (Op3::And, "and"),
        (Op3::Orr, "orr"),
        (Op3::Orn, "orn"),
        (Op3::Eor, "eor"),
        (Op3::Udiv, "udiv"),
        (Op3::Sdiv, "sdiv"),
        (Op3::Lslv, "lslv"),
        (Op3::Lsrv, "lsrv"),
        (Op3::Asrv, "asrv"),
    ];
    let mut cases = Vec::new();
    for (op, text) in ops {
        for w in WIDTHS {
            for d in REGS {
                for n in REGS {
                    for m in REGS {
                        let regs = [d, n, m].map(|x| reg(w, x)).join(", ");
                        cases.push((format!("{text} {regs}"), op3(op, w, Gpr(d), Gpr(n), Gpr(m))));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn multiply_and_move() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        for d in REGS {
            for n in [0, 8, 19, 31] {
                let dn = [d, n].map(|x| reg(w, x)).join(", ");
                cases.push((format!("mov {dn}"), mov(w, Gpr(d), Gpr(n))));
                cases.push((format!("rev16 {dn}"), rev16(w, Gpr(d), Gpr(n))));
                cases.push((format!("rev {dn}"), rev(w, Gpr(d), Gpr(n))));
                for m in REGS {
                    for a in [1, 10, 31] {
                        let rest = [m, a].map(|x| reg(w, x)).join(", ");
                        let [gd, gn, gm, ga] = [d, n, m, a].map(Gpr);
                        cases.push((format!("madd {dn}, {rest}"), madd(w, gd, gn, gm, ga)));
                        cases.push((format!("msub {dn}, {rest}"), msub(w, gd, gn, gm, ga)));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn extended_and_selected() {
    let conds = [(Cond::Ls, "ls"), (Cond::Eq, "eq"), (Cond::Gt, "gt")];
    let mut cases = Vec::new();
    for d in [0, 11, 30] {
        for n in [1, 25] {
            for m in REGS {
                for shift in [1, 7, 31] {
                    for w in WIDTHS {
                        let regs = [d, n, m].map(|x| reg(w, x)).join(", ");
                        let ours = add_lsl(w, Gpr(d), Gpr(n), Gpr(m), shift);
                        cases.push((format!("add {regs}, lsl #{shift}"), ours));
                    }
                }
                for shift in 0..=4 {
                    let [gd, gn, gm] = [d, n, m].map(Gpr);
                    let text = format!("add x{d}, x{n}, w{m}");
                    let ours = add_ext(gd, gn, gm, false, shift);
                    cases.push((format!("{text}, uxtw #{shift}"), ours));
                    let ours = add_ext(gd, gn, gm, true, shift);
                    cases.push((format!("{text}, sxtw #{shift}"), ours));
                    for (c, c_text) in conds {
                        let ours = csel(gd, gn, gm, c);
                        cases.push((format!("csel x{d}, x{n}, x{m}, {c_text}"), ours));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn arithmetic_immediates() {
    let ops = [
        (OpImm::Add, "add", true),
        (OpImm::Adds, "adds", false),
        (OpImm::Sub, "sub", true),
        (OpImm::Subs, "subs", false),
    ];
    let mut cases = Vec::new();
    for (op, text, to_sp) in ops {
        for w in WIDTHS {
            for d in [0, 9, 31] {
                for n in [0, 22, 31] {
                    for imm in [0, 1, 2, 0x555, 0xaaa, 0xfff] {
                        let rd = name(w, d, if to_sp { "sp" } else { "zr" });
                        let rn = name(w, n, "sp");
                        for shift in [0, 12] {
                            let ours = op_imm(op, w, Gpr(d), Gpr(n), imm << shift);
                            let lsl = if shift == 12 && imm != 0 { ", lsl #12" } else { "" };
                            cases.push((format!("{text} {rd}, {rn}, #{imm}{lsl}"), ours));
                        }
                    }
                }
            }
        }
    }
    check(&cases);
}

/// All 5334 bitmask immediates: a rotated run of ones in each element size.
fn all_bitmasks() -> Vec<u64> {
    let mut all = Vec::new();
    for bits in [2u32, 4, 8, 16, 32, 64] {
        for ones in 1..bits {
            for rotation in 0..bits {
                let mut value = 0u64;
                for i in 0..ones {
                    value |= 1 << ((i + rotation) % bits);
                }
                let mut full = 0;
                for at in (0..64).step_by(bits as usize) {
                    full |= value << at;
                }
                all.push(full);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn logical_immediates() {
    let ops = [(OpMask::And, "and"), (OpMask::Orr, "orr"), (OpMask::Eor, "eor")];
    let all = all_bitmasks();
    assert_eq!(all.len(), 5334);
    let mut cases = Vec::new();
    for (i, &value) in all.iter().enumerate() {
        let (op, text) = ops[i % ops.len()];
        let (d, n) = (REGS[i % 8], REGS[i / 8 % 8]);
        let mask = bitmask(Width::W64, value).unwrap();
        let ours = op_mask(op, Width::W64, Gpr(d), Gpr(n), mask);
        cases.push((format!("{text} x{d}, x{n}, #{value:#x}"), ours));
        if value >> 32 == value & 0xffff_ffff {
            let value = value as u32;
            let mask = bitmask(Width::W32, u64::from(value)).unwrap();
            let ours = op_mask(op, Width::W32, Gpr(d), Gpr(n), mask);
            cases.push((format!("{text} w{d}, w{n}, #{value:#x}"), ours));
        }
    }
    check(&cases);
}

#[test]
fn not_a_bitmask() {
    let all = all_bitmasks();
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for i in 0..20_000u32 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(i) | 1);
        let value = if i % 2 == 0 { x } else { all[i as usize % all.len()] ^ 1 << (x >> 58) };
        let expected = all.binary_search(&value).is_ok();
        assert_eq!(bitmask(Width::W64, value).is_some(), expected, "{value:#x}");
    }
    assert_eq!(bitmask(Width::W64, 0), None);
    assert_eq!(bitmask(Width::W32, 0xffff_ffff), None);
}

#[test]
fn wide_moves() {
    let mut cases = Vec::new();
    for (op, text) in [(Wide::N, "movn"), (Wide::Z, "movz"), (Wide::K, "movk")] {
        for w in WIDTHS {
            for hw in 0..if w == Width::W64 { 4 } else { 2 } {
                for d in REGS {
                    for imm in [0u16, 1, 0x5555, 0xaaaa, 0xffff] {
                        let ours = wide(op, w, Gpr(d), imm, hw);
                        let rd = reg(w, d);
                        cases.push((format!("{text} {rd}, #{imm}, lsl #{}", hw * 16), ours));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn shifts_and_fields() {
    let mut cases = Vec::new();
    for w in WIDTHS {
        let top = if w == Width::W64 { 63 } else { 31 };
        for n in 0..=top {
            let (d, s) = (REGS[n as usize % 8], REGS[n as usize / 8]);
            let regs = [d, s].map(|x| reg(w, x)).join(", ");
            let (gd, gs) = (Gpr(d), Gpr(s));
            cases.push((format!("lsl {regs}, #{n}"), lsl_imm(w, gd, gs, n)));
            cases.push((format!("lsr {regs}, #{n}"), lsr_imm(w, gd, gs, n)));
            cases.push((format!("asr {regs}, #{n}"), asr_imm(w, gd, gs, n)));
            for m in 0..=top {
                cases.push((format!("ubfm {regs}, #{n}, #{m}"), ubfm(w, gd, gs, n, m)));
                cases.push((format!("sbfm {regs}, #{n}, #{m}"), sbfm(w, gd, gs, n, m)));
            }
        }
    }
    check(&cases);
}

fn mem_text(m: Mem, s: Size) -> (&'static str, Width) {
    match (m, s) {
        (Mem::St, Size::B) => ("strb", Width::W32),
        (Mem::St, Size::H) => ("strh", Width::W32),
        (Mem::St, Size::W) => ("str", Width::W32),
        (Mem::St, Size::DW) => ("str", Width::W64),
        (Mem::Ld, Size::B) => ("ldrb", Width::W32),
        (Mem::Ld, Size::H) => ("ldrh", Width::W32),
        (Mem::Ld, Size::W) => ("ldr", Width::W32),
        (Mem::Ld, Size::DW) => ("ldr", Width::W64),
        (Mem::LdSx, Size::B) => ("ldrsb", Width::W64),
        (Mem::LdSx, Size::H) => ("ldrsh", Width::W64),
        (Mem::LdSx, Size::W | Size::DW) => ("ldrsw", Width::W64),
    }
}

#[test]
fn loads_and_stores() {
    let mut cases = Vec::new();
    for m in [Mem::St, Mem::Ld, Mem::LdSx] {
        for s in SIZES {
            if (m, s) == (Mem::LdSx, Size::DW) {
                continue;
            }
            let (text, w) = mem_text(m, s);
            let unscaled = text.replace("ldr", "ldur").replace("str", "stur");
            for t in [0, 8, 21, 31] {
                for n in [0, 9, 25, 31] {
                    let (rt, rn) = (reg(w, t), base(n));
                    let (gt, gn) = (Gpr(t), Gpr(n));
                    for k in [0, 1, 2, 0x555, 0xaaa, 0xfff] {
                        let off = k * i64::from(s.bytes());
                        let ours = mem_scaled(m, s, gt, gn, off);
                        cases.push((format!("{text} {rt}, [{rn}, #{off}]"), ours));
                    }
                    for off in [-256, -171, -1, 0, 1, 170, 255] {
                        let ours = mem_unscaled(m, s, gt, gn, off);
                        cases.push((format!("{unscaled} {rt}, [{rn}, #{off}]"), ours));
                    }
                    for x in REGS {
                        let ours = mem_reg(m, s, gt, gn, Gpr(x));
                        cases.push((format!("{text} {rt}, [{rn}, x{x}]"), ours));
                    }
                }
            }
        }
    }
    check(&cases);
}

#[test]
fn pairs_and_stack() {
    let mut cases = Vec::new();
    for a in [0, 19, 29, 31] {
        for b in [30, 25, 31] {
            if a == b {
                continue;
            }
            for off in [-512, -344, -8, 0, 8, 168, 504] {
                let (t, u) = (reg(Width::W64, a), reg(Width::W64, b));
                let p = |form| pair(form, Gpr(a), Gpr(b), SP, off);
                cases.push((format!("stp {t}, {u}, [sp, #{off}]"), p(Pair::St)));
                cases.push((format!("stp {t}, {u}, [sp, #{off}]!"), p(Pair::StPre)));
                cases.push((format!("ldp {t}, {u}, [sp, #{off}]"), p(Pair::Ld)));
                cases.push((format!("ldp {t}, {u}, [sp], #{off}"), p(Pair::LdPost)));
            }
        }
        for off in [-256, -16, 0, 16, 255] {
            let t = reg(Width::W64, a);
            cases.push((format!("str {t}, [sp, #{off}]!"), str_pre(Gpr(a), SP, off)));
            cases.push((format!("ldr {t}, [sp], #{off}"), ldr_post(Gpr(a), SP, off)));
        }
    }
    check(&cases);
}

#[test]
fn atomics() {
    let ops = [
        (Lse::Add, "ldadd"),
        (Lse::Clr, "ldclr"),
        (Lse::Eor, "ldeor"),
        (Lse::Set, "ldset"),
        (Lse::Swp, "swp"),
    ];
    let mut cases = Vec::new();
    for (s, w) in [(Size::W, Width::W32), (Size::DW, Width::W64)] {
        for x in REGS {
            for t in [0, 9, 30, 31] {
                for n in [0, 10, 31] {
                    let (rs, rt, rn) = (reg(w, x), reg(w, t), base(n));
                    let [gs, gt, gn] = [x, t, n].map(Gpr);
                    for (op, text) in ops {
                        for (al, suffix) in [(false, ""), (true, "al")] {
                            let ours = lse(op, s, al, gs, gt, gn);
                            cases.push((format!("{text}{suffix} {rs}, {rt}, [{rn}]"), ours));
                        }
                    }
                    cases.push((format!("casal {rs}, {rt}, [{rn}]"), casal(s, gs, gt, gn)));
                }
            }
        }
    }
    for (s, suffix) in [(Size::B, "b"), (Size::H, "h"), (Size::W, ""), (Size::DW, "")] {
        let w = if s == Size::DW { Width::W64 } else { Width::W32 };
        for t in [0, 21, 31] {
            for n in [8, 31] {
                let (rt, rn) = (reg(w, t), base(n));
                cases.push((format!("ldar{suffix} {rt}, [{rn}]"), ldar(s, Gpr(t), Gpr(n))));
                cases.push((format!("stlr{suffix} {rt}, [{rn}]"), stlr(s, Gpr(t), Gpr(n))));
            }
        }
    }
    check(&cases);
}

#[test]
fn branches() {
    let conds = ["eq", "ne", "hs", "lo", "hi", "ls", "ge", "lt", "gt", "le"];
    let codes = [
        Cond::Eq,
        Cond::Ne,
        Cond::Hs,
        Cond::Lo,
        Cond::Hi,
        Cond::Ls,
        Cond::Ge,
        Cond::Lt,
        Cond::Gt,
        Cond::Le,
    ];
    let mut cases = Vec::new();
    for (bits, d) in [(26, -1i64), (26, 1), (26, 0x155_5555), (26, 0x1ff_ffff), (26, -0x200_0000)] {
        let disp = d * 4;
        assert!(fits(d, bits));
        cases.push((format!("b #{disp}"), b(disp)));
        cases.push((format!("bl #{disp}"), bl(disp)));
    }
    for disp in [0, 4, -4, 0x2_aaa8, 0xf_fffc, -0x10_0000] {
        for (c, text) in codes.iter().zip(conds) {
            cases.push((format!("b.{text} #{disp}"), b_cond(*c, disp)));
        }
        for w in WIDTHS {
            for t in REGS {
                let rt = reg(w, t);
                cases.push((format!("cbz {rt}, #{disp}"), cbz(w, Gpr(t), disp)));
                cases.push((format!("cbnz {rt}, #{disp}"), cbnz(w, Gpr(t), disp)));
            }
        }
    }
    for disp in [0, 4, -4, 0x2aa8, 0x7ffc, -0x8000] {
        for bit in 0..64 {
            let t = REGS[bit as usize % 8];
            cases.push((format!("tbz x{t}, #{bit}, #{disp}"), tbz(Gpr(t), bit, disp)));
            cases.push((format!("tbnz x{t}, #{bit}, #{disp}"), tbnz(Gpr(t), bit, disp)));
        }
    }
    for disp in [0, 1, -1, 6, 0xf_ffff, -0x10_0000, 0x5_5556] {
        cases.push((format!("adr x9, #{disp}"), adr(Gpr(9), disp)));
    }
    for t in REGS {
        for disp in [0, 4, 8, -4, 0xf_fffc, -0x10_0000] {
            cases.push((format!("ldr x{t}, #{disp}"), ldr_literal(Gpr(t), disp)));
        }
        cases.push((format!("br x{t}"), br(Gpr(t))));
        cases.push((format!("mrs x{t}, tpidr_el1"), mrs_tpidr_el1(Gpr(t))));
    }
    cases.push(("ret".to_owned(), ret()));
    cases.push(("nop".to_owned(), nop()));
    check(&cases);
}

#[test]
fn patches_write_what_the_encoders_do() {
    let patched = |word: u32, patch: crate::buffer::Patch, disp| {
        let mut code = word.to_le_bytes();
        patch(&mut code, disp).then(|| u32::from_le_bytes(code))
    };
    for (bits, unit) in [(28, 4), (21, 4), (16, 4), (21, 1)] {
        let far = 1i64 << (bits - 1);
        for disp in [0, unit, -unit, far - unit, -far] {
            let (ours, theirs) = match (bits, unit) {
                (28, _) => (patched(b(0), patch_branch26, disp), b(disp)),
                (16, _) => {
                    let bit = |disp| tbnz(Gpr(21), 42, disp);
                    (patched(bit(0), patch_branch14, disp), bit(disp))
                }
                (_, 1) => (patched(adr(Gpr(30), 0), patch_adr, disp), adr(Gpr(30), disp)),
                _ => {
                    let cond = |disp| b_cond(Cond::Lo, disp);
                    (patched(cond(0), patch_branch19, disp), cond(disp))
                }
            };
            assert_eq!(ours, Some(theirs), "{bits} bits: {disp}");
        }
        for disp in [far, -far - unit] {
            let all: [crate::buffer::Patch; 4] =
                [patch_branch26, patch_branch19, patch_branch14, patch_adr];
            let patch = all[match (bits, unit) {
                (28, _) => 0,
                (16, _) => 2,
                (_, 1) => 3,
                _ => 1,
            }];
            assert_eq!(patched(0, patch, disp), None, "{bits} bits: {disp}");
        }
    }
    for disp in [0, 1, -1, 0x1234_5678, i32::MAX.into(), i32::MIN.into()] {
        let pair = |v: u32| {
            [
                wide(Wide::Z, Width::W32, Gpr(9), v as u16, 0),
                wide(Wide::K, Width::W32, Gpr(9), (v >> 16) as u16, 1),
            ]
        };
        let bytes = |words: [u32; 2]| words.map(u32::to_le_bytes).concat();
        let mut code = [vec![0; 4], bytes(pair(0))].concat();
        assert!(patch_wide32::<4>(&mut code, disp));
        assert_eq!(code[4..], bytes(pair(disp as u32)), "{disp:#x}");
    }
    assert!(!patch_wide32::<4>(&mut [0; 12], 1 << 31));
}

#[test]
fn immediates_fit_where_llvm_takes_them() {
    for v in [0, 1, 0xfff, 0x1000, 0xff_f000] {
        assert!(fits_arith(v), "{v:#x}");
    }
    for v in [0x1001, 0x100_0000, u64::MAX] {
        assert!(!fits_arith(v), "{v:#x}");
    }
    for size in SIZES {
        let n = i64::from(size.bytes());
        assert!(fits_scaled(0, size) && fits_scaled(4095 * n, size), "{size:?}");
        assert!(!fits_scaled(4096 * n, size) && !fits_scaled(-n, size), "{size:?}");
        assert_eq!(fits_scaled(1, size), n == 1, "{size:?}");
    }
}
