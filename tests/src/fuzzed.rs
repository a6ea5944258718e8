//! Programs a generator found (`tests/corpus/fuzzed`), one file each, named by the rule they are
//! about: what Linux 6.18 says and, where that is not yet the same, what the verifier says.

use std::path::PathBuf;

use bpf::insn::asm::{NoSymbols, assemble};
use bpf::uapi::MapType;
use verifier::env::{BtfKernel, GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::{Options, check};

/// The maps every program may name: an array and a hash map with values of 32 bytes.
fn maps() -> Vec<MapInfo> {
    let map = |id: u32, map_type, key_size, max_entries| MapInfo {
        id,
        name: format!("m{id}"),
        map_type,
        key_size,
        value_size: 32,
        max_entries,
        flags: 0,
        map_extra: 0,
        addr: GuestAddr(0xffff_8880_0000_0000 + (u64::from(id) << 20)),
        value_addr: None,
        frozen_value: None,
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    };
    vec![map(1, MapType::Array, 4, 4), map(2, MapType::Hash, 8, 16)]
}

/// The verdict in a line such as `; kernel: rejected: WORDS (5 insns, ...)`.
fn verdict(text: &str, who: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("; {who}: ")))?;
    let end = line.rfind(" (").unwrap_or(line.len());
    Some(line[..end].to_owned())
}

fn judge(text: &str) -> String {
    let program = match assemble(text, &NoSymbols) {
        Ok(mut a) if a.progs.len() == 1 => a.progs.remove(0),
        Ok(_) => return "not one program".to_owned(),
        Err(e) => return e.to_string(),
    };
    let env = BtfKernel { btf: Default::default(), maps: maps(), cpus: 2, symbols: None };
    let fds: Vec<i32> = (0..env.maps.len()).map(BtfKernel::fd).collect();
    let opts = Opts { log_level: 0, ..Opts::default() };
    let options = Options { opts, fd_array: &fds, ..Options::default() };
    match check(&program, &env, &options).result {
        Ok(()) => "accepted".to_owned(),
        Err(r) => format!("rejected: {}", r.message.lines().last().unwrap_or_default()),
    }
}

/// Files whose verdict is not what they say.
///
/// # Errors
/// The folder cannot be read.
pub fn findings() -> std::io::Result<Vec<String>> {
    let dir = crate::root().join("tests/corpus/fuzzed");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(kernel) = verdict(&text, "kernel") else {
            found.push(format!("{name}: no verdict of the kernel"));
            continue;
        };
        let expected = verdict(&text, "orrery").unwrap_or_else(|| kernel.clone());
        let ours = judge(&text);
        if ours != expected {
            found.push(format!("{name}: kernel {kernel}, listed {expected}, ours {ours}"));
        }
    }
    Ok(found)
}
