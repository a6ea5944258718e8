// Variables of the kernel under the policy of a group: read, refused, and another value in the
// place of the one that is written.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u32 reads, writes, wrong;
char name[32], base[16], value[16], given[16], cut[4];
__s32 name_len, base_len, value_len, given_len, cut_len, no_new;
long number;

static __always_inline int same(const char *a, const char *b, int len)
{
	for (int i = 0; i < len; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

SEC("cgroup/sysctl")
int variables(struct bpf_sysctl *ctx)
{
	char limit[] = "128";

	// A name that is shorter than the last one leaves what is behind it.
	__builtin_memset(base, 0, sizeof(base));
	name_len = bpf_sysctl_get_name(ctx, name, sizeof(name), 0);
	base_len = bpf_sysctl_get_name(ctx, base, sizeof(base), BPF_F_SYSCTL_BASE_NAME);
	value_len = bpf_sysctl_get_current_value(ctx, value, sizeof(value));
	if (!ctx->write) {
		reads++;
		cut_len = bpf_sysctl_get_current_value(ctx, cut, sizeof(cut));
		no_new = bpf_sysctl_get_new_value(ctx, given, sizeof(given));
		if (ctx->file_pos)
			wrong++;
		// Nobody reads how memory is divided.
		return !same(name, "net/ipv4/tcp_rmem", 17);
	}
	writes++;
	given_len = bpf_sysctl_get_new_value(ctx, given, sizeof(given));
	if (bpf_strtol(given, sizeof(given), 0, &number) < 0)
		return 1;
	if (number > 128 && same(base, "somaxconn", 9))
		return bpf_sysctl_set_new_value(ctx, limit, sizeof(limit) - 1) == 0;
	return number >= 0;
}

char LICENSE[] SEC("license") = "GPL";
