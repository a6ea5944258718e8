// Who removes and makes names: probes of the functions on the way, and a policy that keeps /etc.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#define EPERM 1

__u32 calls, returns, asked, removed, failed, made, kept;
__s32 last_ret, made_mode;
char last[24], made_in[16];

/* The function that the tracepoints of a system call surround. */
SEC("ksyscall/unlinkat")
int on_call(struct pt_regs *ctx)
{
	calls++;
	return 0;
}

SEC("kretsyscall/unlinkat")
int on_return(struct pt_regs *ctx)
{
	returns++;
	return 0;
}

SEC("fentry/do_unlinkat")
int BPF_PROG(on_unlink, int dfd, struct filename *name)
{
	asked++;
	bpf_probe_read_kernel_str(last, sizeof(last), name->name);
	return 0;
}

SEC("fexit/do_unlinkat")
int BPF_PROG(on_unlinked, int dfd, struct filename *name, int ret)
{
	last_ret = ret;
	if (ret)
		failed++;
	return 0;
}

SEC("fexit/vfs_unlink")
int BPF_PROG(on_removed, void *idmap, struct inode *dir, struct dentry *dentry,
	     struct inode **delegated_inode, int ret)
{
	if (!ret)
		removed++;
	return 0;
}

SEC("lsm/path_unlink")
int BPF_PROG(keep_etc, const struct path *dir, struct dentry *dentry)
{
	char name[8];

	bpf_probe_read_kernel_str(name, sizeof(name), dir->dentry->d_name.name);
	if (bpf_strncmp(name, 4, "etc"))
		return 0;
	kept++;
	return -EPERM;
}

SEC("lsm/inode_mkdir")
int BPF_PROG(on_mkdir, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	made++;
	made_mode = mode;
	bpf_probe_read_kernel_str(made_in, sizeof(made_in), dentry->d_parent->d_name.name);
	return dir->i_ino == 0 ? -EPERM : 0;
}

char _license[] SEC("license") = "GPL";
