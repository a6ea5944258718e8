// A peer that does not answer: how long each wait is, what is sent again, and when it is given up.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define WAITS 8

struct wait {
	__u32 tried;
	__u32 rto_ms;
	__u32 expired;
};

struct wait waits[WAITS];
__u32 rtos, retrans, same_seq, seq, cwnd, ssthresh, last_from, last_to, packets_out, total_retrans;

SEC("sockops")
int watch(struct bpf_sock_ops *ctx)
{
	__u32 n = rtos;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TIMEOUT_INIT:
		ctx->reply = 20; // ms
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_RTO_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG |
						       BPF_SOCK_OPS_STATE_CB_FLAG);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		if (n < WAITS) {
			waits[n].tried = ctx->args[0];
			waits[n].rto_ms = ctx->args[1];
			waits[n].expired = ctx->args[2];
		}
		rtos++;
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		retrans++;
		same_seq += retrans == 1 || ctx->args[0] == seq;
		seq = ctx->args[0];
		cwnd = ctx->snd_cwnd;
		ssthresh = ctx->snd_ssthresh;
		packets_out = ctx->packets_out;
		total_retrans = ctx->total_retrans;
		break;
	case BPF_SOCK_OPS_STATE_CB:
		last_from = ctx->args[0];
		last_to = ctx->args[1];
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
