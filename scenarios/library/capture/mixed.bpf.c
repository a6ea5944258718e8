// Classifies whatever comes, follows VLAN tags and IPv6 extension headers, drops what is malformed.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define EXT_MAX 8

enum class {
	TCP_SYN,
	TCP_SYNACK,
	TCP_OTHER,
	DNS,
	UDP,
	ICMP,
	ICMP6,
	ARP,
	FRAGMENT,
	OTHER,
	MALFORMED,
	CLASSES,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLASSES);
	__type(key, __u32);
	__type(value, struct tally);
} classes SEC(".maps");

/* IPv6 extension headers by protocol number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u8);
	__type(value, __u64);
} extensions SEC(".maps");

struct vlan_hdr {
	__be16 tci;
	__be16 proto;
};

struct ext_hdr {
	__u8 next;
	__u8 len;
	__be16 frag_off;
	__u32 id;
};

static __always_inline enum class tcp_class(void *at, void *end)
{
	struct tcphdr *tcp = at;

	if ((void *)(tcp + 1) > end || tcp->doff < 5)
		return MALFORMED;
	if (tcp->syn)
		return tcp->ack ? TCP_SYNACK : TCP_SYN;
	return TCP_OTHER;
}

static __always_inline enum class udp_class(void *at, void *end)
{
	struct udphdr *udp = at;

	if ((void *)(udp + 1) > end || bpf_ntohs(udp->len) < sizeof(*udp))
		return MALFORMED;
	if (udp->dest == bpf_htons(53) || udp->source == bpf_htons(53))
		return DNS;
	return UDP;
}

static __always_inline enum class transport(__u8 proto, void *at, void *end)
{
	switch (proto) {
	case IPPROTO_TCP:
		return tcp_class(at, end);
	case IPPROTO_UDP:
		return udp_class(at, end);
	case IPPROTO_ICMP:
		return at + 8 > end ? MALFORMED : ICMP;
	case IPPROTO_ICMPV6:
		return at + 8 > end ? MALFORMED : ICMP6;
	}
	return OTHER;
}

static __always_inline enum class class4(void *at, void *end)
{
	struct iphdr *ip = at;
	__u32 bytes;

	if ((void *)(ip + 1) > end)
		return MALFORMED;
	bytes = ip->ihl * 4;
	if (ip->version != 4 || bytes < sizeof(*ip))
		return MALFORMED;
	if (bpf_ntohs(ip->tot_len) > end - at || bpf_ntohs(ip->tot_len) < bytes)
		return MALFORMED;
	if (ip->frag_off & bpf_htons(0x1fff))
		return FRAGMENT;
	return transport(ip->protocol, at + bytes, end);
}

static __always_inline void extension(__u8 kind)
{
	__u64 one = 1, *n = bpf_map_lookup_elem(&extensions, &kind);

	if (n)
		++*n;
	else
		bpf_map_update_elem(&extensions, &kind, &one, BPF_ANY);
}

static __always_inline enum class class6(void *data, __u32 at, void *end)
{
	struct ipv6hdr *ip = data + at;
	struct ext_hdr *e;
	__u8 proto;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return MALFORMED;
	proto = ip->nexthdr;
	at += sizeof(*ip);
	for (int i = 0; i < EXT_MAX; i++) {
		if (proto != IPPROTO_HOPOPTS && proto != IPPROTO_DSTOPTS &&
		    proto != IPPROTO_ROUTING && proto != IPPROTO_FRAGMENT)
			break;
		if (at > 1400)
			return MALFORMED;
		e = data + at;
		if ((void *)(e + 1) > end)
			return MALFORMED;
		extension(proto);
		if (proto == IPPROTO_FRAGMENT) {
			if (e->frag_off & bpf_htons(0xfff8))
				return FRAGMENT;
			at += 8;
		} else {
			at += (e->len + 1) * 8;
		}
		proto = e->next;
	}
	/* Still an extension: nobody needs so many. */
	if (proto == IPPROTO_DSTOPTS || proto == IPPROTO_HOPOPTS || at > 1400)
		return MALFORMED;
	if (data + at > end)
		return MALFORMED;
	return transport(proto, data + at, end);
}

static __always_inline enum class classify_frame(void *data, void *end)
{
	struct ethhdr *eth = data;
	struct vlan_hdr *tag = (void *)(eth + 1);
	__u32 at = sizeof(*eth);
	__be16 type;

	if ((void *)(eth + 1) > end)
		return MALFORMED;
	type = eth->h_proto;
	if (type == bpf_htons(ETH_P_8021Q)) {
		if ((void *)(tag + 1) > end)
			return MALFORMED;
		type = tag->proto;
		at += sizeof(*tag);
	}
	if (type == bpf_htons(ETH_P_IP))
		return class4(data + at, end);
	if (type == bpf_htons(ETH_P_IPV6))
		return class6(data, at, end);
	if (type == bpf_htons(ETH_P_ARP))
		return data + at + 28 > end ? MALFORMED : ARP;
	return OTHER;
}

SEC("xdp")
int classify(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 what = classify_frame(data, end);
	struct tally *t = bpf_map_lookup_elem(&classes, &what);

	if (!t)
		return XDP_ABORTED;
	__sync_fetch_and_add(&t->packets, 1);
	__sync_fetch_and_add(&t->bytes, end - data);
	return what == MALFORMED ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
