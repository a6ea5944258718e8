// SPDX-License-Identifier: GPL-2.0-only
// A router of two programs: XDP forwards what the routing table knows, tc sends the rest of a
// third network to its neighbours.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2

__u64 answers[16];

SEC("xdp")
int forward(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct bpf_fib_lookup fib = {};
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	__u32 sum;
	long rc;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(0x0800) || ip->ttl <= 1)
		return XDP_PASS;
	fib.family = AF_INET;
	fib.l4_protocol = ip->protocol;
	fib.tot_len = bpf_ntohs(ip->tot_len);
	fib.ifindex = xdp->ingress_ifindex;
	fib.ipv4_src = ip->saddr;
	fib.ipv4_dst = ip->daddr;
	rc = bpf_fib_lookup(xdp, &fib, sizeof(fib), 0);
	if (rc >= 0)
		answers[rc & 15]++;
	if (rc != BPF_FIB_LKUP_RET_SUCCESS)
		return rc == BPF_FIB_LKUP_RET_BLACKHOLE ? XDP_DROP : XDP_PASS;
	ip->ttl--;
	sum = ip->check + bpf_htons(0x0100);
	ip->check = (__u16)(sum + (sum >= 0xffff));
	__builtin_memcpy(eth->h_dest, fib.dmac, 6);
	__builtin_memcpy(eth->h_source, fib.smac, 6);
	return bpf_redirect(fib.ifindex, 0);
}

__u32 inside = 2;

SEC("tc")
int to_neighbour(struct __sk_buff *skb)
{
	return bpf_redirect_neigh(inside, NULL, 0, 0);
}

char _license[] SEC("license") = "GPL";
