// Rules live in inner maps; the outer map says which set is in force. User space prepares a new set
// and swaps it in with one write, while traffic flows.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct rules {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u16);
	__type(value, __u32);
} blue SEC(".maps"), green SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct rules);
} active SEC(".maps") = { .values = { [0] = &blue } };

/* Sets of single hosts, which come and go. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __be32);
	__array(values, struct rules);
} hosts SEC(".maps");

__u64 no_rules;

SEC("xdp")
int filter(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0, *verdict;
	__be32 from;
	__u16 dport;
	void *set;

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	dport = bpf_ntohs(udp->dest);
	from = ip->saddr;
	set = bpf_map_lookup_elem(&hosts, &from);
	if (!set)
		set = bpf_map_lookup_elem(&active, &zero);
	if (!set) {
		no_rules++;
		return XDP_ABORTED;
	}
	verdict = bpf_map_lookup_elem(set, &dport);
	return verdict && *verdict <= XDP_TX ? *verdict : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
