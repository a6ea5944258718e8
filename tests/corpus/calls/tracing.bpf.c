/* What tracing programs ask, as far as it is the same on every machine. */
#include "calls.h"

SEC("raw_tp/task_rename") int text(void *ctx)
{
	char buf[24] = {};
	long n;

	n = 0;
	note(bpf_strtol(" -12z", 5, 10, &n));
	note(n);
	note(bpf_strtol("0x7fffffffffffffff", 18, 0, &n));
	note(n);
	note(bpf_strtol("9223372036854775808", 19, 10, &n));
	note(bpf_strtol("z", 1, 10, &n));
	note(bpf_strtol("1", 1, 11, &n));
	note(bpf_strtoul("-1", 2, 10, (unsigned long *)&n));
	note(bpf_strtoul("777 ", 4, 8, (unsigned long *)&n));
	note(n);
	note(bpf_strtoul("0x", 2, 0, (unsigned long *)&n));
	note(bpf_strncmp("abc", 3, "abd"));
	note(bpf_strncmp("abc", 2, "abd"));
	note(bpf_strncmp("b", 1, "a"));
	return 0;
}

SEC("raw_tp/task_rename") int formats(void *ctx)
{
	char buf[64] = {};
	static const char unsigned_fmt[] = "%u %5d|%-5d|%05x %x %llu %lld %d %lu";
	__u64 a[9] = { 7, 8, 9, 10, 11, 12, -13, 0x1ff, 0x1ffff };

	note(bpf_snprintf(buf, sizeof(buf), unsigned_fmt, a, sizeof(a)));
	for (int i = 0; i < 8; i++)
		note(bpf_be64_to_cpu(((__u64 *)buf)[i]));
	static const char percent[] = "100%%";
	note(bpf_snprintf(buf, 4, percent, a, 0));
	note(bpf_be32_to_cpu(*(__u32 *)buf));
	static const char ip[] = "%pI4 %pi6";
	__u8 addr[16] = { 10, 0, 0, 1 };
	a[0] = a[1] = (__u64)addr;
	note(bpf_snprintf(buf, sizeof(buf), ip, a, 16));
	for (int i = 0; i < 8; i++)
		note(bpf_be64_to_cpu(((__u64 *)buf)[i]));
	return 0;
}

SEC("raw_tp/task_rename") int reads(void *ctx)
{
	char buf[16] = "xxxxxxxxxxxxxxx", s[8] = "hello";

	note(bpf_probe_read_kernel(buf, 8, s));
	note(bpf_be64_to_cpu(*(__u64 *)buf));
	note(bpf_probe_read_kernel(buf, 8, (void *)8));
	note(*(__u64 *)buf);
	note(bpf_probe_read_kernel_str(buf, 16, s));
	note(bpf_be64_to_cpu(*(__u64 *)buf));
	note(bpf_probe_read_kernel_str(buf, 3, s));
	note(bpf_probe_read_kernel_str(buf, 16, (void *)8));
	note(bpf_probe_read_user(buf, 8, s));
	note(bpf_probe_read_user_str(buf, 8, (void *)8));
	note(bpf_get_attach_cookie(ctx));
	return 0;
}

SEC("raw_tp/task_rename") int branches(void *ctx)
{
	char buf[48];

	note(bpf_get_branch_snapshot(buf, sizeof(buf), 0));
	note(bpf_get_branch_snapshot(buf, sizeof(buf), 1));
	note(bpf_get_branch_snapshot(buf, 8, 1));
	return 0;
}

SEC("syscall") int names(void *ctx)
{
	__u64 addr = 5;
	char name[] = "no_such_symbol_at_all", task[] = "task_struct";

	note(bpf_kallsyms_lookup_name(name, sizeof(name), 0, &addr));
	note(addr);
	note(bpf_kallsyms_lookup_name(name, sizeof(name), 1, &addr));
	note(bpf_kallsyms_lookup_name(name, 4, 0, &addr));
	note(bpf_btf_find_by_name_kind(name, sizeof(name), 4, 0));
	note(bpf_btf_find_by_name_kind(task, sizeof(task), 4, 1));
	note(bpf_btf_find_by_name_kind(task, 3, 4, 0));
	note(bpf_btf_find_by_name_kind(task, sizeof(task), 4, 0) > 0);
	note(bpf_btf_find_by_name_kind(task, sizeof(task), 1, 0));
	return 0;
}
