// The packet of no_bounds.bpf.c, read with a bounds check.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int parse(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u8 *end = (void *)(long)ctx->data_end;

	if (data + 15 > end)
		return XDP_DROP;
	return data[14] >> 4 == 4 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
