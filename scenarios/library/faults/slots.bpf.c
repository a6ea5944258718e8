// Packets that are worked on take a slot. One program forgets its slot when there is no room to
// tell of the packet; the verifier knows of references and locks, not of that.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 2

struct slot {
	__u32 used;
	__u32 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} seen SEC(".maps");

__u32 busy;

static __always_inline struct slot *take(void)
{
	for (__u32 i = 0; i < SLOTS; i++) {
		__u32 key = i;
		struct slot *s = bpf_map_lookup_elem(&slots, &key);

		if (s && __sync_val_compare_and_swap(&s->used, 0, 1) == 0)
			return s;
	}
	busy++;
	return 0;
}

SEC("xdp")
int work(struct xdp_md *ctx)
{
	struct slot *s = take();
	__u32 *record;

	if (!s)
		return XDP_ABORTED;
	record = bpf_ringbuf_reserve(&seen, sizeof(*record), 0);
	if (!record)
		return XDP_ABORTED;
	*record = ++s->packets;
	bpf_ringbuf_submit(record, 0);
	s->used = 0;
	return XDP_DROP;
}

SEC("xdp")
int work_fixed(struct xdp_md *ctx)
{
	struct slot *s = take();
	__u32 *record;

	if (!s)
		return XDP_ABORTED;
	record = bpf_ringbuf_reserve(&seen, sizeof(*record), 0);
	if (record) {
		*record = ++s->packets;
		bpf_ringbuf_submit(record, 0);
	}
	s->used = 0;
	return record ? XDP_DROP : XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
