// LSM hooks for groups: the socket's group decides for hooks on sockets, the task's for others.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u32 opens, connects, mac, families;

SEC("lsm_cgroup/file_open")
int BPF_PROG(may_open, struct file *file)
{
	opens++;
	return file->f_inode->i_size < 60;
}

SEC("lsm_cgroup/socket_connect")
int BPF_PROG(may_connect, struct socket *sock, struct sockaddr *address, int addrlen)
{
	connects++;
	families += address->sa_family == 2;
	bpf_set_retval(-13);
	return sock->type != 1;
}

SEC("lsm/file_open")
int BPF_PROG(watch, struct file *file)
{
	mac++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
