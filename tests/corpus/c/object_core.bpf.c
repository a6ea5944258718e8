// CO-RE against object_core_target, whose struct differs.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct thing {
	int first;
	int moved;
	unsigned flag : 3;
	int gone;
};
#pragma clang attribute pop

SEC("raw_tp/x")
int fields(struct thing **ctx)
{
	struct thing *t = *ctx;

	return t->moved + BPF_CORE_READ_BITFIELD(t, flag) + bpf_core_field_exists(t->gone);
}

SEC("raw_tp/x")
int missing(struct thing **ctx)
{
	return (*ctx)->gone;
}

char LICENSE[] SEC("license") = "GPL";
