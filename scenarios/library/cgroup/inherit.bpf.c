// What a child has of its listener's storage: a copy in maps with BPF_F_CLONE, nothing in others.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct policy {
	__u32 limit;
	struct bpf_spin_lock lock;
	__u64 owner;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct policy);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} own SEC(".maps");

__u64 listener, inherited_owner, missing, clients;
__u32 children, limits[2], later[2];

SEC("sockops")
int inherit(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct policy *p;
	__u32 n, changed;
	__u64 *mine;

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listener = bpf_get_socket_cookie((void *)ctx);
		p = bpf_sk_storage_get(&policies, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		mine = bpf_sk_storage_get(&own, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (p && mine) {
			p->limit = 7;
			p->owner = listener;
			*mine = 1;
		}
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		clients += !bpf_sk_storage_get(&policies, sk, 0, 0);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		missing += !bpf_sk_storage_get(&own, sk, 0, 0);
		p = bpf_sk_storage_get(&policies, sk, 0, 0);
		n = children;
		if (!p || n > 1)
			break;
		limits[n] = p->limit;
		inherited_owner = p->owner;
		// Its own from now on.
		bpf_spin_lock(&p->lock);
		p->limit += 10 * (n + 1);
		changed = p->limit;
		bpf_spin_unlock(&p->lock);
		later[n] = changed;
		children++;
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
