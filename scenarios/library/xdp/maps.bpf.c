// Redirects through maps: devices with and without a program of their own, all devices at once,
// and CPUs whose threads run a program before the packet goes up.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#define PAYLOAD (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} group SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct bpf_cpumap_val);
} cpus SEC(".maps");

static char letter(struct xdp_md *ctx, unsigned int n)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	char *at = data + PAYLOAD;

	return (void *)(at + 2) > end ? 0 : at[n];
}

SEC("xdp")
int spread(struct xdp_md *ctx)
{
	__u32 n = letter(ctx, 1) - '0';

	switch (letter(ctx, 0)) {
	case 'p':
		return bpf_redirect_map(&ports, n, XDP_DROP);
	case 'g':
		return bpf_redirect_map(&group, n, XDP_PASS);
	case 'a':
		return bpf_redirect_map(&group, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
	case 'c':
		return bpf_redirect_map(&cpus, n, XDP_ABORTED);
	}
	return XDP_DROP;
}

/* Runs for each frame on its way out of a port; 'x' as the second payload byte stays here. */
__u32 egress_runs, from, to;

SEC("xdp/devmap")
int on_port(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	egress_runs++;
	from = ctx->ingress_ifindex;
	to = ctx->egress_ifindex;
	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	eth->h_source[5] = ctx->egress_ifindex;
	return XDP_PASS;
}

SEC("xdp/devmap")
int refuse(struct xdp_md *ctx)
{
	return XDP_TX;
}

__u32 runs_on[4];

SEC("xdp/cpumap")
int on_cpu(struct xdp_md *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (cpu < 4)
		runs_on[cpu]++;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	char *at = data + PAYLOAD;

	if ((void *)(at + 3) > end)
		return XDP_PASS;
	if (at[2] == 'd')
		return XDP_DROP;
	if (at[2] == 'r')
		return bpf_redirect_map(&ports, 0, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
