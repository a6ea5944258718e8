//! The modelled kernel behind the loader's commands.

use bpf::btf::{Btf, Kind};
use kernel_model::maps::MapDef;
use kernel_model::{Errno, Kernel};

use super::{Bpf, Fd, MapCreate, ProgLoad, ProgLoaded, ProgRefusal};

impl Bpf for Kernel {
    fn map_create(&mut self, map: &MapCreate, btf: Option<&Btf>) -> Result<Fd, Errno> {
        let special = |name| btf.and_then(|b| special_field(b, map.btf_types.1, name));
        let def = MapDef {
            map_type: map.map_type,
            key_size: map.key_size,
            value_size: map.value_size,
            max_entries: map.max_entries,
            flags: map.flags,
            map_extra: map.map_extra,
            name: map.name.clone(),
            value_type_id: map.btf_types.1,
            spin_lock_off: special("bpf_spin_lock"),
            timer_off: special("bpf_timer"),
        };
        self.sys_map_create(def, map.inner)
    }

    fn map_update(&mut self, map: Fd, key: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.sys_map_update(map, key, value, 0)
    }

    fn map_freeze(&mut self, map: Fd) -> Result<(), Errno> {
        let id = self.fd_map(map)?;
        Kernel::map_freeze(self, id)
    }

    fn prog_load(&mut self, load: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal> {
        let opts = verifier::explore::Opts { log_level: load.log_level, ..Default::default() };
        let (loaded, report) = self.sys_prog_load(load.program, load.fd_array, load.btf, opts);
        match (loaded, report.result) {
            (Some((fd, id)), _) => Ok(ProgLoaded { fd, id: id.0, log: report.log }),
            (None, Err(mut rejection)) => {
                if rejection.log.is_empty() {
                    rejection.log = report.log;
                }
                Err(ProgRefusal::Rejected(rejection))
            }
            (None, Ok(_)) => Err(ProgRefusal::Errno(Errno::ENOMEM)),
        }
    }

    fn cpus(&self) -> u32 {
        self.config.cpus
    }
}

/// Offset of a member of a special type at the top level of a struct.
fn special_field(btf: &Btf, value_type: u32, name: &str) -> Option<u32> {
    let id = btf.resolve(value_type);
    if btf.kind(id) != Kind::Struct {
        return None;
    }
    let is = |ty| {
        let ty = btf.resolve(ty);
        btf.kind(ty) == Kind::Struct && btf.name(ty) == name
    };
    btf.members(id).find(|m| is(m.ty)).map(|m| m.bit_off / 8)
}
