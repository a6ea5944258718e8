/* What operations on maps return, errno by errno, as bpf_map_*_elem of Linux 6.18 do. */
#include "on_maps.h"

MAP(hash, HASH, 4, 8, 2, 0);
MAP(sparse, HASH, 4, 8, 2, BPF_F_NO_PREALLOC);
MAP(array, ARRAY, 4, 8, 2, 0);
MAP(percpu_hash, PERCPU_HASH, 4, 8, 2, 0);
MAP(percpu_array, PERCPU_ARRAY, 4, 8, 2, 0);
MAP(lru, LRU_HASH, 4, 8, 64, 0);
MAP(trie, LPM_TRIE, 8, 8, 2, BPF_F_NO_PREALLOC);
MAP(queue, QUEUE, 0, 8, 2, 0);
MAP(stack, STACK, 0, 8, 2, 0);
MAP(bloom, BLOOM_FILTER, 0, 8, 64, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} progs SEC(".maps");

static __always_inline long prefix(int bits, __u64 flags)
{
	struct { __u32 bits, data; } key = { bits, 0 };
	__u64 value = 7;

	return bpf_map_update_elem(&trie, &key, &value, flags);
}

static __always_inline long uproot(int bits)
{
	struct { __u32 bits, data; } key = { bits, 0 };

	return bpf_map_delete_elem(&trie, &key);
}

static __always_inline long push(void *map, __u64 value, __u64 flags)
{
	return bpf_map_push_elem(map, &value, flags);
}

static __always_inline long pop(void *map)
{
	__u64 value = 99;
	long err = bpf_map_pop_elem(map, &value);

	return err ?: value;
}

static __always_inline long peek(void *map)
{
	__u64 value = 99;
	long err = bpf_map_peek_elem(map, &value);

	return err ?: value;
}

#define IS(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)

/* Both kinds of hash maps. */
#define HASHES(map)                                                                                \
	IS(map##_put, 0, return put(&map, 1, BPF_ANY))                                             \
	IS(map##_put_gets, 7, put(&map, 1, BPF_ANY); return get(&map, 1))                          \
	IS(map##_absent, -1, return get(&map, 1))                                                  \
	IS(map##_exist_of_none, -2, return put(&map, 1, BPF_EXIST))                                \
	IS(map##_exist, 0, put(&map, 1, BPF_ANY); return put(&map, 1, BPF_EXIST))                  \
	IS(map##_noexist, 0, return put(&map, 1, BPF_NOEXIST))                                     \
	IS(map##_noexist_twice, -17, put(&map, 1, BPF_ANY); return put(&map, 1, BPF_NOEXIST))      \
	IS(map##_flags, -22, return put(&map, 1, 3))                                               \
	IS(map##_high_flags, -22, return put(&map, 1, 1ULL << 32))                                 \
	IS(map##_lock_without, -22, return put(&map, 1, BPF_F_LOCK))                               \
	IS(map##_full, -7, put(&map, 1, 0); put(&map, 2, 0); return put(&map, 3, 0))               \
	IS(map##_full_again, 0, put(&map, 1, 0); put(&map, 2, 0); return put(&map, 2, 0))          \
	IS(map##_room_again, 0, put(&map, 1, 0); put(&map, 2, 0); cut(&map, 1);                    \
	   return put(&map, 3, 0))                                                                 \
	IS(map##_cut, 0, put(&map, 1, 0); return cut(&map, 1))                                     \
	IS(map##_cut_none, -2, return cut(&map, 1))                                                \
	IS(map##_cut_twice, -2, put(&map, 1, 0); cut(&map, 1); return cut(&map, 1))

HASHES(hash)
HASHES(sparse)
HASHES(percpu_hash)

#define ARRAYS(map)                                                                                \
	IS(map##_put, 0, return put(&map, 1, BPF_ANY))                                             \
	IS(map##_put_gets, 7, put(&map, 1, BPF_ANY); return get(&map, 1))                          \
	IS(map##_zero, 0, return get(&map, 1))                                                     \
	IS(map##_outside, -1, return get(&map, 2))                                                 \
	IS(map##_negative, -1, return get(&map, -1))                                               \
	IS(map##_put_outside, -7, return put(&map, 2, BPF_ANY))                                    \
	IS(map##_noexist, -17, return put(&map, 1, BPF_NOEXIST))                                   \
	IS(map##_exist, 0, return put(&map, 1, BPF_EXIST))                                         \
	IS(map##_lock_without, -22, return put(&map, 1, BPF_F_LOCK))                               \
	IS(map##_cut, -22, return cut(&map, 1))                                                    \
	IS(map##_cut_outside, -22, return cut(&map, 2))

ARRAYS(array)
ARRAYS(percpu_array)

IS(array_flags, -22, return put(&array, 1, 8))
IS(percpu_array_flags, -22, return put(&percpu_array, 1, 8))

IS(lru_put, 0, return put(&lru, 1, BPF_ANY))
IS(lru_exist_of_none, -2, return put(&lru, 1, BPF_EXIST))
IS(lru_noexist_twice, -17, put(&lru, 1, 0); return put(&lru, 1, BPF_NOEXIST))
IS(lru_flags, -22, return put(&lru, 1, 3))
IS(lru_cut_none, -2, return cut(&lru, 1))

IS(trie_put, 0, return prefix(8, 0))
IS(trie_too_long, -22, return prefix(33, 0))
IS(trie_exist_of_none, -2, return prefix(8, BPF_EXIST))
IS(trie_noexist_twice, -17, prefix(8, 0); return prefix(8, BPF_NOEXIST))
IS(trie_flags, -22, return prefix(8, 3))
IS(trie_full, -28, prefix(8, 0); prefix(16, 0); return prefix(24, 0))
IS(trie_replaced_when_full, 0, prefix(8, 0); prefix(16, 0); return prefix(16, 0))
IS(trie_cut, 0, prefix(8, 0); return uproot(8))
IS(trie_cut_none, -2, prefix(8, 0); return uproot(9))
IS(trie_cut_too_long, -22, return uproot(33))

IS(queue_empty, -2, return pop(&queue))
IS(queue_peek_empty, -2, return peek(&queue))
IS(queue_first, 1, push(&queue, 1, 0); push(&queue, 2, 0); return pop(&queue))
IS(queue_peek_stays, 1, push(&queue, 1, 0); peek(&queue); return pop(&queue))
IS(queue_full, -7, push(&queue, 1, 0); push(&queue, 2, 0); return push(&queue, 3, 0))
IS(queue_replaces, 2, push(&queue, 1, 0); push(&queue, 2, 0); push(&queue, 3, BPF_EXIST);
   return pop(&queue))
IS(queue_noexist, -22, return push(&queue, 1, BPF_NOEXIST))
IS(queue_flags, -22, return push(&queue, 1, 4))

IS(stack_empty, -2, return pop(&stack))
IS(stack_last, 2, push(&stack, 1, 0); push(&stack, 2, 0); return pop(&stack))
IS(stack_full, -7, push(&stack, 1, 0); push(&stack, 2, 0); return push(&stack, 3, 0))
IS(stack_replaces, 3, push(&stack, 1, 0); push(&stack, 2, 0); push(&stack, 3, BPF_EXIST);
   return pop(&stack))
IS(stack_noexist, -22, return push(&stack, 1, BPF_NOEXIST))

IS(bloom_absent, -2, __u64 v = 5; return bpf_map_peek_elem(&bloom, &v))
IS(bloom_present, 0, __u64 v = 5; push(&bloom, 5, 0); return bpf_map_peek_elem(&bloom, &v))
IS(bloom_flags, -22, return push(&bloom, 5, BPF_EXIST))

IS(ring_output, 0, __u64 v = 5; return bpf_ringbuf_output(&ring, &v, 8, 0))
IS(ring_flags, -22, __u64 v = 5; return bpf_ringbuf_output(&ring, &v, 8, 4))
IS(ring_avail, 16, __u64 v = 5; bpf_ringbuf_output(&ring, &v, 8, BPF_RB_NO_WAKEUP);
   return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA))
IS(ring_size, 4096, return bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE))
IS(ring_query_flags, 0, return bpf_ringbuf_query(&ring, 9))
IS(ring_too_large, 1, void *r = bpf_ringbuf_reserve(&ring, 4096, 0);
   if (!r) return 1; bpf_ringbuf_discard(r, 0); return 0)
IS(ring_discarded, 0, void *r = bpf_ringbuf_reserve(&ring, 8, 0);
   if (!r) return 1; bpf_ringbuf_discard(r, 0); return bpf_ringbuf_query(&ring, BPF_RB_CONS_POS))

IS(tail_call_of_none, 5, bpf_tail_call(ctx, &progs, 0); return 5)
IS(tail_call_outside, 5, bpf_tail_call(ctx, &progs, 2); return 5)
