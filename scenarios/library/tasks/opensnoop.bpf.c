// Who opens what, and how it ends: a record for each open, from the function that does it. Calls of
// malloc are counted by a uprobe, programs that are executed by their tracepoint.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define NAME_LEN 32

struct event {
	__u32 pid;
	__s32 ret;
	char comm[16];
	char fname[NAME_LEN];
};
struct event *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* What a task opens, between entry and exit. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct event);
} opening SEC(".maps");

const volatile __u32 target_pid;
__u64 dropped, unread, execs, mallocs;
char exec_name[NAME_LEN];

SEC("fentry/do_sys_openat2")
int BPF_PROG(on_open, int dfd, const char *filename, struct open_how *how)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct event *e;

	if (target_pid && task->tgid != target_pid)
		return 0;
	e = bpf_task_storage_get(&opening, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!e)
		return 0;
	__builtin_memset(e->fname, 0, sizeof(e->fname));
	if (bpf_probe_read_user_str(e->fname, sizeof(e->fname), filename) < 0)
		unread++;
	return 0;
}

SEC("fexit/do_sys_openat2")
int BPF_PROG(on_opened, int dfd, const char *filename, struct open_how *how, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct event *e, *out;

	e = bpf_task_storage_get(&opening, task, NULL, 0);
	if (!e)
		return 0;
	out = bpf_ringbuf_reserve(&events, sizeof(*out), 0);
	if (!out) {
		dropped++;
		return 0;
	}
	__builtin_memcpy(out->fname, e->fname, sizeof(out->fname));
	out->pid = bpf_get_current_pid_tgid() >> 32;
	out->ret = ret;
	bpf_get_current_comm(out->comm, sizeof(out->comm));
	bpf_ringbuf_submit(out, 0);
	return 0;
}

SEC("tracepoint/sched/sched_process_exec")
int on_exec(struct trace_event_raw_sched_process_exec *ctx)
{
	__u32 off = ctx->__data_loc_filename & 0xffff;

	execs++;
	bpf_probe_read_kernel_str(exec_name, sizeof(exec_name), (void *)ctx + off);
	return 0;
}

SEC("uprobe")
int on_malloc(struct pt_regs *ctx)
{
	mallocs++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
