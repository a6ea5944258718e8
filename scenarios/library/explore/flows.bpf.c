// Counts packets of flows on all CPUs: in one program two CPUs lose what they count, in the other
// the element has a lock.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct key {
	__u32 saddr;
	__u16 dport;
	__u16 pad;
};

struct val {
	__u64 packets;
	__u64 bytes;
	__u64 last_ns;
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct key);
	__type(value, struct val);
} flows SEC(".maps");

static __always_inline struct val *get(struct xdp_md *ctx, struct key *k, __u32 *len)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp;
	struct val zero = {}, *v;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return 0;
	udp = (void *)ip + ip->ihl * 4;
	if ((void *)(udp + 1) > end)
		return 0;
	k->saddr = ip->saddr;
	k->dport = bpf_ntohs(udp->dest);
	k->pad = 0;
	*len = end - data;
	v = bpf_map_lookup_elem(&flows, k);
	if (!v) {
		bpf_map_update_elem(&flows, k, &zero, BPF_NOEXIST);
		v = bpf_map_lookup_elem(&flows, k);
	}
	return v;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	struct key k;
	__u32 len = 0;
	struct val *v = get(ctx, &k, &len);
	__u64 seen;

	if (!v)
		return XDP_PASS;
	seen = v->packets;
	v->last_ns = bpf_ktime_get_ns();
	v->packets = seen + 1;
	v->bytes += len;
	return XDP_DROP;
}

SEC("xdp")
int count_fixed(struct xdp_md *ctx)
{
	struct key k;
	__u32 len = 0;
	struct val *v = get(ctx, &k, &len);
	__u64 now;

	if (!v)
		return XDP_PASS;
	now = bpf_ktime_get_ns();
	bpf_spin_lock(&v->lock);
	v->packets++;
	v->bytes += len;
	v->last_ns = now;
	bpf_spin_unlock(&v->lock);
	return XDP_DROP;
}

char _license[] SEC("license") = "GPL";
