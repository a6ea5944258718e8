//! The bpf(2) face.

pub mod test_run;
