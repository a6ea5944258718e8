//! Programs, maps and nics by what people call them.

use std::sync::Arc;

use bpf::btf::Btf;
use kernel_model::maps::{Map, MapDef, MapId};
use kernel_model::net::Nic;
use kernel_model::syscall::BtfId;
use kernel_model::{Kernel, Prog, ProgId};

use crate::runner::data::{Types, hex};

/// `BPF_OBJ_NAME_LEN` without the NUL: what the kernel keeps of a map's name.
const NAME_MAX: usize = 15;

fn all_of<'a>(what: &str, name: &str, all: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = all.collect();
    match all.is_empty() {
        true => format!("no {what} `{name}`: there is none"),
        false => format!("no {what} `{name}`; there are: {}", all.join(", ")),
    }
}

/// A map by id, name, or the end of one as `.bss`.
pub(super) fn map<'k>(k: &'k Kernel, name: &str) -> Result<&'k Map, String> {
    if let Ok(id) = name.parse()
        && let Some(map) = k.maps.get(&MapId(id))
    {
        return Ok(map);
    }
    let cut: String = name.chars().take(NAME_MAX).collect();
    let is = |m: &&Map| m.def.name == cut || name.starts_with('.') && m.def.name.ends_with(name);
    let found: Vec<&Map> = k.maps.values().filter(is).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(all_of("map", name, k.maps.values().map(|m| &*m.def.name))),
        several => {
            let ids: Vec<String> = several.iter().map(|m| m.id.0.to_string()).collect();
            Err(format!("several maps are called `{name}`; by id: {}", ids.join(", ")))
        }
    }
}

/// A program by id or name; of several with a name the one loaded last.
pub(super) fn prog<'k>(k: &'k Kernel, name: &str) -> Result<&'k Prog, String> {
    if let Ok(id) = name.parse()
        && let Some(prog) = k.prog(ProgId(id))
    {
        return Ok(prog);
    }
    let found = k.progs().filter(|p| p.name() == name).last();
    found.ok_or_else(|| all_of("program", name, k.progs().map(Prog::name)))
}

/// A nic by name.
pub(super) fn nic<'k>(k: &'k Kernel, name: &str) -> Option<&'k Nic> {
    k.net.nics.values().find(|n| n.config.name == name)
}

/// Name of a program that may be gone.
pub(super) fn prog_name(k: &Kernel, id: ProgId) -> String {
    k.prog(id).map_or_else(|| format!("prog {} (gone)", id.0), |p| p.name().to_owned())
}

/// The types of a map's keys and values.
pub(super) struct MapTypes {
    btf: Option<Arc<Btf>>,
    endian: bpf::Endian,
    pub(super) key: u32,
    pub(super) value: u32,
}

impl MapTypes {
    pub(super) fn of(k: &Kernel, def: &MapDef) -> MapTypes {
        let btf = k.btf_object(BtfId(def.btf_id));
        MapTypes { btf, endian: k.mem.endian(), key: def.key_type_id, value: def.value_type_id }
    }

    pub(super) fn types(&self) -> Option<Types<'_>> {
        self.btf.as_deref().map(|btf| Types { btf, endian: self.endian })
    }

    /// Bytes of a type; a number or hex digits where nothing is known of it.
    pub(super) fn text(&self, ty: u32, bytes: &[u8]) -> String {
        match self.types().filter(|_| ty != 0) {
            Some(types) => types.text(ty, bytes),
            None if matches!(bytes.len(), 1 | 2 | 4 | 8) => {
                crate::runner::data::get_int(bytes, self.endian).to_string()
            }
            None => hex(bytes),
        }
    }

    /// A value that is written as in scenarios, over bytes that are there already.
    pub(super) fn bytes(&self, ty: u32, text: &str, base: Vec<u8>) -> Result<Vec<u8>, String> {
        let said = |f: scenarios::Finding| match f.hint {
            Some(hint) => format!("{}; {hint}", f.message),
            None => f.message,
        };
        let node = scenarios::tree::parse_value(text, 0, 0).map_err(said)?;
        match self.types().filter(|_| ty != 0) {
            Some(types) => {
                let mut out = base;
                types.write(&node, ty, &mut out).map_err(said)?;
                Ok(out)
            }
            None => crate::runner::data::untyped(&node, base.len(), self.endian).map_err(said),
        }
    }
}
