/* Helpers and operations on maps that few programs call, as those of Linux 6.18 do. A test run gives
 * programs a packet of 64 zero bytes and a socket of no family. */
#include "on_maps.h"

#define SKB(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)
#define EGRESS(name, want, ...)                                                                    \
	RETURNS("cgroup_skb/egress", struct __sk_buff, name, want, __VA_ARGS__)
#define CALL(name, want, ...) RETURNS("syscall", void, name, want, __VA_ARGS__)

MAP(groups, CGROUP_ARRAY, 4, 4, 2, 0);

/* Keys are groups. */
MAP(shared, CGROUP_STORAGE, 8, 8, 0, 0);
MAP(percpu, PERCPU_CGROUP_STORAGE, 8, 8, 0, 0);

#define OWNED(name, kind)                                                                          \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_##kind);                                                 \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, int);                                                                  \
		__type(value, __u64);                                                              \
	} name SEC(".maps")
OWNED(of_groups, CGRP_STORAGE);
OWNED(of_sockets, SK_STORAGE);

struct cgroup *bpf_cgroup_from_id(__u64 cgid) __ksym;
void bpf_cgroup_release(struct cgroup *cgrp) __ksym;

/* The socket of a packet. */
SKB(cookie, 1, return bpf_get_socket_cookie(ctx) == bpf_get_socket_cookie(ctx))
SKB(uid_of_root, 0, return bpf_get_socket_uid(ctx))
SKB(under_none, -11, return bpf_skb_under_cgroup(ctx, &groups, 0))
SKB(under_outside, -7, return bpf_skb_under_cgroup(ctx, &groups, 2))

#define SOCKET(name, want, ...)                                                                    \
	EGRESS(name, want, struct bpf_sock *sk = ctx->sk; if (!sk) return 3; __VA_ARGS__)
#define FULL(name, want, ...)                                                                      \
	SOCKET(name, want, sk = bpf_sk_fullsock(sk); if (!sk) return 3; __VA_ARGS__)
SOCKET(no_listener, 1, return bpf_get_listener_sock(sk) == NULL)
SOCKET(no_tcp_sock, 1, return bpf_tcp_sock(sk) == NULL)
SOCKET(not_of_tcp, 1, return bpf_skc_to_tcp_sock(sk) == NULL)
SOCKET(not_of_unix, 1, return bpf_skc_to_unix_sock(sk) == NULL)
FULL(no_storage_to_delete, 1, return bpf_sk_storage_delete(&of_sockets, sk) == -2)
FULL(storage_goes, 0, bpf_sk_storage_get(&of_sockets, sk, NULL, 1);
     return bpf_sk_storage_delete(&of_sockets, sk) != 0)

/* Storage of a program in a group, and of a group. */
EGRESS(shared_begins, 0, return *(__u64 *)bpf_get_local_storage(&shared, 0) != 0)
EGRESS(shared_counts, 1, __u64 *v = bpf_get_local_storage(&shared, 0);
       *v += 2; return *v == 2)
EGRESS(percpu_begins, 0, return *(__u64 *)bpf_get_local_storage(&percpu, 0) != 0)

#define GROUP(name, want, ...)                                                                     \
	CALL(name, want, struct cgroup *g = bpf_cgroup_from_id(1); if (!g) return -99;              \
	    long r; __VA_ARGS__; bpf_cgroup_release(g); return r)
GROUP(group_has_none, -2, r = bpf_cgrp_storage_delete(&of_groups, g))
GROUP(group_none_made, 1, r = bpf_cgrp_storage_get(&of_groups, g, NULL, 0) == NULL)
GROUP(group_flags, 1, r = bpf_cgrp_storage_get(&of_groups, g, NULL, 2) == NULL)
GROUP(group_made_goes, 0, r = bpf_cgrp_storage_get(&of_groups, g, NULL, 1) == NULL;
      r = r ?: bpf_cgrp_storage_delete(&of_groups, g))
CALL(no_group, 1, return bpf_cgrp_storage_get(&of_groups, NULL, NULL, 1) == NULL)

/* Text for the trace. */
SKB(printk, 2, return bpf_trace_printk("ab", 3))
SKB(printk_number, 5, return bpf_trace_printk("a: %d", 6, 12))
SKB(printk_invalid, -22, return bpf_trace_printk("%y", 3))
SKB(printk_unended, -22, return bpf_trace_printk("ab", 2))
SKB(vprintk, 4, static const char f[] = "%d%d"; __u64 a[2] = { 12, 34 };
    return bpf_trace_vprintk(f, sizeof(f), a, sizeof(a)))
SKB(vprintk_of_few, -22, static const char f[] = "%d%d"; __u64 a[1] = { 12 };
    return bpf_trace_vprintk(f, sizeof(f), a, sizeof(a)))

/* An object that every CPU has. */
extern void *bpf_percpu_obj_new_impl(__u64 id, void *meta) __ksym;
extern void bpf_percpu_obj_drop_impl(void *p, void *meta) __ksym;

struct counts {
	__u64 n;
};

struct holder {
	struct counts __percpu_kptr *counts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct holder);
} held SEC(".maps");

static __always_inline struct counts *counted(void)
{
	int zero = 0;
	struct holder *h = bpf_map_lookup_elem(&held, &zero);
	struct counts *c;

	if (!h)
		return NULL;
	c = bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(struct counts *)0, 0), NULL);
	if (!c)
		return NULL;
	c = bpf_kptr_xchg(&h->counts, c);
	if (c)
		bpf_percpu_obj_drop_impl(c, NULL);
	return h->counts;
}

#define PERCPU(name, want, ...)                                                                    \
	SKB(name, want, struct counts *c = counted(), *of; if (!c) return -99; __VA_ARGS__)
/* What it holds at first is what was there: it is left as zero. */
PERCPU(of_each, 1, of = bpf_per_cpu_ptr(c, 0); if (of) of->n = 0; return of != NULL)
PERCPU(of_this, 5, of = bpf_this_cpu_ptr(c); of->n = 5;
       of = bpf_per_cpu_ptr(c, bpf_get_smp_processor_id()); if (!of) return -1;
       long n = of->n; of->n = 0; return n)
PERCPU(of_no_cpu, 1, of = bpf_per_cpu_ptr(c, 0x10000); return of == NULL)

/* The packet as it was read before there were pointers; a program that reads beyond it ends. */
__u64 load_byte(void *skb, __u64 at) asm("llvm.bpf.load.byte");
__u64 load_half(void *skb, __u64 at) asm("llvm.bpf.load.half");
__u64 load_word(void *skb, __u64 at) asm("llvm.bpf.load.word");

#define AT(name, want, ...)                                                                        \
	SKB(name, want, __u8 b[4] = { 1, 2, 3, 4 }; bpf_skb_store_bytes(ctx, 20, b, 4, 0);          \
	    __VA_ARGS__)
AT(byte_there, 2, return load_byte(ctx, 21))
AT(half_there, 0x102, return load_half(ctx, 20))
AT(word_there, 0x1020304, return load_word(ctx, 20))
AT(byte_from, 3, return load_byte(ctx, ctx->len - 42))
AT(half_from, 0x203, return load_half(ctx, ctx->len - 43))
AT(word_from, 0x1020304, return load_word(ctx, ctx->len - 44))
SKB(half_beyond, 0, return load_half(ctx, 63) + 5)
SKB(word_beyond, 0, return load_word(ctx, ctx->len - 3) + 5)

/* Keys of an arena have no bytes to read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__ulong(map_extra, 1ULL << 44);
} arena SEC(".maps");

#define REFUSED(name, ...)                                                                         \
	SEC("syscall") __tag("test_expect_failure")                                                 \
	__tag("test_expect_msg=0=invalid zero-sized read") int name(void *ctx)                      \
	{                                                                                          \
		__u64 key = 0;                                                                     \
		return __VA_ARGS__;                                                                \
	}
REFUSED(arena_put, bpf_map_update_elem(&arena, &key, &key, 0))
REFUSED(arena_cut, bpf_map_delete_elem(&arena, &key))
REFUSED(arena_get, bpf_map_lookup_elem(&arena, &key) != NULL)
