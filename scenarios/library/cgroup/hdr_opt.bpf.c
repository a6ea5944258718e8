// An option of its own in the header of each segment of a connection: asked for, written, found.
// The listener answers with what the SYN had, which the child can still read.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define PORT 8080
#define SOL_TCP 6
#define TCP_SAVE_SYN 27
#define TCPOPT_MSS 2
#define TCPOPT_EXP 254
#define MAGIC 0xeb9f

struct option {
	__u8 kind;
	__u8 len;
	__u16 magic;
	__u8 hops; // one more with each answer
	__u8 server;
} __attribute__((packed));

struct step {
	__u32 op;
	__u32 server;
	__u32 flags; // of the segment
	__u32 len; // of the sk_buff
	__u32 seen; // up to skb_data_end
	__u32 arg;
	__s32 found; // hops, or an error
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8192);
} steps SEC(".maps");

struct step *unused __attribute__((unused));
int small, large, flag, early, last, full, odd, mss, gone, short_buffer, store_flag, plain_magic;
int syn_len, syn_ip_len, syn_mac, syn_mac_early, syn_short, syn_client, reply_to, version;
__u8 syn[88];
__u64 hwtstamp;

static int hops(struct bpf_sock_ops *ctx, __u64 flags)
{
	struct option o = { .kind = TCPOPT_EXP, .len = 4, .magic = bpf_htons(MAGIC) };
	int ret = bpf_load_hdr_opt(ctx, &o, sizeof(o), flags);

	return ret < 0 ? ret : o.hops;
}

static void note(struct bpf_sock_ops *ctx, int found)
{
	struct step *s = bpf_ringbuf_reserve(&steps, sizeof(*s), 0);
	void *data = ctx->skb_data, *end = ctx->skb_data_end;

	if (!s)
		return;
	s->op = ctx->op;
	s->server = ctx->local_port == PORT;
	s->flags = ctx->skb_tcp_flags;
	s->len = ctx->skb_len;
	s->seen = 0;
	for (int i = 0; i <= 60; i += 4)
		if (data + i <= end)
			s->seen = i;
	s->arg = ctx->args[0];
	s->found = found;
	bpf_ringbuf_submit(s, 0);
}

static void reserve(struct bpf_sock_ops *ctx)
{
	small = bpf_reserve_hdr_opt(ctx, 1, 0);
	large = bpf_reserve_hdr_opt(ctx, 41, 0);
	flag = bpf_reserve_hdr_opt(ctx, 6, 1);
	early = hops(ctx, 0);
	note(ctx, bpf_reserve_hdr_opt(ctx, sizeof(struct option), 0));
}

static void write(struct bpf_sock_ops *ctx)
{
	struct option o = { TCPOPT_EXP, sizeof(o), bpf_htons(MAGIC) };
	struct option other = { TCPOPT_MSS, 4 };
	struct option rest = { 250, 2 };

	o.server = ctx->local_port == PORT;
	if (ctx->skb_tcp_flags == 0x12) {
		// The SYN is there, whether it is saved or not.
		reply_to = hops(ctx, BPF_LOAD_HDR_OPT_TCP_SYN);
		o.hops = reply_to + 1;
		mss = bpf_store_hdr_opt(ctx, &other, 4, 0);
		syn_mac_early = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN_MAC, syn, sizeof(syn));
	}
	o.len = 3;
	odd = bpf_store_hdr_opt(ctx, &o, sizeof(o), 0);
	o.len = sizeof(o);
	store_flag = bpf_store_hdr_opt(ctx, &o, sizeof(o), 1);
	note(ctx, bpf_store_hdr_opt(ctx, &o, sizeof(o), 0));
	// The room is of whole words.
	last = bpf_store_hdr_opt(ctx, &rest, sizeof(rest), 0);
	full = bpf_store_hdr_opt(ctx, &rest, sizeof(rest), 0);
}

static void parse(struct bpf_sock_ops *ctx)
{
	struct option o = { .kind = TCPOPT_EXP, .len = 4, .magic = bpf_htons(MAGIC) };

	note(ctx, hops(ctx, 0));
	gone = bpf_store_hdr_opt(ctx, &o, sizeof(o), 0);
	short_buffer = bpf_load_hdr_opt(ctx, &o, 4, 0);
	o.kind = 5;
	plain_magic = bpf_load_hdr_opt(ctx, &o, 4, 0);
	hwtstamp += ctx->skb_hwtstamp;
}

SEC("sockops")
int option(struct bpf_sock_ops *ctx)
{
	int both = BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;
	int save = 1;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		bpf_setsockopt(ctx, SOL_TCP, TCP_SAVE_SYN, &save, sizeof(save));
		bpf_sock_ops_cb_flags_set(ctx, both);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(ctx, both | BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		reserve(ctx);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write(ctx);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		parse(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		note(ctx, hops(ctx, 0));
		syn_client = hops(ctx, BPF_LOAD_HDR_OPT_TCP_SYN);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		note(ctx, hops(ctx, 0));
		syn_len = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN, syn, sizeof(syn));
		syn_short = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN, syn, 20);
		syn_mac = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN_MAC, syn, sizeof(syn));
		syn_ip_len = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN_IP, syn, sizeof(syn));
		version = syn[0];
		// From here on the client's side alone has the option.
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
