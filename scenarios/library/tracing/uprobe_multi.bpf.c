// One link on several functions of a program: a cookie says at which, and what is probed is the
// function's start, at its return too.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u64 cookies[4], ips[4], returns, only, last;
__u32 n;

SEC("uprobe.multi")
int enter(struct pt_regs *ctx)
{
	__u32 at = n++ & 3;

	cookies[at] = bpf_get_attach_cookie(ctx);
	ips[at] = bpf_get_func_ip(ctx);
	last = 1;
	return 0;
}

SEC("uretprobe.multi")
int leave(struct pt_regs *ctx)
{
	returns += bpf_get_attach_cookie(ctx);
	return 0;
}

SEC("uprobe.multi")
int of_one(struct pt_regs *ctx)
{
	only++;
	// Who comes last is asked first.
	last = 2;
	return 0;
}

char _license[] SEC("license") = "GPL";
