/* Reads of memory that may not be there, into dynptrs and buffers. */
#include "calls.h"

extern int bpf_probe_read_kernel_dynptr(struct bpf_dynptr *p, __u32 off, __u32 n, const void *from) __ksym;
extern int bpf_probe_read_user_dynptr(struct bpf_dynptr *p, __u32 off, __u32 n, const void *from) __ksym;
extern int bpf_probe_read_kernel_str_dynptr(struct bpf_dynptr *p, __u32 off, __u32 n, const void *from) __ksym;
extern int bpf_probe_read_user_str_dynptr(struct bpf_dynptr *p, __u32 off, __u32 n, const void *from) __ksym;
extern int bpf_copy_from_user_dynptr(struct bpf_dynptr *p, __u32 off, __u32 n, const void *from) __ksym;
extern int bpf_copy_from_user_str(void *dst, __u32 n, const void *from, __u64 flags) __ksym;
extern int bpf_dynptr_from_skb(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;
extern int bpf_dynptr_from_skb_meta(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;
extern __u32 bpf_dynptr_size(const struct bpf_dynptr *p) __ksym;
extern bool bpf_dynptr_is_null(const struct bpf_dynptr *p) __ksym;

static char text[16] = "hello, world", room[32] = "................";

SEC("raw_tp/task_rename") int memory(void *ctx)
{
	struct bpf_dynptr p;
	char *s = text, *r = room;

	barrier_var(s);
	note(bpf_dynptr_from_mem(room, sizeof(room), 0, &p));
	note(bpf_probe_read_kernel_dynptr(&p, 2, 5, s));
	note(bpf_be64_to_cpu(*(__u64 *)r));
	note(bpf_probe_read_kernel_dynptr(&p, 30, 5, s));
	note(bpf_probe_read_kernel_dynptr(&p, 0, 5, (void *)8));
	note(bpf_probe_read_kernel_str_dynptr(&p, 0, 32, s));
	note(bpf_probe_read_kernel_str_dynptr(&p, 4, 4, s));
	note(bpf_be64_to_cpu(*(__u64 *)r));
	note(bpf_probe_read_kernel_str_dynptr(&p, 30, 4, s));
	note(bpf_probe_read_user_dynptr(&p, 0, 5, (void *)8));
	note(bpf_probe_read_user_str_dynptr(&p, 0, 5, (void *)8));
	note(bpf_probe_read_user_dynptr(&p, 30, 5, (void *)8));
	return 0;
}

SEC("syscall") int user(void *ctx)
{
	char buf[8] = "1234567";

	note(bpf_copy_from_user_str(buf, 8, (void *)8, 0));
	note(bpf_be64_to_cpu(*(__u64 *)buf));
	note(bpf_copy_from_user_str(buf, 8, (void *)8, 1));
	note(*(__u64 *)buf);
	note(bpf_copy_from_user_str(buf, 8, (void *)8, 2));
	return 0;
}

SEC("tc") int packets(struct __sk_buff *skb)
{
	struct bpf_dynptr p, m;
	char *s = text;

	barrier_var(s);
	note(bpf_dynptr_from_skb(skb, 0, &p));
	note(bpf_probe_read_kernel_dynptr(&p, 42, 5, s));
	note(bpf_probe_read_kernel_str_dynptr(&p, 48, 8, s));
	note(bpf_dynptr_from_skb_meta(skb, 1, &m));
	note(bpf_dynptr_is_null(&m));
	note(bpf_dynptr_from_skb_meta(skb, 0, &m));
	note(bpf_dynptr_size(&m));
	return 0;
}
