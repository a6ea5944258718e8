/* Local storage of tasks and control groups; a map of AF_XDP sockets without any. */
#include "calls.h"

extern struct cgroup *bpf_cgroup_from_id(__u64 id) __ksym;
extern void bpf_cgroup_release(struct cgroup *c) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, 1);
	__type(key, int);
	__type(value, __u64);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, 1);
	__type(key, int);
	__type(value, __u64);
} cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, int);
} sockets SEC(".maps");

SEC("raw_tp/task_rename") int task(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	__u64 init = 7, *v;

	v = bpf_task_storage_get(&tasks, t, NULL, 0);
	note(v != 0);
	v = bpf_task_storage_get(&tasks, t, &init, 2);
	note(v != 0);
	v = bpf_task_storage_get(&tasks, t, &init, 1);
	note(v ? *v : -1);
	if (v)
		*v = 9;
	v = bpf_task_storage_get(&tasks, t, &init, 1);
	note(v ? *v : -1);
	note(bpf_task_storage_delete(&tasks, t));
	note(bpf_task_storage_delete(&tasks, t));
	v = bpf_task_storage_get(&tasks, t, NULL, 1);
	note(v ? *v : -1);
	return 0;
}

SEC("syscall") int cgroup(void *ctx)
{
	struct cgroup *c = bpf_cgroup_from_id(1);
	__u64 init = 7, *v;

	if (!c)
		return 1;
	v = bpf_cgrp_storage_get(&cgroups, c, NULL, 0);
	note(v != 0);
	v = bpf_cgrp_storage_get(&cgroups, c, &init, 1);
	note(v ? *v : -1);
	note(bpf_cgrp_storage_delete(&cgroups, c));
	note(bpf_cgrp_storage_delete(&cgroups, c));
	bpf_cgroup_release(c);
	return 0;
}

SEC("xdp") int xsk(struct xdp_md *xdp)
{
	int one = 1, two = 2;

	note(bpf_redirect_map(&sockets, 0, 0));
	note(bpf_redirect_map(&sockets, 0, 2));
	note(bpf_redirect_map(&sockets, 5, 3));
	note(bpf_redirect_map(&sockets, 0, 8));
	note(bpf_map_lookup_elem(&sockets, &one) != 0);
	note(bpf_map_lookup_elem(&sockets, &two) != 0);
	return XDP_PASS;
}
