// An element is deleted while a program on another CPU may look at it, and its address is kept
// where no reader should: in a global. What `look` reads is right or wrong by when it began.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} peers SEC(".maps");

__u64 kept, seen, early;
__u64 rounds = 200;

// Finds an element and goes on for a while: a long section.
SEC("xdp")
int reader(struct xdp_md *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&peers, &key);
	int i;

	if (!value)
		return XDP_ABORTED;
	bpf_for(i, 0, rounds)
		bpf_ktime_get_ns();
	seen = *value;
	return XDP_DROP;
}

// Keeps the address of an element and deletes it. It may still look at it itself.
SEC("xdp")
int take(struct xdp_md *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&peers, &key);

	if (!value)
		return XDP_ABORTED;
	kept = (__u64)value;
	bpf_map_delete_elem(&peers, &key);
	early = *value;
	return XDP_DROP;
}

SEC("xdp")
int look(struct xdp_md *ctx)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)kept);
	return value ? XDP_DROP : XDP_PASS;
}

// The same by a load that may fail, which goes through no function of the kernel.
SEC("xdp")
int load(struct xdp_md *ctx)
{
	__u64 *value = bpf_rdonly_cast((void *)kept, 0);

	return *(volatile __u8 *)value ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
