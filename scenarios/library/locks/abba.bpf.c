// Locks in two orders: what deadlocks on two CPUs, and a twin that does not.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock { __u32 val; };

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

// One section each: a value has one lock at most.
struct bpf_res_spin_lock A SEC(".data.A");
struct bpf_res_spin_lock B SEC(".data.B");
struct bpf_res_spin_lock C SEC(".data.C");

__u64 passed;

static __always_inline int both(struct bpf_res_spin_lock *one, struct bpf_res_spin_lock *two)
{
	int err = bpf_res_spin_lock(one);

	if (err)
		return err;
	err = bpf_res_spin_lock(two);
	if (!err) {
		passed++;
		bpf_res_spin_unlock(two);
	}
	bpf_res_spin_unlock(one);
	return err;
}

SEC("tc")
int a_then_b(struct __sk_buff *skb)
{
	return both(&A, &B);
}

SEC("tc")
int b_then_a(struct __sk_buff *skb)
{
	return both(&B, &A);
}

SEC("tc")
int b_then_c(struct __sk_buff *skb)
{
	return both(&B, &C);
}

SEC("tc")
int c_then_a(struct __sk_buff *skb)
{
	return both(&C, &A);
}

char _license[] SEC("license") = "GPL";
