// A program that is longer than a slice, and one that runs with preemption off.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u64 sums[2], rounds;
__u32 seen[2];

static __noinline void work(__u64 *sum)
{
	__u32 i;

	bpf_for(i, 0, 2000)
		*sum += i;
}

SEC("syscall")
int longer(void *ctx)
{
	__u32 who = bpf_get_current_pid_tgid() & 1;

	work(&sums[who]);
	// The same task as before, whoever ran in between.
	if ((bpf_get_current_pid_tgid() & 1) == who)
		seen[who]++;
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(bound, struct pt_regs *regs, long id)
{
	work(&rounds);
	return 0;
}

char _license[] SEC("license") = "GPL";
