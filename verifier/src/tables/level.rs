//! What a kernel version knows: instructions, helpers, limits. The version is a parameter.
//!
//! A level decides which instructions, helpers, kfuncs, maps, program types, attach types and
//! flags there are ([`super::since`]), what may be traced ([`super::traced`]), and from 7.0 on
//! that kfuncs trust their arguments. What it does not change is always 6.18's, and of newer
//! instructions that of the release that brought them: the precision of the analysis, limits (call
//! frames, stack), fields of contexts, which program types may call a helper, and the words of an
//! error.

use bpf::insn::{AtomicOp, Call, Insn, Reg, Size, Width, encode};

/// A kernel version: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u8, pub u8);

impl Level {
    /// Linux 6.18, which the verifier follows.
    pub const V6_18: Level = Level(6, 18);
    /// Everything that is modelled.
    pub const LATEST: Level = Level(u8::MAX, 0);
}

impl Default for Level {
    fn default() -> Level {
        Level::V6_18
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A feature of the instruction set or of the verifier, with the version that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Name.
    pub name: &'static str,
    /// First version that has it.
    pub since: Level,
}

const fn f(name: &'static str, major: u8, minor: u8) -> Feature {
    Feature { name, since: Level(major, minor) }
}

/// Features by version.
pub const FEATURES: &[Feature] = &[
    f("calls between subprograms", 4, 16),
    f("32-bit jumps", 5, 1),
    f("bounded loops", 5, 3),
    f("fetching atomics", 5, 12),
    f("kernel functions", 5, 13),
    f("sign extension, signed division, 32-bit ja, bswap", 6, 6),
    f("may_goto", 6, 9),
    f("addr_space_cast", 6, 9),
    f("load-acquire, store-release", 6, 15),
    f("gotox", 6, 19),
    f("stack arguments", 7, 2),
    f("callx", 7, 3),
];

fn since(name: &str) -> Level {
    let found = FEATURES.iter().find(|f| f.name == name);
    found.expect("every name used here is in the table").since
}

/// The version that brought an instruction.
#[must_use]
pub fn insn_since(insn: &Insn) -> Level {
    const V4: &str = "sign extension, signed division, 32-bit ja, bswap";
    match *insn {
        Insn::Load { src: Reg::PARAMS, .. } | Insn::Store { dst: Reg::PARAMS, .. } => {
            since("stack arguments")
        }
        Insn::Call(Call::Local(_)) => since("calls between subprograms"),
        Insn::Call(Call::Kfunc { .. }) => since("kernel functions"),
        Insn::Jmp { width: Width::W32, .. } => since("32-bit jumps"),
        Insn::Atomic { op: AtomicOp::Add, .. } => Level(0, 0),
        Insn::Atomic { .. } => since("fetching atomics"),
        Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => {
            since("load-acquire, store-release")
        }
        Insn::MovSx { .. } => since(V4),
        Insn::Load { sext: true, size, .. } if size != Size::DW => since(V4),
        Insn::MayGoto { .. } => since("may_goto"),
        Insn::AddrSpaceCast { .. } => since("addr_space_cast"),
        Insn::Gotox { .. } => since("gotox"),
        Insn::Callx { .. } => since("callx"),
        _ => Level(0, 0),
    }
}

/// What an older kernel says of an instruction it does not know.
#[must_use]
pub fn unknown_insn(insn: &Insn) -> String {
    let slot = encode(insn);
    match insn {
        Insn::Load { src: Reg::PARAMS, .. } | Insn::Store { dst: Reg::PARAMS, .. } => {
            "R11 is invalid".to_owned()
        }
        Insn::Atomic { .. } | Insn::LoadAcquire { .. } | Insn::StoreRelease { .. } => {
            format!("BPF_ATOMIC uses invalid atomic opcode {:02x}", slot.imm)
        }
        _ => format!("unknown opcode {:02x}", slot.code),
    }
}

/// (version, one above its last helper).
#[rustfmt::skip]
const HELPERS: &[(Level, i32)] = &[
    (Level(4, 0), 4), (Level(4, 1), 12), (Level(4, 2), 17), (Level(4, 3), 23), (Level(4, 4), 26),
    (Level(4, 5), 27), (Level(4, 6), 31), (Level(4, 8), 37), (Level(4, 9), 42), (Level(4, 10), 45),
    (Level(4, 11), 46), (Level(4, 12), 48), (Level(4, 13), 51), (Level(4, 14), 54),
    (Level(4, 15), 58), (Level(4, 16), 60), (Level(4, 17), 65), (Level(4, 18), 81),
    (Level(4, 19), 84), (Level(4, 20), 91), (Level(5, 0), 93), (Level(5, 1), 99),
    (Level(5, 2), 109), (Level(5, 3), 110), (Level(5, 4), 111), (Level(5, 5), 116),
    (Level(5, 6), 119), (Level(5, 7), 125), (Level(5, 8), 136), (Level(5, 9), 142),
    (Level(5, 10), 156), (Level(5, 11), 163), (Level(5, 12), 164), (Level(5, 13), 166),
    (Level(5, 14), 169), (Level(5, 15), 176), (Level(5, 16), 180), (Level(5, 17), 186),
    (Level(5, 18), 194), (Level(5, 19), 204), (Level(6, 0), 208), (Level(6, 1), 210),
];

/// One more than the last helper a version knows.
#[must_use]
pub fn helper_max(level: Level) -> i32 {
    let found = HELPERS.iter().find(|(last, _)| level <= *last);
    found.map_or(super::HELPER_MAX, |h| h.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_helpers() {
        assert!(HELPERS.is_sorted());
        assert_eq!(helper_max(Level(5, 8)), 136);
        assert_eq!(helper_max(Level::V6_18), 212);
        assert_eq!(helper_max(Level(4, 7)), 37);
    }

    #[test]
    fn levels_of_instructions() {
        let gotox = Insn::Gotox { dst: bpf::insn::Reg(1) };
        assert!(insn_since(&gotox) > Level::V6_18);
        assert_eq!(unknown_insn(&gotox), "unknown opcode 0d");
        assert!(insn_since(&Insn::MayGoto { off: 1 }) <= Level::V6_18);
        assert!(insn_since(&Insn::Exit) < Level(4, 0));
    }
}
