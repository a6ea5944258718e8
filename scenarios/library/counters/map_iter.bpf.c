// A program that is run for each element of a map: it adds up, writes them out, and halves them.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} by_port SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} by_index SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} by_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u16);
	__type(value, __u16);
} narrow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 2);
	__type(value, __u64);
} queue SEC(".maps");

__u64 total, ends;

static __always_inline void say(struct seq_file *seq, __u64 a, __u64 b)
{
	static const char text[] = "%llu: %llu\n";
	__u64 all[] = { a, b };

	bpf_seq_printf(seq, text, sizeof(text), all, sizeof(all));
}

SEC("iter/bpf_map_elem")
int dump(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;

	if (!key || !value) {
		ends++;
		return 0;
	}
	total += *value;
	say(ctx->meta->seq, *key, *value);
	*value /= 2;
	return 0;
}

SEC("iter/bpf_map_elem")
int dump_cpus(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 *key = ctx->key;
	__u64 *value = ctx->value;

	if (key && value)
		say(ctx->meta->seq, value[0], value[1]);
	return 0;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	__u64 *value = bpf_map_lookup_elem(&by_cpu, &key);

	if (value)
		*value += 1;
	return XDP_DROP;
}

// Keeps the maps that no other program has.
SEC("xdp")
int others(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u16 half = 0;
	__u64 value;

	bpf_map_lookup_elem(&by_port, &key);
	bpf_map_lookup_elem(&by_index, &key);
	bpf_map_lookup_elem(&narrow, &half);
	bpf_map_pop_elem(&queue, &value);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
