/* Size and protocol of sk_buffs. */
#include "calls.h"

#define IP bpf_htons(0x0800)
#define IP6 bpf_htons(0x86dd)

static __always_inline void seen(struct __sk_buff *skb, long ret)
{
	note(ret);
	note(skb->len);
	note(bpf_ntohs(skb->protocol));
	note((__u32)(skb->data_end - skb->data) > 0);
}

#define ROOM(name, diff, mode, flags)                            \
	SEC("tc") int room_##name(struct __sk_buff *skb)         \
	{                                                        \
		seen(skb, bpf_skb_adjust_room(skb, diff, mode, flags)); \
		return 0;                                        \
	}

#define L2(n) ((__u64)(n) << 56)
ROOM(mac_grow, 8, 1, 0)
ROOM(net_grow, 8, 0, 0)
ROOM(net_grow_v6, 8, 0, 0)
ROOM(mac_shrink, -8, 1, 0)
ROOM(net_shrink, -4, 0, 0)
ROOM(net_shrink_v6, -4, 0, 0)
ROOM(shrink_most, -24, 1, 0)
ROOM(shrink_too_much, -25, 1, 0)
ROOM(raw, 8, 1, 0)
ROOM(large, 4000, 1, 0)
ROOM(ipip, 20, 1, 1 << 1)
ROOM(ip6ip, 40, 1, 1 << 2)
ROOM(ipip6_v6, 20, 1, 1 << 1)
ROOM(gre, 24, 1, 1 << 1 | 1 << 3)
ROOM(vxlan, 50, 1, 1 << 1 | 1 << 4 | 1 << 6 | L2(14))
ROOM(udp_l2, 36, 1, 1 << 1 | 1 << 4 | L2(8))
ROOM(decap4, -20, 1, 1 << 7)
ROOM(decap6, -2, 1, 1 << 8)
ROOM(decap4_v6, -20, 1, 1 << 7)
ROOM(decap6_v6, -8, 1, 1 << 8)
ROOM(keep_csum, 8, 1, 1 << 5)

SEC("tc") int room_errors(struct __sk_buff *skb)
{
	note(bpf_skb_adjust_room(skb, 8, 2, 0));
	note(bpf_skb_adjust_room(skb, 8, 1, 1 << 9));
	note(bpf_skb_adjust_room(skb, 4096, 1, 0));
	note(bpf_skb_adjust_room(skb, -4096, 1, 0));
	note(bpf_skb_adjust_room(skb, 4095, 1, 1 << 1 | 1 << 2));
	note(bpf_skb_adjust_room(skb, 8, 1, 1 << 1 | 1 << 3 | 1 << 4));
	note(bpf_skb_adjust_room(skb, 20, 1, 1 << 1 | 1 << 6 | L2(13)));
	note(bpf_skb_adjust_room(skb, 20, 1, 1 << 1 | L2(21)));
	note(bpf_skb_adjust_room(skb, 8, 1, 1 << 7));
	note(bpf_skb_adjust_room(skb, -8, 1, 1 << 7 | 1 << 8));
	note(bpf_skb_adjust_room(skb, -8, 1, 1 << 1));
	note(bpf_skb_adjust_room(skb, -4000, 1, 0));
	note(bpf_skb_adjust_room(skb, 20, 1, 1 << 1));
	note(bpf_skb_adjust_room(skb, 20, 1, 1 << 1));
	note(bpf_skb_adjust_room(skb, 20, 1, 0));
	note(skb->len);
	return 0;
}

SEC("tc") int proto_4_to_6(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_proto(skb, IP6, 0));
	return 0;
}

SEC("tc") int proto_6_to_4_v6(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_proto(skb, IP, 0));
	return 0;
}

SEC("tc") int proto_there_and_back(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_proto(skb, IP6, 0));
	seen(skb, bpf_skb_change_proto(skb, IP, 0));
	note(bpf_skb_adjust_room(skb, 8, 0, 0));
	return 0;
}

SEC("tc") int proto_errors(struct __sk_buff *skb)
{
	note(bpf_skb_change_proto(skb, IP6, 1));
	note(bpf_skb_change_proto(skb, IP, 0));
	note(bpf_skb_change_proto(skb, 0, 0));
	return 0;
}

SEC("tc") int proto_raw(struct __sk_buff *skb)
{
	note(bpf_skb_change_proto(skb, IP6, 0));
	note(bpf_skb_change_proto(skb, IP, 0));
	return 0;
}

SEC("tc") int type(struct __sk_buff *skb)
{
	note(skb->pkt_type);
	for (int i = 0; i < 6; i++) {
		note(bpf_skb_change_type(skb, i));
		note(skb->pkt_type);
	}
	return 0;
}

SEC("tc") int tail_grow(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_tail(skb, 100, 0));
	return 0;
}

SEC("tc") int tail_large(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_tail(skb, 9000, 0));
	note(bpf_skb_pull_data(skb, 9000));
	note(bpf_skb_change_head(skb, 3000, 0));
	note(bpf_skb_change_tail(skb, 60, 0));
	return 0;
}

SEC("tc") int tail_shrink(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_tail(skb, 20, 0));
	seen(skb, bpf_skb_change_tail(skb, 14, 0));
	return 0;
}

SEC("tc") int tail_errors(struct __sk_buff *skb)
{
	note(bpf_skb_change_tail(skb, 60, 1));
	note(bpf_skb_change_tail(skb, 13, 0));
	note(bpf_skb_change_tail(skb, 0, 0));
	note(bpf_skb_change_tail(skb, 16 * 4096, 0));
	note(bpf_skb_change_tail(skb, 16064, 0));
	note(bpf_skb_change_tail(skb, 16065, 0));
	note(bpf_skb_change_tail(skb, 60, 0));
	return 0;
}

SEC("tc") int head(struct __sk_buff *skb)
{
	seen(skb, bpf_skb_change_head(skb, 14, 0));
	note(bpf_skb_adjust_room(skb, 8, 1, 0));
	return 0;
}

SEC("tc") int head_errors(struct __sk_buff *skb)
{
	note(bpf_skb_change_head(skb, 14, 1));
	note(bpf_skb_change_head(skb, -1, 0));
	note(bpf_skb_change_head(skb, 17000, 0));
	note(bpf_skb_change_head(skb, 0, 0));
	note(bpf_skb_change_head(skb, 2000, 0));
	note(skb->len);
	note(bpf_skb_change_tail(skb, 40, 0));
	return 0;
}

SEC("tc") int pull(struct __sk_buff *skb)
{
	note(bpf_skb_pull_data(skb, 0));
	note(bpf_skb_pull_data(skb, 14));
	note(bpf_skb_pull_data(skb, skb->len));
	note(bpf_skb_pull_data(skb, skb->len + 1));
	note(bpf_skb_pull_data(skb, 1 << 20));
	return 0;
}

SEC("tc") int vlan(struct __sk_buff *skb)
{
	note(bpf_skb_vlan_pop(skb));
	seen(skb, bpf_skb_vlan_push(skb, bpf_htons(0x8100), 5));
	note(skb->vlan_tci);
	note(bpf_ntohs(skb->vlan_proto));
	seen(skb, bpf_skb_vlan_push(skb, bpf_htons(0x88a8), 6));
	note(skb->vlan_tci);
	seen(skb, bpf_skb_vlan_push(skb, bpf_htons(0x1234), 7));
	note(bpf_ntohs(skb->vlan_proto));
	note(bpf_skb_adjust_room(skb, 8, 1, 0));
	seen(skb, bpf_skb_vlan_pop(skb));
	note(skb->vlan_tci);
	seen(skb, bpf_skb_vlan_pop(skb));
	note(skb->vlan_tci);
	seen(skb, bpf_skb_vlan_pop(skb));
	note(skb->vlan_present);
	note(bpf_skb_adjust_room(skb, 8, 1, 0));
	return 0;
}
