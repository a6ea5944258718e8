/* What the programs of freplace.bpf.c are attached to. */
#include "../../../tests/corpus/verifier/kernel.h"

struct pair {
	int a, b;
};

__attribute__((noinline)) int g_num(int a, long b)
{
	asm volatile("");
	return a + b;
}

__attribute__((noinline)) int g_ctx(struct __sk_buff *skb)
{
	asm volatile("");
	return skb->len;
}

__attribute__((noinline)) int g_move(struct __sk_buff *skb)
{
	return bpf_skb_pull_data(skb, 4);
}

__attribute__((noinline)) int g_mem(struct pair *p)
{
	asm volatile("");
	return p ? p->a : 0;
}

static_noinline int s_ctx(struct __sk_buff *skb)
{
	asm volatile("");
	return skb->mark;
}

static_noinline int s_ptr(int *p)
{
	asm volatile("");
	return *p;
}

SEC("tc")
int pass(struct __sk_buff *skb)
{
	struct pair p = { 1, 2 };
	int word = skb->len;

	return g_num(word, 2) + g_ctx(skb) + g_move(skb) + g_mem(&p) + s_ctx(skb) + s_ptr(&word);
}

char _license[] SEC("license") = "GPL";
