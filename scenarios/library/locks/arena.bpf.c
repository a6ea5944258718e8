// A lock of a program's own, in an arena: its word is anyone's to write over. Every wait is
// bounded, so a word that was tampered with costs time and no more.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define __arena __attribute__((address_space(1)))
#define ETIMEDOUT 110
// The system's header may be older than arenas.
#define MAP_TYPE_ARENA 33
#define SPINS 1000

extern void __arena *bpf_arena_alloc_pages(void *map, void __arena *addr, __u32 n, int node,
					   __u64 flags) __ksym;

struct {
	__uint(type, MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__ulong(map_extra, 1ull << 44);
} arena SEC(".maps");

struct shared {
	__u32 lock;
	__u32 counter;
};

struct shared __arena *shared;
__u32 timeouts;

// A program has the arena that it names.
#define USES_ARENA() asm volatile("" ::"r"(&arena))

static __always_inline int lock(__u32 __arena *word)
{
	for (int i = 0; i < SPINS; i++) {
		if (!__sync_val_compare_and_swap(word, 0, 1))
			return 0;
	}
	return -ETIMEDOUT;
}

SEC("syscall")
int setup(void *ctx)
{
	shared = bpf_arena_alloc_pages(&arena, NULL, 1, -1, 0);
	return shared ? 0 : 1;
}

SEC("syscall")
int count(void *ctx)
{
	struct shared __arena *s = shared;

	USES_ARENA();
	if (!s)
		return 1;
	if (lock(&s->lock)) {
		__sync_fetch_and_add(&timeouts, 1);
		return -ETIMEDOUT;
	}
	s->counter++;
	s->lock = 0;
	return 0;
}

// Whoever has the arena mapped can do this.
SEC("syscall")
int tamper(void *ctx)
{
	struct shared __arena *s = shared;

	USES_ARENA();
	if (s)
		s->lock = 0xdeadbeef;
	return 0;
}

SEC("syscall")
int repair(void *ctx)
{
	struct shared __arena *s = shared;

	USES_ARENA();
	if (s)
		s->lock = 0;
	return s ? s->counter : -1;
}

char _license[] SEC("license") = "GPL";
