//! What libbpf reads of a system besides bpf(2): configuration and symbol addresses.

use std::collections::BTreeMap;
use std::process::Command;

use bpf::object::Kconfig;

use super::HostKernel;

/// `CONFIG_*` lines of a kernel configuration.
fn config_values(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|l| l.split_once('='));
    pairs.filter(|p| p.0.starts_with("CONFIG_")).map(|(k, v)| (k.into(), v.into())).collect()
}

impl HostKernel {
    /// The running kernel's configuration, from `/proc/config.gz` or `/boot`; without values when
    /// there is neither.
    #[must_use]
    pub fn kconfig(&self) -> Kconfig {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let text = std::fs::read_to_string(format!("/boot/config-{}", release.trim()));
        let text = text.ok().or_else(|| {
            // gzip is on every system; a decoder for one file is not worth a dependency.
            let out = Command::new("gzip").args(["-dc", "/proc/config.gz"]).output().ok()?;
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
        });
        let values = text.map(|t| config_values(&t)).unwrap_or_default();
        Kconfig { kernel_version: self.version, values }
    }

    /// Addresses of the running kernel's symbols (`/proc/kallsyms`), without those of modules.
    #[must_use]
    pub fn ksyms(&self) -> BTreeMap<String, u64> {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let symbol = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let name = words.nth(1)?;
            words.next().is_none().then(|| (name.to_owned(), address))
        };
        // The first of a name counts.
        let mut out = BTreeMap::new();
        for (name, address) in text.lines().filter_map(symbol) {
            out.entry(name).or_insert(address);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn configuration_lines() {
        let c = super::config_values("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=\"x=1\"\n");
        assert_eq!(c.len(), 2);
        assert_eq!(c["CONFIG_C"], "\"x=1\"");
    }
}
