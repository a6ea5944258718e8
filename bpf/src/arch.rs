//! The four architectures and their byte orders: the only facts about them that BPF itself needs.

/// Byte order of multi-byte memory and of an object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// bpfel: x86-64, arm64, riscv64.
    Little,
    /// bpfeb: s390x.
    Big,
}

/// A machine that programs run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64, little-endian.
    X86_64,
    /// AArch64, little-endian.
    Arm64,
    /// RV64IMAC, little-endian.
    Riscv64,
    /// z/Architecture, big-endian.
    S390x,
}

impl Arch {
    /// All four, in the order every report uses.
    pub const ALL: [Arch; 4] = [Arch::X86_64, Arch::Arm64, Arch::Riscv64, Arch::S390x];

    /// The name used in scenario files, options and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
            Arch::Riscv64 => "riscv64",
            Arch::S390x => "s390x",
        }
    }

    /// Inverse of [`Arch::name`]; also takes `amd64`, `x86-64` and `aarch64`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Arch> {
        match name {
            "x86_64" | "x86-64" | "amd64" => Some(Arch::X86_64),
            "arm64" | "aarch64" => Some(Arch::Arm64),
            "riscv64" => Some(Arch::Riscv64),
            "s390x" => Some(Arch::S390x),
            _ => None,
        }
    }

    /// Byte order of memory.
    #[must_use]
    pub const fn endian(self) -> Endian {
        match self {
            Arch::S390x => Endian::Big,
            Arch::X86_64 | Arch::Arm64 | Arch::Riscv64 => Endian::Little,
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
