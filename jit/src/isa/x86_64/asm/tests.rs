//! Encoders against llvm-mc.
