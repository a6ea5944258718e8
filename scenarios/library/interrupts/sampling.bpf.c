// SPDX-License-Identifier: GPL-2.0-only
// A profiler: which of two loops a CPU is in, sampled by instructions.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

int phase;
__u64 samples[3];
__u64 sum;

SEC("xdp")
int busy(struct xdp_md *ctx)
{
	int i;

	phase = 1;
	bpf_for(i, 0, 300)
		sum += i;
	phase = 2;
	bpf_for(i, 0, 900)
		sum += i;
	phase = 0;
	return XDP_PASS;
}

SEC("perf_event")
int sample(void *ctx)
{
	int at = phase;

	if (at >= 0 && at < 3)
		__sync_fetch_and_add(&samples[at], 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
