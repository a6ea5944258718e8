//! tidy: table
//! `union bpf_attr` of Linux 6.18, one structure a command.
//!
//! Offsets are those of the BTF type `union bpf_attr` in 6.18's `/sys/kernel/btf/vmlinux` and of
//! `include/uapi/linux/bpf.h`. Pointers are addresses in the caller's memory, always 64 bits.
//! The end of a structure's last field is what the kernel's `CHECK_ATTR` goes by: any byte after
//! it that is not zero is `EINVAL`.

use super::fields::uapi_structs;

/// Bytes of the union that are sent: all that 6.18 reads of an unsigned program.
pub const ATTR_SIZE: usize = 152;
/// `sizeof(union bpf_attr)` of 6.18: what a caller may give and has to leave zero.
pub const KERNEL_ATTR_SIZE: usize = 168;

uapi_structs! {
    /// `BPF_MAP_CREATE`.
    MapCreate "map_create", 96 {
        map_type: u32 = 0,
        key_size: u32 = 4,
        value_size: u32 = 8,
        max_entries: u32 = 12,
        map_flags: u32 = 16,
        inner_map_fd: u32 = 20,
        numa_node: u32 = 24,
        map_name: [u8; 16] = 28,
        map_ifindex: u32 = 44,
        btf_fd: u32 = 48,
        btf_key_type_id: u32 = 52,
        btf_value_type_id: u32 = 56,
        btf_vmlinux_value_type_id: u32 = 60,
        map_extra: u64 = 64,
        value_type_btf_obj_fd: i32 = 72,
        map_token_fd: i32 = 76,
        excl_prog_hash: u64 = 80,
        excl_prog_hash_size: u32 = 88,
    }
    /// `BPF_MAP_*_ELEM`, and `BPF_MAP_FREEZE`, which uses `map_fd` alone.
    MapElem "map_elem", 32 {
        map_fd: u32 = 0,
        key: u64 = 8,
        value: u64 = 16,
        flags: u64 = 24,
    }
    /// `BPF_MAP_GET_NEXT_KEY`: `next_key` where the others have `value`.
    MapNextKey "map_next_key", 32 {
        map_fd: u32 = 0,
        key: u64 = 8,
        next_key: u64 = 16,
    }
    /// `BPF_MAP_DELETE_ELEM`.
    MapDelete "map_delete", 32 {
        map_fd: u32 = 0,
        key: u64 = 8,
    }
    /// `BPF_MAP_FREEZE`.
    MapFreeze "map_freeze", 32 {
        map_fd: u32 = 0,
    }
    /// `BPF_MAP_*_BATCH`.
    MapBatch "map_batch", 56 {
        in_batch: u64 = 0,
        out_batch: u64 = 8,
        keys: u64 = 16,
        values: u64 = 24,
        count: u32 = 32,
        map_fd: u32 = 36,
        elem_flags: u64 = 40,
        flags: u64 = 48,
    }
    /// `BPF_PROG_LOAD`.
    ProgLoad "prog_load", 152 {
        prog_type: u32 = 0,
        insn_cnt: u32 = 4,
        insns: u64 = 8,
        license: u64 = 16,
        log_level: u32 = 24,
        log_size: u32 = 28,
        log_buf: u64 = 32,
        kern_version: u32 = 40,
        prog_flags: u32 = 44,
        prog_name: [u8; 16] = 48,
        prog_ifindex: u32 = 64,
        expected_attach_type: u32 = 68,
        prog_btf_fd: u32 = 72,
        func_info_rec_size: u32 = 76,
        func_info: u64 = 80,
        func_info_cnt: u32 = 88,
        line_info_rec_size: u32 = 92,
        line_info: u64 = 96,
        line_info_cnt: u32 = 104,
        attach_btf_id: u32 = 108,
        attach_prog_fd: u32 = 112,
        core_relo_cnt: u32 = 116,
        fd_array: u64 = 120,
        core_relos: u64 = 128,
        core_relo_rec_size: u32 = 136,
        log_true_size: u32 = 140,
        prog_token_fd: i32 = 144,
        fd_array_cnt: u32 = 148,
    }
    /// `BPF_PROG_TEST_RUN`.
    TestRun "test", 80 {
        prog_fd: u32 = 0,
        retval: u32 = 4,
        data_size_in: u32 = 8,
        data_size_out: u32 = 12,
        data_in: u64 = 16,
        data_out: u64 = 24,
        repeat: u32 = 32,
        duration: u32 = 36,
        ctx_size_in: u32 = 40,
        ctx_size_out: u32 = 44,
        ctx_in: u64 = 48,
        ctx_out: u64 = 56,
        flags: u32 = 64,
        cpu: u32 = 68,
        batch_size: u32 = 72,
    }
    /// `BPF_*_GET_NEXT_ID` (`id` is `start_id`).
    NextId "next_id", 16 {
        id: u32 = 0,
        next_id: u32 = 4,
    }
    /// `BPF_*_GET_FD_BY_ID`; programs and links end with `id`, maps with the token.
    FdById "fd_by_id", 16 {
        id: u32 = 0,
        next_id: u32 = 4,
        open_flags: u32 = 8,
        fd_by_id_token_fd: i32 = 12,
    }
    /// `BPF_OBJ_GET_INFO_BY_FD`.
    Info "info", 16 {
        bpf_fd: u32 = 0,
        info_len: u32 = 4,
        info: u64 = 8,
    }
    /// `BPF_BTF_LOAD`.
    BtfLoad "btf_load", 40 {
        btf: u64 = 0,
        btf_log_buf: u64 = 8,
        btf_size: u32 = 16,
        btf_log_size: u32 = 20,
        btf_log_level: u32 = 24,
        btf_log_true_size: u32 = 28,
        btf_flags: u32 = 32,
        btf_token_fd: i32 = 36,
    }
    /// `BPF_LINK_CREATE`. What stands from 16 on depends on the attach type; `extra` is it.
    LinkCreate "link_create", 64 {
        prog_fd: u32 = 0,
        target_fd: u32 = 4,
        attach_type: u32 = 8,
        flags: u32 = 12,
        extra: [u8; 48] = 16,
    }
    /// `link_create.tcx`, `.netkit`, `.cgroup`: bytes of [`LinkCreate::extra`].
    LinkCreateOrder "link_create.tcx", 16 {
        relative_fd: u32 = 0,
        expected_revision: u64 = 8,
    }
    /// `link_create.perf_event`: bytes of [`LinkCreate::extra`].
    LinkCreatePerf "link_create.perf_event", 8 {
        bpf_cookie: u64 = 0,
    }
    /// `link_create.tracing`: bytes of [`LinkCreate::extra`].
    LinkCreateTracing "link_create.tracing", 16 {
        target_btf_id: u32 = 0,
        cookie: u64 = 8,
    }
    /// `link_create.iter_info`: bytes of [`LinkCreate::extra`].
    LinkCreateIter "link_create.iter_info", 16 {
        iter_info: u64 = 0,
        iter_info_len: u32 = 8,
    }
    /// `union bpf_iter_link_info`, of iterators over control groups.
    IterCgroupInfo "bpf_iter_link_info.cgroup", 16 {
        order: u32 = 0,
        cgroup_fd: u32 = 4,
        cgroup_id: u64 = 8,
    }
    /// Of those over elements of a map.
    IterMapInfo "bpf_iter_link_info.map", 4 {
        map_fd: u32 = 0,
    }
    /// Of those over tasks.
    IterTaskInfo "bpf_iter_link_info.task", 12 {
        tid: u32 = 0,
        pid: u32 = 4,
        pid_fd: u32 = 8,
    }
    /// `BPF_ITER_CREATE`.
    IterCreate "iter_create", 8 {
        link_fd: u32 = 0,
        flags: u32 = 4,
    }
    /// `BPF_LINK_UPDATE`.
    LinkUpdate "link_update", 16 {
        link_fd: u32 = 0,
        new_prog_fd: u32 = 4,
        flags: u32 = 8,
        old_prog_fd: u32 = 12,
    }
    /// `BPF_LINK_DETACH`.
    LinkDetach "link_detach", 4 {
        link_fd: u32 = 0,
    }
    /// `BPF_RAW_TRACEPOINT_OPEN`.
    RawTracepoint "raw_tracepoint", 24 {
        name: u64 = 0,
        prog_fd: u32 = 8,
        cookie: u64 = 16,
    }
    /// `BPF_PROG_ATTACH`, `BPF_PROG_DETACH`.
    ProgAttach "prog_attach", 32 {
        target_fd: u32 = 0,
        attach_bpf_fd: u32 = 4,
        attach_type: u32 = 8,
        attach_flags: u32 = 12,
        replace_bpf_fd: u32 = 16,
        relative_fd: u32 = 20,
        expected_revision: u64 = 24,
    }
    /// `BPF_PROG_QUERY`.
    ProgQuery "query", 64 {
        target_fd: u32 = 0,
        attach_type: u32 = 4,
        query_flags: u32 = 8,
        attach_flags: u32 = 12,
        prog_ids: u64 = 16,
        prog_cnt: u32 = 24,
        prog_attach_flags: u64 = 32,
        link_ids: u64 = 40,
        link_attach_flags: u64 = 48,
        revision: u64 = 56,
    }
    /// `BPF_PROG_STREAM_READ_BY_FD`.
    StreamRead "prog_stream_read", 20 {
        stream_buf: u64 = 0,
        stream_buf_len: u32 = 8,
        stream_id: u32 = 12,
        prog_fd: u32 = 16,
    }
    /// `BPF_PROG_BIND_MAP`.
    ProgBindMap "prog_bind_map", 12 {
        prog_fd: u32 = 0,
        map_fd: u32 = 4,
        flags: u32 = 8,
    }
}
