// A cable in software: what arrives on one nic leaves on the other, by devmap or by index.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} ways SEC(".maps");

/* Index of the nic that gets what `by_index` sees. */
const volatile __u32 other = 1;

static __always_inline void note(__u32 way)
{
	__u64 *n = bpf_map_lookup_elem(&ways, &way);

	if (n)
		__sync_fetch_and_add(n, 1);
}

SEC("xdp")
int by_map(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	/* ARP stays here. */
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return XDP_PASS;
	note(0);
	/* Keyed by the nic it came from; nothing there: dropped. */
	return bpf_redirect_map(&ports, ctx->ingress_ifindex, XDP_DROP);
}

SEC("xdp")
int by_index(struct xdp_md *ctx)
{
	note(1);
	return bpf_redirect(other, 0);
}

char _license[] SEC("license") = "GPL";
