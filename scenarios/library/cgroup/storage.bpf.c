// Local storage of programs of groups: a value for each group that a program is attached to, and
// one for each attach type where the key has it; with a value for each CPU, too.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct tally {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, struct tally);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, __u64);
} by_cpu SEC(".maps");

static __always_inline int account(struct __sk_buff *skb)
{
	struct tally *t = bpf_get_local_storage(&tallies, 0);
	__u64 *n = bpf_get_local_storage(&by_cpu, 0);

	__sync_fetch_and_add(&t->packets, 1);
	__sync_fetch_and_add(&t->bytes, skb->len);
	*n += 1;
	return 1;
}

SEC("cgroup_skb/egress")
int sends(struct __sk_buff *skb)
{
	return account(skb);
}

SEC("cgroup_skb/ingress")
int receives(struct __sk_buff *skb)
{
	return account(skb);
}

char _license[] SEC("license") = "GPL";
