// One program keeps a lock for a long time, others queue behind it.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_res_spin_lock { __u32 val; };

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct bpf_res_spin_lock L SEC(".data.L");
struct bpf_res_spin_lock M SEC(".data.M");
struct bpf_res_spin_lock N SEC(".data.N");

// Results by CPU.
int results[8];

// Keeps one lock while it tries three times to get another.
static __always_inline int keep(struct bpf_res_spin_lock *one, struct bpf_res_spin_lock *two)
{
	int err = bpf_res_spin_lock(one);

	if (err)
		return err;
	for (int i = 0; i < 3; i++) {
		err = bpf_res_spin_lock(two);
		if (!err) {
			bpf_res_spin_unlock(two);
			break;
		}
	}
	bpf_res_spin_unlock(one);
	return err;
}

SEC("tc")
int l_then_m(struct __sk_buff *skb)
{
	return keep(&L, &M);
}

SEC("tc")
int m_then_n(struct __sk_buff *skb)
{
	return keep(&M, &N);
}

SEC("tc")
int n_then_l(struct __sk_buff *skb)
{
	return keep(&N, &L);
}

SEC("tc")
int want(struct __sk_buff *skb)
{
	__u32 cpu = bpf_get_smp_processor_id() & 7;
	int err = bpf_res_spin_lock(&L);

	results[cpu] = err;
	if (!err)
		bpf_res_spin_unlock(&L);
	return err;
}

char _license[] SEC("license") = "GPL";
