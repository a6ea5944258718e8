// Looks at far too many ports for every packet, by a callback loop that holds a socket while it
// looks up the next.
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

__u64 rounds = 1000, found;

struct packet {
	struct xdp_md *ctx;
};

static int look(__u64 i, struct packet *p)
{
	struct xdp_md *ctx = p->ctx;
	struct bpf_sock_tuple at = {};
	struct bpf_sock *sk, *other;

	at.ipv4.daddr = bpf_htonl(0x0a000001);
	at.ipv4.dport = bpf_htons(80);
	sk = bpf_sk_lookup_tcp(ctx, &at, sizeof(at.ipv4), BPF_F_CURRENT_NETNS, 0);
	at.ipv4.dport = bpf_htons(81);
	other = bpf_sk_lookup_tcp(ctx, &at, sizeof(at.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (other) {
		found++;
		bpf_sk_release(other);
	}
	if (sk)
		bpf_sk_release(sk);
	return 0;
}

SEC("xdp")
int scan_all(struct xdp_md *ctx)
{
	struct packet p = { .ctx = ctx };

	bpf_loop(rounds, look, &p, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
