// Two ways to count: one that loses updates when another CPU comes between its load and its store,
// and one that does not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct hits {
	__u64 count;
	__u64 last_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hits);
} hits SEC(".maps");

SEC("tc")
int count(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct hits *h = bpf_map_lookup_elem(&hits, &key);

	if (!h)
		return -1;
	__u64 seen = h->count;

	h->last_ns = bpf_ktime_get_ns();
	h->count = seen + 1;
	return 0;
}

SEC("tc")
int count_fixed(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct hits *h = bpf_map_lookup_elem(&hits, &key);

	if (!h)
		return -1;
	h->last_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&h->count, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
