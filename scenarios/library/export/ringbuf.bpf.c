// Each UDP datagram becomes a record in a ring buffer; the ring is small, so a burst overflows it.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum kind { DATAGRAM = 1, MALFORMED = 2 };

struct event {
	enum kind kind;
	__be32 from;
	__u16 dport;
	__u16 bytes;
	__u32 serial;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* Keeps the record's type in the object: a ring has none of its own. */
const struct event *record_type __attribute__((unused));

__u64 serial;
__u64 lost;
__u64 discarded;

SEC("xdp")
int export(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct event *e;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return XDP_PASS;
	}
	if (ip->protocol != IPPROTO_UDP) {
		/* Not what is looked for: the room is given back. */
		bpf_ringbuf_discard(e, 0);
		__sync_fetch_and_add(&discarded, 1);
		return XDP_PASS;
	}
	e->from = ip->saddr;
	e->serial = serial++;
	if ((void *)(udp + 1) > end) {
		e->kind = MALFORMED;
		e->dport = 0;
		e->bytes = end - data;
		bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
		return XDP_DROP;
	}
	e->kind = DATAGRAM;
	e->dport = bpf_ntohs(udp->dest);
	e->bytes = end - data;
	bpf_ringbuf_submit(e, 0);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
