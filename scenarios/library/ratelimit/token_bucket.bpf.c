// A token bucket for each source address, filled by the clock.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct bucket {
	__u64 filled_ns;  /* When tokens were last added. */
	__u64 tokens;
	__u64 passed;
	__u64 limited;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __be32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* One token per so many nanoseconds, and how many a bucket holds. */
const volatile __u64 token_ns = 1000000;
const volatile __u64 burst = 3;

SEC("xdp")
int limit(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct bucket *b, fresh = {};
	__u64 now = bpf_ktime_get_ns(), due;
	__be32 from;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	from = ip->saddr;
	b = bpf_map_lookup_elem(&buckets, &from);
	if (!b) {
		fresh.filled_ns = now;
		fresh.tokens = burst - 1;
		fresh.passed = 1;
		bpf_map_update_elem(&buckets, &from, &fresh, BPF_ANY);
		return XDP_PASS;
	}
	due = (now - b->filled_ns) / token_ns;
	if (due) {
		/* Only whole tokens are taken from the time, so no fraction is lost. */
		b->filled_ns += due * token_ns;
		b->tokens += due;
		if (b->tokens > burst) {
			b->tokens = burst;
			b->filled_ns = now;
		}
	}
	if (!b->tokens) {
		b->limited++;
		return XDP_DROP;
	}
	b->tokens--;
	b->passed++;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
