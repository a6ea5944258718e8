// Where a task is in its own program: by a system call, by a probe of a function, for another task
// and for a kernel thread.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define DEPTH 8

__u64 at_call[DEPTH], at_open[DEPTH], at_return[DEPTH];
long called, opened, returned, skipped, short_of, none, odd, kernel_ids, elsewhere, of_init, with_ids;
int same_id = -1, other_id = -1, no_id;
__u64 func;
struct bpf_stack_build_id ids[2];

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, DEPTH * sizeof(__u64));
} stacks SEC(".maps");

SEC("uprobe")
int on_call(struct pt_regs *ctx)
{
	called = bpf_get_stack(ctx, at_call, sizeof(at_call), BPF_F_USER_STACK);
	func = bpf_get_func_ip(ctx);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	returned = bpf_get_stack(ctx, at_return, sizeof(at_return), BPF_F_USER_STACK);
	return 0;
}

SEC("fentry/do_sys_openat2")
int BPF_PROG(on_open, int dfd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 two[2];

	opened = bpf_get_task_stack(task, at_open, sizeof(at_open), BPF_F_USER_STACK);
	short_of = bpf_get_stack(ctx, two, sizeof(two), BPF_F_USER_STACK | 1);
	skipped = bpf_get_stack(ctx, two, sizeof(two), BPF_F_USER_STACK | 9);
	odd = bpf_get_stack(ctx, two, sizeof(two) - 4, BPF_F_USER_STACK);
	with_ids = bpf_get_stack(ctx, ids, sizeof(ids), BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
	kernel_ids = bpf_get_stack(ctx, ids, sizeof(ids[0]) * 0, BPF_F_USER_BUILD_ID);
	of_init = bpf_get_task_stack(task->real_parent, two, sizeof(two), BPF_F_USER_STACK);
	same_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	other_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 1);
	return 0;
}

// Run on a CPU where nothing else does: the idle task has no user registers.
SEC("raw_tp/sys_enter")
int idle(void *ctx)
{
	__u64 two[2];

	none = bpf_get_stack(ctx, two, sizeof(two), BPF_F_USER_STACK);
	elsewhere = bpf_get_task_stack(bpf_get_current_task_btf(), two, sizeof(two),
				       BPF_F_USER_STACK);
	no_id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	return 0;
}

char _license[] SEC("license") = "GPL";
