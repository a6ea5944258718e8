// Programs that tasks run, and a view of the scheduler from its tracepoints.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 pids, calls;
char comm[16];

/* By the task that calls: its number counts in `pids`. */
SEC("raw_tp/bpf_test_finish")
int whoami(struct bpf_raw_tracepoint_args *ctx)
{
	calls++;
	pids += bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(comm, sizeof(comm));
	return 40 + calls;
}

__u32 switches, preempted, woken, new_tasks, prev_is_current, exits;
char last_out[16];

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];

	switches++;
	preempted += ctx[0];
	prev_is_current += (__u64)prev == bpf_get_current_task();
	if (next->pid == 0)
		bpf_probe_read_kernel_str(last_out, sizeof(last_out), prev->comm);
	return 0;
}

SEC("tracepoint/sched/sched_wakeup")
int on_wakeup(void *ctx)
{
	woken++;
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int on_new(__u64 *ctx)
{
	new_tasks++;
	return 0;
}

SEC("tracepoint/sched/sched_process_exit")
int on_exit(struct trace_event_raw_sched_process_exit *ctx)
{
	exits += ctx->group_dead;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
