// SPDX-License-Identifier: GPL-2.0-only
// A profiler that reads what the kernel tells of each sample, and the counter behind it.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 samples, period, addr, first, errors, short_buffer;
__u64 counter, enabled, running;

SEC("perf_event")
int profile(struct bpf_perf_event_data *ctx)
{
	struct bpf_perf_event_value value;

	samples++;
	period = ctx->sample_period;
	addr += ctx->addr;
	first = *(volatile __u64 *)(void *)ctx;
	if (bpf_perf_prog_read_value(ctx, &value, sizeof(value)))
		errors++;
	counter = value.counter;
	enabled = value.enabled;
	running = value.running;
	// -EINVAL, and the buffer is clear.
	if (bpf_perf_prog_read_value(ctx, (void *)&value, 8) == -22 && !value.counter)
		short_buffer++;
	return 0;
}

char _license[] SEC("license") = "GPL";
