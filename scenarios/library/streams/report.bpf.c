// Two streams of text: what the program says itself, and what the kernel reports of it, with the
// functions that were being called.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_stream_args {
	__u64 args[2];
};

struct node {
	__u64 value;
};

extern int bpf_stream_vprintk_impl(int stream_id, const char *fmt__str, const void *args,
				   __u32 len__sz, void *aux__prog) __ksym;
extern void *bpf_obj_new_impl(__u64 id, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *p, void *meta) __ksym;

enum { STDOUT = 1, STDERR = 2 };

__u64 rounds;
int too_much, no_stream, odd_args;

static __noinline int leaf(__u64 value)
{
	struct node *n = bpf_obj_new_impl(__builtin_btf_type_id(*(struct node *)0, 0), NULL);

	if (!n)
		return 0;
	n->value = value;
	bpf_obj_drop_impl(n, NULL);
	return value;
}

static __noinline int middle(__u64 value)
{
	return leaf(value + 1) + 1;
}

static int each(__u64 i, __u64 *sum)
{
	*sum += middle(i);
	return 0;
}

static __noinline int looped(void)
{
	__u64 sum = 0;

	bpf_loop(2, each, &sum, 0);
	return sum;
}

static __noinline int outer(struct xdp_md *ctx)
{
	return looped() + ctx->rx_queue_index * 0;
}

// Works for long between two looks at the clock.
static __noinline int endless(void)
{
	__u64 hash = rounds;

	while (1) {
		asm volatile goto("may_goto %l[end]" : : : : end);
#pragma clang loop unroll(full)
		for (int i = 0; i < 200; i++)
			hash = (hash ^ (hash >> 29)) * 0x5851f42d;
		*(volatile __u64 *)&rounds = hash | 1;
	}
end:
	return rounds != 0;
}

// A word to each stream, then calls three functions deep on both sides of a callback.
SEC("xdp")
int words(struct xdp_md *ctx)
{
	__u64 args[2] = { 7, 8 };
	int sum = outer(ctx);

	bpf_stream_vprintk_impl(STDOUT, "sum %d of %lld\n", args, sizeof(args), NULL);
	args[0] = sum;
	bpf_stream_vprintk_impl(STDERR, "sum %d\n", args, sizeof(args), NULL);
	no_stream = bpf_stream_vprintk_impl(3, "%d", args, sizeof(args), NULL);
	odd_args = bpf_stream_vprintk_impl(STDOUT, "%d", args, 4, NULL);
	return XDP_PASS;
}

// Fills its stream.
SEC("xdp")
int fills(struct xdp_md *ctx)
{
	__u64 args[1] = { 12345 };
	int i;

	for (i = 0; i < 2000; i++) {
		too_much = bpf_stream_vprintk_impl(STDOUT, "%0100d", args, sizeof(args), NULL);
		if (too_much)
			break;
	}
	return XDP_DROP;
}

// The kernel's own limit of a loop: 250 ms.
SEC("xdp")
int waits(struct xdp_md *ctx)
{
	return endless() ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
