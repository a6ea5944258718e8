// What a preempted program keeps: its read-side section, and the counter by which a tracing program
// does not run twice on one CPU. A program without such a counter runs in the other task.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} peers SEC(".maps");

__u64 seen, checks;

SEC("fentry/do_sys_openat2")
int BPF_PROG(traced, int dfd)
{
	__u32 key = 1;
	__u64 *value = bpf_map_lookup_elem(&peers, &key);

	if (!value)
		return 0;
	bpf_ktime_get_ns();
	seen = *value;
	return 0;
}

SEC("lsm/file_open")
int BPF_PROG(checked, struct file *file)
{
	checks++;
	return 0;
}

SEC("syscall")
int drop(void *ctx)
{
	__u32 key = 1;

	return bpf_map_delete_elem(&peers, &key);
}

char _license[] SEC("license") = "GPL";
