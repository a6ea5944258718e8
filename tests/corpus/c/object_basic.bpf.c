// Every kind of map definition, global and call a linker has to understand.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = { .values = { [1] = &inner } };

int tail(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__array(values, int(void));
} jumps SEC(".maps") = { .values = { [0] = (void *)&tail } };

const volatile __u32 limit = 1500;
__u64 total;
__u32 start = 7;
static volatile __u16 hidden_count;

static __noinline int twice(int x)
{
	hidden_count++;
	return x * 2;
}

__noinline int visible(int x)
{
	return twice(x) + start;
}

SEC("xdp")
int tail(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int main_prog(struct xdp_md *ctx)
{
	__u32 key = twice(ctx->ingress_ifindex);
	__u64 *n = bpf_map_lookup_elem(&counts, &key);

	if (n)
		total += *n;
	if (visible(key) > limit)
		bpf_tail_call(ctx, &jumps, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
