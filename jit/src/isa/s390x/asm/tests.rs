//! Encoders against llvm-mc, format by format: every mnemonic with every register in every field
//! and displacements and immediates at their edges.

use super::*;
use crate::isa::mc::{self, Case};

const EDGES_16: [i16; 5] = [0, 1, -1, i16::MIN, i16::MAX];
const EDGES_32: [i32; 6] = [0, 1, -1, i32::MIN, i32::MAX, 0x1234_5678];
const SHORT: [i32; 3] = [0, 8, 4095];
const LONG: [i32; 6] = [0, 1, -1, 4096, -32768, 524_287];

fn check(cases: &[(String, Code)]) {
    let cases: Vec<Case> = cases.iter().map(|(t, c)| (t.clone(), c.to_vec())).collect();
    mc::check("systemz", "+distinct-ops,+interlocked-access1", "", &cases);
}

/// An operand `d(b)`; base 0 is none.
fn at_text(at: At) -> String {
    if at.base == 0 { format!("{}", at.disp) } else { format!("{}(%r{})", at.disp, at.base) }
}

#[rustfmt::skip]
const RRF: [(Rrf, &str); 10] = [
    (Rrf::Ngrk, "ngrk"), (Rrf::Nrk, "nrk"), (Rrf::Ogrk, "ogrk"), (Rrf::Ork, "ork"),
    (Rrf::Xgrk, "xgrk"), (Rrf::Xrk, "xrk"), (Rrf::Agrk, "agrk"), (Rrf::Ark, "ark"),
    (Rrf::Sgrk, "sgrk"), (Rrf::Srk, "srk"),
];

#[test]
#[rustfmt::skip]
fn registers() {
    let rr_ops = [
        (Rr::Lcr, "lcr"), (Rr::Nr, "nr"), (Rr::Or, "or"), (Rr::Xr, "xr"), (Rr::Lr, "lr"),
        (Rr::Cr, "cr"), (Rr::Clr, "clr"), (Rr::Ar, "ar"), (Rr::Sr, "sr"),
    ];
    let rre_ops = [
        (Rre::Lgr, "lgr"), (Rre::Agr, "agr"), (Rre::Sgr, "sgr"), (Rre::Msgr, "msgr"),
        (Rre::Msr, "msr"), (Rre::Ngr, "ngr"), (Rre::Ogr, "ogr"), (Rre::Xgr, "xgr"),
        (Rre::Cgr, "cgr"), (Rre::Clgr, "clgr"), (Rre::Lcgr, "lcgr"), (Rre::Llgfr, "llgfr"),
        (Rre::Lgfr, "lgfr"), (Rre::Lgbr, "lgbr"), (Rre::Lghr, "lghr"), (Rre::Lbr, "lbr"),
        (Rre::Lhr, "lhr"), (Rre::Llgcr, "llgcr"), (Rre::Llghr, "llghr"), (Rre::Llgtr, "llgtr"),
        (Rre::Lrvr, "lrvr"), (Rre::Lrvgr, "lrvgr"),
    ];
    let pair_ops = [
        (Rre::Dlgr, "dlgr"), (Rre::Dlr, "dlr"), (Rre::Dsgr, "dsgr"), (Rre::Dsgfr, "dsgfr"),
    ];
    let mut cases = vec![("nopr %r0".to_owned(), Code::of(&NOP))];
    for a in 0..16 {
        cases.push((format!("br %r{a}"), br(a)));
        for b in 0..16 {
            for (op, text) in rr_ops {
                cases.push((format!("{text} %r{a}, %r{b}"), rr(op, a, b)));
            }
            for (op, text) in rre_ops {
                cases.push((format!("{text} %r{a}, %r{b}"), rre(op, a, b)));
            }
            for (op, text) in pair_ops {
                if a % 2 == 0 {
                    cases.push((format!("{text} %r{a}, %r{b}"), rre(op, a, b)));
                }
            }
            cases.push((format!("ear %r{a}, %a{b}"), rre(Rre::Ear, a, b)));
            for (op, text) in RRF {
                cases.push((format!("{text} %r{a}, %r{b}, %r9"), rrf(op, a, b, 9)));
            }
            for (op, text) in [(Rie::Aghik, "aghik"), (Rie::Ahik, "ahik")] {
                for imm in [0, 1, -1, i16::MAX, i16::MIN] {
                    cases.push((format!("{text} %r{a}, %r{b}, {imm}"), rie(op, a, b, imm)));
                }
            }
            for (from, to, rotate) in [(0, 63, 0), (29, 60, 3), (59, 63, 0), (32, 40, 63)] {
                let text = format!("risbg %r{a}, %r{b}, {from}, {}, {rotate}", 128 + to);
                cases.push((text, risbgz(a, b, from, to, rotate)));
            }
        }
    }
    check(&cases);
}

#[test]
#[rustfmt::skip]
fn immediates() {
    let signed = [
        (Ri::Lghi, "lghi"), (Ri::Lhi, "lhi"), (Ri::Ahi, "ahi"), (Ri::Aghi, "aghi"),
        (Ri::Mhi, "mhi"), (Ri::Mghi, "mghi"), (Ri::Chi, "chi"), (Ri::Cghi, "cghi"),
    ];
    let unsigned = [
        (Ri::Tmlh, "tmlh"), (Ri::Tmll, "tmll"), (Ri::Nilh, "nilh"), (Ri::Nill, "nill"),
        (Ri::Oilh, "oilh"), (Ri::Oill, "oill"), (Ri::Llihh, "llihh"), (Ri::Llihl, "llihl"),
        (Ri::Llilh, "llilh"), (Ri::Llill, "llill"),
    ];
    let signed32 = [
        (Ril::Lgfi, "lgfi"), (Ril::Msgfi, "msgfi"), (Ril::Msfi, "msfi"), (Ril::Agfi, "agfi"),
        (Ril::Afi, "afi"), (Ril::Cgfi, "cgfi"), (Ril::Cfi, "cfi"),
    ];
    let unsigned32 = [
        (Ril::Xilf, "xilf"), (Ril::Iilf, "iilf"), (Ril::Nilf, "nilf"), (Ril::Oilf, "oilf"),
        (Ril::Llihf, "llihf"), (Ril::Llilf, "llilf"), (Ril::Algfi, "algfi"),
        (Ril::Clgfi, "clgfi"), (Ril::Clfi, "clfi"),
    ];
    let mut cases = Vec::new();
    for r in 0..16 {
        for imm in EDGES_16 {
            for (op, text) in signed {
                cases.push((format!("{text} %r{r}, {imm}"), ri(op, r, imm)));
            }
            for (op, text) in unsigned {
                cases.push((format!("{text} %r{r}, {}", imm.cast_unsigned()), ri(op, r, imm)));
            }
        }
        for imm in EDGES_32 {
            for (op, text) in signed32 {
                cases.push((format!("{text} %r{r}, {imm}"), ril(op, r, imm)));
            }
            for (op, text) in unsigned32 {
                cases.push((format!("{text} %r{r}, {}", imm.cast_unsigned()), ril(op, r, imm)));
            }
        }
    }
    check(&cases);
}

#[test]
#[rustfmt::skip]
fn storage() {
    let rsy_ops = [
        (Rsy::Sllg, "sllg"), (Rsy::Srlg, "srlg"), (Rsy::Srag, "srag"), (Rsy::Lmg, "lmg"),
        (Rsy::Stmg, "stmg"), (Rsy::Csy, "csy"), (Rsy::Csg, "csg"), (Rsy::Laa, "laa"),
        (Rsy::Laag, "laag"), (Rsy::Lan, "lan"), (Rsy::Lang, "lang"), (Rsy::Lao, "lao"),
        (Rsy::Laog, "laog"), (Rsy::Lax, "lax"), (Rsy::Laxg, "laxg"),
    ];
    let rxy_ops = [
        (Rxy::Lg, "lg"), (Rxy::Llgc, "llgc"), (Rxy::Llgh, "llgh"), (Rxy::Llgf, "llgf"),
        (Rxy::Lgb, "lgb"), (Rxy::Lgh, "lgh"), (Rxy::Lgf, "lgf"), (Rxy::Stg, "stg"),
        (Rxy::Stcy, "stcy"), (Rxy::Sthy, "sthy"), (Rxy::Sty, "sty"), (Rxy::Cly, "cly"),
        (Rxy::Ly, "ly"),
    ];
    let pair_ops = [(Rxy::Dlg, "dlg"), (Rxy::Dl, "dl"), (Rxy::Dsg, "dsg"), (Rxy::Dsgf, "dsgf")];
    let mut cases = Vec::new();
    for base in 0..16 {
        for disp in LONG {
            let at = At { base, disp };
            let m = at_text(at);
            for r in 0..16 {
                for (op, text) in rsy_ops {
                    cases.push((format!("{text} %r{r}, %r9, {m}"), rsy(op, r, 9, at)));
                }
                for (op, text) in rxy_ops {
                    cases.push((format!("{text} %r{r}, {m}"), rxy(op, r, 0, at)));
                }
                for (op, text) in pair_ops {
                    if r % 2 == 0 {
                        cases.push((format!("{text} %r{r}, {m}"), rxy(op, r, 0, at)));
                    }
                }
                if base != 0 && r != 0 {
                    let text = format!("lg %r1, {disp}(%r{r},%r{base})");
                    cases.push((text, rxy(Rxy::Lg, 1, r, at)));
                }
            }
            for imm in [0, 1, -1, i8::MIN, i8::MAX] {
                cases.push((format!("asi {m}, {imm}"), asi(at, imm)));
                let name = if at.is_short() { "mvi" } else { "mviy" };
                let byte = imm.cast_unsigned();
                cases.push((format!("{name} {m}, {byte}"), mvi(at, byte)));
            }
        }
    }
    check(&cases);
}

#[test]
#[rustfmt::skip]
fn short_storage() {
    let rs_ops = [(Rs::Sll, "sll"), (Rs::Srl, "srl"), (Rs::Sra, "sra")];
    let rx_ops = [(Rx::La, "la"), (Rx::Stc, "stc"), (Rx::Sth, "sth"), (Rx::St, "st")];
    let sil_ops = [(Sil::Mvhhi, "mvhhi"), (Sil::Mvghi, "mvghi"), (Sil::Mvhi, "mvhi")];
    let mut cases = Vec::new();
    for base in 0..16 {
        for disp in SHORT {
            let at = At { base, disp };
            let m = at_text(at);
            for r in 0..16 {
                for (op, text) in rs_ops {
                    cases.push((format!("{text} %r{r}, {m}"), rs(op, r, 0, at)));
                }
                for (op, text) in rx_ops {
                    cases.push((format!("{text} %r{r}, {m}"), rx(op, r, 0, at)));
                }
                cases.push((format!("cs %r{r}, %r7, {m}"), rs(Rs::Cs, r, 7, at)));
            }
            cases.push((format!("b {m}"), rx(Rx::Bc, 15, 0, at)));
            for imm in EDGES_16 {
                for (op, text) in sil_ops {
                    cases.push((format!("{text} {m}, {imm}"), sil(op, at, imm)));
                }
                let text = format!("clfhsi {m}, {}", imm.cast_unsigned());
                cases.push((text, sil(Sil::Clfhsi, at, imm)));
            }
            let len = |n: u8| match base {
                0 => format!("{disp}({n})"),
                _ => format!("{disp}({n},%r{base})"),
            };
            let from = At { base: 15, disp: 152 };
            cases.push((format!("mvc {}, 152(%r15)", len(4)), ss(Ss::Mvc, 4, at, from)));
            cases.push((format!("xc {}, 152(%r15)", len(8)), ss(Ss::Xc, 8, at, from)));
        }
    }
    check(&cases);
}

#[test]
#[rustfmt::skip]
fn branches() {
    let crj_ops = [
        (FusedReg::Crj, "crj"), (FusedReg::Cgrj, "cgrj"),
        (FusedReg::Clrj, "clrj"), (FusedReg::Clgrj, "clgrj"),
    ];
    let cij_ops = [
        (FusedImm::Cij, "cij"), (FusedImm::Cgij, "cgij"),
        (FusedImm::Clij, "clij"), (FusedImm::Clgij, "clgij"),
    ];
    // llvm-mc leaves displacements to its linker, so here it reads what we wrote.
    let patched = |mut code: Vec<u8>, patch: crate::buffer::Patch, disp| {
        assert!(patch(&mut code, disp));
        code
    };
    let (mut code, mut expected) = (Vec::new(), Vec::new());
    let mut case = |bytes: Vec<u8>, text: String, disp: i64| {
        let target = i64::try_from(code.len()).unwrap() + disp;
        expected.push(format!("{text}{:#x}", target.cast_unsigned()));
        code.extend(bytes);
    };
    for disp in [0i64, -2, 256, -65536, 65534] {
        for r in 0..16u8 {
            let (wide, near) = (disp << 10, |c: Code| patched(c.to_vec(), patch_rel16, disp));
            let far = |c: Code| patched(c.to_vec(), patch_rel32, disp << 10);
            for (op, text) in crj_ops {
                case(near(crj(op, r, 3, 2)), format!("{text}h %r{r}, %r3, "), disp);
                case(near(crj(op, 3, r, 12)), format!("{text}le %r3, %r{r}, "), disp);
            }
            for (op, text) in cij_ops {
                case(near(cij(op, r, 100, 8)), format!("{text}e %r{r}, 100, "), disp);
            }
            case(near(brc(8)), "je ".to_owned(), disp);
            case(far(brcl(4)), "jgl ".to_owned(), wide);
            case(far(ril(Ril::Brasl, r, 0)), format!("brasl %r{r}, "), wide);
            case(far(ril(Ril::Larl, r, 0)), format!("larl %r{r}, "), wide);
            case(far(ril(Ril::Lgrl, r, 0)), format!("lgrl %r{r}, "), wide);
        }
    }
    assert!(!patch_rel16(&mut brc(15).to_vec(), 65536));
    assert!(!patch_rel32(&mut brcl(15).to_vec(), 1 << 33));
    let theirs = mc::disassemble("systemz", "+distinct-ops", &code);
    for (theirs, ours) in theirs.iter().zip(&expected) {
        assert_eq!(theirs, ours);
    }
}
