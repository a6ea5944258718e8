// Iterators that a program opens itself: processes, control groups, the tasks of a group.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

extern int bpf_iter_task_new(struct bpf_iter_task *it, struct task_struct *task__nullable,
			     unsigned int flags) __ksym;
extern struct task_struct *bpf_iter_task_next(struct bpf_iter_task *it) __ksym;
extern void bpf_iter_task_destroy(struct bpf_iter_task *it) __ksym;
extern int bpf_iter_css_new(struct bpf_iter_css *it, struct cgroup_subsys_state *start,
			    unsigned int flags) __ksym;
extern struct cgroup_subsys_state *bpf_iter_css_next(struct bpf_iter_css *it) __ksym;
extern void bpf_iter_css_destroy(struct bpf_iter_css *it) __ksym;
extern int bpf_iter_css_task_new(struct bpf_iter_css_task *it, struct cgroup_subsys_state *css,
				 unsigned int flags) __ksym;
extern struct task_struct *bpf_iter_css_task_next(struct bpf_iter_css_task *it) __ksym;
extern void bpf_iter_css_task_destroy(struct bpf_iter_css_task *it) __ksym;
extern struct cgroup *bpf_cgroup_from_id(__u64 id) __ksym;
extern void bpf_cgroup_release(struct cgroup *cgroup) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

#define MOST 8
#define CSS_TASK_ITER_PROCS 1

int procs[MOST], procs_later[MOST], threads[MOST], members[MOST], members_later[MOST];
int pre[MOST], post[MOST], up[MOST], nobody[MOST];
/* In memory, for a loop that the verifier sees through in two turns. */
unsigned int length;
int bad_flags, no_task, bad_order, bad_css_flags;

static void add(int *all, int v)
{
	unsigned int n = length;

	if (n < MOST)
		all[n] = v;
	length = n + 1;
}

static void list(int *pids, struct task_struct *task, unsigned int flags)
{
	struct bpf_iter_task it;
	struct task_struct *pos;

	length = 0;
	bpf_rcu_read_lock();
	bpf_iter_task_new(&it, task, flags);
	while ((pos = bpf_iter_task_next(&it)))
		add(pids, pos->pid);
	bpf_iter_task_destroy(&it);
	bpf_rcu_read_unlock();
}

static int walk(int *ids, struct cgroup *cgroup, unsigned int order)
{
	struct bpf_iter_css it;
	struct cgroup_subsys_state *pos;
	int err;

	length = 0;
	bpf_rcu_read_lock();
	err = bpf_iter_css_new(&it, &cgroup->self, order);
	while ((pos = bpf_iter_css_next(&it)))
		add(ids, pos->cgroup->kn->id);
	bpf_iter_css_destroy(&it);
	bpf_rcu_read_unlock();
	return err;
}

static int tasks(int *pids, struct cgroup *cgroup, unsigned int flags)
{
	struct bpf_iter_css_task it;
	struct task_struct *pos;
	int err;

	length = 0;
	err = bpf_iter_css_task_new(&it, &cgroup->self, flags);
	while ((pos = bpf_iter_css_task_next(&it)))
		add(pids, pos->pid);
	bpf_iter_css_task_destroy(&it);
	return err;
}

SEC("syscall")
int look(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct bpf_iter_task it;
	struct cgroup *cgroup;

	list(procs, NULL, BPF_TASK_ITER_ALL_THREADS);
	list(threads, task, BPF_TASK_ITER_PROC_THREADS);
	bpf_rcu_read_lock();
	bad_flags = bpf_iter_task_new(&it, task, 3);
	bpf_iter_task_destroy(&it);
	no_task = bpf_iter_task_new(&it, NULL, BPF_TASK_ITER_PROC_THREADS);
	bpf_iter_task_destroy(&it);
	bpf_rcu_read_unlock();

	cgroup = bpf_cgroup_from_id(2);
	if (!cgroup)
		return 1;
	walk(pre, cgroup, BPF_CGROUP_ITER_DESCENDANTS_PRE);
	walk(post, cgroup, BPF_CGROUP_ITER_DESCENDANTS_POST);
	bad_order = walk(nobody, cgroup, BPF_CGROUP_ITER_SELF_ONLY);
	bad_css_flags = tasks(nobody, cgroup, 2);
	bpf_cgroup_release(cgroup);

	cgroup = bpf_cgroup_from_id(4);
	if (!cgroup)
		return 2;
	walk(up, cgroup, BPF_CGROUP_ITER_ANCESTORS_UP);
	tasks(members, cgroup, CSS_TASK_ITER_PROCS);
	bpf_cgroup_release(cgroup);
	return 0;
}

SEC("syscall")
int look_later(void *ctx)
{
	struct cgroup *cgroup = bpf_cgroup_from_id(4);

	if (!cgroup)
		return 1;
	list(procs_later, NULL, BPF_TASK_ITER_ALL_PROCS);
	tasks(members_later, cgroup, 0);
	bpf_cgroup_release(cgroup);
	return 0;
}

char _license[] SEC("license") = "GPL";
