// A parser that gives up by an exception: three functions deep, on any frame it does not like.
// `strict` has a callback that counts what went wrong and drops; without one, the cookie of
// `lenient` is its verdict.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

extern void bpf_throw(__u64 cookie) __ksym;

enum { NOT_IP, NOT_UDP, SHORT, REASONS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} thrown SEC(".maps");

// One reason, one verdict.
static __always_inline void give_up(__u32 reason, __u32 verdict)
{
	bpf_throw((__u64)reason << 8 | verdict);
}

static __noinline int udp_port(struct xdp_md *ctx, __u32 plain)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);

	if ((void *)(udp + 1) > end) {
		if (plain)
			bpf_throw(XDP_PASS);
		else
			give_up(SHORT, XDP_DROP);
		return 0;
	}
	return bpf_ntohs(udp->dest);
}

static __noinline int ip_port(struct xdp_md *ctx, __u32 plain)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP) {
		if (plain)
			bpf_throw(XDP_PASS);
		else
			give_up(NOT_UDP, XDP_DROP);
		return 0;
	}
	return udp_port(ctx, plain) + ip->ttl * 0;
}

static __noinline int port(struct xdp_md *ctx, __u32 plain)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP)) {
		if (plain)
			bpf_throw(XDP_PASS);
		else
			give_up(NOT_IP, XDP_DROP);
		return 0;
	}
	return ip_port(ctx, plain);
}

int count(__u64 cookie)
{
	__u32 reason = cookie >> 8;
	__u64 *n = bpf_map_lookup_elem(&thrown, &reason);

	if (n)
		*n += 1;
	return XDP_DROP;
}

SEC("xdp")
__attribute__((btf_decl_tag("exception_callback:count")))
int strict(struct xdp_md *ctx)
{
	return port(ctx, 0) == 7 ? XDP_TX : XDP_PASS;
}

SEC("xdp")
int lenient(struct xdp_md *ctx)
{
	return port(ctx, 1) == 7 ? XDP_TX : XDP_DROP;
}

char _license[] SEC("license") = "GPL";
