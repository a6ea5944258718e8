// Counts by CPU in task context, and samples the same map from an NMI.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u64);
} queue SEC(".maps");

int sampled = 1, popped = 1;

SEC("tc")
int count(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 one = 1;

	bpf_map_push_elem(&queue, &one, 0);
	return bpf_map_update_elem(&counters, &key, &one, BPF_ANY);
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	__u32 key = 0;
	__u64 two = 2;

	sampled = bpf_map_update_elem(&counters, &key, &two, BPF_ANY);
	popped = bpf_map_pop_elem(&queue, &two);
	return 0;
}

char _license[] SEC("license") = "GPL";
