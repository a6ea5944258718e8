//! An accepted program in the interpreter, several times: no access outside what it was given.

use std::sync::Arc;

use bpf::insn::generate::Rng;
use bpf::insn::{Imm64, Insn, InsnIdx, Size};
use bpf::interp::{Exit, Fault, Host, Vm};
use bpf::uapi::ProgType;
use bpf::{Endian, Program};

use super::generate::VALUE;

const STACK: u64 = 0x1000_0000;
const CTX: u64 = 0x2000_0000;
const VALUES: u64 = 0x3000_0000;
const PACKET: u64 = 0x4000_0000;
const MAPS: u64 = 0x5000_0000;
/// Distance of two values: what lies between belongs to nobody.
const APART: u64 = 0x1000;
/// Instructions of one run.
const FUEL: u64 = 200_000;
/// Runs of one program.
const RUNS: u64 = 4;

/// What a program may touch.
struct Memory {
    rng: Rng,
    ty: ProgType,
    stack: Vec<u8>,
    values: Vec<Vec<u8>>,
    packet: Vec<u8>,
}

impl Memory {
    fn bytes(&mut self, addr: u64, size: u64, write: bool) -> Option<&mut [u8]> {
        let within = |base: u64, len: usize| {
            let at = addr.checked_sub(base)?;
            (at.checked_add(size)? <= len as u64).then_some(at as usize)
        };
        let size = size as usize;
        if let Some(at) = within(STACK, self.stack.len()) {
            return self.stack.get_mut(at..at + size);
        }
        if let Some(at) = within(PACKET, self.packet.len()) {
            // A socket filter's packet is not its own to write.
            return if write && self.ty == ProgType::SocketFilter {
                None
            } else {
                self.packet.get_mut(at..at + size)
            };
        }
        let value = addr.checked_sub(VALUES)?;
        let at = (value % APART) as usize;
        self.values.get_mut((value / APART) as usize)?.get_mut(at..at + size)
    }

    /// A field of the context: pointers into the packet, numbers otherwise.
    fn field(&mut self, off: u64) -> u64 {
        let (data, end) = if self.ty == ProgType::Xdp { (0, 4) } else { (76, 80) };
        match off {
            o if o == data && self.ty != ProgType::SocketFilter => PACKET,
            o if o == end && self.ty != ProgType::SocketFilter => PACKET + self.packet.len() as u64,
            _ => self.rng.imm64() & 0xffff_ffff,
        }
    }

    fn helper(&mut self, id: i32, args: [u64; 5]) -> u64 {
        match id {
            // The verifier says when there is certainly a value: a key below 4 in the array.
            1 if args[0] == MAPS => {
                let key = self
                    .bytes(args[1], 4, false)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                key.filter(|k| *k < 4).map_or(0, |k| VALUES + u64::from(k) * APART)
            }
            1 => {
                let n = self.rng.below(3);
                if n == 0 { 0 } else { VALUES + (3 + u64::from(n)) * APART }
            }
            _ => self.rng.imm64() & 0xffff_ffff,
        }
    }
}

impl Host for Memory {
    fn endian(&self) -> Endian {
        Endian::Little
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        if let Some(off) = addr.checked_sub(CTX).filter(|o| *o < 256) {
            return Ok(self.field(off));
        }
        let n = u64::from(size.bytes());
        let bytes = self.bytes(addr, n, false);
        let bytes = bytes.ok_or(Fault::BadAddress { addr, size: n as u32, write: false })?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(word))
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), Fault> {
        let n = u64::from(size.bytes());
        let bytes = self.bytes(addr, n, true);
        let bytes = bytes.ok_or(Fault::BadAddress { addr, size: n as u32, write: true })?;
        bytes.copy_from_slice(&value.to_le_bytes()[..n as usize]);
        Ok(())
    }

    fn imm64(&mut self, _at: InsnIdx, imm: &Imm64) -> Result<u64, Fault> {
        match *imm {
            Imm64::MapIdx(i) => Ok(MAPS + u64::from(i.cast_unsigned())),
            _ => Err(Fault::Unsupported("an unresolved ld_imm64")),
        }
    }
}

/// Runs a program with several contexts; what goes wrong is an error.
pub(super) fn in_interpreter(program: &Program, seed: u64) -> Result<(), String> {
    for run in 0..RUNS {
        let mut rng = Rng(seed.wrapping_mul(31).wrapping_add(run));
        let value = |rng: &mut Rng| (0..VALUE).map(|_| rng.next_u64() as u8).collect::<Vec<u8>>();
        let length = rng.pick(&[0usize, 1, 8, 13, 14, 34, 64]);
        let mut memory = Memory {
            values: (0..6).map(|_| value(&mut rng)).collect(),
            packet: (0..length).map(|_| rng.next_u64() as u8).collect(),
            stack: (0..512).map(|_| rng.next_u64() as u8).collect(),
            ty: program.prog_type,
            rng,
        };
        let code: Arc<[Insn]> = program.insns.clone().into();
        let mut vm = Vm::new(code, [CTX, 0, 0, 0, 0], STACK..STACK + 512, FUEL);
        loop {
            match vm.run(&mut memory) {
                Exit::Return(_) => break,
                Exit::Helper { id, args } => {
                    let r0 = memory.helper(id, args);
                    vm.resume(r0);
                    // Nothing may depend on what a call leaves in r1 to r5.
                    vm.regs[1..6].fill(0xdead_beef_dead_beef);
                }
                Exit::Fault { at, fault } => return Err(format!("insn {}: {fault}", at.0)),
                Exit::OutOfFuel => return Err("it does not end".to_owned()),
                Exit::Kfunc { .. } | Exit::Callback(_) => return Err("an unknown call".to_owned()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};

    fn run(text: &str) -> Result<(), String> {
        let program = assemble(text, &NoSymbols).unwrap().progs.remove(0);
        in_interpreter(&program, 1)
    }

    #[test]
    fn faults_are_found() {
        assert!(run("*(u64 *)(r10 -8) = 1\nr0 = *(u64 *)(r10 -8)\nexit").is_ok());
        assert!(run("r0 = *(u64 *)(r10 +0)\nexit").is_err());
        assert!(run("r1 = 0\nr0 = *(u8 *)(r1 +0)\nexit").is_err());
    }
}
