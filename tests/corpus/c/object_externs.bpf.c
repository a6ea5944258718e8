// Kernel symbols: there, needed, optional, and one of which only the address is wanted.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern const void present __ksym;
extern const void needed __ksym;
extern void address __ksym __weak;
extern int optional(int) __ksym __weak;

SEC("raw_tp/x")
int calls(void *ctx)
{
	return optional(1);
}

SEC("raw_tp/x")
int reads(void *ctx)
{
	return (long)&present + (long)&needed + (long)&address;
}

SEC("raw_tp/x")
int plain(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
