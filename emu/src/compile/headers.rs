//! tidy: table
//! The headers that programs include, carried by the binary: it compiles wherever it is put.
//!
//! `bpf/` declares helpers, maps and CO-RE accessors under libbpf's names; `asm/` and `sys/` are
//! what UAPI headers ask of a machine and of a C library that are not the BPF program's.
//! `vmlinux.h` is not here: it is generated from the model's types, for each architecture.

/// Path below the include folder, and text.
#[rustfmt::skip]
pub(super) const HEADERS: &[(&str, &str)] = &[
    ("asm/bitsperlong.h", include_str!("../../../tests/corpus/include/asm/bitsperlong.h")),
    ("asm/byteorder.h", include_str!("../../../tests/corpus/include/asm/byteorder.h")),
    ("asm/errno.h", include_str!("../../../tests/corpus/include/asm/errno.h")),
    ("asm/fcntl.h", include_str!("../../../tests/corpus/include/asm/fcntl.h")),
    ("asm/ioctl.h", include_str!("../../../tests/corpus/include/asm/ioctl.h")),
    ("asm/ioctls.h", include_str!("../../../tests/corpus/include/asm/ioctls.h")),
    ("asm/ipcbuf.h", include_str!("../../../tests/corpus/include/asm/ipcbuf.h")),
    ("asm/mman.h", include_str!("../../../tests/corpus/include/asm/mman.h")),
    ("asm/param.h", include_str!("../../../tests/corpus/include/asm/param.h")),
    ("asm/poll.h", include_str!("../../../tests/corpus/include/asm/poll.h")),
    ("asm/posix_types.h", include_str!("../../../tests/corpus/include/asm/posix_types.h")),
    ("asm/resource.h", include_str!("../../../tests/corpus/include/asm/resource.h")),
    ("asm/signal.h", include_str!("../../../tests/corpus/include/asm/signal.h")),
    ("asm/socket.h", include_str!("../../../tests/corpus/include/asm/socket.h")),
    ("asm/sockios.h", include_str!("../../../tests/corpus/include/asm/sockios.h")),
    ("asm/stat.h", include_str!("../../../tests/corpus/include/asm/stat.h")),
    ("asm/statfs.h", include_str!("../../../tests/corpus/include/asm/statfs.h")),
    ("asm/swab.h", include_str!("../../../tests/corpus/include/asm/swab.h")),
    ("asm/termbits.h", include_str!("../../../tests/corpus/include/asm/termbits.h")),
    ("asm/types.h", include_str!("../../../tests/corpus/include/asm/types.h")),
    ("bpf/bpf_core_read.h", include_str!("../../../tests/corpus/include/bpf/bpf_core_read.h")),
    ("bpf/bpf_endian.h", include_str!("../../../tests/corpus/include/bpf/bpf_endian.h")),
    ("bpf/bpf_helper_defs.h", include_str!("../../../tests/corpus/include/bpf/bpf_helper_defs.h")),
    ("bpf/bpf_helpers.h", include_str!("../../../tests/corpus/include/bpf/bpf_helpers.h")),
    ("bpf/bpf_tracing.h", include_str!("../../../tests/corpus/include/bpf/bpf_tracing.h")),
    ("sys/socket.h", include_str!("../../../tests/corpus/include/sys/socket.h")),
];

#[cfg(test)]
mod tests {
    use super::HEADERS;

    #[test]
    fn every_header_of_the_tree_is_carried() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/include");
        let mut on_disk = 0;
        for folder in std::fs::read_dir(root).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                assert!(HEADERS.iter().any(|h| h.0 == name), "{name} is not in the table");
                on_disk += 1;
            }
        }
        assert_eq!(on_disk, HEADERS.len());
    }
}
