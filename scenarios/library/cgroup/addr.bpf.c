// Addresses under the policy of a group: a service that is somewhere else, ports that may be bound,
// the source of datagrams, and names that hide all that from the task.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define LOOPBACK 0x7f000001
#define SERVICE 0x0a600001 // 10.96.0.1

struct origin {
	__u32 ip;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} origins SEC(".maps");

__u32 redirected, named, binds, refused_ports, posts, sent, received, released, v6, wrong;
__u32 seen_ip, seen_port, source;
__u64 cookie;

SEC("cgroup/connect4")
int to_backend(struct bpf_sock_addr *ctx)
{
	struct origin *o;

	if (ctx->user_ip4 != bpf_htonl(SERVICE))
		return 1;
	o = bpf_sk_storage_get(&origins, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!o)
		return 0;
	o->ip = ctx->user_ip4;
	o->port = ctx->user_port;
	cookie = bpf_get_socket_cookie((void *)ctx);
	ctx->user_ip4 = bpf_htonl(LOOPBACK);
	ctx->user_port = bpf_htons(8080);
	redirected++;
	return 1;
}

// The task sees the address that it asked for.
SEC("cgroup/getpeername4")
int hide(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&origins, ctx->sk, NULL, 0);

	if (o) {
		ctx->user_ip4 = o->ip;
		ctx->user_port = o->port;
		named++;
	}
	return 1;
}

// Of the group above: sees what the one below made of it.
SEC("cgroup/getpeername4")
int note_peer(struct bpf_sock_addr *ctx)
{
	seen_ip = bpf_ntohl(ctx->user_ip4);
	seen_port = bpf_ntohs(ctx->user_port);
	return 1;
}

// Ports from 8000 to 8999 only, and never all addresses.
SEC("cgroup/bind4")
int may_bind(struct bpf_sock_addr *ctx)
{
	__u32 port = bpf_ntohs(ctx->user_port);

	binds++;
	if (port && (port < 8000 || port > 8999)) {
		refused_ports++;
		return 0;
	}
	if (!ctx->user_ip4)
		ctx->user_ip4 = bpf_htonl(LOOPBACK);
	return 1;
}

// What was bound; 8500 is given back.
SEC("cgroup/post_bind4")
int bound(struct bpf_sock *sk)
{
	posts++;
	if (sk->src_ip4 != bpf_htonl(LOOPBACK))
		wrong++;
	return sk->src_port != 8500;
}

SEC("cgroup/bind6")
int bind_six(struct bpf_sock_addr *ctx)
{
	v6++;
	if (ctx->user_ip6[3] != bpf_htonl(1) || ctx->family != 10)
		wrong++;
	ctx->user_port = bpf_htons(8600);
	return 1;
}

SEC("cgroup/connect6")
int connect_six(struct bpf_sock_addr *ctx)
{
	v6++;
	return bpf_ntohs(ctx->user_port) != 9;
}

// Before a connection, from a port of its own.
SEC("cgroup/connect4")
int from_port(struct bpf_sock_addr *ctx)
{
	struct sockaddr_in own = { .sin_family = 2, .sin_port = bpf_htons(8700) };

	if (ctx->user_port != bpf_htons(8081))
		return 1;
	own.sin_addr.s_addr = bpf_htonl(LOOPBACK);
	return bpf_bind(ctx, (struct sockaddr *)&own, sizeof(own)) == 0;
}

SEC("cgroup/getsockname4")
int own_name(struct bpf_sock_addr *ctx)
{
	source = bpf_ntohs(ctx->user_port);
	return 1;
}

SEC("cgroup/sendmsg4")
int send_to(struct bpf_sock_addr *ctx)
{
	sent++;
	if (ctx->user_ip4 != bpf_htonl(SERVICE))
		return 1;
	ctx->user_ip4 = bpf_htonl(LOOPBACK);
	ctx->user_port = bpf_htons(8053);
	return 1;
}

// Answers come from the address that was asked.
SEC("cgroup/recvmsg4")
int answer(struct bpf_sock_addr *ctx)
{
	received++;
	ctx->user_ip4 = bpf_htonl(SERVICE);
	return 1;
}

SEC("cgroup/sock_release")
int closed(struct bpf_sock *sk)
{
	released++;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
