// One lock, taken twice by one run: the verifier sees two pointers, the kernel one lock.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock { __u32 val; };

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct slot {
	struct bpf_res_spin_lock lock;
	__u32 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

// Which slots `both` takes, in this order.
__u32 first = 2, second = 2;
int got_first = 1, got_second = 1;

SEC("tc")
int both(struct __sk_buff *skb)
{
	__u32 a = first, b = second;
	struct slot *one = bpf_map_lookup_elem(&slots, &a);
	struct slot *two = bpf_map_lookup_elem(&slots, &b);

	if (!one || !two)
		return -1;
	got_first = bpf_res_spin_lock(&one->lock);
	if (got_first)
		return 1;
	got_second = bpf_res_spin_lock(&two->lock);
	if (!got_second) {
		two->runs++;
		bpf_res_spin_unlock(&two->lock);
	}
	one->runs++;
	bpf_res_spin_unlock(&one->lock);
	return 0;
}

char _license[] SEC("license") = "GPL";
