// Who may do what by bpf(2): a map is written by one task alone, and nobody else runs programs.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define EPERM 1

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} limits SEC(".maps");

__u32 updates, deletes, runs, refused, calls, fails, odd, owner, last_fd, other_fd, ran;

SEC("lsm/bpf")
int BPF_PROG(guard, int cmd, union bpf_attr *attr, unsigned int size, bool kernel)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;

	odd += kernel || size < 16;
	switch (cmd) {
	case BPF_MAP_UPDATE_ELEM:
		updates++;
		if (!owner)
			owner = pid;
		last_fd = attr->map_fd;
		odd += !attr->key || !attr->value || size != 32;
		break;
	case BPF_MAP_DELETE_ELEM:
		deletes++;
		other_fd = attr->map_fd;
		break;
	case BPF_PROG_TEST_RUN:
		runs++;
		odd += attr->test.prog_fd < 3 || attr->test.repeat;
		break;
	default:
		odd++;
	}
	if (pid == owner)
		return 0;
	refused++;
	return -EPERM;
}

SEC("tracepoint/syscalls/sys_enter_bpf")
int enter(struct trace_event_raw_sys_enter *ctx)
{
	calls++;
	odd += ctx->args[0] > BPF_PROG_TEST_RUN;
	return 0;
}

SEC("fexit/security_bpf")
int BPF_PROG(decided, int cmd, union bpf_attr *attr, unsigned int size, bool kernel, int ret)
{
	fails += ret == -EPERM;
	return 0;
}

SEC("syscall")
int work(void *ctx)
{
	ran++;
	return 7;
}

char _license[] SEC("license") = "GPL";
