// A parser made of programs that tail call each other: one program, one header.
//
// The offset reached so far travels in the metadata before the packet: the stack does not survive
// a tail call.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum step { PARSE_VLAN, PARSE_IP4, PARSE_IP6, PARSE_UDP, PARSE_TCP, MISSING, STEPS = 8 };
enum seen { SAW_VLAN, SAW_IP4, SAW_IP6, SAW_UDP, SAW_TCP, SAW_UNKNOWN, SAW_SHORT, SAWS };

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, STEPS);
	__type(key, __u32);
	__type(value, __u32);
} steps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SAWS);
	__type(key, __u32);
	__type(value, __u64);
} saw SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u16);
	__type(value, __u64);
} dports SEC(".maps");

struct meta {
	__u32 offset;
};

static __always_inline void count(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&saw, &what);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* The header at the offset of the metadata, and the offset after it. */
static __always_inline void *header(struct xdp_md *ctx, __u32 size)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct meta *m = (void *)(long)ctx->data_meta;
	__u32 at;

	if ((void *)(m + 1) > data)
		return NULL;
	at = m->offset;
	if (at > 128)
		return NULL;
	data += at;
	if (data + size > end) {
		count(SAW_SHORT);
		return NULL;
	}
	m->offset = at + size;
	return data;
}

static __always_inline int next_by_type(struct xdp_md *ctx, __be16 type)
{
	if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD))
		bpf_tail_call(ctx, &steps, PARSE_VLAN);
	else if (type == bpf_htons(ETH_P_IP))
		bpf_tail_call(ctx, &steps, PARSE_IP4);
	else if (type == bpf_htons(ETH_P_IPV6))
		bpf_tail_call(ctx, &steps, PARSE_IP6);
	else
		bpf_tail_call(ctx, &steps, MISSING);
	/* Here only when there was nothing to call, or too many calls. */
	count(SAW_UNKNOWN);
	return XDP_PASS;
}

static __always_inline int next_by_proto(struct xdp_md *ctx, __u8 proto)
{
	if (proto == IPPROTO_UDP)
		bpf_tail_call(ctx, &steps, PARSE_UDP);
	else if (proto == IPPROTO_TCP)
		bpf_tail_call(ctx, &steps, PARSE_TCP);
	count(SAW_UNKNOWN);
	return XDP_PASS;
}

SEC("xdp")
int parse_eth(struct xdp_md *ctx)
{
	struct meta *m;
	struct ethhdr *eth;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*m)))
		return XDP_ABORTED;
	m = (void *)(long)ctx->data_meta;
	if ((void *)(m + 1) > (void *)(long)ctx->data)
		return XDP_ABORTED;
	m->offset = 0;
	eth = header(ctx, sizeof(*eth));
	if (!eth)
		return XDP_DROP;
	return next_by_type(ctx, eth->h_proto);
}

SEC("xdp")
int parse_vlan(struct xdp_md *ctx)
{
	__be16 *tag = header(ctx, 4);

	if (!tag)
		return XDP_DROP;
	count(SAW_VLAN);
	return next_by_type(ctx, tag[1]);
}

SEC("xdp")
int parse_ip4(struct xdp_md *ctx)
{
	struct iphdr *ip = header(ctx, sizeof(*ip));

	if (!ip)
		return XDP_DROP;
	count(SAW_IP4);
	return next_by_proto(ctx, ip->protocol);
}

SEC("xdp")
int parse_ip6(struct xdp_md *ctx)
{
	struct ipv6hdr *ip = header(ctx, sizeof(*ip));

	if (!ip)
		return XDP_DROP;
	count(SAW_IP6);
	return next_by_proto(ctx, ip->nexthdr);
}

static __always_inline int transport(struct xdp_md *ctx, __u32 what, int verdict)
{
	__be16 *ports = header(ctx, 4);
	__u64 one = 1, *n;
	__u16 dport;

	if (!ports)
		return XDP_DROP;
	count(what);
	dport = bpf_ntohs(ports[1]);
	n = bpf_map_lookup_elem(&dports, &dport);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&dports, &dport, &one, BPF_ANY);
	return verdict;
}

SEC("xdp")
int parse_udp(struct xdp_md *ctx)
{
	return transport(ctx, SAW_UDP, XDP_PASS);
}

SEC("xdp")
int parse_tcp(struct xdp_md *ctx)
{
	return transport(ctx, SAW_TCP, XDP_TX);
}

char _license[] SEC("license") = "GPL";
