/* Routes: a machine that does not forward, and what is refused before it is asked. */
#include "calls.h"

#define AF_INET 2
#define AF_INET6 10

static __always_inline void asked(void *ctx)
{
	struct bpf_fib_lookup p = { .family = AF_INET, .ifindex = 1 };

	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	note(bpf_fib_lookup(ctx, &p, sizeof(p), BPF_FIB_LOOKUP_OUTPUT));
	note(bpf_fib_lookup(ctx, &p, sizeof(p) - 1, 0));
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 64));
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0x3f));
	p.family = AF_INET6;
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	p.ipv6_dst[0] = bpf_htonl(0xfe800000);
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	p.ipv6_dst[0] = bpf_htonl(0xff020000);
	p.ifindex = 9999;
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	p.ipv6_dst[0] = 0;
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	p.family = AF_INET;
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	p.family = 1;
	note(bpf_fib_lookup(ctx, &p, sizeof(p), 0));
	note(p.ifindex);
	note(p.rt_metric);
	note(p.h_vlan_TCI);
	note(p.tot_len);
}

SEC("tc") int of_skb(struct __sk_buff *skb)
{
	asked(skb);
	return 0;
}

SEC("xdp") int of_xdp(struct xdp_md *xdp)
{
	asked(xdp);
	return 2;
}
