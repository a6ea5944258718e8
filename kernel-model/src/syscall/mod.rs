//! The bpf(2) face: objects by descriptor, and `BPF_PROG_LOAD`.

pub mod test_run;

use std::sync::Arc;

use bpf::Program;
use bpf::btf::Btf;
use verifier::verify::{Options, VerifyReport, verify_report};

use crate::maps::{MapDef, MapId};
use crate::{Errno, Kernel, Prog, ProgId, field};

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdObject {
    /// A map.
    Map(MapId),
    /// A program.
    Prog(ProgId),
}

/// First descriptor that is handed out: 0 to 2 are taken in every process.
const FIRST_FD: i32 = 3;

impl Kernel {
    fn fd_install(&mut self, object: FdObject) -> i32 {
        let fd = self.fds.keys().next_back().map_or(FIRST_FD, |fd| fd + 1);
        self.fds.insert(fd, object);
        fd
    }

    /// The map behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_map(&self, fd: i32) -> Result<MapId, Errno> {
        match self.fds.get(&fd).ok_or(Errno::EBADF)? {
            FdObject::Map(id) => Ok(*id),
            FdObject::Prog(_) => Err(Errno::EINVAL),
        }
    }

    /// The program behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_prog(&self, fd: i32) -> Result<ProgId, Errno> {
        match self.fds.get(&fd).ok_or(Errno::EBADF)? {
            FdObject::Prog(id) => Ok(*id),
            FdObject::Map(_) => Err(Errno::EINVAL),
        }
    }

    /// `BPF_MAP_CREATE`; `inner` is `inner_map_fd`.
    ///
    /// # Errors
    /// As [`Kernel::map_create`].
    pub fn sys_map_create(&mut self, def: MapDef, inner: Option<i32>) -> Result<i32, Errno> {
        let inner = match inner {
            Some(fd) => {
                let id = self.fd_map(fd)?;
                self.maps.get(&id).map(|m| m.def.clone())
            }
            None => None,
        };
        let id = self.map_create(def, inner)?;
        Ok(self.fd_install(FdObject::Map(id)))
    }

    /// `BPF_MAP_UPDATE_ELEM`: values of prog arrays and maps of maps are descriptors.
    ///
    /// # Errors
    /// As the kernel.
    pub fn sys_map_update(
        &mut self,
        fd: i32,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        use bpf::uapi::MapType;
        let id = self.fd_map(fd)?;
        let endian = self.mem.endian();
        let word = |b: &[u8]| -> Result<u32, Errno> {
            let b: [u8; 4] = b.try_into().map_err(|_| Errno::EINVAL)?;
            Ok(match endian {
                bpf::Endian::Little => u32::from_le_bytes(b),
                bpf::Endian::Big => u32::from_be_bytes(b),
            })
        };
        match self.maps.get(&id).map(|m| m.def.map_type) {
            Some(MapType::ProgArray) => {
                let prog = self.fd_prog(word(value)?.cast_signed())?;
                self.prog_array_set(id, word(key)?, Some(prog))
            }
            Some(MapType::ArrayOfMaps | MapType::HashOfMaps) => {
                let inner = self.fd_map(word(value)?.cast_signed())?;
                self.map_in_map_set(id, key, Some(inner))
            }
            _ => self.user_update(id, key, value, flags),
        }
    }

    /// `BPF_PROG_LOAD`. On acceptance the program has a descriptor; the report has the log and
    /// the statistics either way, and what was proved on acceptance.
    pub fn sys_prog_load(
        &mut self,
        program: Program,
        fd_array: &[i32],
        btf: Option<&Btf>,
        opts: verifier::explore::Opts,
    ) -> (Option<(i32, ProgId)>, VerifyReport) {
        let options = Options { opts, fd_array, prog_btf: btf, endian: self.mem.endian() };
        let report = verify_report(program, self, &options);
        let loaded = match &report.result {
            Ok(verified) => {
                let maps = fd_array.iter().filter_map(|fd| self.fd_map(*fd).ok()).collect();
                self.prog_install(Arc::new(verified.clone()), maps).ok()
            }
            Err(_) => None,
        };
        let loaded = loaded.map(|id| (self.fd_install(FdObject::Prog(id)), id));
        (loaded, report)
    }

    /// Gives a verified program its object in guest memory.
    fn prog_install(
        &mut self,
        verified: Arc<verifier::Verified>,
        maps: Vec<MapId>,
    ) -> Result<ProgId, Errno> {
        let id = ProgId(self.progs.keys().next_back().map_or(1, |p| p.0 + 1));
        let addr = self.kzalloc(crate::types::size("bpf_prog"), "bpf_prog")?;
        let program = verified.program();
        let numbers = [
            (field!("bpf_prog", "type"), u64::from(program.prog_type as u32)),
            (field!("bpf_prog", "len"), verified.len() as u64),
        ];
        for (f, value) in numbers {
            self.set(addr, f, value);
        }
        let prog = Prog {
            id,
            verified,
            addr,
            entry: 0,
            maps,
            refs: 1,
            run_cnt: 0,
            misses: 0,
            load_time_ns: self.now(self.this_cpu),
            btf_id: 0,
        };
        self.progs.insert(id, prog);
        Ok(id)
    }
}
