// Every CPU counts its own keys and a shared one in a map that keeps the most recent.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} recent SEC(".maps");

__u64 failed;

SEC("tc")
int touch(struct __sk_buff *skb)
{
	__u32 cpu = bpf_get_smp_processor_id();

	for (__u32 i = 0; i < 4; i++) {
		__u32 key = i ? cpu << 8 | i : 0;
		__u64 one = 1, *seen = bpf_map_lookup_elem(&recent, &key);

		if (seen)
			__sync_fetch_and_add(seen, 1);
		else if (bpf_map_update_elem(&recent, &key, &one, BPF_ANY))
			__sync_fetch_and_add(&failed, 1);
	}
	return 0;
}

// The lists of an LRU map have plain locks: an NMI that meets one spins for ever.
SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	__u32 key = 1;
	__u64 one = 1;

	return bpf_map_update_elem(&recent, &key, &one, BPF_ANY);
}

char _license[] SEC("license") = "GPL";
