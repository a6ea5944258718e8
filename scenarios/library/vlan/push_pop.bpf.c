// VLAN tags put on and taken off: by the tc helpers, and by hand in XDP.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct vlan_hdr {
	__be16 tci;
	__be16 proto;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u16);
	__type(value, __u64);
} popped SEC(".maps");

const volatile __u16 vid = 100;
const volatile __u32 access_ifindex = 1;
const volatile __u32 trunk_ifindex = 2;

static __always_inline void count(__u16 id)
{
	__u64 one = 1, *n = bpf_map_lookup_elem(&popped, &id);

	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&popped, &id, &one, BPF_ANY);
}

/* From the access port to the trunk, with a tag. */
SEC("tc")
int push(struct __sk_buff *skb)
{
	/* Priority 5 in the upper three bits. */
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 5 << 13 | vid))
		return TC_ACT_SHOT;
	return bpf_redirect(trunk_ifindex, 0);
}

/* From the trunk to the access port, without. */
SEC("tc")
int pop(struct __sk_buff *skb)
{
	/* The stack has taken the tag out of the frame and into the sk_buff. */
	__u16 id = skb->vlan_tci & 0x0fff;

	if (!skb->vlan_present || id != vid)
		return TC_ACT_SHOT;
	if (bpf_skb_vlan_pop(skb))
		return TC_ACT_SHOT;
	count(id);
	return bpf_redirect(access_ifindex, 0);
}

/* The same before there is an sk_buff: moves the addresses over the tag. */
SEC("xdp")
int pop_by_hand(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct vlan_hdr *tag = (void *)(eth + 1);
	__u8 addresses[2 * ETH_ALEN];

	if ((void *)(tag + 1) > end)
		return XDP_DROP;
	if (eth->h_proto != bpf_htons(ETH_P_8021Q) && eth->h_proto != bpf_htons(ETH_P_8021AD))
		return XDP_PASS;
	count(bpf_ntohs(tag->tci) & 0x0fff);
	__builtin_memcpy(addresses, data, sizeof(addresses));
	if (bpf_xdp_adjust_head(ctx, sizeof(*tag)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(*eth) > end)
		return XDP_ABORTED;
	/* Back where it came from, the ethertype of the tag now in its place. */
	__builtin_memcpy(data, addresses + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(data + ETH_ALEN, addresses, ETH_ALEN);
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
