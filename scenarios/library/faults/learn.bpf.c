// What a program has to bear: no memory for an element, a helper that fails, a full ring.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} sources SEC(".maps");

__u32 no_memory, busy, other;

SEC("xdp")
int learn(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u64 now = bpf_ktime_get_ns();

	if ((void *)(ip + 1) > end)
		return XDP_ABORTED;

	__u32 key = ip->saddr;

	switch (bpf_map_update_elem(&sources, &key, &now, BPF_ANY)) {
	case 0:
		return XDP_PASS;
	case -12:
		no_memory++;
		break;
	case -16:
		busy++;
		break;
	default:
		other++;
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
