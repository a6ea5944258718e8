//! gdb
