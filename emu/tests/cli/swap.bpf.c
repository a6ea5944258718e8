// The classic mistake: the frame's type is compared without ntohs.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int forgot(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (eth->h_proto == 0x0008)
		return XDP_DROP;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
