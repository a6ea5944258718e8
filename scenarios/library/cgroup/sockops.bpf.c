// What TCP asks and tells the programs of a group: timeouts and windows before a connection, who
// made it, and each state on its way.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define PORT 8080
#define SOL_SOCKET 1
#define SO_KEEPALIVE 9

struct step {
	__u32 op;
	__u32 local_port;
	__u32 from; // of a state callback
	__u32 to;
	__u32 full;
	__u32 state;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} steps SEC(".maps");

struct step *unused __attribute__((unused));
__u32 rtts, active_cwnd, child_cookie_differs, syn_ack_flags, syn_ack_len, no_sk, option_err, keepalive;
__u64 listener, client, child;
__u32 segs_out, segs_in, remote_port, remote_ip, sent, acked;

static void note(struct bpf_sock_ops *ctx, __u32 from, __u32 to)
{
	struct step *s = bpf_ringbuf_reserve(&steps, sizeof(*s), 0);

	if (!s)
		return;
	s->op = ctx->op;
	s->local_port = ctx->local_port == PORT ? PORT : 0;
	s->from = from;
	s->to = to;
	s->full = ctx->is_fullsock;
	s->state = ctx->state;
	bpf_ringbuf_submit(s, 0);
}

SEC("sockops")
int watch(struct bpf_sock_ops *ctx)
{
	int flags = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG;
	int one = 1, op = ctx->op;
	void *data, *end;

	switch (op) {
	case BPF_SOCK_OPS_RTT_CB:
		rtts++;
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		note(ctx, ctx->args[0], ctx->args[1]);
		if (ctx->args[1] == BPF_TCP_CLOSE && ctx->local_port != PORT && ctx->args[0] == BPF_TCP_FIN_WAIT2) {
			segs_out = ctx->segs_out;
			segs_in = ctx->segs_in;
			sent = ctx->bytes_acked;
		}
		return 1;
	}
	note(ctx, 0, 0);
	switch (op) {
	case BPF_SOCK_OPS_TIMEOUT_INIT:
		// A request has no socket of its own, and takes no options.
		if (!ctx->is_fullsock) {
			no_sk += !ctx->sk;
			option_err = bpf_setsockopt(ctx, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		}
		ctx->reply = 10;
		break;
	case BPF_SOCK_OPS_RWND_INIT:
		ctx->reply = 40;
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		listener = bpf_get_socket_cookie((void *)ctx);
		bpf_sock_ops_cb_flags_set(ctx, flags);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		client = bpf_get_socket_cookie((void *)ctx);
		bpf_sock_ops_cb_flags_set(ctx, flags);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		active_cwnd = ctx->snd_cwnd;
		remote_port = bpf_ntohl(ctx->remote_port);
		remote_ip = bpf_ntohl(ctx->remote_ip4);
		// The SYN-ACK.
		syn_ack_flags = ctx->skb_tcp_flags;
		data = ctx->skb_data;
		end = ctx->skb_data_end;
		if (data + sizeof(struct tcphdr) <= end) {
			struct tcphdr *th = data;

			syn_ack_len = th->doff * 4;
		}
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		child = bpf_get_socket_cookie((void *)ctx);
		bpf_setsockopt(ctx, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		bpf_getsockopt(ctx, SOL_SOCKET, SO_KEEPALIVE, &keepalive, sizeof(keepalive));
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
