// Programs that are run by BPF_PROG_TEST_RUN alone: nothing is attached.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int shorten(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	eth->h_source[5] = 0x42;
	if (bpf_xdp_adjust_tail(ctx, -3))
		return XDP_DROP;
	return XDP_TX;
}

SEC("tc")
int mark(struct __sk_buff *skb)
{
	if (skb->mark != 7)
		return TC_ACT_SHOT;
	skb->mark = skb->priority + 1;
	return TC_ACT_OK;
}

__u64 first, second;

SEC("raw_tp/sched_switch")
int sum(struct bpf_raw_tracepoint_args *ctx)
{
	first = ctx->args[0];
	second = ctx->args[1];
	return first + second;
}

char _license[] SEC("license") = "GPL";
