// Two ways to count: `plain` loses updates, `locked` and `atomic` do not.
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct count {
	struct bpf_spin_lock lock;
	__u32 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

__u64 total;

SEC("xdp")
int plain(struct xdp_md *ctx)
{
	__u32 key = 1;
	struct count *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		count->number++;
	return XDP_DROP;
}

SEC("xdp")
int locked(struct xdp_md *ctx)
{
	__u32 key = 1;
	struct count *count = bpf_map_lookup_elem(&counts, &key);

	if (!count)
		return XDP_DROP;
	bpf_spin_lock(&count->lock);
	count->number++;
	bpf_spin_unlock(&count->lock);
	__sync_fetch_and_add(&total, 1);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
