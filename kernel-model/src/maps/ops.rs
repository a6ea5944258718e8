//! Maps as programs use them: what the map helpers do.

use super::MapId;
use super::store::Who;
use crate::cpu::{CpuId, Fault};
use crate::{Errno, Kernel};

impl Kernel {
    /// The map of a helper's first argument.
    pub(crate) fn helper_map(&self, addr: u64) -> Result<MapId, Fault> {
        self.map_at(addr).ok_or_else(|| Fault::unsupported(format!("no map at {addr:#x}")))
    }

    /// `bpf_map_lookup_elem` of a program.
    pub(crate) fn prog_lookup(&mut self, cpu: CpuId, map: u64, key: u64) -> Result<u64, Fault> {
        let id = self.helper_map(map)?;
        let key = self.read_key(id, key)?;
        let key = match self.maps[&id].def.map_type {
            bpf::uapi::MapType::LpmTrie => match self.lpm_key(&key) {
                Ok(key) => key,
                Err(_) => return Ok(0),
            },
            _ => key,
        };
        Ok(self.map_lookup(id, &key, cpu))
    }

    /// `bpf_map_update_elem` of a program.
    pub(crate) fn prog_update(
        &mut self,
        cpu: CpuId,
        [map, key, value, flags, _]: [u64; 5],
    ) -> Result<Result<u64, Errno>, Fault> {
        let id = self.helper_map(map)?;
        let key = self.read_key(id, key)?;
        let size = self.maps[&id].def.value_size as usize;
        let value = self.mem.read_vec(value, size)?;
        Ok(self.map_update(id, &key, &value, flags, Who::Program(cpu)).map(|()| 0))
    }

    /// `bpf_map_delete_elem` of a program.
    pub(crate) fn prog_delete(&mut self, map: u64, key: u64) -> Result<Result<u64, Errno>, Fault> {
        let id = self.helper_map(map)?;
        let key = self.read_key(id, key)?;
        Ok(self.map_delete(id, &key).map(|()| 0))
    }
}
