//! What a loader may do, as far as the verifier asks.

use std::str::FromStr;

use crate::explore::Opts;

/// Capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `CAP_BPF`.
    pub bpf: bool,
    /// `CAP_PERFMON`.
    pub perfmon: bool,
    /// `CAP_NET_ADMIN`.
    pub net_admin: bool,
}

impl Caps {
    /// All of them.
    pub const ALL: Caps = Caps { bpf: true, perfmon: true, net_admin: true };
    /// What is left without `CAP_SYS_ADMIN` and `CAP_PERFMON`.
    pub const NO_PERFMON: Caps = Caps { bpf: true, perfmon: false, net_admin: true };

    /// Options of the verifier for a loader that has these.
    #[must_use]
    pub fn opts(self, opts: Opts) -> Opts {
        Opts {
            bpf_capable: self.bpf,
            allow_ptr_leaks: self.perfmon,
            net_admin: self.net_admin,
            ..opts
        }
    }

    /// As a set of the kernel's (`include/uapi/linux/capability.h`): those the verifier does not
    /// ask for stay.
    #[must_use]
    pub fn mask(self) -> u64 {
        const NET_ADMIN: u32 = 12;
        const SYS_ADMIN: u32 = 21;
        const PERFMON: u32 = 38;
        const BPF: u32 = 39;
        let lacks = |has: bool, bit: u32| if has { 0 } else { 1 << bit };
        // `CAP_SYS_ADMIN` stands for all of them.
        let lacking = lacks(self == Caps::ALL, SYS_ADMIN)
            | lacks(self.net_admin, NET_ADMIN)
            | lacks(self.perfmon, PERFMON)
            | lacks(self.bpf, BPF);
        !lacking
    }
}

/// A list with commas, each name with `cap_` in front or without.
impl FromStr for Caps {
    type Err = String;

    fn from_str(text: &str) -> Result<Caps, String> {
        let mut caps = Caps { bpf: false, perfmon: false, net_admin: false };
        for word in text.split(',').map(str::trim) {
            let word = word.to_ascii_lowercase();
            match word.strip_prefix("cap_").unwrap_or(&word) {
                "all" | "sys_admin" => caps = Caps::ALL,
                "none" => {}
                "bpf" => caps.bpf = true,
                "perfmon" => caps.perfmon = true,
                "net_admin" => caps.net_admin = true,
                other => {
                    let known = "all, none, bpf, perfmon, net_admin, sys_admin";
                    return Err(format!("'{other}' is none of {known}"));
                }
            }
        }
        Ok(caps)
    }
}
