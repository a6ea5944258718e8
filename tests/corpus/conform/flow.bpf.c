/* Where a program goes on: calls that replace it, exceptions, and memory that it shares with its
 * user and that need not be there. */
#include "annotated.h"

#define __auxiliary __tag("test_auxiliary")
#define __noinline __attribute__((noinline))
#define THROWN_TO(name) __attribute__((btf_decl_tag("exception_callback:" #name)))
#define __shared __attribute__((address_space(1)))

extern void bpf_throw(__u64 cookie) __weak __ksym;
extern void __shared *bpf_arena_alloc_pages(void *map, void __shared *addr, __u32 pages, int node,
					    __u64 flags) __weak __ksym;
extern void bpf_arena_free_pages(void *map, void __shared *addr, __u32 pages) __weak __ksym;

int answer(struct __sk_buff *ctx);
int again(struct __sk_buff *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, 4);
	__array(values, int(void));
} programs SEC(".maps") = {
	.values = { [0] = (void *)&answer, [1] = (void *)&again },
};

int calls;

SEC("tc") __auxiliary int answer(struct __sk_buff *ctx)
{
	return 42;
}

SEC("tc") __auxiliary int again(struct __sk_buff *ctx)
{
	calls++;
	bpf_tail_call(ctx, &programs, 1);
	return calls;
}

static __noinline int below(struct __sk_buff *ctx)
{
	int here = ctx->len;

	bpf_tail_call(ctx, &programs, 0);
	return here;
}

static __noinline int fails_below(struct __sk_buff *ctx)
{
	int here = ctx->len;

	bpf_tail_call(ctx, &programs, 2);
	return here;
}

RETURNS("tc", struct __sk_buff, replaced, 42, bpf_tail_call(ctx, &programs, 0); return 1)
RETURNS("tc", struct __sk_buff, replaced_as_often_as_may_be, 33,
	calls = 0; bpf_tail_call(ctx, &programs, 1); return 1)
RETURNS("tc", struct __sk_buff, a_function_replaced, 106,
	int len = ctx->len; return below(ctx) + len)
RETURNS("tc", struct __sk_buff, two_functions_replaced, 84, return below(ctx) + below(ctx))
RETURNS("tc", struct __sk_buff, a_function_not_replaced, 128,
	int len = ctx->len; return fails_below(ctx) + len)

static __noinline int throws(int cookie)
{
	bpf_throw(cookie);
	return 0;
}

static __noinline int throws_from_deep(int cookie)
{
	return throws(cookie + 1) + 1;
}

__noinline int thrown_to(__u64 cookie)
{
	return cookie * 2;
}

RETURNS("tc", struct __sk_buff, thrown, 5, bpf_throw(5); return 1)
RETURNS("tc", struct __sk_buff, thrown_below, 65, return throws(ctx->len + 1) + 1)
RETURNS("tc", struct __sk_buff, thrown_from_deep, 66, return throws_from_deep(ctx->len + 1) + 1)
THROWN_TO(thrown_to) RETURNS("tc", struct __sk_buff, caught, 130,
	return throws(ctx->len + 1) + 1)
THROWN_TO(thrown_to) RETURNS("tc", struct __sk_buff, caught_from_deep, 132,
	return throws_from_deep(ctx->len + 1) + 1)
THROWN_TO(thrown_to) RETURNS("tc", struct __sk_buff, not_thrown, 64,
	if (!ctx->len) bpf_throw(1); return ctx->len)

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__ulong(map_extra, 1ull << 44);
} arena SEC(".maps");

/* A program has the arena that it names. */
#define PAGE() bpf_arena_alloc_pages(&arena, (void __shared *)0, 1, -1, 0)
#define SHARES(name, want, ...)                                                                    \
	RETURNS("syscall", void, name, want, __u64 __shared *page = PAGE();                        \
		if (!page) return -1;                                                              \
		__VA_ARGS__)

SHARES(written_and_read, 7, page[3] = 7; return page[3])
SHARES(written_in_part, 0x1234, *(__u16 __shared *)(page + 1) = 0x1234;
       return *(__u16 __shared *)(page + 1))
SHARES(added_to, 9, page[5] = 4; __sync_fetch_and_add(&page[5], 5); return page[5])
SHARES(exchanged, 12, page[6] = 4; return __sync_lock_test_and_set(&page[6], 8) + page[6])
SHARES(compared, 24, page[7] = 4; __sync_val_compare_and_swap(&page[7], 4, 20);
       return __sync_val_compare_and_swap(&page[7], 4, 30) + 4)
SHARES(not_there, 0, volatile __u64 __shared *gone = page; gone[8] = 3;
       bpf_arena_free_pages(&arena, page, 1); gone[8] = 5; return gone[8])
SHARES(of_the_user, 1, __u64 users; asm volatile("%0 = addr_space_cast(%1, 0, 1);"
       "%0 = addr_space_cast(%0, 1, 0)" : "=&r"(users) : "r"(page + 1)); return users >> 44)
