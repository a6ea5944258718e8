//! Maps of the running kernel, and the loader's commands on it.

use std::os::fd::OwnedFd;

use bpf::btf::{Btf, Kind};
use bpf::object::essential_name;
use bpf::uapi::attr::{MapCreate as Attr, MapElem, MapFreeze};
use bpf::uapi::fields::obj_name;
use bpf::uapi::{Cmd, MapType};
use kernel_model::Errno;

use super::door::{self, Answer, Buf};
use super::{HostKernel, attr_bytes};
use crate::loader::uapi::takes_btf;
use crate::loader::{Bpf, Fd, MapCreate, ProgLoad, ProgLoaded, ProgRefusal};

/// Offsets of `key` and `value` in the attributes of the element commands.
const KEY: usize = 8;
const VALUE: usize = 16;
/// `BPF_F_NUMA_NODE`.
const NUMA_NODE: u32 = 1 << 2;

fn errno(raw: i32) -> Errno {
    Errno::from_raw(raw).unwrap_or(Errno::EIO)
}

impl HostKernel {
    fn create(&mut self, attr: &Attr) -> Result<OwnedFd, i32> {
        match door::bpf(Cmd::MapCreate, &mut attr_bytes(attr), Vec::new())? {
            Answer::Fd(fd) => Ok(fd),
            Answer::Done => Err(Errno::EIO as i32),
        }
    }

    /// Bytes of a value as user space has it.
    fn user_value(&self, m: &MapCreate) -> usize {
        let size = m.value_size as usize;
        match m.map_type {
            MapType::PercpuArray
            | MapType::PercpuHash
            | MapType::LruPercpuHash
            | MapType::PercpuCgroupStorage => size.next_multiple_of(8) * self.cpus as usize,
            _ => size,
        }
    }

    fn elem(
        &self,
        cmd: Cmd,
        map: Fd,
        key: Option<&[u8]>,
        value: Option<door::Data<'_>>,
        flags: u64,
    ) -> Result<(), Errno> {
        let (key_size, value_size) = *self.map_sizes.get(&map).ok_or(Errno::EBADF)?;
        let len = match &value {
            Some(door::Data::In(b)) => Some(b.len()),
            Some(door::Data::Out(b)) => Some(b.len()),
            None => None,
        };
        if key.is_some_and(|k| k.len() != key_size) || len.is_some_and(|n| n != value_size) {
            return Err(Errno::EINVAL);
        }
        let attr = MapElem { map_fd: map.cast_unsigned(), flags, ..MapElem::default() };
        let mut bufs = Vec::new();
        if let Some(key) = key {
            bufs.push(Buf::input(KEY, key));
        }
        if let Some(data) = value {
            bufs.push(Buf { at: VALUE, len_at: None, data });
        }
        door::bpf(cmd, &mut attr_bytes(&attr), bufs).map(|_| ()).map_err(errno)
    }

    /// `BPF_MAP_LOOKUP_ELEM`; queues and stacks have no key.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_lookup(&self, map: Fd, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let (_, size) = *self.map_sizes.get(&map).ok_or(Errno::EBADF)?;
        let mut value = vec![0; size];
        self.elem(Cmd::MapLookupElem, map, key, Some(door::Data::Out(&mut value)), 0)?;
        Ok(value)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_delete(&self, map: Fd, key: &[u8]) -> Result<(), Errno> {
        self.elem(Cmd::MapDeleteElem, map, Some(key), None, 0)
    }

    /// `BPF_MAP_GET_NEXT_KEY`.
    ///
    /// # Errors
    /// `ENOENT` after the last key.
    pub fn map_next_key(&self, map: Fd, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let (key_size, _) = *self.map_sizes.get(&map).ok_or(Errno::EBADF)?;
        if key.is_some_and(|k| k.len() != key_size) {
            return Err(Errno::EINVAL);
        }
        let mut next = vec![0; key_size];
        let attr = MapElem { map_fd: map.cast_unsigned(), ..MapElem::default() };
        let mut bufs = vec![Buf::output(VALUE, &mut next)];
        bufs.extend(key.map(|k| Buf::input(KEY, k)));
        door::bpf(Cmd::MapGetNextKey, &mut attr_bytes(&attr), bufs).map_err(errno)?;
        Ok(next)
    }
}

impl Bpf for HostKernel {
    fn map_create(&mut self, m: &MapCreate, btf: Option<&Btf>) -> Result<Fd, Errno> {
        let mut attr = Attr {
            map_type: m.map_type as u32,
            key_size: m.key_size,
            value_size: m.value_size,
            max_entries: m.max_entries,
            map_flags: m.flags | if m.numa_node.is_some() { NUMA_NODE } else { 0 },
            inner_map_fd: m.inner.map_or(0, i32::cast_unsigned),
            numa_node: m.numa_node.unwrap_or(0),
            map_name: obj_name(&m.name),
            map_extra: m.map_extra,
            ..Attr::default()
        };
        if m.map_type == MapType::StructOps {
            let ty = btf.map_or("", |b| essential_name(b.name(b.resolve(m.btf_types.1))));
            let wrapper = self.vmlinux.find(&format!("bpf_struct_ops_{ty}"), Kind::Struct);
            let wrapper = wrapper.ok_or(Errno::ESRCH)?;
            attr.btf_vmlinux_value_type_id = wrapper;
            attr.value_size = self.vmlinux.size_of(wrapper).unwrap_or(0);
        }
        let typed = takes_btf(m.map_type) && m.btf_types != (0, 0);
        if let Some(btf) = btf.filter(|_| typed || m.map_type == MapType::StructOps)
            && let Ok(fd) = self.btf_load(btf)
        {
            attr.btf_fd = fd.cast_unsigned();
            if typed {
                (attr.btf_key_type_id, attr.btf_value_type_id) = m.btf_types;
            }
        }
        let made = match self.create(&attr) {
            // As libbpf: a map whose types the kernel does not like is made without them.
            Err(_) if typed => {
                (attr.btf_fd, attr.btf_key_type_id, attr.btf_value_type_id) = (0, 0, 0);
                self.create(&attr)
            }
            other => other,
        };
        let fd = self.keep(made.map_err(errno)?);
        let m = MapCreate { value_size: attr.value_size, ..m.clone() };
        self.map_sizes.insert(fd, (m.key_size as usize, self.user_value(&m)));
        Ok(fd)
    }

    fn map_update(&mut self, map: Fd, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.elem(Cmd::MapUpdateElem, map, Some(key), Some(door::Data::In(value)), 0)
    }

    fn map_freeze(&mut self, map: Fd) -> Result<(), Errno> {
        let attr = MapFreeze { map_fd: map.cast_unsigned() };
        door::bpf(Cmd::MapFreeze, &mut attr_bytes(&attr), Vec::new()).map(|_| ()).map_err(errno)
    }

    fn prog_load(&mut self, load: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal> {
        self.load_for_loader(load)
    }

    fn cpus(&self) -> u32 {
        self.cpus
    }

    fn has_struct_ops(&self) -> bool {
        true
    }
}
