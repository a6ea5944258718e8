// Transfers between accounts: each has its lock. Taken as they come, two transfers in opposite
// directions deadlock; by number they do not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock {
	__u32 val;
} __attribute__((aligned(4)));

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym __weak;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym __weak;

struct account {
	struct bpf_res_spin_lock lock;
	__s64 balance;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

struct order {
	__u32 from, to;
	__s64 amount;
	__s64 left;
};

static __noinline int transfer(struct account *a, struct account *b, __s64 amount)
{
	int err;

	if (!a || !b)
		return -1;
	err = bpf_res_spin_lock(&a->lock);
	if (err)
		return err;
	err = bpf_res_spin_lock(&b->lock);
	if (!err) {
		a->balance -= amount;
		b->balance += amount;
		bpf_res_spin_unlock(&b->lock);
	}
	bpf_res_spin_unlock(&a->lock);
	return err;
}

SEC("syscall")
int as_it_comes(struct order *o)
{
	__u32 from = o->from, to = o->to;
	struct account *a = bpf_map_lookup_elem(&accounts, &from);
	struct account *b = bpf_map_lookup_elem(&accounts, &to);
	int err = transfer(a, b, o->amount);

	if (a)
		o->left = a->balance;
	return err;
}

SEC("syscall")
int by_number(struct order *o)
{
	__u32 from = o->from, to = o->to;
	__u32 low = from < to ? from : to, high = from < to ? to : from;
	struct account *a = bpf_map_lookup_elem(&accounts, &low);
	struct account *b = bpf_map_lookup_elem(&accounts, &high);

	return transfer(a, b, from < to ? o->amount : -o->amount);
}

char _license[] SEC("license") = "GPL";
