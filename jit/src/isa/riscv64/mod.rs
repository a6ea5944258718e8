//! riscv64: the RISC-V back end, RV64IMAC.

mod asm;
