// How long a packet takes from the core's receive function to the protocol handler, and where
// packets end: a tracer beside the programs that make the path. It is attached to tracepoints
// (by record and by arguments), to functions on entry and exit, and to a probe.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct traffic {
	__u64 received;
	__u64 handled;
	__u64 ns_total;
	__u32 out;
	__u32 bytes_out;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} since SEC(".maps");

/* Drops by reason, and exceptions of XDP by verdict. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} drops SEC(".maps"), exceptions SEC(".maps");

struct traffic path;
__u32 probes, wrong_dev, consumed;
char last_dev[16], comm[16];

static void count(void *map, __u32 key)
{
	__u32 one = 1, *n = bpf_map_lookup_elem(map, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(map, &key, &one, BPF_ANY);
}

/* Arguments as numbers: the packet is the key, the time the value. */
SEC("raw_tp/netif_receive_skb")
int on_receive(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 skb = ctx->args[0], now = bpf_ktime_get_ns();

	path.received++;
	bpf_map_update_elem(&since, &skb, &now, BPF_ANY);
	return 0;
}

/* A function of the kernel, its arguments by type. */
SEC("fentry/ip_rcv")
int on_ip_rcv(__u64 *ctx)
{
	struct sk_buff *skb = (void *)ctx[0];
	struct net_device *dev = (void *)ctx[1];
	__u64 key = ctx[0], *at = bpf_map_lookup_elem(&since, &key);

	if (skb->dev != dev)
		wrong_dev++;
	bpf_probe_read_kernel_str(last_dev, sizeof(last_dev), dev->name);
	if (!at)
		return 0;
	path.handled++;
	path.ns_total += bpf_ktime_get_ns() - *at;
	bpf_map_delete_elem(&since, &key);
	return 0;
}

SEC("fexit/ip_rcv")
int on_ip_rcv_done(__u64 *ctx)
{
	/* Four arguments, then what the function returned. */
	if (ctx[4] == 0)
		bpf_get_current_comm(comm, sizeof(comm));
	return 0;
}

/* The record of a tracepoint, as in its format file. */
SEC("tracepoint/net/net_dev_xmit")
int on_xmit(struct trace_event_raw_net_dev_xmit *ctx)
{
	path.out++;
	path.bytes_out += ctx->len;
	return ctx->rc;
}

SEC("tracepoint/skb/kfree_skb")
int on_drop(struct trace_event_raw_kfree_skb *ctx)
{
	count(&drops, ctx->reason);
	return 0;
}

SEC("tp/skb/consume_skb")
int on_consume(struct trace_event_raw_consume_skb *ctx)
{
	consumed++;
	return 0;
}

SEC("raw_tp/xdp_exception")
int on_exception(struct bpf_raw_tracepoint_args *ctx)
{
	count(&exceptions, ctx->args[2]);
	return 0;
}

/* Registers are the machine's: which struct pt_regs this kernel has is decided at load time. */
struct pt_regs___x86 {
	unsigned long di;
} __attribute__((preserve_access_index));
struct pt_regs___arm64 {
	__u64 regs[31];
} __attribute__((preserve_access_index));
struct pt_regs___riscv {
	unsigned long a0;
} __attribute__((preserve_access_index));
struct pt_regs___s390 {
	unsigned long gprs[16];
} __attribute__((preserve_access_index));

static __u64 first_argument(void *ctx)
{
	if (bpf_core_field_exists(struct pt_regs___x86, di))
		return BPF_CORE_READ((struct pt_regs___x86 *)ctx, di);
	if (bpf_core_field_exists(struct pt_regs___riscv, a0))
		return BPF_CORE_READ((struct pt_regs___riscv *)ctx, a0);
	if (bpf_core_field_exists(struct pt_regs___s390, gprs))
		return BPF_CORE_READ((struct pt_regs___s390 *)ctx, gprs[2]);
	return BPF_CORE_READ((struct pt_regs___arm64 *)ctx, regs[0]);
}

SEC("kprobe/__dev_queue_xmit")
int on_queue_xmit(void *ctx)
{
	struct sk_buff *skb = (void *)first_argument(ctx);

	/* A packet that was redirected here carries the mark of the program that did it. */
	if (BPF_CORE_READ(skb, mark) == 0x51)
		probes++;
	return 0;
}

/* The path itself: what XDP refuses, what tc drops, redirects and lets through. */
SEC("xdp")
int entrance(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 *first = data + 42;

	if (first + 1 > (__u8 *)end)
		return XDP_ABORTED;
	return *first == 'x' ? 9 : XDP_PASS;
}

volatile __u32 rounds = 50;
__u32 sink;

SEC("tc")
int gate(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u8 *first = data + 42;

	for (__u32 i = 0; i < 100 && i < rounds; i++)
		sink += i;
	if (first + 1 > (__u8 *)end)
		return 2;
	if (*first == 'd')
		return 2;
	if (*first == 'r') {
		skb->mark = 0x51;
		return bpf_redirect(2, 0);
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
