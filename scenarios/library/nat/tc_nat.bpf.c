// Source NAT where frames leave, and its reverse where answers arrive. Checksums are not computed
// anew: the helpers change them by the difference, as a router does.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define L3 ((int)sizeof(struct ethhdr))
#define L4 (L3 + (int)sizeof(struct iphdr))

struct endpoint {
	__be32 addr;
	__be16 port;
	__u16 proto;
};

/* Inside endpoint to public port, and back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct endpoint);
	__type(value, __u16);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct endpoint);
	__type(value, struct endpoint);
} back SEC(".maps");

const volatile __be32 public_ip = 0;
const volatile __u32 inside_ifindex = 1;
const volatile __u32 outside_ifindex = 2;
__u16 next_port = 40000;

/* Where the protocol keeps its checksum and the two port numbers (an id for ICMP). */
struct l4 {
	int csum;
	int sport;
	int dport;
	__u64 pseudo;
};

static __always_inline int l4_of(__u8 proto, struct l4 *l)
{
	l->sport = L4;
	l->dport = L4 + 2;
	l->pseudo = BPF_F_PSEUDO_HDR;
	if (proto == IPPROTO_TCP) {
		l->csum = L4 + offsetof(struct tcphdr, check);
	} else if (proto == IPPROTO_UDP) {
		l->csum = L4 + offsetof(struct udphdr, check);
		/* No checksum stays no checksum. */
		l->pseudo |= BPF_F_MARK_MANGLED_0;
	} else if (proto == IPPROTO_ICMP) {
		l->csum = L4 + offsetof(struct icmphdr, checksum);
		l->sport = l->dport = L4 + offsetof(struct icmphdr, un.echo.id);
		l->pseudo = 0;
	} else {
		return -1;
	}
	return 0;
}

/* Gives an address and a port new values, checksums included. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct l4 *l, int addr_at,
				   __be32 from, __be32 to, int port_at, __be16 port_from,
				   __be16 port_to)
{
	if (l->pseudo && bpf_l4_csum_replace(skb, l->csum, from, to, l->pseudo | sizeof(to)))
		return -1;
	if (bpf_l4_csum_replace(skb, l->csum, port_from, port_to,
				(l->pseudo & BPF_F_MARK_MANGLED_0) | sizeof(port_to)))
		return -1;
	if (bpf_l3_csum_replace(skb, L3 + offsetof(struct iphdr, check), from, to, sizeof(to)))
		return -1;
	if (bpf_skb_store_bytes(skb, addr_at, &to, sizeof(to), 0))
		return -1;
	return bpf_skb_store_bytes(skb, port_at, &port_to, sizeof(port_to), 0) ? -1 : 0;
}

static __always_inline int read_ip(struct __sk_buff *skb, struct iphdr *ip)
{
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return -1;
	if (bpf_skb_load_bytes(skb, L3, ip, sizeof(*ip)) || ip->ihl != 5)
		return -1;
	return ip->frag_off & bpf_htons(0x3fff) ? -1 : 0;
}

/* What arrives inside goes out on the other nic; its egress does the translation. */
SEC("tc")
int forward(struct __sk_buff *skb)
{
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	return bpf_redirect(outside_ifindex, 0);
}

SEC("tc")
int nat_egress(struct __sk_buff *skb)
{
	struct endpoint inside = {}, public = {};
	__u16 *known, port;
	struct iphdr ip;
	struct l4 l;

	if (read_ip(skb, &ip) || l4_of(ip.protocol, &l))
		return TC_ACT_SHOT;
	inside.addr = ip.saddr;
	inside.proto = ip.protocol;
	if (bpf_skb_load_bytes(skb, l.sport, &inside.port, sizeof(inside.port)))
		return TC_ACT_SHOT;
	known = bpf_map_lookup_elem(&out, &inside);
	if (known) {
		port = *known;
	} else {
		port = next_port++;
		public.addr = public_ip;
		public.port = bpf_htons(port);
		public.proto = ip.protocol;
		if (bpf_map_update_elem(&out, &inside, &port, BPF_NOEXIST) ||
		    bpf_map_update_elem(&back, &public, &inside, BPF_NOEXIST))
			return TC_ACT_SHOT;
	}
	if (rewrite(skb, &l, L3 + offsetof(struct iphdr, saddr), ip.saddr, public_ip, l.sport,
		    inside.port, bpf_htons(port)))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

SEC("tc")
int nat_ingress(struct __sk_buff *skb)
{
	struct endpoint public = {}, *inside;
	struct iphdr ip;
	struct l4 l;

	if (read_ip(skb, &ip) || l4_of(ip.protocol, &l))
		return TC_ACT_OK;
	public.addr = ip.daddr;
	public.proto = ip.protocol;
	if (bpf_skb_load_bytes(skb, l.dport, &public.port, sizeof(public.port)))
		return TC_ACT_SHOT;
	inside = bpf_map_lookup_elem(&back, &public);
	if (!inside)
		return TC_ACT_SHOT;
	if (rewrite(skb, &l, L3 + offsetof(struct iphdr, daddr), ip.daddr, inside->addr, l.dport,
		    public.port, inside->port))
		return TC_ACT_SHOT;
	return bpf_redirect(inside_ifindex, 0);
}

char _license[] SEC("license") = "GPL";
