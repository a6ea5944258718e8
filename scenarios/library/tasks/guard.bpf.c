// A policy in LSM hooks: no task opens /etc/shadow, executes out of /var, signals init's children
// that are protected, or maps memory to be written and executed.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define EPERM 1
#define EACCES 13
#define PROT_WRITE 2
#define PROT_EXEC 4

__u32 denied, opens, entered[2], failed[2], calls, kill_sig, forks, fork_child;
char last_name[16], parent_dir[16];

SEC("lsm/file_open")
int BPF_PROG(may_open, struct file *file)
{
	struct dentry *d = file->f_path.dentry;

	opens++;
	__builtin_memset(last_name, 0, sizeof(last_name));
	__builtin_memset(parent_dir, 0, sizeof(parent_dir));
	bpf_probe_read_kernel_str(last_name, sizeof(last_name), d->d_name.name);
	bpf_probe_read_kernel_str(parent_dir, sizeof(parent_dir), d->d_parent->d_iname);
	if (!bpf_strncmp(last_name, 7, "shadow")) {
		denied++;
		return -EACCES;
	}
	return 0;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(may_exec, struct linux_binprm *bprm)
{
	char name[8];

	bpf_probe_read_kernel_str(name, sizeof(name), bprm->filename);
	if (!bpf_strncmp(name, 5, "/var/")) {
		denied++;
		return -EPERM;
	}
	return 0;
}

SEC("lsm/task_kill")
int BPF_PROG(may_kill, struct task_struct *p, struct kernel_siginfo *info, int sig,
	     const struct cred *cred)
{
	kill_sig = sig;
	if (p->comm[0] == 's' && p->comm[1] == 'a') {
		denied++;
		return -EPERM;
	}
	return 0;
}

SEC("lsm/mmap_file")
int BPF_PROG(may_map, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags)
{
	if ((prot & (PROT_WRITE | PROT_EXEC)) == (PROT_WRITE | PROT_EXEC)) {
		denied++;
		return -EACCES;
	}
	return 0;
}

/* By single call and by all of them. */
SEC("tracepoint/syscalls/sys_enter_openat")
int open_enter(struct trace_event_raw_sys_enter *ctx)
{
	char path[8];

	entered[0]++;
	bpf_probe_read_user_str(path, sizeof(path), (void *)ctx->args[1]);
	if (!bpf_strncmp(path, 5, "/etc/"))
		entered[1]++;
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int open_exit(struct trace_event_raw_sys_exit *ctx)
{
	if (ctx->ret < 0)
		failed[0]++;
	return 0;
}

SEC("fexit/vfs_open")
int BPF_PROG(open_ret, const struct path *path, struct file *file, int ret)
{
	if (ret == -EACCES)
		failed[1]++;
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(any_enter, struct pt_regs *regs, long id)
{
	calls++;
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	forks++;
	fork_child = child->pid;
	/* The child's parent is known by then. */
	if (BPF_CORE_READ(child, real_parent, pid) != parent->pid)
		forks = 1000;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
