// Who waits for a lock, seen by tracepoints: the queue of a resilient lock, and mutexes.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;

struct bpf_res_spin_lock A SEC(".data.A");

/// By flags of contention_begin.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} begun SEC(".maps");

__u64 taken, ended, failed, records, inside;

SEC("tp_btf/contention_begin")
int BPF_PROG(begin, void *lock, unsigned int flags)
{
	__u32 key = flags;
	__u64 one = 1, *n = bpf_map_lookup_elem(&begun, &key);

	if (lock == &A)
		__sync_fetch_and_add(&inside, 1);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&begun, &key, &one, BPF_ANY);
	return 0;
}

SEC("raw_tp/contention_end")
int BPF_PROG(end, void *lock, int ret)
{
	__sync_fetch_and_add(ret ? &failed : &ended, 1);
	return 0;
}

SEC("tp/lock/contention_begin")
int record(struct trace_event_raw_contention_begin *ctx)
{
	if (ctx->lock_addr)
		__sync_fetch_and_add(&records, 1);
	return 0;
}

SEC("tc")
int take(struct __sk_buff *skb)
{
	volatile int work = 0;
	int err = bpf_res_spin_lock(&A);

	if (err)
		return err;
	for (int i = 0; i < 40; i++)
		work += i;
	taken++;
	bpf_res_spin_unlock(&A);
	return 0;
}

char _license[] SEC("license") = "GPL";
