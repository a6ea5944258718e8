//! A command as bytes: the same call that `Kernel::bpf` of the model takes, for suites that ask
//! both. Only commands on maps, BTF and programs without a log.

use bpf::uapi::Cmd;
use bpf::uapi::attr::{MapBatch, MapCreate, MapElem, ProgLoad};
use bpf::uapi::fields::Struct;
use bpf::uapi::{MapType, attr};
use kernel_model::Errno;
use kernel_model::syscall::UserSpace;

use super::door::{self, Answer};
use super::{ENDIAN, HostKernel};
use crate::loader::Fd;

/// No address below this is ever mapped: it can be handed on as it is.
const UNMAPPED: u64 = 0x1000;

/// A pointer in the attributes: offset, and how many bytes the kernel may touch.
type Pointer = (usize, usize);

impl HostKernel {
    /// Issues a command given as bytes; what the kernel wrote is in `attr` and `user` afterwards.
    ///
    /// # Errors
    /// The kernel's; `EPERM` for commands that do not go through here.
    pub fn command(
        &mut self,
        cmd: Cmd,
        attr: &mut [u8],
        user: &mut UserSpace,
    ) -> Result<i32, Errno> {
        let pointers = self.pointers(cmd, attr)?;
        let mut real = attr.to_vec();
        for (at, len) in pointers {
            let Some(field) = attr.get(at..at + 8) else { continue };
            let addr = u64::from_le_bytes(field.try_into().expect("eight bytes"));
            if addr < UNMAPPED {
                continue;
            }
            let rest = user.rest_mut(addr).filter(|b| b.len() >= len).ok_or(Errno::EFAULT)?;
            real[at..at + 8].copy_from_slice(&door::address(rest).to_le_bytes());
        }
        let answer = door::bytes(cmd, &mut real);
        // Addresses stay those of the caller's memory; numbers are what the kernel made of them.
        for (at, (new, old)) in real.iter().zip(attr.iter_mut()).enumerate() {
            if !self.is_pointer(cmd, at) {
                *old = *new;
            }
        }
        match answer.map_err(|e| Errno::from_raw(e).unwrap_or(Errno::EIO))? {
            Answer::Done => Ok(0),
            Answer::Fd(fd) => {
                let fd = self.keep(fd);
                if cmd == Cmd::MapCreate {
                    self.note_sizes(fd, &MapCreate::decode(attr, ENDIAN));
                }
                Ok(fd)
            }
        }
    }

    fn note_sizes(&mut self, fd: Fd, a: &MapCreate) {
        let size = a.value_size as usize;
        let percpu = [MapType::PercpuArray, MapType::PercpuHash, MapType::LruPercpuHash];
        let value = match percpu.iter().any(|t| *t as u32 == a.map_type) {
            true => size.next_multiple_of(8) * self.cpus as usize,
            false => size,
        };
        self.map_sizes.insert(fd, (a.key_size as usize, value));
    }

    fn is_pointer(&self, cmd: Cmd, at: usize) -> bool {
        self.pointers(cmd, &[]).is_ok_and(|p| p.iter().any(|(f, _)| (*f..*f + 8).contains(&at)))
    }

    /// Pointers of a command, with the bytes that the kernel reads or writes there.
    fn pointers(&self, cmd: Cmd, attr: &[u8]) -> Result<Vec<Pointer>, Errno> {
        let sizes = |fd: u32| self.map_sizes.get(&fd.cast_signed()).copied().unwrap_or((0, 0));
        Ok(match cmd {
            Cmd::MapCreate | Cmd::MapFreeze => Vec::new(),
            Cmd::MapLookupElem
            | Cmd::MapUpdateElem
            | Cmd::MapDeleteElem
            | Cmd::MapLookupAndDeleteElem => {
                let (key, value) = sizes(MapElem::decode(attr, ENDIAN).map_fd);
                vec![(8, key), (16, value)]
            }
            Cmd::MapGetNextKey => {
                let (key, _) = sizes(MapElem::decode(attr, ENDIAN).map_fd);
                vec![(8, key), (16, key)]
            }
            Cmd::MapLookupBatch
            | Cmd::MapLookupAndDeleteBatch
            | Cmd::MapUpdateBatch
            | Cmd::MapDeleteBatch => {
                let a = MapBatch::decode(attr, ENDIAN);
                let (key, value) = sizes(a.map_fd);
                let (n, cursor) = (a.count as usize, key.max(4));
                vec![(0, cursor), (8, cursor), (16, n * key), (24, n * value)]
            }
            Cmd::BtfLoad => {
                let a = attr::BtfLoad::decode(attr, ENDIAN);
                if a.btf_log_buf != 0 {
                    return Err(Errno::EPERM);
                }
                vec![(0, a.btf_size as usize)]
            }
            Cmd::ProgLoad => {
                let a = ProgLoad::decode(attr, ENDIAN);
                if a.log_buf != 0 || a.func_info_cnt != 0 || a.line_info_cnt != 0 {
                    return Err(Errno::EPERM);
                }
                vec![(8, a.insn_cnt as usize * 8), (16, 1)]
            }
            _ => return Err(Errno::EPERM),
        })
    }
}
