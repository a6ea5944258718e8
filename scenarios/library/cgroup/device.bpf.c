// Devices of a group: what may be made, opened, written.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u32 asked, refused, last_type, last_access, last_major, last_minor;

SEC("cgroup/dev")
int devices(struct bpf_cgroup_dev_ctx *ctx)
{
	asked++;
	last_type = ctx->access_type & 0xffff;
	last_access = ctx->access_type >> 16;
	last_major = ctx->major;
	last_minor = ctx->minor;
	// Character devices of memory, but no writing to /dev/null and no others.
	if (last_type == 2 && ctx->major == 1 && !(last_access & 4))
		return 1;
	refused++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
