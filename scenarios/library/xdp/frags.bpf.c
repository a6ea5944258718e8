// Frames of several buffers: the direct pointers cover the first, helpers reach the rest. What is
// passed becomes an sk_buff with fragments, which tc reads and pulls.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct seen {
	__u32 first;            /* bytes that data..data_end cover */
	__u32 all;              /* bytes of the frame */
	__u32 sum;              /* of the bytes read at the seams */
	int beyond;             /* reading behind the end */
};

struct seen seen;
__u32 linear, whole, after_pull;
int loaded, grown, shrunk;
char last[4];

SEC("xdp.frags")
int jumbo(struct xdp_md *ctx)
{
	__u8 bytes[64];
	__u32 len = bpf_xdp_get_buff_len(ctx);

	seen.first = ctx->data_end - ctx->data;
	seen.all = len;
	/* Across the seam between the first buffer and the second. */
	if (seen.first < 32 || seen.first > 4096 || bpf_xdp_load_bytes(ctx, seen.first - 32, bytes, 64))
		return XDP_ABORTED;
	for (int i = 0; i < 64; i++)
		seen.sum += bytes[i];
	seen.beyond = bpf_xdp_load_bytes(ctx, len - 63, bytes, 64);

	/* The last bytes of the frame, in its last buffer. */
	if (len < 100 || bpf_xdp_store_bytes(ctx, len - 4, "tail", 4))
		return XDP_ABORTED;
	/* Into the room behind the last fragment, then more than a whole fragment away. */
	grown = bpf_xdp_adjust_tail(ctx, 100);
	shrunk = bpf_xdp_adjust_tail(ctx, -100);
	return XDP_PASS;
}

SEC("xdp.frags")
int cut(struct xdp_md *ctx)
{
	/* All fragments and a part of the first buffer. */
	int keep = 60, len = bpf_xdp_get_buff_len(ctx);

	if (bpf_xdp_adjust_tail(ctx, keep - len))
		return XDP_ABORTED;
	return XDP_TX;
}

/* Without frags: refused on a device whose frames may have several buffers. */
SEC("xdp")
int plain(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int read_all(struct __sk_buff *skb)
{
	linear = skb->data_end - skb->data;
	whole = skb->len;
	loaded = bpf_skb_load_bytes(skb, skb->len - 4, last, 4);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
