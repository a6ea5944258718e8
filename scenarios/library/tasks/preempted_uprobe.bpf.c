// Counts calls of a function of user space with a load, a call and a store.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 calls;

SEC("uprobe")
int on_call(struct pt_regs *ctx)
{
	__u64 seen = calls;

	if (!bpf_ktime_get_ns())
		return 0;
	calls = seen + 1;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
