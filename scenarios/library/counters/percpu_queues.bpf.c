// Counts packets and bytes on each CPU, and packets of each receive queue.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct traffic {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct traffic);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} by_queue SEC(".maps");

/* Queue and CPU pairs that ever met: shows where interrupts went. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u32);
} pairs SEC(".maps");

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 zero = 0, queue = ctx->rx_queue_index, one = 1;
	__u64 pair = (__u64)queue << 32 | bpf_get_smp_processor_id();
	struct traffic *mine = bpf_map_lookup_elem(&seen, &zero);
	__u64 *of_queue = bpf_map_lookup_elem(&by_queue, &queue);

	if (!mine || !of_queue)
		return XDP_ABORTED;
	/* No other CPU writes this copy; the queue's counter may be anyone's. */
	mine->packets++;
	mine->bytes += ctx->data_end - ctx->data;
	__sync_fetch_and_add(of_queue, 1);
	bpf_map_update_elem(&pairs, &pair, &one, BPF_NOEXIST);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
