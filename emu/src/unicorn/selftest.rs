//! Decides once per process and architecture whether faults stay precise without Unicorn's
//! per-access exit check, by running one faulting load and one faulting store.

use super::{Access, Accounting, CpuError, Fuel, PAGE_BYTES, PageTable, Rights, Stop, Vcpu, spec};
use bpf::Arch;
use std::sync::OnceLock;

/// Text, read-only data and nothing else.
pub(super) const TEXT: u64 = 0xffff_ffff_a020_0000;
const RODATA: u64 = 0xffff_8880_0000_1000;
const UNMAPPED: u64 = 0xffff_9000_1234_5008;

/// `args[2] = *(u64 *)args[0]` or the store; `args[1] += 1`; trap. Length of the first one.
struct Probe {
    load: &'static [u8],
    store: &'static [u8],
}

const fn probe(arch: Arch) -> Probe {
    match arch {
        Arch::X86_64 => Probe {
            load: &[0x48, 0x8b, 0x17, 0x48, 0xff, 0xc6, 0xcd, 0x40],
            store: &[0x48, 0x89, 0x17, 0x48, 0xff, 0xc6, 0xcd, 0x40],
        },
        Arch::Arm64 => Probe {
            load: &[0x02, 0x00, 0x40, 0xf9, 0x21, 0x04, 0x00, 0x91, 0x01, 0, 0, 0xd4],
            store: &[0x02, 0x00, 0x00, 0xf9, 0x21, 0x04, 0x00, 0x91, 0x01, 0, 0, 0xd4],
        },
        Arch::Riscv64 => Probe {
            load: &[0x03, 0x36, 0x05, 0x00, 0x93, 0x85, 0x15, 0x00, 0x73, 0, 0, 0],
            store: &[0x23, 0x30, 0xc5, 0x00, 0x93, 0x85, 0x15, 0x00, 0x73, 0, 0, 0],
        },
        Arch::S390x => Probe {
            load: &[0xe3, 0x40, 0x20, 0, 0, 0x04, 0xa7, 0x3b, 0, 1, 0x0a, 0],
            store: &[0xe3, 0x40, 0x20, 0, 0, 0x24, 0xa7, 0x3b, 0, 1, 0x0a, 0],
        },
    }
}

/// Page-aligned RAM with a list of pages.
pub(super) struct Pages {
    buf: Vec<u8>,
    at: usize,
    len: usize,
    table: List,
}

struct List(Vec<(u64, u64, Rights)>);

impl PageTable for List {
    fn lookup(&mut self, page: u64, _: Access, _: &[u8]) -> Option<(u64, Rights)> {
        self.0.iter().find(|e| e.0 == page).map(|e| (e.1, e.2))
    }
}

impl Pages {
    /// `pages` pages of zeroes and no mapping.
    pub(super) fn new(pages: usize) -> Pages {
        let page = PAGE_BYTES as usize;
        let buf = vec![0; (pages + 1) * page];
        let at = buf.as_ptr().align_offset(page);
        Pages { buf, at, len: pages * page, table: List(Vec::new()) }
    }

    /// Maps the page at `va` to physical page number `n`.
    pub(super) fn map(&mut self, va: u64, n: u64, rights: Rights) {
        self.table.0.push((va, n * PAGE_BYTES, rights));
    }

    /// Runs a CPU over it.
    pub(super) fn run(
        &mut self,
        cpu: &mut Vcpu,
        acct: Accounting<'_>,
        fuel: Fuel,
        pc: u64,
    ) -> Result<Stop, CpuError> {
        cpu.run(&mut self.buf[self.at..self.at + self.len], &mut self.table, acct, fuel, pc)
    }

    /// The RAM.
    pub(super) fn ram(&mut self) -> &mut [u8] {
        &mut self.buf[self.at..self.at + self.len]
    }
}

/// Whether [`super::private::fast_mode`] keeps its promises here.
pub(super) fn fast_memory_works(arch: Arch) -> bool {
    static RESULT: [OnceLock<bool>; 4] = [const { OnceLock::new() }; 4];
    *RESULT[arch as usize].get_or_init(|| {
        let p = probe(arch);
        faults_precisely(arch, p.load, UNMAPPED, Access::Read).unwrap_or(false)
            && faults_precisely(arch, p.store, RODATA, Access::Write).unwrap_or(false)
    })
}

fn faults_precisely(arch: Arch, code: &[u8], addr: u64, want: Access) -> Option<bool> {
    let mut mem = Pages::new(2);
    mem.map(TEXT, 0, Rights::ReadExec);
    mem.map(RODATA, 1, Rights::Read);
    mem.ram()[..code.len()].copy_from_slice(code);
    let mut cpu = Vcpu::with_mode(arch, true).ok()?;
    let s = spec(arch);
    for (r, v) in s.args.into_iter().zip([addr, 7, 9]) {
        cpu.set_reg(r, v);
    }
    let fuel = Fuel::new(u64::MAX, 100);
    let stop = mem.run(&mut cpu, Accounting::NONE, fuel, TEXT).ok()?;
    let precise = matches!(stop, Stop::Denied { pc: TEXT, access, .. } if access == want);
    let untouched = cpu.reg(s.args[1]) == 7 && cpu.reg(s.args[2]) == 9;
    Some(cpu.fast_memory() && precise && untouched)
}

#[cfg(test)]
pub(super) fn test_code(arch: Arch, store: bool) -> &'static [u8] {
    if store { probe(arch).store } else { probe(arch).load }
}
