/* Operations on maps of the rarer types, errno by errno, as those of Linux 6.18 do. */
#include "on_maps.h"

MAP(devices, DEVMAP, 4, 4, 2, 0);
MAP(devices_hash, DEVMAP_HASH, 4, 4, 2, 0);
MAP(cpus, CPUMAP, 4, 4, 1, 0);
MAP(xsks, XSKMAP, 4, 4, 2, 0);
MAP(hash, HASH, 4, 8, 4, 0);
MAP(array, ARRAY, 4, 8, 4, 0);
MAP(percpu_hash, PERCPU_HASH, 4, 8, 4, 0);
MAP(percpu_array, PERCPU_ARRAY, 4, 8, 4, 0);
MAP(lru, LRU_HASH, 4, 8, 64, 0);
MAP(percpu_lru, LRU_PERCPU_HASH, 4, 8, 64, 0);
MAP(trie, LPM_TRIE, 8, 8, 2, BPF_F_NO_PREALLOC);
MAP(stack, STACK, 0, 8, 2, 0);
MAP(groups, CGROUP_ARRAY, 4, 4, 2, 0);
MAP(stacks, STACK_TRACE, 4, 64, 2, 0);
MAP(programs, PROG_ARRAY, 4, 4, 2, 0);

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} user_ring SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2);
} inside SEC(".maps");

#define OUTER(name, kind, ...)                                                                     \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_##kind);                                                 \
		__uint(max_entries, 2);                                                            \
		__type(key, __u32);                                                                \
		__array(values, struct inner);                                                     \
	} name SEC(".maps") = { .values = { __VA_ARGS__ } }
OUTER(maps, ARRAY_OF_MAPS, [1] = &inside);
OUTER(maps_hash, HASH_OF_MAPS, [1] = &inside);

#define IS(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)
#define XDP(name, want, ...) RETURNS("xdp", struct xdp_md, name, want, __VA_ARGS__)

static __always_inline long there(void *map, int key)
{
	return bpf_map_lookup_elem(map, &key) != NULL;
}

static __always_inline long get_of(void *map, int key, __u32 cpu)
{
	__u64 *value = bpf_map_lookup_percpu_elem(map, &key, cpu);

	return value ? *value : -1;
}

/* Redirection: the low bits of the flags are for a key that is not there. */
#define TARGETS(map)                                                                               \
	XDP(map##_none, 2, return bpf_redirect_map(&map, 0, XDP_PASS))                             \
	XDP(map##_none_drops, 1, return bpf_redirect_map(&map, 0, XDP_DROP))                       \
	XDP(map##_outside, 2, return bpf_redirect_map(&map, 9, XDP_PASS))                          \
	XDP(map##_flags, 0, return bpf_redirect_map(&map, 0, XDP_PASS | 64))                       \
	XDP(map##_large_flags, 0, return bpf_redirect_map(&map, 0, 1ULL << 32))

TARGETS(devices)
TARGETS(devices_hash)
TARGETS(cpus)
TARGETS(xsks)
XDP(devices_broadcast, 4, return bpf_redirect_map(&devices, 0, BPF_F_BROADCAST))
XDP(devices_hash_broadcast, 4, return bpf_redirect_map(&devices_hash, 0, BPF_F_BROADCAST))
XDP(cpus_broadcast, 0, return bpf_redirect_map(&cpus, 0, BPF_F_BROADCAST))
XDP(xsks_broadcast, 0, return bpf_redirect_map(&xsks, 0, BPF_F_BROADCAST))
XDP(devices_exclude, 2, return bpf_redirect_map(&devices, 0, BPF_F_EXCLUDE_INGRESS | XDP_PASS))
XDP(devices_absent, 0, return there(&devices, 0))
XDP(devices_hash_absent, 0, return there(&devices_hash, 0))
XDP(xsks_absent, 0, return there(&xsks, 0))

/* Values of other CPUs. */
#define PERCPU(map)                                                                                \
	IS(map##_put_gets, 7, put(&map, 1, 0); return get(&map, 1))                                \
	IS(map##_of_this, 7, put(&map, 1, 0);                                                      \
	   return get_of(&map, 1, bpf_get_smp_processor_id()))                                     \
	IS(map##_of_no_cpu, -1, put(&map, 1, 0); return get_of(&map, 1, 0x10000))                  \
	IS(map##_of_last, -1, put(&map, 1, 0); return get_of(&map, 1, -1))
PERCPU(percpu_hash)
PERCPU(percpu_array)
PERCPU(percpu_lru)
IS(percpu_hash_of_no_key, -1, return get_of(&percpu_hash, 1, 0))
IS(percpu_lru_of_no_key, -1, return get_of(&percpu_lru, 1, 0))
IS(percpu_array_outside, -1, return get_of(&percpu_array, 4, 0))
IS(percpu_array_zero, 0, return get_of(&percpu_array, 1, 0))

#define LRUS(map)                                                                                  \
	IS(map##_put, 0, return put(&map, 1, BPF_ANY))                                             \
	IS(map##_absent, -1, return get(&map, 1))                                                  \
	IS(map##_exist_of_none, -2, return put(&map, 1, BPF_EXIST))                                \
	IS(map##_noexist, 0, return put(&map, 1, BPF_NOEXIST))                                     \
	IS(map##_noexist_twice, -17, put(&map, 1, 0); return put(&map, 1, BPF_NOEXIST))            \
	IS(map##_exist, 0, put(&map, 1, 0); return put(&map, 1, BPF_EXIST))                        \
	IS(map##_flags, -22, return put(&map, 1, 3))                                               \
	IS(map##_high_flags, -22, return put(&map, 1, 1ULL << 32))                                 \
	IS(map##_lock_without, -22, return put(&map, 1, BPF_F_LOCK))                               \
	IS(map##_cut, 0, put(&map, 1, 0); return cut(&map, 1))                                     \
	IS(map##_cut_none, -2, return cut(&map, 1))                                                \
	IS(map##_cut_twice, -2, put(&map, 1, 0); cut(&map, 1); return cut(&map, 1))
LRUS(lru)
LRUS(percpu_lru)
IS(lru_put_gets, 7, put(&lru, 1, 0); return get(&lru, 1))

/* Every element in turn; not zero ends it, after that one. */
static long all(void *map, void *key, void *value, void *ctx)
{
	return 0;
}

static long first(void *map, void *key, void *value, void *ctx)
{
	return 1;
}

#define EACH(map, filled)                                                                          \
	IS(map##_each, filled, put(&map, 1, 0); put(&map, 2, 0);                                   \
	   return bpf_for_each_map_elem(&map, all, NULL, 0))                                       \
	IS(map##_each_ends, 1, put(&map, 1, 0); put(&map, 2, 0);                                   \
	   return bpf_for_each_map_elem(&map, first, NULL, 0))                                     \
	IS(map##_each_flags, -22, return bpf_for_each_map_elem(&map, all, NULL, 1))
EACH(hash, 2)
EACH(array, 4)
EACH(percpu_hash, 2)
EACH(percpu_array, 4)
EACH(lru, 2)
EACH(percpu_lru, 2)
IS(hash_each_of_none, 0, return bpf_for_each_map_elem(&hash, all, NULL, 0))

/* A prefix is found by the longest that contains it. */
static __always_inline long prefix(int bits, __u32 data, __u64 value)
{
	struct { __u32 bits, data; } key = { bits, data };

	return bpf_map_update_elem(&trie, &key, &value, 0);
}

static __always_inline long within(int bits, __u32 data)
{
	struct { __u32 bits, data; } key = { bits, data };
	__u64 *value = bpf_map_lookup_elem(&trie, &key);

	return value ? *value : -1;
}
IS(trie_empty, -1, return within(32, 0))
IS(trie_found, 1, prefix(8, 0, 1); return within(32, 0))
IS(trie_longest, 2, prefix(8, 0, 1); prefix(16, 0, 2); return within(32, 0))
IS(trie_shorter, -1, prefix(8, 0, 1); return within(7, 0))
IS(trie_of_all, 3, prefix(0, 0, 3); return within(32, -1))
IS(trie_other, -1, prefix(8, 0, 1); return within(32, -1))
IS(trie_key_too_long, -1, prefix(8, 0, 1); return within(33, 0))

IS(stack_peek_empty, -2, __u64 v; return bpf_map_peek_elem(&stack, &v))
IS(stack_peek_last, 2, __u64 v = 1; bpf_map_push_elem(&stack, &v, 0); v = 2;
   bpf_map_push_elem(&stack, &v, 0); v = 0; bpf_map_peek_elem(&stack, &v); return v)
IS(stack_push_full, -7, __u64 v = 1; bpf_map_push_elem(&stack, &v, 0);
   bpf_map_push_elem(&stack, &v, 0); return bpf_map_push_elem(&stack, &v, 0))
IS(stack_push_over, 0, __u64 v = 1; bpf_map_push_elem(&stack, &v, 0);
   bpf_map_push_elem(&stack, &v, 0); return bpf_map_push_elem(&stack, &v, BPF_EXIST))

/* Maps in maps. */
static __always_inline long inner_of(void *outer, int key)
{
	void *map = bpf_map_lookup_elem(outer, &key);

	return map ? get(map, 0) : -2;
}
IS(maps_inner, 0, return inner_of(&maps, 1))
IS(maps_none, -2, return inner_of(&maps, 0))
IS(maps_outside, -2, return inner_of(&maps, 2))
IS(maps_hash_inner, 0, return inner_of(&maps_hash, 1))
IS(maps_hash_none, -2, return inner_of(&maps_hash, 0))

static long first_sample(struct bpf_dynptr *sample, void *ctx)
{
	return 1;
}

IS(groups_none, -11, return bpf_current_task_under_cgroup(&groups, 0))
IS(groups_outside, -7, return bpf_current_task_under_cgroup(&groups, 2))
IS(user_ring_empty, 0, return bpf_user_ringbuf_drain(&user_ring, (void *)first_sample, NULL, 0))
IS(user_ring_flags, -22,
   return bpf_user_ringbuf_drain(&user_ring, (void *)first_sample, NULL, 8))
/* A program that is not there is not called. */
IS(tail_none, 3, bpf_tail_call(ctx, &programs, 0); return 3)
IS(tail_outside, 3, bpf_tail_call(ctx, &programs, 2); return 3)

/* A stack is kept under its number. */
#define RAW(name, want, ...) RETURNS("raw_tp/sys_enter", void, name, want, __VA_ARGS__)
RAW(stack_id_flags, -22, return bpf_get_stackid(ctx, &stacks, 1ULL << 40))
