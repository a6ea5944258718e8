// What becomes of an element's memory when its key is updated, deleted, and another key is stored.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define TABLE(name, map_type, flags)		\
	struct {				\
		__uint(type, map_type);		\
		__uint(max_entries, 8);		\
		__uint(map_flags, flags);	\
		__type(key, __u32);		\
		__type(value, __u64);		\
	} name SEC(".maps")

TABLE(preallocated, BPF_MAP_TYPE_HASH, 0);
TABLE(allocated, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC);
TABLE(lru, BPF_MAP_TYPE_LRU_HASH, 0);
TABLE(percpu, BPF_MAP_TYPE_PERCPU_HASH, 0);

static __always_inline int one(void *map)
{
	__u32 a = 1, b = 2;
	__u64 v = 5, w = 6, *p, *q, *r;
	int res = 0;

	bpf_map_update_elem(map, &a, &v, 0);
	p = bpf_map_lookup_elem(map, &a);
	bpf_map_update_elem(map, &a, &w, 0);
	q = bpf_map_lookup_elem(map, &a);
	if (!p || !q)
		return 9;
	/* Written in place? */
	if (p == q)
		res |= 1;
	/* Does the old pointer see the new value? */
	if (*p == 6)
		res |= 2;
	bpf_map_delete_elem(map, &a);
	bpf_map_update_elem(map, &b, &v, 0);
	r = bpf_map_lookup_elem(map, &b);
	if (!r)
		return 9;
	/* Is the memory of a deleted element that of the next one? */
	if (r == q)
		res |= 4;
	bpf_map_delete_elem(map, &b);
	return res;
}
SEC("xdp")
int reuse(struct xdp_md *ctx)
{
	return one(&preallocated) | one(&allocated) << 4 | one(&lru) << 8 | one(&percpu) << 12;
}

char _license[] SEC("license") = "GPL";
