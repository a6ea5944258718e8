//! tidy: table
//! `enum bpf_cmd` of Linux 6.18.

macro_rules! commands {
    ($($name:ident $kernel:literal = $n:literal,)*) => {
        /// A command of bpf(2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        #[allow(missing_docs, reason = "the names are the kernel's")]
        pub enum Cmd { $($name = $n,)* }

        impl Cmd {
            /// All commands with their names in the kernel's headers.
            pub const TABLE: &'static [(Cmd, &'static str)] = &[$((Cmd::$name, $kernel),)*];
        }
    };
}

commands! {
    MapCreate "BPF_MAP_CREATE" = 0,
    MapLookupElem "BPF_MAP_LOOKUP_ELEM" = 1,
    MapUpdateElem "BPF_MAP_UPDATE_ELEM" = 2,
    MapDeleteElem "BPF_MAP_DELETE_ELEM" = 3,
    MapGetNextKey "BPF_MAP_GET_NEXT_KEY" = 4,
    ProgLoad "BPF_PROG_LOAD" = 5,
    ObjPin "BPF_OBJ_PIN" = 6,
    ObjGet "BPF_OBJ_GET" = 7,
    ProgAttach "BPF_PROG_ATTACH" = 8,
    ProgDetach "BPF_PROG_DETACH" = 9,
    ProgTestRun "BPF_PROG_TEST_RUN" = 10,
    ProgGetNextId "BPF_PROG_GET_NEXT_ID" = 11,
    MapGetNextId "BPF_MAP_GET_NEXT_ID" = 12,
    ProgGetFdById "BPF_PROG_GET_FD_BY_ID" = 13,
    MapGetFdById "BPF_MAP_GET_FD_BY_ID" = 14,
    ObjGetInfoByFd "BPF_OBJ_GET_INFO_BY_FD" = 15,
    ProgQuery "BPF_PROG_QUERY" = 16,
    RawTracepointOpen "BPF_RAW_TRACEPOINT_OPEN" = 17,
    BtfLoad "BPF_BTF_LOAD" = 18,
    BtfGetFdById "BPF_BTF_GET_FD_BY_ID" = 19,
    TaskFdQuery "BPF_TASK_FD_QUERY" = 20,
    MapLookupAndDeleteElem "BPF_MAP_LOOKUP_AND_DELETE_ELEM" = 21,
    MapFreeze "BPF_MAP_FREEZE" = 22,
    BtfGetNextId "BPF_BTF_GET_NEXT_ID" = 23,
    MapLookupBatch "BPF_MAP_LOOKUP_BATCH" = 24,
    MapLookupAndDeleteBatch "BPF_MAP_LOOKUP_AND_DELETE_BATCH" = 25,
    MapUpdateBatch "BPF_MAP_UPDATE_BATCH" = 26,
    MapDeleteBatch "BPF_MAP_DELETE_BATCH" = 27,
    LinkCreate "BPF_LINK_CREATE" = 28,
    LinkUpdate "BPF_LINK_UPDATE" = 29,
    LinkGetFdById "BPF_LINK_GET_FD_BY_ID" = 30,
    LinkGetNextId "BPF_LINK_GET_NEXT_ID" = 31,
    EnableStats "BPF_ENABLE_STATS" = 32,
    IterCreate "BPF_ITER_CREATE" = 33,
    LinkDetach "BPF_LINK_DETACH" = 34,
    ProgBindMap "BPF_PROG_BIND_MAP" = 35,
    TokenCreate "BPF_TOKEN_CREATE" = 36,
    ProgStreamReadByFd "BPF_PROG_STREAM_READ_BY_FD" = 37,
}

impl Cmd {
    /// From the UAPI number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Cmd> {
        Cmd::TABLE.iter().map(|r| r.0).find(|c| *c as u32 == raw)
    }

    /// Name in the kernel's headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        Cmd::TABLE.iter().find(|r| r.0 == self).map_or("?", |r| r.1)
    }
}
