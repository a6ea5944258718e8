/* Pages of an arena. */
#include "calls.h"

#define __arena __attribute__((address_space(1)))
#define AT (1ull << 44)

extern void __arena *bpf_arena_alloc_pages(void *map, void __arena *addr, __u32 n, int node, __u64 flags) __ksym;
extern void bpf_arena_free_pages(void *map, void __arena *p, __u32 n) __ksym;
extern int bpf_arena_reserve_pages(void *map, void __arena *p, __u32 n) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, 1 << 10);
	__uint(max_entries, 100);
	__ulong(map_extra, AT);
} arena SEC(".maps");

static __always_inline __u64 low(void __arena *p)
{
	return (__u32)(__u64)p;
}

SEC("syscall") int pages(void *ctx)
{
	__u64 __arena *a, *b, *c;
	volatile __u64 __arena *v;

	a = bpf_arena_alloc_pages(&arena, NULL, 2, -1, 0);
	if (!a)
		return 1;
	note(low(a));
	note(a[0]);
	a[0] = 5;
	a[512] = 6;
	note(a[0] + a[512]);
	b = bpf_arena_alloc_pages(&arena, NULL, 3, -1, 0);
	note(low(b));
	bpf_arena_free_pages(&arena, a, 1);
	v = a;
	note(v[0]);
	v[0] = 7;
	note(v[0]);
	note(v[512]);
	c = bpf_arena_alloc_pages(&arena, NULL, 2, -1, 0);
	note(low(c));
	c = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);
	note(low(c));
	note(c ? c[0] : -1);
	note(low(bpf_arena_alloc_pages(&arena, NULL, 94, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 101, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 0, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 1, -1, 1)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 1, 77, 0)));
	note(bpf_arena_reserve_pages(&arena, (void __arena *)(AT + 50 * 4096), 2));
	note(bpf_arena_reserve_pages(&arena, (void __arena *)(AT + 51 * 4096), 2));
	note(bpf_arena_reserve_pages(&arena, (void __arena *)(AT + 99 * 4096), 2));
	note(bpf_arena_reserve_pages(&arena, (void __arena *)(AT + 60 * 4096), 0));
	note(low(bpf_arena_alloc_pages(&arena, (void __arena *)(AT + 50 * 4096), 1, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, (void __arena *)(AT + 60 * 4096), 1, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, (void __arena *)(AT + 99 * 4096), 1, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, (void __arena *)(AT + 99 * 4096), 1, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 45, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 40, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 8, -1, 0)));
	note(low(bpf_arena_alloc_pages(&arena, NULL, 8, -1, 0)));
	return 0;
}
