//! Names to ids, and maps as user space reads and writes them.

use bpf::insn::InsnIdx;
use bpf::program::Line;
use bpf::uapi::MapType;
use kernel_model::maps::{MapCommand, MapId};
use kernel_model::syscall::FdObject;
use kernel_model::{CpuId, ProgId};
use scenarios::Finding;
use scenarios::leaf::{Data, Leaf, suggest};
use scenarios::schema::Name;
use scenarios::tree::{Kind, Node};

use super::data::{Types, untyped};
use super::load::{Loaded, LoadedMap};
use super::{Run, RunError};
use crate::loader::Refused;

fn split<'n>(objects: &[Loaded], name: &'n str) -> (Option<usize>, &'n str) {
    match name.split_once('/') {
        Some((object, short)) => match objects.iter().position(|o| o.name == object) {
            Some(n) => (Some(n), short),
            None => (None, name),
        },
        None => (None, name),
    }
}

impl Run<'_> {
    /// A nic by name.
    pub(super) fn nic(&self, name: &Name) -> Result<u32, RunError> {
        let nic = self.machine.kernel.nic_by_name(&name.v);
        nic.map(|n| n.ifindex).ok_or_else(|| {
            let known = self.machine.kernel.net.nics.values().map(|n| &*n.config.name);
            unknown(name, format!("unknown nic `{}`", name.v), known)
        })
    }

    /// A program by name.
    pub(super) fn prog(&self, name: &Name) -> Result<ProgId, RunError> {
        let (object, short) = split(&self.objects, &name.v);
        let mut found = self
            .objects
            .iter()
            .enumerate()
            .filter(|(n, _)| object.is_none_or(|o| o == *n))
            .flat_map(|(_, o)| &o.progs)
            .filter(|p| p.name == short);
        match (found.next(), found.next()) {
            (Some(p), None) => Ok(p.id),
            (None, _) => Err(match self.refused(name) {
                Some(r) if r.rejection.is_unsupported() => {
                    let what = r.rejection.message.trim_start_matches("unsupported: ");
                    RunError::unsupported(name.span, what)
                }
                Some(r) => {
                    let why = format!("{}{}", r.rejection.message, place(r));
                    let message = format!("program `{}` was rejected: {why}", name.v);
                    let hint = "`orrery verify` shows the way that leads there";
                    let finding = Finding::error(name.span, message).hint(hint);
                    RunError::Rejected(Box::new(finding))
                }
                None => {
                    let message = format!("unknown program `{}`", name.v);
                    let known = self.objects.iter().flat_map(|o| &o.progs).map(|p| &*p.name);
                    unknown(name, message, known)
                }
            }),
            (Some(_), Some(_)) => {
                let message = format!("`{}` is in several objects: write object/name", name.v);
                Err(RunError::input(name.span, message))
            }
        }
    }

    /// A program that was not loaded.
    pub(super) fn refused(&self, name: &Name) -> Option<&Refused> {
        let (object, short) = split(&self.objects, &name.v);
        let all = self.objects.iter().enumerate();
        let mut within = all.filter(|(n, _)| object.is_none_or(|o| o == *n));
        within.find_map(|(_, o)| o.refused.iter().find(|r| r.name == short))
    }

    /// A map by name: its id, the number of its object, and its entry there.
    pub(super) fn map(&self, name: &Name) -> Result<(MapId, usize, usize), RunError> {
        let (object, short) = split(&self.objects, &name.v);
        for (n, o) in self.objects.iter().enumerate() {
            if object.is_none_or(|wanted| wanted == n)
                && let Some(at) = o.maps.iter().position(|m| m.name == short)
            {
                return Ok((o.maps[at].id, n, at));
            }
        }
        let known = self.objects.iter().flat_map(|o| &o.maps).map(|m| &*m.name);
        Err(unknown(name, format!("unknown map `{}`", name.v), known))
    }

    pub(super) fn entry(&self, at: (MapId, usize, usize)) -> &LoadedMap {
        &self.objects[at.1].maps[at.2]
    }

    /// The types of an object.
    pub(super) fn types(&self, object: usize) -> Option<Types<'_>> {
        let btf = self.objects[object].elf.as_ref()?.btf()?;
        Some(Types { btf, endian: self.machine.arch().endian() })
    }

    /// Bytes of a key or value.
    pub(super) fn bytes_of(
        &self,
        node: &Node,
        ty: u32,
        size: usize,
        object: usize,
        base: Vec<u8>,
    ) -> Result<Vec<u8>, Finding> {
        match self.types(object) {
            Some(types) if ty != 0 => {
                let mut out = base;
                out.resize(size, 0);
                types.write(node, ty, &mut out)?;
                Ok(out)
            }
            _ => untyped(node, size, self.machine.arch().endian()),
        }
    }

    /// Bytes of a key.
    pub(super) fn key_of(
        &self,
        at: (MapId, usize, usize),
        node: &Node,
    ) -> Result<Vec<u8>, RunError> {
        let size = self.machine.kernel.map(at.0).map_or(0, |m| m.def.key_size) as usize;
        let ty = self.entry(at).key_type;
        Ok(self.bytes_of(node, ty, size, at.1, Vec::new())?)
    }

    /// First contents of the maps of objects from `first` on.
    pub(super) fn first_contents(&mut self, first: usize) -> Result<(), RunError> {
        let new: Vec<String> = self.objects[first..].iter().map(|o| o.name.clone()).collect();
        for (name, object) in self.s.objects.iter().filter(|(n, _)| new.contains(&n.v)) {
            for (map, entries) in object.maps.iter() {
                let full = Name { v: format!("{}/{}", name.v, map.v), span: map.span };
                for (key, value) in entries {
                    self.put(&full, &key.node, &value.node)?;
                }
            }
        }
        Ok(())
    }

    /// User space writes an element; members of a struct that are left out keep theirs.
    pub(super) fn put(&mut self, map: &Name, key: &Node, value: &Node) -> Result<(), RunError> {
        let at = self.map(map)?;
        let map_type = self.machine.kernel.map(at.0).expect("found by name").def.map_type;
        let key_bytes = self.key_of(at, key)?;
        let done = match map_type {
            MapType::ProgArray => {
                let prog = self.prog(&name_of(value)?)?;
                let index = index(&key_bytes, self.machine.arch().endian());
                self.machine.kernel.prog_array_set(at.0, index, Some(prog))
            }
            MapType::CgroupArray => {
                let group = self.cgroup(&name_of(value)?)?;
                let index = index(&key_bytes, self.machine.arch().endian());
                self.machine.kernel.cgroup_array_set(at.0, index, Some(group))
            }
            MapType::ArrayOfMaps | MapType::HashOfMaps => {
                let inner = self.map(&name_of(value)?)?.0;
                self.machine.kernel.map_in_map_set(at.0, &key_bytes, Some(inner))
            }
            _ => {
                let old = self.machine.kernel.user_lookup(at.0, &key_bytes).unwrap_or_default();
                let bytes = self.element_bytes(at, value, old)?;
                let command =
                    MapCommand { map: at.0, key: key_bytes, value: Some(bytes), flags: 0 };
                self.machine.kernel.user_command(CpuId(0), command)
            }
        };
        done.map_err(|e| RunError::input(value.span, format!("writing to {}: {}", map.v, e.name())))
    }

    /// What user space writes for an element of a map that holds no objects; members of a struct
    /// that are left out are those of `base`.
    pub(super) fn element_bytes(
        &self,
        at: (MapId, usize, usize),
        value: &Node,
        base: Vec<u8>,
    ) -> Result<Vec<u8>, RunError> {
        let def = &self.machine.kernel.map(at.0).expect("found by name").def;
        let size = def.value_size as usize;
        match (def.map_type, &value.kind) {
            (MapType::Devmap | MapType::DevmapHash | MapType::Cpumap, Kind::Record(None, _)) => {
                self.entry_value(size, value)
            }
            (MapType::Devmap | MapType::DevmapHash, Kind::Str(_)) => {
                let nic = self.nic(&name_of(value)?)?;
                let mut bytes = vec![0; size];
                super::data::put_int(&mut bytes[..4], nic.into(), self.machine.arch().endian());
                Ok(bytes)
            }
            _ => self.value_bytes(at, value, base),
        }
    }

    /// `struct bpf_devmap_val` and `bpf_cpumap_val`: a nic by name or a queue size, and a
    /// program by name.
    fn entry_value(&self, size: usize, value: &Node) -> Result<Vec<u8>, RunError> {
        let Kind::Record(None, members) = &value.kind else {
            return Err(RunError::input(value.span, "a record was expected"));
        };
        let endian = self.machine.arch().endian();
        let mut out = vec![0; size.max(8)];
        for m in members {
            match m.name.as_str() {
                "ifindex" => {
                    let n = match &m.value.kind {
                        Kind::Str(_) => self.nic(&name_of(&m.value)?)?.into(),
                        _ => number(&m.value)?,
                    };
                    super::data::put_int(&mut out[..4], n, endian);
                }
                "qsize" => super::data::put_int(&mut out[..4], number(&m.value)?, endian),
                "prog" if size >= 8 => {
                    // User space names a program by its descriptor.
                    let id = self.prog(&name_of(&m.value)?)?;
                    let open = self.machine.kernel.fds.iter();
                    let fd = open.filter(|(_, o)| **o == FdObject::Prog(id)).map(|(fd, _)| *fd);
                    let fd = fd.min().unwrap_or(0);
                    super::data::put_int(&mut out[4..8], fd as u64, endian);
                }
                other => {
                    let message = format!("unknown member `{other}` of a redirect map's value");
                    return Err(RunError::input(m.name_span, message));
                }
            }
        }
        out.truncate(size);
        Ok(out)
    }

    fn value_bytes(
        &self,
        at: (MapId, usize, usize),
        value: &Node,
        old: Vec<u8>,
    ) -> Result<Vec<u8>, RunError> {
        let map = self.machine.kernel.map(at.0).expect("found by name");
        let (size, percpu) = (map.def.value_size as usize, map.is_percpu());
        let stride = map.value_stride() as usize;
        let ty = self.entry(at).value_type;
        if !percpu {
            return Ok(self.bytes_of(value, ty, size, at.1, old)?);
        }
        let cpus = self.machine.config().kernel.cpus as usize;
        let each: Vec<&Node> = match &value.kind {
            Kind::Call(name, args) if name == "PerCpu" => match args.as_slice() {
                [Node { kind: Kind::List(items), .. }] if items.len() == cpus => {
                    items.iter().collect()
                }
                _ => {
                    let message = format!("PerCpu takes a list of {cpus} values");
                    return Err(RunError::input(value.span, message));
                }
            },
            _ => vec![value; cpus],
        };
        let mut out = Vec::new();
        for node in each {
            let mut one = self.bytes_of(node, ty, size, at.1, Vec::new())?;
            one.resize(stride, 0);
            out.extend(one);
        }
        Ok(out)
    }

    /// A sample for a user ring buffer: a struct of the object, or bytes.
    pub(super) fn sample_bytes(
        &self,
        map: &Name,
        send: &Data,
        record: Option<&Name>,
    ) -> Result<Vec<u8>, RunError> {
        let (id, object, _) = self.map(map)?;
        let t = self.machine.kernel.map(id).map(|m| m.def.map_type);
        if t != Some(MapType::UserRingbuf) {
            let message = format!("{} is not a user ring buffer", map.v);
            return Err(RunError::input(map.span, message));
        }
        let Some(name) = record else {
            let Kind::Call(call, args) = &send.node.kind else {
                let message = "a sample without `record: ..` is written as Hex(..)";
                return Err(RunError::input(send.span(), message));
            };
            let hex = (call == "Hex").then(|| args.first()).flatten();
            let hex = hex.ok_or_else(|| RunError::input(send.span(), "Hex(..) was expected"))?;
            return Ok(scenarios::schema::packet::HexBytes::from_node(hex)?.0);
        };
        let Some(types) = self.types(object) else {
            return Err(RunError::input(name.span, "the object has no BTF"));
        };
        let missing = || RunError::input(name.span, format!("no struct {}", name.v));
        let ty = types.btf.find(&name.v, bpf::btf::Kind::Struct).ok_or_else(missing)?;
        let size = types.btf.size_of(ty).ok_or_else(missing)? as usize;
        Ok(self.bytes_of(&send.node, ty, size, object, Vec::new())?)
    }

    /// A global variable: its map, bytes and type.
    pub(super) fn global(
        &mut self,
        name: &Name,
    ) -> Result<(MapId, usize, u32, std::ops::Range<usize>), RunError> {
        let (object, short) = split(&self.objects, &name.v);
        for (n, o) in self.objects.iter().enumerate() {
            if object.is_some_and(|wanted| wanted != n) {
                continue;
            }
            if let Some((map, var)) = o.elf.as_ref().and_then(|e| e.global(short)) {
                let at = var.offset as usize;
                return Ok((o.maps[map].id, n, var.ty, at..at + var.size as usize));
            }
        }
        let maps = self.objects.iter().filter_map(|o| o.elf.as_ref()).flat_map(|e| e.maps());
        let known = maps.flat_map(|m| &m.vars).map(|v| &*v.name);
        Err(unknown(name, format!("unknown global `{}`", name.v), known))
    }

    /// User space writes a global through its mapping.
    pub(super) fn set_global(&mut self, name: &Name, to: &Data) -> Result<(), RunError> {
        let (map, object, ty, range) = self.global(name)?;
        let mut all = self.machine.kernel.user_lookup(map, &[0; 4]).unwrap_or_default();
        let Some(old) = all.get(range.clone()).map(<[u8]>::to_vec) else {
            return Err(RunError::input(name.span, "the variable lies beyond its section"));
        };
        let new = self.bytes_of(&to.node, ty, range.len(), object, old)?;
        all[range].copy_from_slice(&new);
        let done = self.machine.kernel.user_update(map, &[0; 4], &all, 0);
        done.map_err(|e| RunError::input(to.span(), format!("{}: {}", name.v, e.name())))
    }
}

/// Source line of an instruction.
pub(super) fn source_line(lines: &[Line], at: InsnIdx) -> Option<(&str, u32)> {
    let n = lines.partition_point(|l| l.insn <= at).checked_sub(1)?;
    Some((lines[n].file_name(), lines[n].line))
}

/// Where a program was rejected, for the end of a message.
pub(super) fn place(r: &Refused) -> String {
    let Some(at) = r.rejection.insn else { return String::new() };
    let line = source_line(&r.lines, at).map_or(String::new(), |(f, n)| format!(", {f}:{n}"));
    format!(" (instruction {}{line})", at.0)
}

/// A name that nothing has, with the nearest that something has.
fn unknown<'n>(name: &Name, what: String, known: impl Iterator<Item = &'n str>) -> RunError {
    let known: Vec<&str> = known.collect();
    let finding = Finding::error(name.span, what);
    RunError::from(match suggest(&name.v, known.iter().copied()) {
        Some(s) => finding.hint(format!("did you mean `{s}`?")),
        None if known.is_empty() => finding,
        None => finding.hint(format!("known: {}", known.join(", "))),
    })
}

fn number(node: &Node) -> Result<u64, RunError> {
    let value = scenarios::leaf::int_of(node).and_then(|v| u64::try_from(v).ok());
    value.ok_or_else(|| RunError::input(node.span, "a number was expected"))
}

/// A name in quotes as the value of a slot.
fn name_of(node: &Node) -> Result<Name, RunError> {
    match &node.kind {
        Kind::Str(s) => Ok(Name { v: s.clone(), span: node.span }),
        _ => {
            let message = format!("a name in quotes was expected, found {}", node.describe());
            Err(RunError::input(node.span, message))
        }
    }
}

/// An array index from a key's bytes.
fn index(key: &[u8], endian: bpf::Endian) -> u32 {
    super::data::get_int(key, endian) as u32
}
