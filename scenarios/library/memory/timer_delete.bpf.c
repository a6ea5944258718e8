// A timer in an element that another CPU deletes: the callback runs before the deletion or not at
// all, and never with an element that is gone.
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define CLOCK_MONOTONIC 1

struct session {
	struct bpf_timer timer;
	__u64 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct session);
} sessions SEC(".maps");

__u32 started, expired, wrong, deleted, gone;

static int on_expiry(void *map, __u32 *key, struct session *session)
{
	int i;

	expired++;
	for (i = 0; i < 20; i++)
		bpf_ktime_get_ns();
	if (session->number != 77)
		wrong++;
	return 0;
}

SEC("xdp")
int begin(struct xdp_md *ctx)
{
	struct session new = {.number = 77}, *session;
	__u32 key = 5;

	bpf_map_update_elem(&sessions, &key, &new, BPF_ANY);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (!session)
		return XDP_ABORTED;
	bpf_timer_init(&session->timer, &sessions, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&session->timer, on_expiry);
	started += !bpf_timer_start(&session->timer, 2000, 0);
	return XDP_PASS;
}

SEC("xdp")
int end(struct xdp_md *ctx)
{
	__u32 key = 5;

	if (bpf_map_delete_elem(&sessions, &key))
		gone++;
	else
		deleted++;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
