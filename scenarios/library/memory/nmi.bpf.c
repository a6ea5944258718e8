// Elements that are allocated in NMI: there is what the CPU's cache has, and no more before the
// interrupt is over.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} samples SEC(".maps");

__u32 next, stored[2], no_memory[2], other, interrupts;

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	__u32 nth = interrupts++ & 1, i;
	__u64 one = 1;

	for (i = 0; i < 6; i++) {
		__u32 key = next++;

		switch (bpf_map_update_elem(&samples, &key, &one, BPF_NOEXIST)) {
		case 0:
			stored[nth]++;
			break;
		case -12:
			no_memory[nth]++;
			break;
		default:
			other++;
		}
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
