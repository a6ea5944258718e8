//! The kernel as the verifier sees it.

use bpf::uapi::MapType;
use verifier::KernelEnv;
use verifier::env::{CtxAccess, CtxConv, GuestAddr, Layout, MapInfo};

use crate::maps::{Kind, Map, MapDef};
use crate::syscall::FdObject;
use crate::{Kernel, helpers};

/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 0x80;

impl Kernel {
    /// Facts about a map.
    #[must_use]
    pub fn map_info(&self, map: &Map) -> MapInfo {
        let single = matches!(map.def.map_type, MapType::Array) && map.def.max_entries == 1;
        let values = match map.kind {
            Kind::Array { values, .. } if single => Some(values),
            _ => None,
        };
        let frozen = map.frozen && map.def.flags & RDONLY_PROG != 0;
        let frozen_value = values
            .filter(|_| frozen)
            .and_then(|at| self.mem.read_vec(at, map.def.value_size as usize).ok());
        MapInfo {
            addr: GuestAddr(map.addr),
            value_addr: values.or(self.arena_starts(map.id).map(|a| a.1)).map(GuestAddr),
            frozen_value,
            inner: map.inner.as_ref().map(|d| Box::new(plain(0, d))),
            ..plain(map.id.0, &map.def)
        }
    }
}

fn plain(id: u32, def: &MapDef) -> MapInfo {
    MapInfo {
        id,
        name: def.name.clone(),
        map_type: def.map_type,
        key_size: def.key_size,
        value_size: def.value_size,
        max_entries: def.max_entries,
        flags: def.flags,
        map_extra: def.map_extra,
        addr: GuestAddr(0),
        value_addr: None,
        frozen_value: None,
        inner: None,
        value_type_id: def.value_type_id,
        spin_lock_off: def.spin_lock_off,
        timer_off: def.timer_off,
    }
}

impl KernelEnv for Kernel {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        match self.fds.get(&fd)? {
            FdObject::Map(id) => self.maps.get(id).map(|m| self.map_info(m)),
            _ => None,
        }
    }

    fn btf(&self) -> Option<&bpf::btf::Btf> {
        Some(self.vmlinux_btf())
    }

    fn layout(&self) -> Layout {
        crate::ctx::layout()
    }

    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        crate::ctx::convert(self.config.arch, access)
    }

    fn conv_sock(&self, class: verifier::explore::PtrClass, access: CtxAccess) -> Option<CtxConv> {
        crate::ctx::convert_sock(class, access)
    }

    fn arena(&self, map: &MapInfo) -> Option<verifier::verified::Arena> {
        let starts = self.arena_starts(crate::maps::MapId(map.id));
        let arena = |(kern_vm_start, user_vm_start)| verifier::verified::Arena {
            kern_vm_start,
            user_vm_start,
        };
        starts.map(arena)
    }

    fn arena_is_mapped(&self, map: &MapInfo) -> bool {
        self.arena(map).is_some()
    }

    fn has_helper(&self, id: i32) -> bool {
        // bpf_tail_call is native code.
        id == 12 || helpers::row(id).is_some()
    }

    fn identity(&self) -> u64 {
        // Level 6.18 and the architecture's type table.
        let arch = self.config.arch as u64;
        0x0006_0012_0000_0000 | arch << 16 | self.vmlinux_btf().ids().count() as u64 & 0xffff
    }
}
