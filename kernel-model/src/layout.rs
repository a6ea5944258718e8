//! The guest address map, identical on all four architectures (design invariant 6).
//!
//! The numbers follow x86-64 Linux: `page_offset_base`, `VMALLOC_START`, the module area.

/// Bytes of a page, on every architecture of the model.
pub const PAGE_SIZE: u64 = 4096;
/// `log2(PAGE_SIZE)`.
pub const PAGE_SHIFT: u32 = 12;
/// The kernel's half of the addresses; what is below is the user's or nobody's.
pub const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// `TASK_SIZE`: end of the user's half.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Direct map of all memory: `va = DIRECT_MAP + phys`. All kernel objects live here.
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// vmalloc area: vCPU stacks with guard pages, ring buffers mapped twice.
pub const VMALLOC: u64 = 0xffff_c900_0000_0000;
/// Distance between two vCPU stacks, guard pages included.
pub const STACK_STRIDE: u64 = 0x1_0000;
/// Bytes of a vCPU stack; the page below and the page above it are not mapped.
pub const STACK_SIZE: u64 = 0x8000;
/// First address of the vmalloc allocator (above the stacks of 256 CPUs).
pub const VMALLOC_OBJECTS: u64 = VMALLOC + 0x1000_0000;
/// Per-CPU memory; see [`percpu_area`].
const PERCPU: u64 = 0xffff_e8ff_0000_0000;
/// Memory of arenas, each with 4 GiB and its guards.
pub const ARENAS: u64 = 0xffff_d000_0000_0000;
/// Distance between two arenas.
pub const ARENA_STRIDE: u64 = (1 << 32) + (1 << 17);
/// End of the addresses set aside for arenas.
pub const ARENAS_END: u64 = ARENAS + (1 << 44);
/// Addresses that stand for the kernel's own locks in reports: nothing is mapped there.
pub const KERNEL_LOCKS: u64 = 0xffff_f000_0000_0000;
/// Text of the kernel's own functions: their addresses have names but no code behind them.
pub const KERNEL_TEXT: u64 = 0xffff_ffff_8100_0000;
/// Distance between two functions of the kernel.
pub const KERNEL_FUNCTION_STRIDE: u64 = 256;
/// Trap stubs of helpers: `HELPER_STUBS + id * STUB_STRIDE`.
pub const HELPER_STUBS: u64 = 0xffff_ffff_a000_0000;
/// Trap stubs of kfuncs: `KFUNC_STUBS + n * STUB_STRIDE`.
pub const KFUNC_STUBS: u64 = HELPER_STUBS + 0x10_0000;
/// Where a program's outermost `exit` returns to.
pub const RETURN_TRAP: u64 = HELPER_STUBS + 0x1f_0000;
/// Where one returns to that is to run again with the same context.
pub const LAP_STUB: u64 = RETURN_TRAP + PAGE_SIZE / 2;
/// Distance between two stubs.
pub const STUB_STRIDE: u64 = 16;
/// Where callbacks of the function that a stub stands for return to, from the stub's start: so that
/// a debugger finds the function below them.
pub const CALLBACK_RETURN: u64 = 8;
/// First byte of JITed programs; every stub is within +-128 MiB.
pub const PROG_TEXT: u64 = HELPER_STUBS + 0x20_0000;
/// One past the last byte of JITed programs.
pub const PROG_TEXT_END: u64 = HELPER_STUBS + 0x0400_0000;
/// First byte of the user half that the model's tasks use.
pub const USER_BASE: u64 = 0x0000_0000_0040_0000;
/// Physical memory that the allocator does not hand out (page 0 and firmware, as on a PC).
pub const RAM_RESERVED: u64 = 0x10_0000;

/// `offsetof(struct bpf_prog, bpf_func)` (Linux 6.18, x86-64).
pub const PROG_BPF_FUNC: i16 = 48;
/// Distance between the per-CPU areas of two CPUs.
pub const PERCPU_STRIDE: u64 = 1 << 32;
/// Per-CPU address of the start of the CPU's area (`this_cpu_off`).
pub const THIS_CPU_OFF: u64 = 0;
/// Per-CPU address of the CPU's number (`cpu_number`).
pub const CPU_NUMBER: u64 = 8;

/// Address of a helper's stub.
#[must_use]
pub const fn helper_stub(id: u32) -> u64 {
    HELPER_STUBS + id as u64 * STUB_STRIDE
}

/// Address of a kfunc's stub.
#[must_use]
pub const fn kfunc_stub(n: u32) -> u64 {
    KFUNC_STUBS + n as u64 * STUB_STRIDE
}

/// Start of a CPU's per-CPU area: per-CPU addresses are offsets from here (`__per_cpu_offset`).
#[must_use]
pub const fn percpu_area(cpu: u32) -> u64 {
    PERCPU + cpu as u64 * PERCPU_STRIDE
}

/// Lowest mapped byte of a vCPU's stack.
#[must_use]
pub const fn stack_base(cpu: u32) -> u64 {
    VMALLOC + cpu as u64 * STACK_STRIDE + PAGE_SIZE
}

/// One past the highest byte of a vCPU's stack: the initial stack pointer.
#[must_use]
pub const fn stack_top(cpu: u32) -> u64 {
    stack_base(cpu) + STACK_SIZE
}
