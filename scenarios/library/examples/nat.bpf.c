// Source NAT on egress, its reverse on ingress: TCP, UDP without checksum, and the packet inside
// an ICMP error. Two small programs stand for the routing between the nics.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define IN0 1
#define OUT0 2

#define IP 14
#define L4 34
#define INNER 42

struct source {
	__be32 addr;
	__be16 port;
	__u16 proto;
};

__be32 public_ip = 0;
__u16 port_base = 40000;
__u32 used = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000);
	__type(key, struct source);
	__type(value, __u16);
} ports SEC(".maps");

/* By the public port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000);
	__type(key, __u16);
	__type(value, struct source);
} sources SEC(".maps");

/* One hop less, and the addresses of the next link. */
static int forward(struct __sk_buff *skb, int to)
{
	__u8 mac[12] = { 2, 0, 0, 0, 0xff, 1, 2, 0, 0, 0, 0, 7 };
	__be16 *ttl, old, new;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + IP + 12 > end)
		return TC_ACT_SHOT;
	ttl = data + IP + 8;
	old = *ttl;
	new = bpf_htons(bpf_ntohs(old) - 0x100);
	if (to == IN0)
		mac[11] = 1;
	bpf_l3_csum_replace(skb, IP + 10, old, new, 2);
	bpf_skb_store_bytes(skb, IP + 8, &new, 2, 0);
	bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0);
	return bpf_redirect(to, 0);
}

SEC("tc")
int to_out(struct __sk_buff *skb)
{
	return forward(skb, OUT0);
}

static __u16 port_of(const struct source *s)
{
	__u16 *known = bpf_map_lookup_elem(&ports, s);

	if (known)
		return *known;

	__u16 port = port_base + __sync_fetch_and_add(&used, 1) % 1000;

	bpf_map_update_elem(&ports, s, &port, BPF_ANY);
	bpf_map_update_elem(&sources, &port, s, BPF_ANY);
	return port;
}

/* Where the transport checksum lies; 0 for a protocol that has none here. */
static __u32 csum_at(__u8 proto)
{
	return proto == IPPROTO_TCP ? 16 : proto == IPPROTO_UDP ? 6 : 0;
}

SEC("tc")
int nat_egress(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + IP;
	struct udphdr *udp = data + L4;
	struct source from = {};

	if ((void *)(udp + 1) > end || ip->ihl != 5)
		return TC_ACT_SHOT;
	if ((bpf_ntohl(ip->saddr) >> 8) != 0x0a0000 || !csum_at(ip->protocol))
		return TC_ACT_SHOT;
	from.addr = ip->saddr;
	from.port = udp->source;
	from.proto = ip->protocol;

	__be16 port = bpf_htons(port_of(&from));
	__be32 addr = public_ip;
	__u32 sum = L4 + csum_at(from.proto);
	/* A UDP checksum of 0 stays 0. */
	__u64 flags = from.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	bpf_l4_csum_replace(skb, sum, from.addr, addr, flags | BPF_F_PSEUDO_HDR | 4);
	bpf_l4_csum_replace(skb, sum, from.port, port, flags | 2);
	bpf_l3_csum_replace(skb, IP + 10, from.addr, addr, 4);
	bpf_skb_store_bytes(skb, IP + 12, &addr, 4, 0);
	bpf_skb_store_bytes(skb, L4, &port, 2, 0);
	return TC_ACT_OK;
}

/* The error is about a packet of ours: inside it stand the public address and port. */
static int icmp_error(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *inner = data + INNER;
	struct udphdr *udp = (void *)(inner + 1);

	if ((void *)(udp + 1) > end || inner->ihl != 5 || inner->saddr != public_ip)
		return TC_ACT_SHOT;

	__u16 port = bpf_ntohs(udp->source);
	struct source *to = bpf_map_lookup_elem(&sources, &port);

	if (!to)
		return TC_ACT_SHOT;

	__be32 addr = to->addr, old = inner->saddr;
	__be16 sport = to->port, was = udp->source;

	/* The inner header's own sum makes up for its address; the outer one sees the port alone. */
	bpf_l3_csum_replace(skb, INNER + 10, old, addr, 4);
	bpf_skb_store_bytes(skb, INNER + 12, &addr, 4, 0);
	bpf_l4_csum_replace(skb, L4 + 2, was, sport, 2);
	bpf_skb_store_bytes(skb, INNER + 20, &sport, 2, 0);
	bpf_l3_csum_replace(skb, IP + 10, old, addr, 4);
	bpf_skb_store_bytes(skb, IP + 16, &addr, 4, 0);
	return forward(skb, IN0);
}

SEC("tc")
int nat_ingress(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + IP;
	struct udphdr *udp = data + L4;

	if ((void *)(udp + 1) > end || ip->ihl != 5 || ip->daddr != public_ip)
		return TC_ACT_SHOT;
	if (ip->protocol == IPPROTO_ICMP)
		return icmp_error(skb);

	__u16 port = bpf_ntohs(udp->dest);
	struct source *to = bpf_map_lookup_elem(&sources, &port);
	__u32 sum = csum_at(ip->protocol);

	if (!to || !sum)
		return TC_ACT_SHOT;

	__be32 addr = to->addr, old = ip->daddr;
	__be16 dport = to->port, was = udp->dest;

	bpf_l4_csum_replace(skb, L4 + sum, old, addr, BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR | 4);
	bpf_l4_csum_replace(skb, L4 + sum, was, dport, BPF_F_MARK_MANGLED_0 | 2);
	bpf_l3_csum_replace(skb, IP + 10, old, addr, 4);
	bpf_skb_store_bytes(skb, IP + 16, &addr, 4, 0);
	bpf_skb_store_bytes(skb, L4 + 2, &dport, 2, 0);
	return forward(skb, IN0);
}

char LICENSE[] SEC("license") = "GPL";
