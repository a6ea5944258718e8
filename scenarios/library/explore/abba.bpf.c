// Transfers between two accounts, each with a lock of its own. `there` takes A then B, `back`
// takes B then A; `back_fixed` takes them in the order of `there`.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock { __u32 val; };

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct account {
	struct bpf_res_spin_lock lock;
	__u32 money;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct account);
} A SEC(".maps"), B SEC(".maps");

__u64 failed = 0;

static __always_inline int transfer(void *first, void *second)
{
	__u32 key = 0;
	struct account *one = bpf_map_lookup_elem(first, &key);
	struct account *two = bpf_map_lookup_elem(second, &key);
	int err;

	if (!one || !two)
		return -1;
	err = bpf_res_spin_lock(&one->lock);
	if (err)
		goto out;
	err = bpf_res_spin_lock(&two->lock);
	if (err) {
		bpf_res_spin_unlock(&one->lock);
		goto out;
	}
	one->money++;
	two->money++;
	bpf_res_spin_unlock(&two->lock);
	bpf_res_spin_unlock(&one->lock);
	return 0;
out:
	__sync_fetch_and_add(&failed, 1);
	return err;
}

SEC("tc")
int there(struct __sk_buff *skb)
{
	return transfer(&A, &B);
}

SEC("tc")
int back(struct __sk_buff *skb)
{
	return transfer(&B, &A);
}

SEC("tc")
int back_fixed(struct __sk_buff *skb)
{
	return transfer(&A, &B);
}

char _license[] SEC("license") = "GPL";
