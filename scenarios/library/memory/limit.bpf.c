// Elements are charged to the control group of the map: at its limit there are no more.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct value {
	__u64 words[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct value);
} big SEC(".maps");

struct value zero;
__u32 stored, no_memory, other, back;

SEC("raw_tp/")
int fill(void *ctx)
{
	__u32 key;

	bpf_for(key, 0, 500) {
		switch (bpf_map_update_elem(&big, &key, &zero, BPF_NOEXIST)) {
		case 0:
			stored++;
			break;
		case -12:
			no_memory++;
			break;
		default:
			other++;
		}
	}
	key = 0;
	bpf_map_delete_elem(&big, &key);
	key = 1000;
	back = !bpf_map_update_elem(&big, &key, &zero, BPF_NOEXIST);
	return 0;
}

char _license[] SEC("license") = "GPL";
