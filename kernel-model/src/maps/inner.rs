//! Slots that hold programs, maps, control groups, devices and CPUs: what user space writes by
//! descriptor.

use super::{Kind, MapId, attr};
use crate::{Errno, Kernel, ProgId};

impl Kernel {
    /// Puts a program into a prog array (`fd_array_map_update_elem`), or takes it out.
    ///
    /// # Errors
    /// `E2BIG` beyond the end; `EINVAL` when the map is no prog array or the program's type
    /// differs from the others'.
    pub fn prog_array_set(
        &mut self,
        id: MapId,
        index: u32,
        prog: Option<ProgId>,
    ) -> Result<(), Errno> {
        let addr = prog.and_then(|p| self.progs.get(&p)).map_or(0, |p| p.addr);
        let wanted = prog.and_then(|p| self.progs.get(&p)).map(crate::Prog::prog_type);
        let types: Vec<_> = self.progs.iter().map(|(i, p)| (*i, p.prog_type())).collect();
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let Kind::Progs { slots, ptrs } = &mut map.kind else { return Err(Errno::EINVAL) };
        let type_of = |p: ProgId| types.iter().find(|t| t.0 == p).map(|t| t.1);
        let owner = slots.iter().flatten().next().and_then(|p| type_of(*p));
        if wanted.is_some() && owner.is_some() && owner != wanted {
            return Err(Errno::EINVAL);
        }
        let slot = slots.get_mut(index as usize).ok_or(Errno::E2BIG)?;
        if prog.is_none() && slot.is_none() {
            return Err(Errno::ENOENT);
        }
        *slot = prog;
        let at = *ptrs + u64::from(index) * 8;
        self.mem.write_u64(at, addr).map_err(|_| Errno::EFAULT)?;
        self.objects_let_go();
        Ok(())
    }

    /// Puts a control group into an array of them, or takes it out.
    ///
    /// # Errors
    /// `E2BIG` beyond the end; `ENOENT` when nothing is there to be taken out; `EINVAL` when the
    /// map is another one.
    pub fn cgroup_array_set(
        &mut self,
        id: MapId,
        index: u32,
        group: Option<usize>,
    ) -> Result<(), Errno> {
        let addr = group.map_or(0, |g| self.cgroup_addr(g));
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let Kind::Groups { slots, ptrs } = &mut map.kind else { return Err(Errno::EINVAL) };
        let slot = slots.get_mut(index as usize).ok_or(Errno::E2BIG)?;
        if group.is_none() && slot.is_none() {
            return Err(Errno::ENOENT);
        }
        *slot = group;
        let at = *ptrs + u64::from(index) * 8;
        self.mem.write_u64(at, addr).map_err(|_| Errno::EFAULT)
    }

    /// `struct cgroup` in a slot, as programs are answered: `E2BIG`, `EAGAIN` for none.
    pub(crate) fn cgroup_array_get(&self, id: MapId, index: u32) -> Result<u64, Errno> {
        let Some(Kind::Groups { slots, .. }) = self.maps.get(&id).map(|m| &m.kind) else {
            return Err(Errno::EINVAL);
        };
        let slot = slots.get(index as usize).ok_or(Errno::E2BIG)?;
        slot.map(|g| self.cgroup_addr(g)).ok_or(Errno::EAGAIN)
    }

    /// Puts a map into a map of maps, or takes it out.
    ///
    /// # Errors
    /// `EINVAL` when its attributes differ from the template's; `E2BIG`, `ENOENT`.
    pub fn map_in_map_set(
        &mut self,
        id: MapId,
        key: &[u8],
        inner: Option<MapId>,
    ) -> Result<(), Errno> {
        let template = self.maps.get(&id).and_then(|m| m.inner.clone()).ok_or(Errno::EINVAL)?;
        let mut addr = 0;
        if let Some(m) = inner {
            let m = self.maps.get(&m).ok_or(Errno::EBADF)?;
            // bpf_map_meta_equal; arrays of another size are different maps too.
            let same = m.def.map_type == template.map_type
                && m.def.key_size == template.key_size
                && m.def.value_size == template.value_size
                && m.def.flags == template.flags
                && m.def.spin_lock_off == template.spin_lock_off
                && m.def.record == template.record
                && (m.def.map_type != bpf::uapi::MapType::Array
                    || template.flags & super::rules::INNER_MAP != 0
                    || m.def.max_entries == template.max_entries);
            if !same {
                return Err(Errno::EINVAL);
            }
            addr = m.addr;
        }
        let endian = self.mem.endian();
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let max = map.def.max_entries as usize;
        match &mut map.kind {
            Kind::Maps { slots, ptrs } => {
                let index = attr::index_of(endian, key);
                let slot = slots.get_mut(index as usize).ok_or(Errno::E2BIG)?;
                if inner.is_none() && slot.is_none() {
                    return Err(Errno::ENOENT);
                }
                *slot = inner;
                let at = *ptrs + u64::from(index) * 8;
                self.mem.write_u64(at, addr).map_err(|_| Errno::EFAULT)?;
            }
            Kind::MapHash { table, inner: maps } => match inner {
                Some(m) => {
                    if maps.len() >= max && !maps.contains_key(key) {
                        return Err(Errno::E2BIG);
                    }
                    if maps.insert(key.to_vec(), m).is_none() {
                        table.insert(key.to_vec(), addr);
                    }
                }
                None => {
                    maps.remove(key).ok_or(Errno::ENOENT)?;
                    table.remove(key);
                }
            },
            _ => return Err(Errno::EINVAL),
        }
        self.objects_let_go();
        Ok(())
    }

    /// What `bpf_tail_call` of an index of the array at an address leads to.
    #[must_use]
    pub fn tail_call_target(&self, array: u64, index: u64) -> Option<ProgId> {
        // KERNEL v6.18 core.c:___bpf_prog_run: the index is a u32.
        self.prog_array_get(self.map_at(array)?, index as u32)
    }

    /// The program in a slot.
    #[must_use]
    pub fn prog_array_get(&self, id: MapId, index: u32) -> Option<ProgId> {
        match self.maps.get(&id).map(|m| &m.kind) {
            Some(Kind::Progs { slots, .. }) => slots.get(index as usize).copied().flatten(),
            _ => None,
        }
    }

    /// Opens the perf event of a slot: records sent there reach user space.
    ///
    /// # Errors
    /// `E2BIG`, `EINVAL`.
    pub fn perf_open(&mut self, id: MapId, index: u32) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let Kind::Perf { open } = &mut map.kind else { return Err(Errno::EINVAL) };
        *open.get_mut(index as usize).ok_or(Errno::E2BIG)? = true;
        Ok(())
    }

    /// Takes the perf event out of a slot.
    pub(crate) fn perf_close(&mut self, id: MapId, index: u32) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let Kind::Perf { open } = &mut map.kind else { return Err(Errno::EINVAL) };
        if index >= map.def.max_entries {
            return Err(Errno::E2BIG);
        }
        match open.get_mut(index as usize) {
            Some(slot) if *slot => {
                *slot = false;
                Ok(())
            }
            _ => Err(Errno::ENOENT),
        }
    }

    pub(crate) fn perf_is_open(&self, id: MapId, index: u32) -> Option<bool> {
        match self.maps.get(&id).map(|m| &m.kind) {
            Some(Kind::Perf { open }) => open.get(index as usize).copied(),
            _ => None,
        }
    }
}
