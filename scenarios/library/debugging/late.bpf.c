// A program that comes while others run, and what it counts.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

__u64 seen;

static __noinline int weigh(struct __sk_buff *skb)
{
	int weight = skb->len / 10;

	if (weight > 5)
		seen += weight;
	return weight;
}

SEC("tc")
int added_later(struct __sk_buff *skb)
{
	if (weigh(skb) > 9)
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
