// Tracing beside the network: system calls by record and by registers, switches between tasks by
// type, a program that would trace itself, stacks, and reads that fail.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

__u64 id, arg0, arg5, ret, nr_of_exit;

SEC("tracepoint/raw_syscalls/sys_enter")
int on_enter(struct trace_event_raw_sys_enter *ctx)
{
	id = ctx->id;
	arg0 = ctx->args[0];
	arg5 = ctx->args[5];
	return 0;
}

SEC("tracepoint/raw_syscalls/sys_exit")
int on_exit(struct trace_event_raw_sys_exit *ctx)
{
	nr_of_exit = ctx->id;
	ret = ctx->ret;
	return 0;
}

char prev_comm[16], next_comm[16];
int prev_pid = -1, next_prio, same_task, switches;

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];

	switches++;
	bpf_probe_read_kernel_str(prev_comm, sizeof(prev_comm), prev->comm);
	bpf_probe_read_kernel_str(next_comm, sizeof(next_comm), next->comm);
	prev_pid = prev->pid;
	next_prio = next->prio;
	same_task = (__u64)prev == bpf_get_current_task();
	return 0;
}

/* What it prints is what it is called for: the guard lets it run once. */
int echoes;

SEC("tracepoint/bpf_trace/bpf_trace_printk")
int on_print(void *ctx)
{
	static const char fmt[] = "echo %d";

	echoes++;
	bpf_trace_printk(fmt, sizeof(fmt), echoes);
	return 0;
}

SEC("raw_tp/softirq_entry")
int on_softirq(struct bpf_raw_tracepoint_args *ctx)
{
	static const char fmt[] = "softirq %d";

	bpf_trace_printk(fmt, sizeof(fmt), (int)ctx->args[0]);
	return 0;
}

int depth;
__u64 stack[4], here;
char kept[8] = "unclean";
long null_read, user_read, text_read;

SEC("fentry/ip_rcv")
int on_ip_rcv(__u64 *ctx)
{
	long n = bpf_get_stack(ctx, stack, sizeof(stack), 0);

	depth = n > 0 ? (__u64)n / 8 : n;
	here = bpf_get_func_ip(ctx);
	null_read = bpf_probe_read_kernel(kept, sizeof(kept), 0);
	user_read = bpf_probe_read_user(kept, 4, (void *)0x1000);
	text_read = bpf_probe_read_kernel_str(kept, sizeof(kept), (void *)0xffff800000000000);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16);
	__uint(key_size, 4);
	__uint(value_size, 8 * 16);
} stacks SEC(".maps");

int first_id = -1, second_id = -1;

SEC("kretprobe/ip_rcv")
int on_ip_rcv_ret(void *ctx)
{
	int now = bpf_get_stackid(ctx, &stacks, 0);

	if (first_id < 0)
		first_id = now;
	else
		second_id = now;
	return 0;
}

char _license[] SEC("license") = "GPL";
