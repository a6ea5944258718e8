/* A program is judged and run by itself: what others of its object need may be missing. */
#include "annotated.h"

#define SKB(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)

/* A map that nobody runs with, of a type that needs sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} sockets SEC(".maps");

/* No kernel has it. */
extern int bpf_of_no_kernel(void) __ksym;

SEC("?tc") int of_no_kernel(struct __sk_buff *ctx)
{
	return bpf_of_no_kernel();
}

SEC("?sk_skb") int redirects(struct __sk_buff *ctx)
{
	return bpf_sk_redirect_map(ctx, &sockets, 0, 0);
}

SKB(needs_none_of_it, 7, return 7)

/* The kernel's version and configuration. */
extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool CONFIG_BPF_SYSCALL __kconfig;
extern _Bool CONFIG_OF_NO_KERNEL __kconfig __weak;
SKB(version, 1, return LINUX_KERNEL_VERSION >= 0x061200)
SKB(configured, 1, return CONFIG_BPF_SYSCALL)
SKB(not_configured, 0, return CONFIG_OF_NO_KERNEL)
