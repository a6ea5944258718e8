//! The line to type, and typing it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{Args, Exit, out};

/// Debuggers that know all four architectures, best first.
const DEBUGGERS: [&str; 2] = ["gdb-multiarch", "gdb"];

/// After a monitor command gdb looks at the machine anew.
const HOOK: &str = "python gdb.execute('define hookpost-monitor\\nmaintenance flush \
                    register-cache\\nend')";

/// How gdb is started on a machine.
#[derive(Debug)]
pub(super) struct Line {
    /// Arguments, without the user's.
    args: Vec<String>,
}

impl Line {
    pub(super) fn new(listener: &TcpListener, args: &Args, file: &Path) -> io::Result<Line> {
        let at = listener.local_addr()?;
        let host = match at.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => String::new(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => String::new(),
            ip if ip.is_loopback() && ip.is_ipv4() => String::new(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        let mut line = vec!["-q".to_owned()];
        let mut add = |command: String| line.extend(["-ex".to_owned(), command]);
        if let Some(folder) = &args.debug_dir {
            let folder = absolute(folder);
            add(format!("set substitute-path {} {}", gdb::symbols::FOLDER, folder.display()));
        }
        // Objects that name their sources without a folder lie beside the scenario.
        if let Some(folder) = absolute(file).parent() {
            add(format!("directory {}", folder.display()));
        }
        for (old, new) in &args.source_map {
            add(format!("set substitute-path {old} {new}"));
        }
        add(format!("target remote {host}:{}", at.port()));
        Ok(Line { args: line })
    }

    /// For a shell.
    pub(super) fn command(&self) -> String {
        let quoted = self.args.iter().skip(1).map(|a| match a.contains(' ') {
            true => format!("'{a}'"),
            false => a.clone(),
        });
        format!("{} {}", DEBUGGERS[0], quoted.collect::<Vec<_>>().join(" "))
    }
}

fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf())
}

/// A debugger that is installed.
pub(super) fn found() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    let there = |name: &&str| std::env::split_paths(&path).any(|p| p.join(name).is_file());
    DEBUGGERS.into_iter().find(|name| there(name))
}

/// Starts it, on this terminal. Ctrl-C is the debugger's from then on.
pub(super) fn start(line: &Line, args: &Args) -> Result<Child, Exit> {
    let missing = || {
        let next =
            "apt-get install gdb-multiarch, or leave out --launch and connect from elsewhere";
        out::error("gdb-multiarch is not installed", next);
        Exit::BadInput
    };
    let name = found().ok_or_else(missing)?;
    // A second handler is none: it is ours already.
    let _ = ctrlc::set_handler(|| {});
    let child = Command::new(name).args(["-iex", HOOK]).args(&line.args).args(&args.gdb).spawn();
    child.map_err(|e| {
        out::error(&format!("{name}: {e}"), "start gdb by hand, without --launch");
        Exit::BadInput
    })
}

/// `OLD=NEW`.
pub(super) fn source_map(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
    let (old, new) = pair.ok_or("OLD=NEW is expected, two folders")?;
    Ok((old.to_owned(), new.to_owned()))
}
