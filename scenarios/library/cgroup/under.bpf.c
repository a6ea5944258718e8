// Who is in which of the groups of an array: the socket of a packet that leaves, and the task that
// opens a file.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define WEB 0
#define NOBODY 1
#define GROUPS 2

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, GROUPS);
	__type(key, __u32);
	__type(value, __u32);
} groups SEC(".maps");

__u32 inside, outside, no_socket, no_group, beyond;
__u32 opens_inside, opens_outside;

SEC("tc")
int leaves(struct __sk_buff *skb)
{
	switch (bpf_skb_under_cgroup(skb, &groups, WEB)) {
	case 1:
		inside++;
		break;
	case 0:
		outside++;
		break;
	case -2:
		no_socket++;
		return 0;
	}
	no_group += bpf_skb_under_cgroup(skb, &groups, NOBODY) == -11;
	beyond += bpf_skb_under_cgroup(skb, &groups, GROUPS) == -7;
	return 0;
}

SEC("fentry/do_sys_openat2")
int BPF_PROG(opens, int dfd)
{
	if (bpf_current_task_under_cgroup(&groups, WEB) == 1)
		opens_inside++;
	else
		opens_outside++;
	no_group += bpf_current_task_under_cgroup(&groups, NOBODY) == -11;
	return 0;
}

char _license[] SEC("license") = "GPL";
