// What tasks may connect to, by the control group they are in: the group at the top counts, the one
// below sends everything to a proxy, a third refuses. Each group has a value of its own.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} connects SEC(".maps");

__u32 seen, redirected, refused, sockets, sent, unmarked;
__u64 last_id, ancestor, level_of_last, total, moves;
char moved_to[16];

SEC("cgroup/connect4")
int count(struct bpf_sock_addr *ctx)
{
	seen++;
	last_id = bpf_get_current_cgroup_id();
	ancestor = bpf_get_current_ancestor_cgroup_id(1);
	return 1;
}

SEC("cgroup/connect4")
int to_proxy(struct bpf_sock_addr *ctx)
{
	if (ctx->user_port != bpf_htons(80) || ctx->family != 2)
		return 1;
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(8080);
	redirected++;
	return 1;
}

SEC("cgroup/connect4")
int refuse(struct bpf_sock_addr *ctx)
{
	refused++;
	return 0;
}

SEC("cgroup/sock_create")
int mark(struct bpf_sock *sk)
{
	sockets++;
	sk->mark = 7;
	return sk->type != 2 || sk->protocol == 17;
}

SEC("cgroup/sendmsg4")
int no_dns(struct bpf_sock_addr *ctx)
{
	sent++;
	return ctx->user_port != bpf_htons(53);
}

SEC("fentry/tcp_v4_connect")
int BPF_PROG(on_connect, struct sock *sk, struct sockaddr *uaddr)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup *cgrp = task->cgroups->dfl_cgrp;
	__u64 *n = bpf_cgrp_storage_get(&connects, cgrp, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (n)
		total += ++*n;
	level_of_last = cgrp->level;
	unmarked += sk->sk_mark != 7;
	return 0;
}

SEC("fentry/cgroup_attach_task")
int BPF_PROG(on_move, struct cgroup *to, struct task_struct *leader, bool threadgroup)
{
	moves++;
	bpf_probe_read_kernel_str(moved_to, sizeof(moved_to), to->kn->name);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
