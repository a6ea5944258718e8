/* Resilient locks, interrupts, and global functions in critical sections. */
#include "held.h"

__attribute__((noinline)) int gplain(int a)
{
	return a+2;
}

__attribute__((noinline)) int gsleep(int a)
{
	char b[8];
	bpf_copy_from_user_str(b, 8, 0, 0);
	return a;
}

__attribute__((noinline)) int grcu(int a)
{
	bpf_rcu_read_lock();
	return a;
}

__attribute__((noinline)) int gthrow(int a)
{
	if (a)
		bpf_throw(9);
	return a;
}

__success
SEC("tc")
int r_ok(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("bpf_res_spin_unlock without taking a lock")
SEC("tc")
int r_unchecked(void *c)
{
	bpf_res_spin_lock(&la);
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region")
SEC("tc")
int r_missing(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	return 0;
}

__failure __msg("Acquiring the same lock again, AA deadlock detected")
SEC("tc")
int r_aa(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	if (bpf_res_spin_lock(&la)) {
		bpf_res_spin_unlock(&la);
		return 1;
	}
	bpf_res_spin_unlock(&la);
	bpf_res_spin_unlock(&la);
	return 0;
}

__success
SEC("tc")
int r_ab(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	if (bpf_res_spin_lock(&lb)) {
		bpf_res_spin_unlock(&la);
		return 1;
	}
	bpf_res_spin_unlock(&lb);
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("bpf_res_spin_unlock cannot be out of order")
SEC("tc")
int r_ab_order(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	if (bpf_res_spin_lock(&lb)) {
		bpf_res_spin_unlock(&la);
		return 1;
	}
	bpf_res_spin_unlock(&la);
	bpf_res_spin_unlock(&lb);
	return 0;
}

__failure __msg("bpf_res_spin_unlock without taking a lock")
SEC("tc")
int r_only_unlock(void *c)
{
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("bpf_res_spin_unlock of different lock")
SEC("tc")
int r_other(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	bpf_res_spin_unlock(&lb);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int r_helper(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	bpf_ktime_get_ns();
	bpf_res_spin_unlock(&la);
	return 0;
}

__success
SEC("tc")
int r_map(void *c)
{
	int k = 0;
	struct locked *v = bpf_map_lookup_elem(&locks2, &k);
	if (!v)
		return 0;
	if (bpf_res_spin_lock(&v->l))
		return 1;
	v->n++;
	bpf_res_spin_unlock(&v->l);
	return 0;
}

__success
SEC("tc")
int r_map2(void *c)
{
	int k = 0;
	struct locked *v = bpf_map_lookup_elem(&locks2, &k);
	if (!v)
		return 0;
	struct locked *w = bpf_map_lookup_elem(&locks2, &k);
	if (!w)
		return 0;
	if (bpf_res_spin_lock(&v->l))
		return 1;
	if (bpf_res_spin_lock(&w->l)) {
		bpf_res_spin_unlock(&v->l);
		return 1;
	}
	bpf_res_spin_unlock(&w->l);
	bpf_res_spin_unlock(&v->l);
	return 0;
}

__success
SEC("tc")
int r_in_spin(void *c)
{
	bpf_spin_lock(&lc);
	if (!bpf_res_spin_lock(&la))
		bpf_res_spin_unlock(&la);
	bpf_spin_unlock(&lc);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int r_spin_in(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	bpf_spin_lock(&lc);
	bpf_spin_unlock(&lc);
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("bpf_spin_unlock cannot be out of order")
SEC("tc")
int r_spin_order(void *c)
{
	bpf_spin_lock(&lc);
	if (bpf_res_spin_lock(&la)) {
		bpf_spin_unlock(&lc);
		return 0;
	}
	bpf_spin_unlock(&lc);
	bpf_res_spin_unlock(&la);
	return 0;
}

__success
SEC("tc")
int r_irq(void *c)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&la, &f))
		return 1;
	bpf_res_spin_unlock_irqrestore(&la, &f);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int r_irq_native(void *c)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&la, &f))
		return 1;
	bpf_local_irq_restore(&f);
	return 0;
}

__failure __msg("bpf_res_spin_unlock of different lock")
SEC("tc")
int r_native_irq(void *c)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	if (!bpf_res_spin_lock(&la))
		bpf_res_spin_unlock_irqrestore(&la, &f);
	return 0;
}

__failure __msg("bpf_res_spin_unlock of different lock")
SEC("tc")
int r_irq_plain(void *c)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&la, &f))
		return 1;
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("cannot restore irq state out of order, expected id=2 acquired at insn_idx=11")
SEC("tc")
int r_irq_order(void *c)
{
	unsigned long f, g;
	if (bpf_res_spin_lock_irqsave(&la, &f))
		return 1;
	if (bpf_res_spin_lock_irqsave(&lb, &g))  {
		bpf_res_spin_unlock_irqrestore(&la, &f);
		return 1;
	}
	bpf_res_spin_unlock_irqrestore(&lb, &f);
	bpf_res_spin_unlock_irqrestore(&la, &g);
	return 0;
}

__failure __msg("expected an initialized irq flag as arg#0")
SEC("tc")
int r_irq_fail(void *c)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&la, &f))  {
		bpf_local_irq_restore(&f);
		return 1;
	}
	bpf_res_spin_unlock_irqrestore(&la, &f);
	return 0;
}

__failure __msg("bpf_res_spin_lock cannot be accessed directly by load/store")
SEC("tc")
int r_read(void *c)
{
	int k = 0;
	struct locked *v = bpf_map_lookup_elem(&locks2, &k);
	if (!v)
		return 0;
	return *(volatile int*)&v->l;
}

__failure __msg("off 4 doesn't point to 'struct bpf_res_spin_lock' that is at 0")
SEC("tc")
int r_off(void *c)
{
	int k = 0;
	struct locked *v = bpf_map_lookup_elem(&locks2, &k);
	if (!v)
		return 0;
	if (!bpf_res_spin_lock((void*)&v->n))
		bpf_res_spin_unlock((void*)&v->n);
	return 0;
}

__failure __msg("arg#0 doesn't point to map value or allocated object")
SEC("tc")
int r_stack(void *c)
{
	struct bpf_res_spin_lock l = {};
	if (!bpf_res_spin_lock(&l))
		bpf_res_spin_unlock(&l);
	return 0;
}

__failure __msg("map 'plain' has no valid bpf_res_spin_lock")
SEC("tc")
int r_plain(void *c)
{
	int k = 0;
	void *v = bpf_map_lookup_elem(&plain, &k);
	if (!v)
		return 0;
	if (!bpf_res_spin_lock(v))
		bpf_res_spin_unlock(v);
	return 0;
}

__failure __msg("map '.data.C' has no valid bpf_res_spin_lock")
SEC("tc")
int r_spinlock(void *c)
{
	if (!bpf_res_spin_lock((void*)&lc))
		bpf_res_spin_unlock((void*)&lc);
	return 0;
}

__success
SEC("tc")
int r_ret(void *c)
{
	int r = bpf_res_spin_lock(&la);
	if (r)
		return r < 0 ? 0 : 3;
	bpf_res_spin_unlock(&la);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int r_throw(void *c)
{
	if (bpf_res_spin_lock(&la))
		return 1;
	bpf_throw(0);
	return 0;
}

__success
SEC("syscall")
int s_rcu_global(void *c)
{
	bpf_rcu_read_lock();
	sink = gplain(sink);
	bpf_rcu_read_unlock();
	return 0;
}

__failure __msg("a non-sleepable BPF program context")
SEC("syscall")
int s_rcu_gsleep(void *c)
{
	bpf_rcu_read_lock();
	sink = gsleep(sink);
	bpf_rcu_read_unlock();
	return 0;
}

__failure __msg("a non-sleepable BPF program context")
SEC("syscall")
int s_pre_gsleep(void *c)
{
	bpf_preempt_disable();
	sink = gsleep(sink);
	bpf_preempt_enable();
	return 0;
}

__success
SEC("syscall")
int s_gsleep(void *c)
{
	sink = gsleep(sink);
	return 0;
}

__failure __msg("a non-sleepable BPF program context")
SEC("tc")
int t_gsleep(void *c)
{
	sink = gsleep(sink);
	return 0;
}

__failure __msg("a non-sleepable BPF program context")
SEC("syscall")
int s_irq_gsleep(void *c)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	sink = gsleep(sink);
	bpf_local_irq_restore(&f);
	return 0;
}

__failure __msg("unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)")
SEC("syscall")
int s_grcu(void *c)
{
	sink = grcu(sink);
	bpf_rcu_read_unlock();
	return 0;
}

__success
SEC("tc")
int t_gthrow(void *c)
{
	sink = gthrow(sink);
	return 0;
}

__success
SEC("tc")
int t_gthrow_rcu(void *c)
{
	bpf_rcu_read_lock();
	sink = gthrow(sink);
	bpf_rcu_read_unlock();
	return 0;
}

__success
SEC("tc")
int t_gthrow_lock(void *c)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	sink = gthrow(sink);
	bpf_local_irq_restore(&f);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
