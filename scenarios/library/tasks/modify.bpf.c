// Programs that take the place of a hook of the kernel: what is asked then is neither the hook nor
// the programs of the LSM behind it.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EACCES 13
#define O_WRONLY 1

int entered, asked, later, reached, seen, got_ret;

SEC("fentry/security_file_open")
int BPF_PROG(enter, struct file *file)
{
	entered++;
	return 0;
}

SEC("fmod_ret/security_file_open")
int BPF_PROG(refuse, struct file *file, int ret)
{
	asked++;
	return file->f_flags & O_WRONLY ? -EACCES : ret;
}

// Runs only as long as those before it have said 0.
SEC("fmod_ret/security_file_open")
int BPF_PROG(after, struct file *file, int ret)
{
	__u64 now = 1;

	later++;
	if (!bpf_get_func_ret(ctx, &now))
		got_ret += now;
	return ret;
}

SEC("lsm/file_open")
int BPF_PROG(hook, struct file *file)
{
	reached++;
	return 0;
}

SEC("fexit/security_file_open")
int BPF_PROG(leave, struct file *file, int ret)
{
	seen += ret;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
