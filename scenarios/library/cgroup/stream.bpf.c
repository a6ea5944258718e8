// A stream under the programs of its group: each segment on its way out and in, and each change of
// state as the tracepoint has it.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define IPPROTO_TCP 6

__u32 out, in, syns, fins, bytes, unexpected;
__u32 changes, opened, closed, wrong_port;

static __always_inline int segment(struct __sk_buff *skb, struct tcphdr *tcp, __u32 *payload)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->protocol != IPPROTO_TCP)
		return 0;
	if (bpf_skb_load_bytes(skb, ip->ihl * 4, tcp, sizeof(*tcp)))
		return 0;
	*payload = bpf_ntohs(ip->tot_len) - ip->ihl * 4 - tcp->doff * 4;
	return 1;
}

SEC("cgroup_skb/egress")
int leaves(struct __sk_buff *skb)
{
	struct tcphdr tcp;
	__u32 payload;

	if (!segment(skb, &tcp, &payload)) {
		unexpected++;
		return 1;
	}
	out++;
	syns += tcp.syn;
	fins += tcp.fin;
	bytes += payload;
	return 1;
}

SEC("cgroup_skb/ingress")
int arrives(struct __sk_buff *skb)
{
	struct tcphdr tcp;
	__u32 payload;

	if (!segment(skb, &tcp, &payload) || skb->local_port != bpf_ntohs(tcp.dest)) {
		unexpected++;
		return 1;
	}
	in++;
	return 1;
}

SEC("tp/sock/inet_sock_set_state")
int changed(struct trace_event_raw_inet_sock_set_state *ctx)
{
	changes++;
	wrong_port += ctx->sport != 8080 && ctx->newstate == BPF_TCP_LISTEN;
	opened += ctx->newstate == BPF_TCP_ESTABLISHED;
	closed += ctx->newstate == BPF_TCP_CLOSE;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
