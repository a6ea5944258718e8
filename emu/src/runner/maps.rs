//! Contents of maps, as expected.

use bpf::uapi::MapType;
use kernel_model::maps::MapId;
use scenarios::leaf::Data;
use scenarios::schema::Name;
use scenarios::tree::{Kind, Node};

use super::data::Difference;
use super::expect::Checked;
use super::{Run, RunError};

/// A map, the number of its object, and its entry there.
type MapAt = (MapId, usize, usize);

impl Run<'_> {
    /// Summed over CPUs unless one is named.
    fn map_value(&mut self, map: &Name, key: &[u8], cpu: Option<u32>) -> Result<Vec<u8>, RunError> {
        let at = self.map(map)?;
        let m = self.machine.kernel.map(at.0).expect("found by name");
        let (percpu, stride, size) =
            (m.is_percpu(), m.value_stride() as usize, m.def.value_size as usize);
        let all = self
            .machine
            .kernel
            .user_lookup(at.0, key)
            .map_err(|e| RunError::Internal(format!("reading {}: {}", map.v, e.name())))?;
        if !percpu {
            return Ok(all);
        }
        if let Some(cpu) = cpu {
            let from = cpu as usize * stride;
            return Ok(all.get(from..from + size).unwrap_or_default().to_vec());
        }
        let ty = self.entry(at).value_type;
        let endian = self.machine.arch().endian();
        let mut out = vec![0; size];
        let parts: Vec<(usize, usize)> =
            self.types(at.1).map_or(vec![(0, size)], |t| integers(&t, ty, 0));
        for (from, len) in parts {
            let sum = all.chunks(stride).fold(0u64, |n, one| {
                n.wrapping_add(super::data::get_int(&one[from..from + len], endian))
            });
            super::data::put_int(&mut out[from..from + len], sum, endian);
        }
        Ok(out)
    }

    /// A key and its value, or the value alone of a bloom filter.
    pub(super) fn map_has(&mut self, map: &Name, data: &Data, cpu: Option<u32>) -> Checked {
        let at = self.map(map)?;
        let kind = self.machine.kernel.map(at.0).map(|m| m.def.map_type);
        if kind == Some(MapType::BloomFilter) {
            if !self.bloom_has(at, &data.node)? {
                self.fail(data.span(), format!("{} does not have this value", map.v));
            }
            return Ok(());
        }
        let Kind::Tuple(items) = &data.node.kind else {
            return Err(RunError::input(data.span(), "(key, value) was expected"));
        };
        let [key, value] = items.as_slice() else {
            return Err(RunError::input(data.span(), "(key, value) was expected"));
        };
        let mut first = None;
        for bytes in self.keys_meant(at, key)? {
            match self.value_differs(map, &bytes, value, cpu)? {
                None => return Ok(()),
                differs => first = first.or(differs),
            }
        }
        match first {
            Some(d) => self.fail_at(&format!("{}: ", map.v), d),
            None => self.fail(key.span, format!("{} has no such key", map.v)),
        }
        Ok(())
    }

    /// The key that is written, when the map has it, else all that it matches as a pattern.
    fn keys_meant(&mut self, at: MapAt, key: &Node) -> Result<Vec<Vec<u8>>, RunError> {
        let exact = self.key_of(at, key);
        if let Ok(bytes) = &exact
            && self.has_exactly(at, bytes)
        {
            return Ok(vec![bytes.clone()]);
        }
        let (ty, types) = (self.entry(at).key_type, self.types(at.1));
        let Some(types) = types.filter(|_| ty != 0) else { return exact.map(|_| Vec::new()) };
        let mut out = Vec::new();
        for bytes in self.machine.kernel.user_keys(at.0) {
            if types.differs(key, ty, &bytes)?.is_none() {
                out.push(bytes);
            }
        }
        Ok(out)
    }

    /// Whether a map has a key; a trie has none that only a shorter prefix covers.
    fn has_exactly(&mut self, at: MapAt, key: &[u8]) -> bool {
        let kernel = &mut self.machine.kernel;
        match kernel.map(at.0).map(|m| m.def.map_type) {
            Some(MapType::LpmTrie) => kernel.map_entry(at.0, key).is_some(),
            _ => kernel.user_lookup(at.0, key).is_ok(),
        }
    }

    fn value_differs(
        &mut self,
        map: &Name,
        key: &[u8],
        value: &Node,
        cpu: Option<u32>,
    ) -> Result<Option<Difference>, RunError> {
        let at = self.map(map)?;
        let found = self.map_value(map, key, cpu)?;
        let endian = self.machine.arch().endian();
        if let (Kind::Str(text), Some(wanted)) = (&value.kind, self.slot(at, value)?) {
            let id = super::data::get_int(found.get(..4).unwrap_or_default(), endian);
            let why = format!("is another than \"{text}\"");
            return Ok((id != wanted).then_some(Difference { why, at: value.span, fix: None }));
        }
        let ty = self.entry(at).value_type;
        match self.types(at.1) {
            Some(types) if ty != 0 => Ok(types.differs(value, ty, &found)?),
            _ => {
                let wanted = super::data::untyped(value, found.len(), endian)?;
                let why = || format!("is {found:02x?}, expected {wanted:02x?}");
                let at = value.span;
                Ok((wanted != found).then(|| Difference { why: why(), at, fix: None }))
            }
        }
    }

    /// What a name stands for in a map of programs, maps or nics.
    fn slot(&self, at: MapAt, value: &Node) -> Result<Option<u64>, RunError> {
        let Kind::Str(text) = &value.kind else { return Ok(None) };
        let name = Name { v: text.clone(), span: value.span };
        Ok(match self.machine.kernel.map(at.0).map(|m| m.def.map_type) {
            Some(MapType::ProgArray) => Some(self.prog(&name)?.0.into()),
            Some(MapType::ArrayOfMaps | MapType::HashOfMaps) => Some(self.map(&name)?.0.0.into()),
            Some(MapType::Devmap | MapType::DevmapHash) => Some(self.nic(&name)?.into()),
            _ => None,
        })
    }

    fn bloom_has(&self, at: MapAt, value: &Node) -> Result<bool, RunError> {
        let size = self.machine.kernel.map(at.0).map_or(0, |m| m.def.value_size) as usize;
        let bytes = self.bytes_of(value, self.entry(at).value_type, size, at.1, Vec::new())?;
        Ok(self.machine.kernel.user_bloom(at.0, &bytes).is_ok())
    }

    pub(super) fn map_lacks(&mut self, map: &Name, key: &Data) -> Checked {
        let at = self.map(map)?;
        let kind = self.machine.kernel.map(at.0).map(|m| m.def.map_type);
        let hit = match kind {
            Some(MapType::BloomFilter) => self.bloom_has(at, &key.node)?,
            // An array has a place for every key: what it lacks is a program or a map there.
            Some(MapType::ProgArray | MapType::ArrayOfMaps) => {
                let bytes = self.key_of(at, &key.node)?;
                self.machine.kernel.user_lookup(at.0, &bytes).is_ok()
            }
            _ => self.has_pattern(at, &key.node)?,
        };
        if hit {
            self.fail(key.span(), format!("{} has this key", map.v));
        }
        Ok(())
    }

    /// Whether a map has a key that a pattern means.
    fn has_pattern(&self, at: MapAt, key: &Node) -> Result<bool, RunError> {
        let ty = self.entry(at).key_type;
        let Some(types) = self.types(at.1).filter(|_| ty != 0) else {
            let bytes = self.key_of(at, key)?;
            return Ok(self.machine.kernel.user_keys(at.0).contains(&bytes));
        };
        // A trie's key means its prefix, whatever is written beyond that.
        let exact = self.key_of(at, key).ok();
        if exact.is_some_and(|bytes| self.machine.kernel.map_entry(at.0, &bytes).is_some()) {
            return Ok(true);
        }
        for bytes in self.machine.kernel.user_keys(at.0) {
            if types.differs(key, ty, &bytes)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn map_holds(&mut self, map: &Name, list: &[Data]) -> Checked {
        let at = self.map(map)?;
        let found = self.machine.kernel.fifo_values(at.0);
        if found.len() != list.len() {
            let message =
                format!("{} holds {} values, expected {}", map.v, found.len(), list.len());
            self.fail(map.span, message);
        }
        let ty = self.entry(at).value_type;
        for (n, (value, bytes)) in list.iter().zip(&found).enumerate() {
            let differs = match self.types(at.1) {
                Some(types) if ty != 0 => types.differs(&value.node, ty, bytes)?,
                _ => return Err(RunError::input(value.span(), "the values have no BTF type")),
            };
            if let Some(d) = differs {
                self.fail_at(&format!("value {} of {}: ", n + 1, map.v), d);
            }
        }
        Ok(())
    }
}

/// Offsets and sizes of the integers of a type, for sums over CPUs.
fn integers(t: &super::data::Types<'_>, ty: u32, at: usize) -> Vec<(usize, usize)> {
    use bpf::btf::Body;
    let id = t.btf.resolve(ty);
    match t.btf.body(id) {
        Body::Struct { .. } => {
            t.btf.members(id).flat_map(|m| integers(t, m.ty, at + m.byte_off() as usize)).collect()
        }
        Body::Array { elem, nelems, .. } => {
            let size = t.btf.size_of(*elem).unwrap_or(0) as usize;
            (0..*nelems as usize).flat_map(|n| integers(t, *elem, at + n * size)).collect()
        }
        _ => vec![(at, (t.btf.size_of(id).unwrap_or(0) as usize).min(8))],
    }
}
