/* Programs attached to functions of target.bpf.c: what replaces them, and what traces them. No
   kernel was at hand that loads such programs: the expectations are those of 6.18's source. */
#include "../../../tests/corpus/verifier/kernel.h"

#define word(ctx, n) (*(volatile u64 *)((ctx) + (n)))

struct pair {
	int a, b;
};
struct sk_buff {
	unsigned int len;
} __attribute__((preserve_access_index));

SEC("freplace/g_num")
__success
int num(int a, long b)
{
	return a - b;
}

SEC("freplace/g_num")
__failure __msg("few() has 1 args while g_num() has 2 args")
int few(int a)
{
	return a;
}

SEC("freplace/g_num")
__failure __msg("arg1 in small() has size 4 while g_num() has 8")
int small(int a, int b)
{
	return a - b;
}

SEC("freplace/g_num")
__failure __msg("arg0 in kinds() is PTR while g_num() has INT")
int kinds(struct __sk_buff *skb, long b)
{
	return b;
}

SEC("freplace/g_ctx")
__success
int ctx(struct __sk_buff *skb)
{
	return skb->mark + skb->len;
}

SEC("freplace/g_ctx")
__failure __msg("arg0 named(struct xdp_md *) doesn't match g_ctx(struct __sk_buff *)")
int named(struct xdp_md *xdp)
{
	return 0;
}

SEC("freplace/g_ctx")
__failure __msg("invalid bpf_context access off=512 size=4")
int beyond(struct __sk_buff *skb)
{
	return *(volatile int *)((char *)skb + 512);
}

SEC("freplace/g_ctx")
__failure __msg("Extension program changes packet data, while original does not")
int moves(struct __sk_buff *skb)
{
	return bpf_skb_pull_data(skb, 4);
}

SEC("freplace/g_move")
__success
int moves_too(struct __sk_buff *skb)
{
	return bpf_skb_pull_data(skb, 8);
}

SEC("freplace/g_mem")
__failure __msg("R1 min value is outside of the allowed memory range")
int memory(struct pair *p)
{
	return p ? *(volatile int *)(p + 1) : 0;
}

SEC("freplace/g_mem")
__failure __msg("R1 invalid mem access 'mem_or_null'")
int unchecked(struct pair *p)
{
	return p->b;
}

SEC("freplace/s_ctx")
__failure __msg("s_ctx() is not a global function")
int of_static(struct __sk_buff *skb)
{
	return 0;
}

SEC("freplace/s_ptr")
__failure __msg("Cannot replace static functions")
int of_unreliable(int *p)
{
	return 0;
}

SEC("freplace/pass")
__success
int of_main(struct __sk_buff *skb)
{
	return 1;
}

SEC("fentry/g_ctx")
__success
int enter(u64 *ctx)
{
	struct sk_buff *skb = (void *)word(ctx, 0);

	return *(volatile unsigned int *)&skb->len & 0;
}

SEC("fexit/g_num")
__success
int leave(u64 *ctx)
{
	return (word(ctx, 0) + word(ctx, 2)) & 0;
}

SEC("fexit/g_num")
__failure __msg("invalid bpf_context access off=24 size=8")
int far(u64 *ctx)
{
	return word(ctx, 3) & 0;
}

SEC("fentry/g_mem")
__failure __msg("invalid bpf_context access off=0 size=8")
int other_pointer(u64 *ctx)
{
	return word(ctx, 0) & 0;
}

SEC("fentry/s_ptr")
__success
int words(u64 *ctx)
{
	return word(ctx, 4) & 0;
}

SEC("fentry/s_ptr")
__failure __msg("invalid bpf_context access off=40 size=8")
int sixth(u64 *ctx)
{
	return word(ctx, 5) & 0;
}

SEC("fmod_ret/g_num")
__failure __msg("can't modify return codes of BPF programs")
int modify(u64 *ctx)
{
	return 0;
}

SEC("fentry.s/g_num")
__failure __msg("g_num is not sleepable")
int sleeps(u64 *ctx)
{
	return 0;
}

char _license[] SEC("license") = "GPL";
