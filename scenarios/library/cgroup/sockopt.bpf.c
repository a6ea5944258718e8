// Options of sockets under the policy of a group: some are refused, some changed, some answered
// without the kernel.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define SOL_SOCKET 1
#define SO_SNDBUF 7
#define SO_RCVBUF 8
#define SO_PRIORITY 12
#define SO_MARK 36
#define SOL_IP 0
#define IP_TOS 1
#define SOL_TCP 6
#define TCP_KEEPIDLE 4
#define SOL_CUSTOM 0x1000

__u32 sets, gets, custom, wrong;
__s32 last_retval, seen_by_parent, buffer, keepidle, tos_priority, own_mark;

// The int of the option, if there is room for one.
static __always_inline int *number(struct bpf_sockopt *ctx)
{
	int *value = ctx->optval;

	if ((void *)(value + 1) > ctx->optval_end)
		return NULL;
	return value;
}

SEC("cgroup/setsockopt")
int policy(struct bpf_sockopt *ctx)
{
	int *value = number(ctx);

	sets++;
	if (!value)
		return 0;
	if (ctx->level == SOL_CUSTOM) {
		// The kernel does not hear of it.
		custom = *value;
		ctx->optlen = -1;
		return 1;
	}
	if (ctx->level == SOL_SOCKET && ctx->optname == SO_MARK)
		return 0;
	if (ctx->level == SOL_SOCKET && ctx->optname == SO_RCVBUF && *value > 65536) {
		*value = 65536;
		return 1;
	}
	if (ctx->level == SOL_SOCKET && ctx->optname == SO_PRIORITY) {
		// Priorities go into the header.
		ctx->level = SOL_IP;
		ctx->optname = IP_TOS;
		*value = *value << 5;
		return 1;
	}
	if (ctx->level == SOL_TCP && ctx->optname == TCP_KEEPIDLE) {
		bpf_set_retval(-95);
		return 0;
	}
	// Use what the task gave.
	ctx->optlen = 0;
	return 1;
}

SEC("cgroup/getsockopt")
int answer(struct bpf_sockopt *ctx)
{
	int *value = number(ctx);

	gets++;
	if (!value)
		return 1;
	last_retval = ctx->retval;
	if (ctx->level == SOL_CUSTOM) {
		if (ctx->retval != -92)
			wrong++;
		*value = custom + 1;
		ctx->optlen = 4;
		ctx->retval = 0;
		return 1;
	}
	if (ctx->level == SOL_SOCKET && ctx->optname == SO_RCVBUF) {
		// The task sees the number that it gave.
		*value = (__u32)*value / 2;
		buffer = *value;
	}
	return 1;
}

SEC("cgroup/getsockopt")
int parent(struct bpf_sockopt *ctx)
{
	int *value = number(ctx);

	if (value)
		seen_by_parent = *value;
	if (bpf_get_retval() != ctx->retval)
		wrong++;
	return 1;
}

// Programs set options, too.
SEC("cgroup/connect4")
int tune(struct bpf_sock_addr *ctx)
{
	int mark = 99, idle = 30, bad = 0;

	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		wrong++;
	if (bpf_setsockopt(ctx, SOL_TCP, TCP_KEEPIDLE, &idle, sizeof(idle)))
		wrong++;
	if (bpf_setsockopt(ctx, SOL_TCP, TCP_KEEPIDLE, &bad, sizeof(bad)) != -22)
		wrong++;
	if (bpf_setsockopt(ctx, SOL_TCP, TCP_KEEPIDLE, &idle, 2) != -22)
		wrong++;
	if (bpf_getsockopt(ctx, SOL_TCP, TCP_KEEPIDLE, &keepidle, sizeof(keepidle)))
		wrong++;
	if (bpf_getsockopt(ctx, SOL_SOCKET, SO_PRIORITY, &tos_priority, sizeof(tos_priority)))
		wrong++;
	own_mark = ctx->sk ? ctx->sk->mark : 0;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
