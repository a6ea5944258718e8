//! tidy: table
//! What `BPF_OBJ_GET_INFO_BY_FD` fills, and the records beside a program, of Linux 6.18.
//!
//! Offsets from the BTF of 6.18 and `include/uapi/linux/bpf.h`. A caller may give fewer bytes
//! (an older header) or more (a newer one, which must be zero).

use super::fields::uapi_structs;

uapi_structs! {
    /// `struct bpf_prog_info`.
    ProgInfo "bpf_prog_info", 232 {
        prog_type: u32 = 0,
        id: u32 = 4,
        tag: [u8; 8] = 8,
        jited_prog_len: u32 = 16,
        xlated_prog_len: u32 = 20,
        jited_prog_insns: u64 = 24,
        xlated_prog_insns: u64 = 32,
        load_time: u64 = 40,
        created_by_uid: u32 = 48,
        nr_map_ids: u32 = 52,
        map_ids: u64 = 56,
        name: [u8; 16] = 64,
        ifindex: u32 = 80,
        gpl_compatible: u32 = 84,
        netns_dev: u64 = 88,
        netns_ino: u64 = 96,
        nr_jited_ksyms: u32 = 104,
        nr_jited_func_lens: u32 = 108,
        jited_ksyms: u64 = 112,
        jited_func_lens: u64 = 120,
        btf_id: u32 = 128,
        func_info_rec_size: u32 = 132,
        func_info: u64 = 136,
        nr_func_info: u32 = 144,
        nr_line_info: u32 = 148,
        line_info: u64 = 152,
        jited_line_info: u64 = 160,
        nr_jited_line_info: u32 = 168,
        line_info_rec_size: u32 = 172,
        jited_line_info_rec_size: u32 = 176,
        nr_prog_tags: u32 = 180,
        prog_tags: u64 = 184,
        run_time_ns: u64 = 192,
        run_cnt: u64 = 200,
        recursion_misses: u64 = 208,
        verified_insns: u32 = 216,
        attach_btf_obj_id: u32 = 220,
        attach_btf_id: u32 = 224,
    }
    /// `struct bpf_map_info`, without the hash of signed maps.
    MapInfo "bpf_map_info", 104 {
        map_type: u32 = 0,
        id: u32 = 4,
        key_size: u32 = 8,
        value_size: u32 = 12,
        max_entries: u32 = 16,
        map_flags: u32 = 20,
        name: [u8; 16] = 24,
        ifindex: u32 = 40,
        btf_vmlinux_value_type_id: u32 = 44,
        netns_dev: u64 = 48,
        netns_ino: u64 = 56,
        btf_id: u32 = 64,
        btf_key_type_id: u32 = 68,
        btf_value_type_id: u32 = 72,
        btf_vmlinux_id: u32 = 76,
        map_extra: u64 = 80,
        hash: u64 = 88,
        hash_size: u32 = 96,
    }
    /// `struct bpf_btf_info`.
    BtfInfo "bpf_btf_info", 32 {
        btf: u64 = 0,
        btf_size: u32 = 8,
        id: u32 = 12,
        name: u64 = 16,
        name_len: u32 = 24,
        kernel_btf: u32 = 28,
    }
    /// `struct bpf_link_info`; what stands from 16 on depends on the type.
    LinkInfo "bpf_link_info", 64 {
        link_type: u32 = 0,
        id: u32 = 4,
        prog_id: u32 = 8,
        detail: [u8; 48] = 16,
    }
    /// `struct bpf_func_info`.
    FuncInfo "bpf_func_info", 8 {
        insn_off: u32 = 0,
        type_id: u32 = 4,
    }
    /// `struct bpf_line_info`; `line_col` is line << 10 | column.
    LineInfo "bpf_line_info", 16 {
        insn_off: u32 = 0,
        file_name_off: u32 = 4,
        line_off: u32 = 8,
        line_col: u32 = 12,
    }
}
