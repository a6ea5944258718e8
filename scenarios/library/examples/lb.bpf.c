// An L4 balancer for one address: a flow keeps its backend, new flows go by weight, the packet is
// sent back out with the backend's addresses.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BACKENDS 2

enum backend_state { UP, DOWN, DRAINING };

struct vip_key {
	__be32 addr;
	__be16 port;
};

struct backend {
	__be32 ip;
	__u8 mac[6];
	__u32 weight;
	enum backend_state state;
};

struct flow {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

struct counts {
	__u64 new_flows;
	__u64 packets;
};

struct vip_key vip = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Elements are allocated when a flow begins, so that an allocation can fail. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct flow);
	__type(value, __u32);
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct counts);
} stats SEC(".maps");

static __u32 mix(const struct flow *f)
{
	__u32 h = bpf_ntohl(f->addr) * 0x9e3779b1 ^ bpf_ntohs(f->port);

	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/* The backend of a new flow: by its hash, in proportion to the weights of those that are up. */
static __u32 choose(const struct flow *f)
{
	__u32 total = 0, n;

	for (n = 0; n < BACKENDS; n++) {
		__u32 key = n;
		struct backend *b = bpf_map_lookup_elem(&backends, &key);

		if (b && b->state == UP)
			total += b->weight;
	}
	if (!total)
		return BACKENDS;

	__u32 at = mix(f) % total;

	for (n = 0; n < BACKENDS; n++) {
		__u32 key = n;
		struct backend *b = bpf_map_lookup_elem(&backends, &key);

		if (!b || b->state != UP)
			continue;
		if (at < b->weight)
			return n;
		at -= b->weight;
	}
	return BACKENDS;
}

static __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* A checksum in network order after one 32-bit address became another. */
static __sum16 readdressed(__sum16 sum, __be32 from, __be32 to)
{
	return fold((__u16)~sum + (__u16)~from + (__u16)(~from >> 16) + (__u16)to + (__u16)(to >> 16));
}

SEC("xdp.frags")
int xdp_lb(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	struct flow flow = {};

	if ((void *)(tcp + 1) > end || eth->h_proto != bpf_htons(0x0800))
		return XDP_PASS;
	if (ip->ihl != 5 || ip->protocol != IPPROTO_TCP)
		return XDP_PASS;
	if (ip->daddr != vip.addr || tcp->dest != vip.port)
		return XDP_PASS;
	flow.addr = ip->saddr;
	flow.port = tcp->source;

	__u32 *known = bpf_map_lookup_elem(&conns, &flow);
	__u32 chosen = known ? *known : choose(&flow);
	struct backend *to = bpf_map_lookup_elem(&backends, &chosen);
	struct counts *count = bpf_map_lookup_elem(&stats, &chosen);

	if (!to || !count)
		return XDP_DROP;
	/* A flow that cannot be remembered would move with the next backend: it is not begun. */
	if (!known) {
		if (bpf_map_update_elem(&conns, &flow, &chosen, BPF_NOEXIST))
			return XDP_DROP;
		count->new_flows++;
	}
	count->packets++;

	ip->check = readdressed(ip->check, ip->daddr, to->ip);
	tcp->check = readdressed(tcp->check, ip->daddr, to->ip);
	ip->daddr = to->ip;
	__builtin_memcpy(eth->h_source, eth->h_dest, sizeof(eth->h_source));
	__builtin_memcpy(eth->h_dest, to->mac, sizeof(eth->h_dest));
	return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
