// Samples the first bytes of each packet to user space, with a small header in front.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct sample {
	__u32 ifindex;
	__u16 bytes;
	__u16 proto;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} samples SEC(".maps");

const struct sample *record_type __attribute__((unused));

__u64 failed;

SEC("tc")
int sampler(struct __sk_buff *skb)
{
	struct sample s = {
		.ifindex = skb->ingress_ifindex,
		.bytes = skb->len,
		.proto = bpf_ntohs(skb->protocol),
	};

	if (bpf_perf_event_output(skb, &samples, BPF_F_CURRENT_CPU, &s, sizeof(s)))
		__sync_fetch_and_add(&failed, 1);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
