// More locks than the held table has entries, the last one a lock that is held already.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock { __u32 val; };

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct slot { struct bpf_res_spin_lock lock; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// The slot that is wanted twice, with 32 locks held.
__u32 again = 0;
int result = 1;
__u64 waited;

#define SLOT(n) \
	__u32 k##n = n; \
	struct slot *s##n = bpf_map_lookup_elem(&slots, &k##n); \
	if (!s##n) return -1;

#define TAKE(n, ...) if (!bpf_res_spin_lock(&s##n->lock)) { __VA_ARGS__ bpf_res_spin_unlock(&s##n->lock); }

#define TAKE8(a, b, c, d, e, f, g, h, ...) \
	TAKE(a, TAKE(b, TAKE(c, TAKE(d, TAKE(e, TAKE(f, TAKE(g, TAKE(h, __VA_ARGS__))))))))

SEC("tc")
int many(struct __sk_buff *skb)
{
	__u32 key = again;
	struct slot *twice = bpf_map_lookup_elem(&slots, &key);

	if (!twice)
		return -1;
	waited = bpf_ktime_get_ns();
	SLOT(0) SLOT(1) SLOT(2) SLOT(3) SLOT(4) SLOT(5) SLOT(6) SLOT(7)
	SLOT(8) SLOT(9) SLOT(10) SLOT(11) SLOT(12) SLOT(13) SLOT(14) SLOT(15)
	SLOT(16) SLOT(17) SLOT(18) SLOT(19) SLOT(20) SLOT(21) SLOT(22) SLOT(23)
	SLOT(24) SLOT(25) SLOT(26) SLOT(27) SLOT(28) SLOT(29) SLOT(30) SLOT(31)
	TAKE8(0, 1, 2, 3, 4, 5, 6, 7,
	TAKE8(8, 9, 10, 11, 12, 13, 14, 15,
	TAKE8(16, 17, 18, 19, 20, 21, 22, 23,
	TAKE8(24, 25, 26, 27, 28, 29, 30, 31,
		result = bpf_res_spin_lock(&twice->lock);
		if (!result)
			bpf_res_spin_unlock(&twice->lock);
	))))
	waited = bpf_ktime_get_ns() - waited;
	return 0;
}

char _license[] SEC("license") = "GPL";
