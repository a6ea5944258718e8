//! Rewritten sequences against those 6.18 emits.
