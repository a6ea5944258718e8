// A packet read without a bounds check.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/*
 * Where the packet begins is known, and not how long it is: that has to be asked first, as
 * bounds.bpf.c does.
 */
SEC("xdp")
int parse(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 first;

	/* The first byte behind the Ethernet header. */
	barrier_var(ctx);
	first = data[14];
	barrier_var(first);
	return first >> 4 == 4 && ctx->rx_queue_index == 0 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
