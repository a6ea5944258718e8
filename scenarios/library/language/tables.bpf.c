// Maps whose values are programs, maps and nics, a bloom filter, and a counter by address.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key {
	__be32 addr;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, struct key);
	__type(value, __u64);
} hits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 8);
} untyped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 16);
	__type(value, __u32);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} steps SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} blue SEC(".maps"), green SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner);
} live SEC(".maps") = { .values = { [0] = &blue } };

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

SEC("xdp")
int first(struct xdp_md *ctx)
{
	__u32 five = 5;

	bpf_map_push_elem(&seen, &five, BPF_ANY);
	bpf_tail_call(ctx, &steps, 1);
	return XDP_DROP;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	__u32 zero = 0, *value;
	void *inner = bpf_map_lookup_elem(&live, &zero);

	if (!inner)
		return XDP_DROP;
	value = bpf_map_lookup_elem(inner, &zero);
	if (!value)
		return XDP_DROP;
	return bpf_redirect_map(&ports, *value, XDP_DROP);
}

char LICENSE[] SEC("license") = "GPL";
