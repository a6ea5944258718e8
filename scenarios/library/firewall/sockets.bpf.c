// SPDX-License-Identifier: GPL-2.0-only
// Lets in only what a socket of the machine waits for, and counts by the socket's state.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LISTEN 10

struct counts {
	__u64 listener;
	__u64 connected;
	__u64 datagram;
	__u64 nobody;
	__u64 last_mark;
	__u64 last_port;
} seen;

SEC("tc")
int admit(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct bpf_sock_tuple tuple = {};
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct udphdr *ports = (void *)(ip + 1);
	struct bpf_sock *sk;

	if ((void *)(ports + 1) > end || eth->h_proto != bpf_htons(0x0800) || ip->ihl != 5)
		return 2;
	tuple.ipv4.saddr = ip->saddr;
	tuple.ipv4.daddr = ip->daddr;
	tuple.ipv4.sport = ports->source;
	tuple.ipv4.dport = ports->dest;
	if (ip->protocol == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), -1, 0);
	else
		sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), -1, 0);
	if (!sk) {
		seen.nobody++;
		return 2;
	}
	if (sk->protocol == IPPROTO_UDP)
		seen.datagram++;
	else if (sk->state == LISTEN)
		seen.listener++;
	else
		seen.connected++;
	seen.last_mark = sk->mark;
	seen.last_port = sk->src_port;
	bpf_sk_release(sk);
	return 0;
}

char _license[] SEC("license") = "GPL";
