//! arm64: the 64-bit Arm back end, A64 with FEAT_LSE.

mod asm;
