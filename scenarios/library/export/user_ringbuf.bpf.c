// User space sends thresholds through a user ring buffer; each packet first takes what has come.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum verb { LIMIT = 1, STOP = 2 };

struct command {
	enum verb verb;
	__u32 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} copies SEC(".maps");

/* Keeps the sample's type in the object: a ring has none of its own. */
const struct command *sample_type __attribute__((unused));

__u32 limit = 1500;
__u64 taken;
__u64 refused;
__s64 last_drain;

static long command(struct bpf_dynptr *sample, void *ctx)
{
	struct command c;
	struct bpf_dynptr copy;

	if (bpf_dynptr_read(&c, sizeof(c), sample, 0, 0)) {
		__sync_fetch_and_add(&refused, 1);
		return 0;
	}
	taken++;
	limit = c.bytes;
	/* What was understood goes back as a record. */
	bpf_ringbuf_reserve_dynptr(&copies, sizeof(c), 0, &copy);
	bpf_dynptr_write(&copy, 0, &c, sizeof(c), 0);
	bpf_ringbuf_submit_dynptr(&copy, 0);
	return c.verb == STOP;
}

SEC("xdp")
int police(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data;

	last_drain = bpf_user_ringbuf_drain(&commands, command, NULL, 0);
	return len > limit ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "GPL";
