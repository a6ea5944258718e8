// One program with every verdict and every change a frame can take before it: metadata that tc
// reads, headers added and removed in front, bytes added and cut behind.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PAYLOAD (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))

/* Results of bpf_xdp_adjust_meta by length asked for, and of the other helpers by letter. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, int);
} results SEC(".maps");

static void result(__u32 key, int value)
{
	bpf_map_update_elem(&results, &key, &value, BPF_ANY);
}

static int swap_and_send(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	unsigned char mac[ETH_ALEN];

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return XDP_TX;
}

static int try_meta(struct xdp_md *ctx)
{
	/* Down to -4, then to the longest, then one word too far and an odd length. */
	result(4, bpf_xdp_adjust_meta(ctx, -4));
	result(2, bpf_xdp_adjust_meta(ctx, -2));
	result(256, bpf_xdp_adjust_meta(ctx, -252));
	result(252, bpf_xdp_adjust_meta(ctx, -200));
	result(0, bpf_xdp_adjust_meta(ctx, 204));

	__u32 *meta = (void *)(long)ctx->data_meta;
	void *data = (void *)(long)ctx->data;

	if (meta && (void *)(meta + 1) <= data) {
		/* It is gone again: no word of metadata is left. */
		result(1000, 1);
		return XDP_ABORTED;
	}
	if (bpf_xdp_adjust_meta(ctx, -8))
		return XDP_ABORTED;
	meta = (void *)(long)ctx->data_meta;
	data = (void *)(long)ctx->data;
	if ((void *)(meta + 2) > data)
		return XDP_ABORTED;
	meta[0] = 0xfeed;
	meta[1] = ctx->rx_queue_index;
	return XDP_PASS;
}

static int try_head(struct xdp_md *ctx)
{
	result('H', bpf_xdp_adjust_head(ctx, -1000));
	result('h', bpf_xdp_adjust_head(ctx, 2000));
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct ethhdr)))
		return XDP_ABORTED;

	/* A second Ethernet header in front of the first. */
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 2) > end)
		return XDP_ABORTED;
	__builtin_memcpy(eth, eth + 1, sizeof(*eth));
	eth->h_proto = bpf_htons(0x88b5);
	return XDP_TX;
}

static int try_tail(struct xdp_md *ctx)
{
	result('T', bpf_xdp_adjust_tail(ctx, 4096));
	result('t', bpf_xdp_adjust_tail(ctx, -2000));
	/* Two more bytes, which are 0, then the last 10 go. */
	if (bpf_xdp_adjust_tail(ctx, 2) || bpf_xdp_adjust_tail(ctx, -10))
		return XDP_ABORTED;
	result('l', bpf_xdp_get_buff_len(ctx));
	return XDP_DROP;
}

SEC("xdp")
int all_verdicts(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	char *letter = data + PAYLOAD;

	if ((void *)(letter + 1) > end)
		return XDP_ABORTED;
	switch (*letter) {
	case 'd':
		return XDP_DROP;
	case 't':
		return swap_and_send(ctx);
	case 'r':
		return bpf_redirect(2, 0);
	case 'n':
		/* No such device. */
		return bpf_redirect(77, 0);
	case 'e':
		/* Redirect without having said where. */
		return XDP_REDIRECT;
	case 'i':
		return 77;
	case 'm':
		return try_meta(ctx);
	case 'h':
		return try_head(ctx);
	case 'c':
		return try_tail(ctx);
	}
	return XDP_PASS;
}

__u32 with_meta, without_meta;

SEC("tcx/ingress")
int see_meta(struct __sk_buff *skb)
{
	__u32 *meta = (void *)(long)skb->data_meta;
	void *data = (void *)(long)skb->data;

	if ((void *)(meta + 2) > data)
		without_meta++;
	else if (meta[0] == 0xfeed && meta[1] == skb->queue_mapping - 1)
		with_meta++;
	return 0; /* TCX_PASS */
}

char _license[] SEC("license") = "GPL";
