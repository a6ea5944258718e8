// Ways to count in a program that another task of the same CPU can preempt: one that loses what is
// counted between its load and its store, and two that do not.
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

extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;

static __noinline int count_one(struct hits *h)
{
	__u64 seen = h->count;

	h->last_ns = bpf_ktime_get_ns();
	h->count = seen + 1;
	return 0;
}

SEC("syscall")
int count(void *ctx)
{
	__u32 key = 0;
	struct hits *h = bpf_map_lookup_elem(&hits, &key);

	return h ? count_one(h) : -1;
}

SEC("syscall")
int count_alone(void *ctx)
{
	__u32 key = 0;
	struct hits *h = bpf_map_lookup_elem(&hits, &key);

	if (!h)
		return -1;
	bpf_preempt_disable();
	count_one(h);
	bpf_preempt_enable();
	return 0;
}

SEC("syscall")
int count_atomic(void *ctx)
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
