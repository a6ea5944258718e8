//! The modelled kernel's text as a debugger sees it: stubs by the name of what they stand for, the
//! dispatcher that runs programs, and where a CPU stands that runs none.

use bpf::Arch;
use gdb::{KernelImage, KernelSymbol, KernelUnwind};
use kernel_model::layout::{
    HELPER_STUBS, KFUNC_STUBS, PAGE_SIZE, RETURN_TRAP, STUB_STRIDE, helper_stub, kfunc_stub,
};
use kernel_model::{CpuId, helpers, kfuncs};

use crate::machine::Machine;
use crate::unicorn::spec;

/// The dispatcher: programs return into its middle.
const DISPATCHER: u64 = RETURN_TRAP - STUB_STRIDE;
/// Where a CPU is that has nothing to do.
pub(super) const IDLE: u64 = RETURN_TRAP + 16 * STUB_STRIDE;
/// Where one is that is in a kernel path that runs no program.
pub(super) const BUSY: u64 = IDLE + STUB_STRIDE;
/// Numbers of helpers end before this one.
const HELPERS_END: u32 = 0x1100;

/// All of it.
pub(super) fn image(machine: &Machine) -> KernelImage {
    let arch = machine.arch();
    let mut symbols = helpers_of();
    symbols.extend(kfuncs_of(machine));
    let own = |name: &str, addr, size| KernelSymbol {
        name: name.to_owned(),
        addr,
        size,
        unwind: KernelUnwind::Bottom,
    };
    symbols.push(own("bpf_prog_run", DISPATCHER, 2 * STUB_STRIDE));
    symbols.push(own("cpu_idle", IDLE, STUB_STRIDE));
    symbols.push(own("do_softirq", BUSY, STUB_STRIDE));
    symbols.sort_by_key(|s| s.addr);
    KernelImage { arch, text: text(arch, &symbols), symbols, entry: RETURN_TRAP }
}

fn helpers_of() -> Vec<KernelSymbol> {
    let named = (1..HELPERS_END).filter_map(|id| {
        let name = helpers::name(i32::try_from(id).ok()?)?;
        let name = helpers::full(name);
        Some(stub(name, helper_stub(id)))
    });
    named.collect()
}

fn kfuncs_of(machine: &Machine) -> Vec<KernelSymbol> {
    let all = (0u32..).zip(machine.text().kfuncs());
    let named = all.filter_map(|(n, id)| {
        Some(stub(kfuncs::name(machine.arch(), *id)?.to_owned(), kfunc_stub(n)))
    });
    named.collect()
}

fn stub(name: String, addr: u64) -> KernelSymbol {
    KernelSymbol { name, addr, size: STUB_STRIDE, unwind: KernelUnwind::Stub }
}

/// Bytes of the pages that have a symbol, as they are in memory; the dispatcher begins in a page
/// that is not.
fn text(arch: Arch, symbols: &[KernelSymbol]) -> Vec<(u64, Vec<u8>)> {
    let slot = spec(arch).stub_slot();
    let slots = |from: u64, to: u64| slot.repeat(((to - from) / STUB_STRIDE) as usize);
    let end = |from: u64| {
        let inside = symbols.iter().filter(|s| s.addr / PAGE_SIZE == from / PAGE_SIZE);
        inside.map(|s| s.addr + s.size).max()
    };
    let pages = [HELPER_STUBS, helper_stub(0x1000), KFUNC_STUBS];
    let mut out: Vec<(u64, Vec<u8>)> =
        pages.iter().filter_map(|p| Some((*p, slots(*p, end(*p)?)))).collect();
    out.push((DISPATCHER, slots(DISPATCHER, BUSY + STUB_STRIDE)));
    out
}

/// Where a CPU stands that runs no program.
pub(super) fn stands(machine: &Machine, cpu: CpuId) -> u64 {
    if machine.kernel.is_idle(cpu) { IDLE } else { BUSY }
}
