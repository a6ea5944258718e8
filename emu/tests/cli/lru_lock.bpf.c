// A lock in a map that holds none: a loader makes the map without types.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct value {
	struct bpf_spin_lock lock;
	int n;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct value);
} flows SEC(".maps");

SEC("tc")
int count(struct __sk_buff *ctx)
{
	int key = 0;
	struct value *v = bpf_map_lookup_elem(&flows, &key);

	if (!v)
		return 0;
	bpf_spin_lock(&v->lock);
	v->n++;
	bpf_spin_unlock(&v->lock);
	return 1;
}

char _license[] SEC("license") = "GPL";
