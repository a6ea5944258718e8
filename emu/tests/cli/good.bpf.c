// Counts what arrives, by port, and drops one of them.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum level { LOW, HIGH };

struct entry {
	__be32 ip;
	__u16 port;
	enum level level;
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct entry);
} entries SEC(".maps");

const volatile __u16 dropped = 7;

SEC("xdp")
int good(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	struct entry *e;
	__u32 key = 0;

	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	e = bpf_map_lookup_elem(&entries, &key);
	if (!e)
		return XDP_ABORTED;
	e->packets++;
	e->ip = ip->saddr;
	e->port = bpf_ntohs(udp->dest);
	e->level = HIGH;
	return e->port == dropped ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
