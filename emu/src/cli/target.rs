//! The kernel a program is judged for: the modelled one, or any whose BTF is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bpf::btf::Btf;
use bpf::object::{Kconfig, Ksyms};
use verifier::caps::Caps;
use verifier::explore::Opts;
use verifier::tables::Level;

use super::{Exit, out};

/// `--btf` and what belongs to it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// Judge for the kernel with this BTF (/sys/kernel/btf/vmlinux), or for the modelled one: model
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,
    /// Version of the kernel: its instructions, helpers, kfuncs, maps and program types
    #[arg(long, value_name = "VERSION", default_value = "6.18", value_parser = version)]
    kernel: Version,
    /// Capabilities of the loader: all, none, or a list such as bpf,net_admin
    #[arg(long, value_name = "LIST", default_value = "all")]
    caps: Caps,
    /// Number of possible CPUs of that kernel
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Go on where the kernel gives up for complexity (a million instructions, 8192 jumps): loops
    /// are widened and must be proved to end, states of many branches are joined; if that is not
    /// enough the program is walked exactly as long as something new is found. A program that the
    /// kernel accepts is accepted as by the kernel
    #[arg(long)]
    beyond: bool,
    /// Configuration of that kernel, for __kconfig variables (plain, .gz or .xz)
    #[arg(long, value_name = "FILE")]
    kconfig: Option<PathBuf>,
}

/// A kernel version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u8, u8, u8);

impl Version {
    /// The kernel that runs, its patch level too, when that is the one that is meant.
    fn running(self) -> Option<Version> {
        let release = quiet(Path::new("/proc/sys/kernel/osrelease"))?;
        let text = String::from_utf8_lossy(&release).into_owned();
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        version(&text[..end]).ok().filter(|v| (v.0, v.1, 0) == (self.0, self.1, self.2))
    }
}

fn version(text: &str) -> Result<Version, String> {
    let bad = || "a version such as 6.18 is expected".to_owned();
    let mut parts = text.split('.').map(|p| p.parse::<u8>().map_err(|_| bad()));
    let mut next = || parts.next().unwrap_or(Ok(0));
    let v = Version(next()?, next()?, next()?);
    if v.0 == 0 || parts.next().is_some() { Err(bad()) } else { Ok(v) }
}

/// A kernel known by its BTF.
#[derive(Debug)]
pub(super) struct RealKernel {
    pub(super) btf: Arc<Btf>,
    pub(super) cpus: u32,
    pub(super) kconfig: Kconfig,
    pub(super) ksyms: Symbols,
}

/// Names of kernel symbols.
#[derive(Clone, Debug, Default)]
pub(super) struct Symbols {
    known: Arc<BTreeSet<String>>,
    btf: Option<Arc<Btf>>,
}

impl Symbols {
    /// All names, when any are known.
    pub(super) fn all(&self) -> Option<Arc<BTreeSet<String>>> {
        (!self.known.is_empty()).then(|| self.known.clone())
    }
}

/// Address of every known symbol: a verdict depends on there being one, not on its value.
const SYMBOL_ADDRESS: u64 = 0xffff_ffff_8100_0000;

impl Ksyms for Symbols {
    fn address(&self, name: &str) -> Option<u64> {
        let typed = || self.btf.as_ref().is_some_and(|b| !b.named(name).is_empty());
        (self.known.contains(name) || typed()).then_some(SYMBOL_ADDRESS)
    }
}

/// What programs are judged for.
#[derive(Debug)]
pub(super) struct Target {
    /// None for the modelled kernel.
    pub(super) real: Option<RealKernel>,
    pub(super) caps: Caps,
    /// Version of the kernel.
    level: Level,
    /// Without the kernel's limits on complexity.
    beyond: bool,
}

impl Target {
    /// The kernel of this machine, when it shows its BTF; `version` as `LINUX_VERSION_CODE`.
    pub(super) fn host(version: u32) -> Option<Target> {
        let [_, a, b, c] = version.to_be_bytes();
        let args = TargetArgs {
            btf: Some(HOST_BTF.into()),
            kernel: Version(a, b, c),
            caps: Caps::ALL,
            cpus: None,
            kconfig: None,
            beyond: false,
        };
        args.open().ok()
    }

    /// Options of the verifier.
    pub(super) fn opts(&self, log_level: u32) -> Opts {
        self.opts_for(self.caps, log_level)
    }

    /// Options of the verifier for a loader with other capabilities.
    pub(super) fn opts_for(&self, caps: Caps, log_level: u32) -> Opts {
        let (level, beyond) = (self.level, self.beyond);
        caps.opts(Opts { log_level, level, beyond, ..Opts::default() })
    }
}

/// The BTF of the kernel of this machine.
pub(super) const HOST_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Names the modelled kernel in place of a file.
const MODEL: &str = "model";

impl TargetArgs {
    /// Takes the BTF of the kernel of this machine when none is named.
    pub(super) fn host_by_default(mut self) -> TargetArgs {
        self.btf.get_or_insert_with(|| HOST_BTF.into());
        self
    }

    /// Takes the kernel of this machine when none is named and it is of the version that is meant,
    /// else the modelled one: what is judged is never a mixture of two.
    pub(super) fn host_when_it_fits(self) -> TargetArgs {
        match Path::new(HOST_BTF).exists() && self.kernel.running().is_some() {
            true => self.host_by_default(),
            false => self,
        }
    }

    /// Reads what is named; an error has been reported.
    pub(super) fn open(&self) -> Result<Target, Exit> {
        let named = self.btf.as_deref().filter(|path| *path != Path::new(MODEL));
        let real = named.map(|path| self.real(path)).transpose()?;
        let level = Level(self.kernel.0, self.kernel.1);
        Ok(Target { real, caps: self.caps, level, beyond: self.beyond })
    }

    fn real(&self, path: &Path) -> Result<RealKernel, Exit> {
        let bytes = read_packed(path)?;
        let btf = Btf::parse(&bytes).map_err(|e| {
            out::error(&format!("{}: {e}", path.display()), "a kernel's BTF is expected");
            Exit::BadInput
        })?;
        let btf = Arc::new(btf);
        let host = path.starts_with("/sys/kernel/btf");
        let running = self.kernel.running().filter(|_| host);
        let Version(a, b, c) = running.unwrap_or(self.kernel);
        let config = match &self.kconfig {
            Some(path) => Some(read_packed(path)?),
            None if host => quiet(Path::new("/proc/config.gz")),
            None => None,
        };
        let known = if host { quiet(Path::new("/proc/kallsyms")) } else { None };
        let online = || if host { possible_cpus() } else { None };
        Ok(RealKernel {
            cpus: self.cpus.or_else(online).unwrap_or(8192),
            kconfig: Kconfig {
                kernel_version: u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c),
                values: config.map(|c| parse_config(&c)).unwrap_or_default(),
            },
            ksyms: Symbols {
                known: Arc::new(known.map(|k| parse_kallsyms(&k)).unwrap_or_default()),
                btf: Some(btf.clone()),
            },
            btf,
        })
    }
}

/// `nr_cpu_ids` of this machine: one above the last of `/sys/devices/system/cpu/possible`.
fn possible_cpus() -> Option<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?;
    let last = text.trim().rsplit(['-', ',']).next()?;
    last.parse::<u32>().ok().map(|n| n + 1)
}

/// `CONFIG_*=value` lines.
fn parse_config(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let line = |l: &str| l.split_once('=').map(|(k, v)| (k.to_owned(), v.trim_end().to_owned()));
    text.lines().filter(|l| l.starts_with("CONFIG_")).filter_map(line).collect()
}

fn parse_kallsyms(text: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().filter_map(|l| l.split_whitespace().nth(2)).map(str::to_owned).collect()
}

/// Reads a file, unpacked by the programs `xz` or `gzip` when its name says so.
pub(super) fn read_packed(path: &Path) -> Result<Vec<u8>, Exit> {
    let failed = |e: &dyn std::fmt::Display, next: &str| {
        out::error(&format!("{}: {e}", path.display()), next);
        Exit::BadInput
    };
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).map_err(|e| failed(&e, "")),
    };
    let done = Command::new(program).arg("-dc").arg("--").arg(path).output();
    match done {
        Ok(o) if o.status.success() => Ok(o.stdout),
        Ok(o) => Err(failed(&String::from_utf8_lossy(&o.stderr).trim_end(), "")),
        Err(e) => Err(failed(&format!("{program}: {e}"), "unpack the file, or install it")),
    }
}

/// What can be known of the host but need not.
fn quiet(path: &Path) -> Option<Vec<u8>> {
    if path.extension().is_some_and(|e| e == "gz") {
        let done = Command::new("gzip").arg("-dc").arg("--").arg(path).output().ok()?;
        return done.status.success().then_some(done.stdout);
    }
    std::fs::read(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(version("6.18").unwrap(), Version(6, 18, 0));
        assert!(version("six").is_err() && version("1.2.3.4").is_err());
        assert_eq!("bpf,net_admin".parse::<Caps>().unwrap(), Caps::NO_PERFMON);
        assert_eq!("CAP_SYS_ADMIN".parse::<Caps>().unwrap(), Caps::ALL);
        assert!(!"none".parse::<Caps>().unwrap().bpf);
        assert!("root".parse::<Caps>().is_err());
    }

    #[test]
    fn files_of_proc() {
        let config = parse_config(b"# CONFIG_A is not set\nCONFIG_HZ=250\nCONFIG_B=y\n");
        assert_eq!(config["CONFIG_HZ"], "250");
        assert_eq!(config.len(), 2);
        let names = parse_kallsyms(b"0000 T _text\n0000 t x\t[mod]\n");
        assert!(names.contains("x") && names.contains("_text"));
    }
}
