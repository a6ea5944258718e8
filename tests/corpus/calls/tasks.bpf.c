/* Tasks, control groups, sets of CPUs, work. */
#include "calls.h"

extern struct task_struct *bpf_task_acquire(struct task_struct *p) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
extern struct cgroup *bpf_cgroup_from_id(__u64 id) __ksym;
extern struct cgroup *bpf_cgroup_ancestor(struct cgroup *c, int level) __ksym;
extern void bpf_cgroup_release(struct cgroup *c) __ksym;
extern long bpf_task_under_cgroup(struct task_struct *t, struct cgroup *c) __ksym;
extern struct bpf_cpumask *bpf_cpumask_create(void) __ksym;
extern struct bpf_cpumask *bpf_cpumask_acquire(struct bpf_cpumask *m) __ksym;
extern void bpf_cpumask_release(struct bpf_cpumask *m) __ksym;
extern __u32 bpf_cpumask_first(const struct cpumask *m) __ksym;
extern __u32 bpf_cpumask_first_zero(const struct cpumask *m) __ksym;
extern __u32 bpf_cpumask_first_and(const struct cpumask *a, const struct cpumask *b) __ksym;
extern void bpf_cpumask_set_cpu(__u32 cpu, struct bpf_cpumask *m) __ksym;
extern void bpf_cpumask_clear_cpu(__u32 cpu, struct bpf_cpumask *m) __ksym;
extern bool bpf_cpumask_test_cpu(__u32 cpu, const struct cpumask *m) __ksym;
extern bool bpf_cpumask_test_and_set_cpu(__u32 cpu, struct bpf_cpumask *m) __ksym;
extern bool bpf_cpumask_test_and_clear_cpu(__u32 cpu, struct bpf_cpumask *m) __ksym;
extern void bpf_cpumask_setall(struct bpf_cpumask *m) __ksym;
extern void bpf_cpumask_clear(struct bpf_cpumask *m) __ksym;
extern bool bpf_cpumask_and(struct bpf_cpumask *d, const struct cpumask *a, const struct cpumask *b) __ksym;
extern void bpf_cpumask_or(struct bpf_cpumask *d, const struct cpumask *a, const struct cpumask *b) __ksym;
extern void bpf_cpumask_xor(struct bpf_cpumask *d, const struct cpumask *a, const struct cpumask *b) __ksym;
extern bool bpf_cpumask_equal(const struct cpumask *a, const struct cpumask *b) __ksym;
extern bool bpf_cpumask_intersects(const struct cpumask *a, const struct cpumask *b) __ksym;
extern bool bpf_cpumask_subset(const struct cpumask *a, const struct cpumask *b) __ksym;
extern bool bpf_cpumask_empty(const struct cpumask *m) __ksym;
extern bool bpf_cpumask_full(const struct cpumask *m) __ksym;
extern void bpf_cpumask_copy(struct bpf_cpumask *d, const struct cpumask *s) __ksym;
extern __u32 bpf_cpumask_weight(const struct cpumask *m) __ksym;

#define M(m) ((const struct cpumask *)(m))

SEC("syscall") int masks(void *ctx)
{
	struct bpf_cpumask *a = bpf_cpumask_create(), *b = bpf_cpumask_create(), *c;
	__u32 n;

	if (!a || !b)
		goto out;
	note(bpf_cpumask_empty(M(a)));
	bpf_cpumask_setall(b);
	n = bpf_cpumask_weight(M(b));
	note(bpf_cpumask_full(M(b)));
	note(bpf_cpumask_first(M(a)) == n);
	note(bpf_cpumask_first_zero(M(b)) == n);
	note(bpf_cpumask_first(M(b)));
	bpf_cpumask_set_cpu(0, a);
	bpf_cpumask_set_cpu(9999, a);
	note(bpf_cpumask_weight(M(a)));
	note(bpf_cpumask_test_cpu(0, M(a)));
	note(bpf_cpumask_test_cpu(9999, M(b)));
	note(bpf_cpumask_first_zero(M(a)));
	note(bpf_cpumask_first_and(M(a), M(b)));
	note(bpf_cpumask_subset(M(a), M(b)));
	note(bpf_cpumask_intersects(M(a), M(b)));
	note(bpf_cpumask_equal(M(a), M(b)));
	note(bpf_cpumask_test_and_set_cpu(0, a));
	note(bpf_cpumask_test_and_clear_cpu(0, a));
	note(bpf_cpumask_test_and_clear_cpu(0, a));
	note(bpf_cpumask_and(a, M(a), M(b)));
	bpf_cpumask_or(a, M(a), M(b));
	note(bpf_cpumask_full(M(a)));
	bpf_cpumask_xor(a, M(a), M(b));
	note(bpf_cpumask_empty(M(a)));
	bpf_cpumask_copy(a, M(b));
	note(bpf_cpumask_equal(M(a), M(b)));
	bpf_cpumask_clear_cpu(0, a);
	note(bpf_cpumask_first(M(a)));
	bpf_cpumask_clear(a);
	note(bpf_cpumask_empty(M(a)));
	c = bpf_cpumask_acquire(a);
	note(c == a);
	bpf_cpumask_release(c);
out:
	if (a)
		bpf_cpumask_release(a);
	if (b)
		bpf_cpumask_release(b);
	return 0;
}

SEC("syscall") int references(void *ctx)
{
	struct task_struct *cur = bpf_get_current_task_btf(), *t;
	struct cgroup *c, *d;

	t = bpf_task_acquire(cur);
	note(t == cur);
	if (t)
		bpf_task_release(t);
	t = bpf_task_from_pid(0);
	note(t != 0);
	if (t)
		bpf_task_release(t);
	t = bpf_task_from_pid(-1);
	note(t != 0);
	if (t)
		bpf_task_release(t);
	c = bpf_cgroup_from_id(1);
	note(c != 0);
	if (!c)
		return 1;
	note(c->level);
	note(bpf_task_under_cgroup(cur, c));
	d = bpf_cgroup_ancestor(c, 0);
	note(d == c);
	if (d)
		bpf_cgroup_release(d);
	d = bpf_cgroup_ancestor(c, 1);
	note(d != 0);
	if (d)
		bpf_cgroup_release(d);
	d = bpf_cgroup_ancestor(c, -1);
	note(d != 0);
	if (d)
		bpf_cgroup_release(d);
	bpf_cgroup_release(c);
	c = bpf_cgroup_from_id(0xffffffffffff);
	note(c != 0);
	if (c)
		bpf_cgroup_release(c);
	return 0;
}
