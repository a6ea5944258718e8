// A service of AF_UNIX elsewhere: clients of its path come to an abstract name without knowing,
// datagrams of one name to another, and what they see of it is the name that they asked for.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

void *bpf_cast_to_kern_ctx(void *obj) __ksym;
int bpf_sock_addr_set_sun_path(struct bpf_sock_addr_kern *kern, const __u8 *path, __u32 path__sz) __ksym;

#define AF_UNIX 1

// Names with their first byte: a NUL where they are abstract.
static char SERVICE[] = "/etc/service", BACKEND[] = "\0backend";
static char LOG[] = "\0log", STORE[] = "/etc/store";

__u32 connects, redirected, sends, receives, peers, names, families, wrong;
int none = 1, many = 1;
__u32 streams, mays, private;
__u8 listener[12];

static __always_inline int is(struct bpf_sock_addr_kern *kern, const char *name, __u32 len)
{
	struct sockaddr_un *un = bpf_core_cast(kern->uaddr, struct sockaddr_un);

	if (kern->uaddrlen != len + 2)
		return 0;
	for (__u32 i = 0; i < len; i++)
		if (un->sun_path[i] != name[i])
			return 0;
	return 1;
}

static __always_inline void put(struct bpf_sock_addr_kern *kern, const char *name, __u32 len)
{
	if (bpf_sock_addr_set_sun_path(kern, (const __u8 *)name, len))
		wrong++;
}

SEC("cgroup/connect_unix")
int elsewhere(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);
	static const char forbidden[] = "\0forbidden";
	static __u8 long_name[109];

	connects++;
	families += ctx->user_family == AF_UNIX && ctx->family == AF_UNIX && !ctx->protocol;
	if (is(kern, forbidden, sizeof(forbidden) - 1))
		return 0;
	if (is(kern, SERVICE, sizeof(SERVICE))) {
		redirected++;
		put(kern, BACKEND, sizeof(BACKEND) - 1);
		many = bpf_sock_addr_set_sun_path(kern, long_name, sizeof(long_name));
	}
	return 1;
}

SEC("cgroup/sendmsg_unix")
int to_store(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);

	sends++;
	if (is(kern, LOG, sizeof(LOG) - 1))
		put(kern, STORE, sizeof(STORE));
	return 1;
}

SEC("cgroup/recvmsg_unix")
int from_log(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);

	receives++;
	// Who has no name gets one.
	if (!kern->uaddrlen) {
		none = 0;
		put(kern, LOG, sizeof(LOG) - 1);
	}
	return 1;
}

SEC("cgroup/getpeername_unix")
int peer_is(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);

	peers++;
	if (is(kern, BACKEND, sizeof(BACKEND) - 1))
		put(kern, SERVICE, sizeof(SERVICE));
	return 1;
}

SEC("cgroup/getsockname_unix")
int name_is(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);

	names++;
	wrong += is(kern, SERVICE, sizeof(SERVICE));
	return 1;
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(stream, struct sock *sock, struct sock *other, struct sock *newsk)
{
	struct unix_sock *u = bpf_skc_to_unix_sock(other);
	struct unix_address *addr;

	streams++;
	if (!u)
		return -1;
	addr = BPF_CORE_READ(u, addr);
	bpf_probe_read_kernel(listener, sizeof(listener), &addr->name[0].sun_path);
	if (BPF_CORE_READ(addr, len) == 10 && listener[1] == 'p') {
		private++;
		return -13;
	}
	return 0;
}

SEC("lsm_cgroup/unix_may_send")
int BPF_PROG(may, struct socket *sock, struct socket *other)
{
	mays++;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
