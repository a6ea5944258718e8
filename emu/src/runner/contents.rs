//! What the objects of a scenario contain, for checking it without running it.

use std::collections::BTreeMap;
use std::path::Path;

use bpf::Arch;
use bpf::object::{MapDef, Object};
use bpf::uapi::MapType;
use scenarios::leaf::Data;
use scenarios::tree::{Kind, Node};
use scenarios::validate::Objects;
use scenarios::{Finding, Scenario};

use super::data::Types;

/// Parsed objects by their names in the scenario.
#[derive(Debug, Default)]
pub struct Contents {
    elf: BTreeMap<String, Object>,
    /// Programs of assembler objects.
    asm: BTreeMap<String, Vec<String>>,
}

impl Contents {
    /// Reads the objects of a scenario as they are for an architecture. What cannot be read is a
    /// finding, and its names are not checked.
    #[must_use]
    pub fn read(s: &Scenario, dir: &Path, arch: Arch) -> (Contents, Vec<Finding>) {
        let (mut contents, mut found) = (Contents::default(), Vec::new());
        for (name, object) in s.objects.iter() {
            if let Some(file) = &object.file {
                match read_elf(dir, &file.v, arch) {
                    Ok(elf) => drop(contents.elf.insert(name.v.clone(), elf)),
                    Err((what, hint)) => {
                        let finding = Finding::error(file.span, what);
                        found.push(if hint.is_empty() { finding } else { finding.hint(hint) });
                    }
                }
            } else if let Some(asm) = &object.asm {
                match bpf::insn::asm::assemble(&asm.v, &bpf::insn::asm::NoSymbols) {
                    Ok(a) => {
                        let names = a.progs.iter().map(|p| p.name.clone()).collect();
                        contents.asm.insert(name.v.clone(), names);
                    }
                    Err(e) => {
                        let what = format!("{}:{}: {}", e.line, e.col, e.message);
                        found.push(Finding::error(asm.span, what));
                    }
                }
            }
        }
        (contents, found)
    }

    fn map(&self, name: &str) -> Option<(&Object, &MapDef)> {
        let (object, short) = split(name);
        let within = |(name, _): &(&String, &Object)| object.is_none_or(|o| o == *name);
        let mut all = self.elf.iter().filter(within).map(|(_, elf)| elf);
        let found = all.find(|elf| elf.map(short).is_some())?;
        Some((found, found.map(short)?.1))
    }
}

fn split(name: &str) -> (Option<&str>, &str) {
    name.split_once('/').map_or((None, name), |(object, short)| (Some(object), short))
}

fn read_elf(dir: &Path, file: &str, arch: Arch) -> Result<Object, (String, String)> {
    let bytes = crate::objects::read(dir, file, arch).map_err(|e| (e.what, e.hint))?;
    Object::parse(&bytes).map_err(|e| (format!("{file}: {e}"), String::new()))
}

/// Values that the program's types say nothing about: names of programs, maps and nics, what a
/// redirect map leads to, one value a CPU.
fn is_other(map: MapType, node: &Node) -> bool {
    use MapType::{ArrayOfMaps, CgroupArray, Cpumap, Devmap, DevmapHash, HashOfMaps, ProgArray};
    let by_name = matches!(map, ProgArray | CgroupArray | ArrayOfMaps | HashOfMaps);
    match &node.kind {
        Kind::Str(_) => by_name || matches!(map, Devmap | DevmapHash),
        Kind::Record(None, _) => by_name || matches!(map, Devmap | DevmapHash | Cpumap),
        Kind::Call(name, _) => name == "PerCpu" || by_name,
        Kind::Tuple(items) => items.is_empty(),
        _ => by_name,
    }
}

fn against(elf: &Object, ty: u32, data: &Data) -> Vec<Finding> {
    let (Some(btf), true) = (elf.btf(), ty != 0) else { return Vec::new() };
    let zeros = vec![0; btf.size_of(ty).unwrap_or(0) as usize];
    let types = Types { btf, endian: elf.endian };
    types.differs(&data.node, ty, &zeros).err().into_iter().collect()
}

impl Objects for Contents {
    fn programs(&self, object: &str) -> Option<Vec<String>> {
        let elf = |o: &Object| o.programs().iter().map(|p| p.name.clone()).collect();
        self.elf.get(object).map(elf).or_else(|| self.asm.get(object).cloned())
    }

    fn maps(&self, object: &str) -> Option<Vec<String>> {
        let elf = |o: &Object| o.maps().iter().map(|m| m.name.clone()).collect();
        self.elf.get(object).map(elf).or_else(|| self.asm.get(object).map(|_| Vec::new()))
    }

    fn globals(&self, object: &str) -> Option<Vec<String>> {
        let vars = |o: &Object| {
            o.maps().iter().flat_map(|m| m.vars.iter().map(|v| v.name.clone())).collect()
        };
        self.elf.get(object).map(vars).or_else(|| self.asm.get(object).map(|_| Vec::new()))
    }

    fn check_data(&self, map: &str, data: &Data, key: bool) -> Vec<Finding> {
        let Some((elf, def)) = self.map(map) else { return Vec::new() };
        if !key && is_other(def.map_type, &data.node) {
            return Vec::new();
        }
        against(elf, if key { def.key_type } else { def.value_type }, data)
    }

    fn check_global(&self, global: &str, data: &Data) -> Vec<Finding> {
        let (object, short) = split(global);
        let within = |(name, _): &(&String, &Object)| object.is_none_or(|o| o == *name);
        let find = |elf: &Object| elf.global(short).map(|(_, v)| v.ty);
        let found = self.elf.iter().filter(within).find_map(|(_, e)| Some((e, find(e)?)));
        found.map_or(Vec::new(), |(elf, ty)| against(elf, ty, data))
    }
}
