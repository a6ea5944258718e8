// Something to look at in a debugger: a struct on the stack, pointers into a packet and a map,
// functions that call functions, a callback, a tail call, a global, and a value two CPUs write.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum kind { SMALL, LARGE };

struct entry {
	__u64 bytes;
	__u32 packets;
	__u16 port;
	__u8 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct entry);
} ledger SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

__u32 limit = 64;
__u64 total;
__u64 per_cpu_seen[2];

struct sum {
	__u64 squares;
	__u32 rounds;
};

static long add_square(__u64 n, struct sum *sum)
{
	sum->squares += n * n;
	sum->rounds++;
	return 0;
}

static __noinline int classify(struct entry *e, __u32 len)
{
	if (len > limit)
		e->kind = LARGE;
	else
		e->kind = SMALL;
	e->bytes += len;
	return e->kind;
}

static __noinline int record(struct entry *from, __u32 slot)
{
	struct entry *e = bpf_map_lookup_elem(&ledger, &slot);
	int kind;

	if (!e)
		return -1;
	kind = classify(e, from->bytes);
	e->port = from->port;
	e->packets += 1;
	return kind;
}

SEC("xdp")
int first(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct entry seen = {};
	int kind;

	if ((void *)(udp + 1) > end)
		return XDP_DROP;
	seen.bytes = end - data;
	seen.port = bpf_ntohs(udp->dest);
	kind = record(&seen, bpf_get_smp_processor_id());
	if (kind < 0)
		return XDP_ABORTED;
	__sync_fetch_and_add(&total, seen.bytes);
	if (kind == LARGE)
		return XDP_TX;
	bpf_tail_call(ctx, &next, 0);
	return XDP_DROP;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	struct sum sum = {};
	__u32 cpu = bpf_get_smp_processor_id();

	bpf_loop(3, add_square, &sum, 0);
	per_cpu_seen[cpu & 1] += sum.squares;
	return sum.rounds == 3 ? XDP_PASS : XDP_ABORTED;
}

char _license[] SEC("license") = "GPL";
