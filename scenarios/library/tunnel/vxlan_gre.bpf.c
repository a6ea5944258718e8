// Tunnels put on and taken off: VXLAN by hand in XDP, GRE by the tc helper that makes room.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define ETH_P_IP 0x0800
#define VXLAN_PORT 4789
#define VXLAN_HAS_VNI 0x08000000

struct grehdr {
	__be16 flags;
	__be16 proto;
};

struct vxlan_outer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlanhdr vxlan;
} __attribute__((packed));

struct gre_outer {
	struct iphdr ip;
	struct grehdr gre;
} __attribute__((packed));

/* Where frames of each kind went: 0 pushed, 1 popped, 2 of another tunnel. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

const volatile __be32 local = 0;
const volatile __be32 remote = 0;
const volatile __u32 vni = 0;
const volatile __u32 inside = 0;
const volatile __u32 outside = 0;
const volatile __u8 next_hop[6] = {};
const volatile __u8 own[6] = {};

static __always_inline void count(__u32 key)
{
	__u64 *n = bpf_map_lookup_elem(&seen, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
}

static __always_inline void outer_ip(struct iphdr *ip, __u16 len, __u8 protocol)
{
	__u16 *words = (void *)ip;
	__u32 sum = 0;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(len);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->saddr = local;
	ip->daddr = remote;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
}

SEC("xdp")
int vxlan_push(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data;
	struct vxlan_outer *o;

	/* IP, UDP and VXLAN are 36 bytes; the inner frame travels whole. */
	if (len > 1400 || bpf_xdp_adjust_head(ctx, -(int)sizeof(*o)))
		return XDP_DROP;
	o = (void *)(long)ctx->data;
	if ((void *)(o + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < 6; i++) {
		o->eth.h_dest[i] = next_hop[i];
		o->eth.h_source[i] = own[i];
	}
	o->eth.h_proto = bpf_htons(ETH_P_IP);
	outer_ip((void *)&o->ip, len + 36, IPPROTO_UDP);
	o->udp.source = bpf_htons(49152);
	o->udp.dest = bpf_htons(VXLAN_PORT);
	o->udp.len = bpf_htons(len + 16);
	o->udp.check = 0;
	o->vxlan.vx_flags = bpf_htonl(VXLAN_HAS_VNI);
	o->vxlan.vx_vni = bpf_htonl(vni << 8);
	count(0);
	return bpf_redirect(outside, 0);
}

SEC("xdp")
int vxlan_pop(struct xdp_md *ctx)
{
	struct vxlan_outer *o = (void *)(long)ctx->data;

	if ((void *)(o + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (o->eth.h_proto != bpf_htons(ETH_P_IP) || o->ip.protocol != IPPROTO_UDP ||
	    o->ip.ihl != 5 || o->udp.dest != bpf_htons(VXLAN_PORT))
		return XDP_PASS;
	if (o->vxlan.vx_vni != bpf_htonl(vni << 8)) {
		count(2);
		return XDP_DROP;
	}
	if (bpf_xdp_adjust_head(ctx, sizeof(*o)))
		return XDP_ABORTED;
	count(1);
	return bpf_redirect(inside, 0);
}

/* The helper makes room between the Ethernet header and the packet. */
SEC("tc")
int gre_push(struct __sk_buff *skb)
{
	struct gre_outer o = {};
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
		      BPF_F_ADJ_ROOM_ENCAP_L4_GRE;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	outer_ip((void *)&o.ip, skb->len - sizeof(struct ethhdr) + sizeof(o), IPPROTO_GRE);
	o.gre.proto = bpf_htons(ETH_P_IP);
	if (bpf_skb_adjust_room(skb, sizeof(o), BPF_ADJ_ROOM_MAC, flags))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &o, sizeof(o), BPF_F_INVALIDATE_HASH))
		return TC_ACT_SHOT;
	count(0);
	return bpf_redirect(outside, 0);
}

SEC("tc")
int gre_pop(struct __sk_buff *skb)
{
	struct gre_outer o;

	if (bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &o, sizeof(o)))
		return TC_ACT_OK;
	if (skb->protocol != bpf_htons(ETH_P_IP) || o.ip.protocol != IPPROTO_GRE)
		return TC_ACT_OK;
	if (o.gre.proto != bpf_htons(ETH_P_IP)) {
		count(2);
		return TC_ACT_SHOT;
	}
	if (bpf_skb_adjust_room(skb, -(int)sizeof(o), BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;
	count(1);
	return bpf_redirect(inside, 0);
}

char _license[] SEC("license") = "GPL";
