// An L4 load balancer: the flow's hash picks a backend, the packet goes there in a tunnel.
//
// Rendezvous hashing: each backend gets a score from the flow and its own number, the highest wins.
// When a backend goes, only its own flows move. IPv4 travels in IPv4, IPv6 in IPv6.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BACKENDS 4

enum backend_state { DOWN, UP };

struct backend {
	__be32 ip4;
	__u8 ip6[16];
	__u8 mac[6];
	enum backend_state state;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, __u64);
} sent SEC(".maps");

/* The address that clients know. */
const volatile __be32 vip4 = 0;
const volatile __u8 vip6[16] = {};
const volatile __u16 port = 80;

struct flow {
	__u32 src[4];
	__u32 dst[4];
	__u32 ports;
};

static __always_inline __u32 mix(__u32 h, __u32 word)
{
	h ^= word;
	h *= 0x9e3779b1;
	return h ^ h >> 15;
}

static __always_inline struct backend *pick(const struct flow *f, __u32 *chosen)
{
	struct backend *best = NULL;
	__u32 best_score = 0, base = 0;

	for (int i = 0; i < 4; i++) {
		base = mix(base, f->src[i]);
		base = mix(base, f->dst[i]);
	}
	base = mix(base, f->ports);
	for (__u32 n = 0; n < BACKENDS; n++) {
		__u32 key = n, score = mix(mix(base, n + 1), 0x5bd1e995);
		struct backend *b = bpf_map_lookup_elem(&backends, &key);

		if (!b || b->state != UP)
			continue;
		if (!best || score > best_score) {
			best = b;
			best_score = score;
			*chosen = n;
		}
	}
	return best;
}

static __always_inline __u16 ip_sum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static __always_inline void count(__u32 n)
{
	__u64 *packets = bpf_map_lookup_elem(&sent, &n);

	if (packets)
		++*packets;
}

static __always_inline void readdress(struct ethhdr *to, const struct ethhdr *from,
				      const struct backend *b, __be16 proto)
{
	/* The backend's router gets it; we are the sender. */
	__builtin_memcpy(to->h_source, from->h_dest, ETH_ALEN);
	__builtin_memcpy(to->h_dest, b->mac, ETH_ALEN);
	to->h_proto = proto;
}

static __always_inline int balance4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *inner = data + sizeof(struct ethhdr), *outer;
	__be16 *ports = (void *)(inner + 1);
	struct flow f = {};
	struct ethhdr old;
	struct backend *b;
	__u32 chosen = 0, len;

	if ((void *)(ports + 2) > end || inner->ihl != 5)
		return XDP_PASS;
	if (inner->daddr != vip4 || ports[1] != bpf_htons(port))
		return XDP_PASS;
	/* The ports of a later fragment are not there. */
	if (inner->frag_off & bpf_htons(0x3fff))
		return XDP_DROP;
	f.src[0] = bpf_ntohl(inner->saddr);
	f.dst[0] = bpf_ntohl(inner->daddr);
	f.ports = (__u32)bpf_ntohs(ports[0]) << 16 | bpf_ntohs(ports[1]);
	f.src[3] = inner->protocol;
	b = pick(&f, &chosen);
	if (!b)
		return XDP_DROP;
	len = bpf_ntohs(inner->tot_len) + sizeof(*outer);
	__builtin_memcpy(&old, data, sizeof(old));
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	outer = data + sizeof(struct ethhdr);
	if ((void *)(outer + 1) > end)
		return XDP_ABORTED;
	readdress(data, &old, b, bpf_htons(ETH_P_IP));
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->version = 4;
	outer->ihl = 5;
	outer->tot_len = bpf_htons(len);
	outer->ttl = 64;
	outer->protocol = IPPROTO_IPIP;
	outer->saddr = vip4;
	outer->daddr = b->ip4;
	outer->check = ip_sum(outer);
	count(chosen);
	return XDP_TX;
}

static __always_inline int balance6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *inner = data + sizeof(struct ethhdr), *outer;
	__be16 *ports = (void *)(inner + 1);
	struct flow f = {};
	struct ethhdr old;
	struct backend *b;
	__u32 chosen = 0, len;

	if ((void *)(ports + 2) > end)
		return XDP_PASS;
	if (inner->nexthdr != IPPROTO_TCP && inner->nexthdr != IPPROTO_UDP)
		return XDP_PASS;
	if (ports[1] != bpf_htons(port))
		return XDP_PASS;
	for (int i = 0; i < 16; i++)
		if (inner->daddr.in6_u.u6_addr8[i] != vip6[i])
			return XDP_PASS;
	for (int i = 0; i < 4; i++) {
		f.src[i] = bpf_ntohl(inner->saddr.in6_u.u6_addr32[i]);
		f.dst[i] = bpf_ntohl(inner->daddr.in6_u.u6_addr32[i]);
	}
	f.ports = (__u32)bpf_ntohs(ports[0]) << 16 | bpf_ntohs(ports[1]);
	b = pick(&f, &chosen);
	if (!b)
		return XDP_DROP;
	len = bpf_ntohs(inner->payload_len) + sizeof(*inner);
	__builtin_memcpy(&old, data, sizeof(old));
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	outer = data + sizeof(struct ethhdr);
	if ((void *)(outer + 1) > end)
		return XDP_ABORTED;
	readdress(data, &old, b, bpf_htons(ETH_P_IPV6));
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->version = 6;
	outer->payload_len = bpf_htons(len);
	outer->nexthdr = IPPROTO_IPV6;
	outer->hop_limit = 64;
	for (int i = 0; i < 16; i++)
		outer->saddr.in6_u.u6_addr8[i] = vip6[i];
	__builtin_memcpy(&outer->daddr, b->ip6, 16);
	count(chosen);
	return XDP_TX;
}

SEC("xdp")
int xdp_lb(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return balance4(ctx);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return balance6(ctx);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
