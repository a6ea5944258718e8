// What a control group may send and receive, and how much of it did: programs see packets of the
// group's sockets from the IP header on.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define ETH_P_IP 0x0800
#define IPPROTO_UDP 17
#define TC_ACT_OK 0
#define BPF_NOEXIST 1

struct flow {
	__u64 cgroup;
	__u32 port;
	__u32 out;
};

struct count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct flow);
	__type(value, struct count);
} flows SEC(".maps");

__u32 wrong, refused, last_uid, cookies, same_cookie;
__u64 above;

// The UDP ports of a packet; 0 when it is none.
static __always_inline int ports(struct __sk_buff *skb, struct udphdr *udp)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->protocol != IPPROTO_UDP)
		return 0;
	return bpf_skb_load_bytes(skb, ip->ihl * 4, udp, sizeof(*udp)) == 0;
}

static __always_inline void account(struct __sk_buff *skb, __u32 port, __u32 out)
{
	struct flow key = { .cgroup = bpf_skb_cgroup_id(skb), .port = port, .out = out };
	struct count zero = {}, *count;

	bpf_map_update_elem(&flows, &key, &zero, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&flows, &key);
	if (!count)
		return;
	__sync_fetch_and_add(&count->packets, 1);
	__sync_fetch_and_add(&count->bytes, skb->len);
}

// 0 drops, 1 sends; 2 and 3 do the same and tell the sender of congestion.
SEC("cgroup_skb/egress")
int send(struct __sk_buff *skb)
{
	struct udphdr udp;

	if (!ports(skb, &udp)) {
		wrong++;
		return 1;
	}
	if (skb->family != 2 || skb->protocol != bpf_htons(ETH_P_IP) || skb->len != 28 + bpf_ntohs(udp.len) - 8)
		wrong++;
	above = bpf_skb_ancestor_cgroup_id(skb, 0);
	last_uid = bpf_get_socket_uid(skb);
	account(skb, bpf_ntohs(udp.dest), 1);
	switch (bpf_ntohs(udp.dest)) {
	case 99:
		return 0;
	case 100:
		return 2;
	case 101:
		return 3;
	}
	return 1;
}

SEC("cgroup_skb/ingress")
int receive(struct __sk_buff *skb)
{
	struct udphdr udp;
	__u64 cookie = bpf_get_socket_cookie(skb);

	if (!ports(skb, &udp)) {
		wrong++;
		return 1;
	}
	if (skb->local_port != bpf_ntohs(udp.dest) || !cookie)
		wrong++;
	same_cookie += cookie == cookies;
	cookies = cookie;
	account(skb, bpf_ntohs(udp.dest), 0);
	// Datagrams of eight bytes are not wanted.
	if (bpf_ntohs(udp.len) == 16) {
		refused++;
		return 0;
	}
	return 1;
}

// Of the whole machine: runs for every group, behind that of the group.
__u32 all;

SEC("cgroup_skb/egress")
int count_all(struct __sk_buff *skb)
{
	all++;
	skb->mark = 0x17;
	return 1;
}

__u32 marked;

SEC("tcx/egress")
int on_wire(struct __sk_buff *skb)
{
	marked += skb->mark == 0x17;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
