// Says what it sees: a record for each packet, a counter, and a line of source to wait for.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum kind { SMALL, LARGE };

struct seen {
	__u32 len;
	enum kind kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

/* Keeps the type of the records in the object. */
const struct seen *record __attribute__((unused));

__u32 threshold = 100;
__u64 packets = 0;

SEC("xdp")
int watch(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data;
	struct seen *s = bpf_ringbuf_reserve(&records, sizeof(*s), 0);

	__sync_fetch_and_add(&packets, 1);
	if (!s)
		return XDP_ABORTED;
	s->len = len;
	s->kind = SMALL;
	if (len > threshold)
		s->kind = LARGE;
	bpf_ringbuf_submit(s, 0);
	if (len == 77)
		return XDP_DROP;
	return XDP_TX;
}

SEC("xdp")
int other(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
