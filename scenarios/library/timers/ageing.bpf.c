// A flow table whose entries age: each packet starts the timer of its entry anew, and the callback
// of an entry that was silent for 100 us removes it. A second timer ticks by itself.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

#define CLOCK_MONOTONIC 1

struct flow {
	struct bpf_timer timer;
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct tick {
	struct bpf_timer timer;
	__u32 left;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct tick);
} ticks SEC(".maps");

__u32 expired, ticked, last_index, wrong_key;
__u64 first_tick, last_tick, oldest;
int twice, own_cancel, cancelled;

static int on_silence(void *map, __u32 *key, struct flow *flow)
{
	expired++;
	if (flow->packets > oldest)
		oldest = flow->packets;
	if (bpf_map_delete_elem(&flows, key))
		wrong_key++;
	return 0;
}

static int on_tick(void *map, __u32 *key, struct tick *tick)
{
	last_tick = bpf_ktime_get_ns();
	if (!first_tick)
		first_tick = last_tick;
	ticked++;
	last_index = *key;
	own_cancel = bpf_timer_cancel(&tick->timer);
	if (tick->left && --tick->left)
		bpf_timer_start(&tick->timer, 50000, 0);
	return 0;
}

SEC("tc")
int track(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct flow fresh = {}, *flow;

	if ((void *)(ip + 1) > end)
		return 0;

	__u32 key = ip->saddr;

	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow || bpf_timer_init(&flow->timer, &flows, CLOCK_MONOTONIC))
			return 2;
		twice = bpf_timer_init(&flow->timer, &flows, CLOCK_MONOTONIC);
		bpf_timer_set_callback(&flow->timer, on_silence);
	}
	flow->packets++;
	bpf_timer_start(&flow->timer, 100000, 0);
	return 0;
}

SEC("tc")
int begin(struct __sk_buff *skb)
{
	__u32 one = 1;
	struct tick *tick = bpf_map_lookup_elem(&ticks, &one);

	if (!tick)
		return 2;
	if (!bpf_timer_init(&tick->timer, &ticks, CLOCK_MONOTONIC)) {
		bpf_timer_set_callback(&tick->timer, on_tick);
		tick->left = 4;
		bpf_timer_start(&tick->timer, 50000, 0);
	} else {
		cancelled = bpf_timer_cancel(&tick->timer);
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
