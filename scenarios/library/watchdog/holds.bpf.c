// Loops that never end in time, each while its program holds two locks and three references: a
// socket, a record of a ring buffer and an object of its own.
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock {
	__u32 val;
};

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;
extern void *bpf_obj_new_impl(__u64 id, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *p, void *meta) __ksym;

struct object {
	__u64 value;
};

struct slot {
	struct bpf_res_spin_lock lock;
	__u64 rounds;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

enum { MAY_GOTO, ITERATOR, BOUNDED, CALLBACK };

int ended, free_locks;

// How long: longer than any watchdog here waits.
#define ROUNDS 20000

static __always_inline void spin(struct slot *s, int how)
{
	struct bpf_iter_num it;
	int i;

	if (how == MAY_GOTO) {
		while (1) {
			asm volatile goto("may_goto %l[out]" : : : : out);
			*(volatile __u64 *)&s->rounds += 1;
		}
	} else if (how == ITERATOR) {
		bpf_iter_num_new(&it, 0, 8000000);
		while (bpf_iter_num_next(&it))
			s->rounds += 1;
		bpf_iter_num_destroy(&it);
	} else {
		for (i = 0; i < ROUNDS; i++)
			asm volatile("" : "+r"(i));
		s->rounds += 1;
	}
out:
	return;
}

// The locks are taken last, and given back in the other order.
static __always_inline void locked(int how)
{
	__u32 zero = 0, one = 1;
	struct slot *a = bpf_map_lookup_elem(&slots, &zero);
	struct slot *b = bpf_map_lookup_elem(&slots, &one);

	if (!a || !b)
		return;
	if (bpf_res_spin_lock(&a->lock))
		return;
	if (!bpf_res_spin_lock(&b->lock)) {
		if (how == CALLBACK)
			b->rounds += 1;
		else
			spin(b, how);
		bpf_res_spin_unlock(&b->lock);
	}
	bpf_res_spin_unlock(&a->lock);
}

static int each(__u64 i, void *ctx)
{
	locked(CALLBACK);
	return 0;
}

static __always_inline int holding(struct xdp_md *ctx, int how)
{
	struct bpf_sock_tuple at = {};
	struct bpf_sock *sk;
	struct object *o;
	__u64 *record;

	at.ipv4.daddr = bpf_htonl(0x0a000001);
	at.ipv4.dport = bpf_htons(80);
	sk = bpf_sk_lookup_tcp(ctx, &at, sizeof(at.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return XDP_PASS;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record)
		goto release;
	o = bpf_obj_new_impl(__builtin_btf_type_id(*(struct object *)0, 0), NULL);
	if (o) {
		if (how == CALLBACK)
			bpf_loop(8000000, each, NULL, 0);
		else
			locked(how);
		bpf_obj_drop_impl(o, NULL);
	}
	*record = how;
	bpf_ringbuf_submit(record, 0);
release:
	bpf_sk_release(sk);
	ended++;
	return XDP_DROP;
}

SEC("xdp")
int by_may_goto(struct xdp_md *ctx)
{
	return holding(ctx, MAY_GOTO);
}

SEC("xdp")
int by_iterator(struct xdp_md *ctx)
{
	return holding(ctx, ITERATOR);
}

SEC("xdp")
int by_bounded(struct xdp_md *ctx)
{
	return holding(ctx, BOUNDED);
}

SEC("xdp")
int by_callback(struct xdp_md *ctx)
{
	return holding(ctx, CALLBACK);
}

// Both locks can be had.
SEC("xdp")
int looks(struct xdp_md *ctx)
{
	__u32 zero = 0, one = 1;
	struct slot *a = bpf_map_lookup_elem(&slots, &zero);
	struct slot *b = bpf_map_lookup_elem(&slots, &one);

	if (!a || !b || bpf_res_spin_lock(&a->lock))
		return XDP_DROP;
	if (!bpf_res_spin_lock(&b->lock)) {
		free_locks++;
		bpf_res_spin_unlock(&b->lock);
	}
	bpf_res_spin_unlock(&a->lock);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
