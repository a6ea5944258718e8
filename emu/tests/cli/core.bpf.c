// What the modelled kernel does not have: the loader leaves it to the verifier, as libbpf does.
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct sk_buff___new {
	int member_of_tomorrow;
} __attribute__((preserve_access_index));

extern int function_of_tomorrow(struct xdp_md *ctx) __ksym __weak;

SEC("xdp")
int member(struct xdp_md *ctx)
{
	struct sk_buff___new *skb = (void *)(long)ctx->data;

	return BPF_CORE_READ(skb, member_of_tomorrow);
}

SEC("xdp")
int function(struct xdp_md *ctx)
{
	return function_of_tomorrow(ctx);
}

char LICENSE[] SEC("license") = "GPL";
