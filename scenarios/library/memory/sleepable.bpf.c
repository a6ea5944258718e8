// A program that may sleep is no reader of RCU: what it holds of a table is kept from it by RCU
// tasks trace, which the table waits for too.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} peers SEC(".maps");

__u64 kept, seen, rounds = 100;

SEC("lsm.s/file_open")
int BPF_PROG(careful, struct file *file)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&peers, &key);
	int i;

	if (!value)
		return 0;
	bpf_for(i, 0, rounds)
		bpf_ktime_get_ns();
	seen = *value;
	return 0;
}

SEC("xdp")
int take(struct xdp_md *ctx)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&peers, &key);

	if (!value)
		return XDP_ABORTED;
	kept = (__u64)value;
	bpf_map_delete_elem(&peers, &key);
	return XDP_DROP;
}

SEC("xdp")
int look(struct xdp_md *ctx)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)kept);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
