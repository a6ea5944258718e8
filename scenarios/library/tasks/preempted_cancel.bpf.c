// A program that takes long, and one that comes between.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 rounds = 200, quicks;

SEC("syscall")
int spin(void *ctx)
{
	int i;

	bpf_for(i, 0, rounds)
		bpf_ktime_get_ns();
	return 5;
}

SEC("syscall")
int quick(void *ctx)
{
	quicks++;
	return 0;
}

char _license[] SEC("license") = "GPL";
