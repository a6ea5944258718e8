// SPDX-License-Identifier: GPL-2.0-only
// A packet program that keeps two counters in step, and programs in hardirq and NMI that look at them in between.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 packets, begun, ended; // written by the packet program
__u64 irqs, nmis;            // written by the interrupts
__u64 irq_between, nmi_between, nmi_in_irq;
__u64 in_irq;
int wrong;

SEC("xdp")
int work(struct xdp_md *ctx)
{
	int i;

	__sync_fetch_and_add(&packets, 1);
	for (i = 0; i < 8; i++) {
		begun = begun + 1;
		bpf_ktime_get_ns();
		ended = ended + 1;
	}
	return XDP_DROP;
}

SEC("tp_btf/irq_handler_entry")
int on_irq(void *ctx)
{
	in_irq = 1;
	irqs = irqs + 1;
	if (begun != ended)
		irq_between = irq_between + 1;
	bpf_ktime_get_ns();
	if (begun - ended > 1)
		wrong = 1;
	in_irq = 0;
	return 0;
}

SEC("perf_event")
int on_nmi(void *ctx)
{
	nmis = nmis + 1;
	if (begun != ended)
		nmi_between = nmi_between + 1;
	if (in_irq)
		nmi_in_irq = nmi_in_irq + 1;
	if (begun - ended > 1)
		wrong = 2;
	return 0;
}

char _license[] SEC("license") = "GPL";
