// Counts frames by protocol and bytes by source; drops one protocol chosen at load time.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} by_proto SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, __u32);
	__type(value, __u64);
} bytes_from SEC(".maps");

const volatile __u32 drop_proto = IPPROTO_UDP;
__u64 dropped;

static __noinline int account(struct iphdr *ip, void *end)
{
	__u32 proto, from;
	__u64 *n, one = 1;

	if ((void *)(ip + 1) > end)
		return -1;
	proto = ip->protocol;
	from = bpf_ntohl(ip->saddr);
	n = bpf_map_lookup_elem(&by_proto, &proto);
	if (n)
		__sync_fetch_and_add(n, 1);
	n = bpf_map_lookup_elem(&bytes_from, &from);
	if (n)
		*n += bpf_ntohs(ip->tot_len);
	else
		bpf_map_update_elem(&bytes_from, &from, &one, BPF_ANY);
	return proto;
}

SEC("xdp")
int xdp_count(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	int proto;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	proto = account((void *)(eth + 1), end);
	if (proto < 0)
		return XDP_ABORTED;
	if (proto == drop_proto) {
		dropped++;
		return XDP_DROP;
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
