/* Pointers of the kernel that maps keep: what may be stored into them and how. Each rule is broken
 * by a program, and kept by the one behind it. */
#include "kernel.h"

#define __kptr __attribute__((btf_type_tag("kptr")))
#define __kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

struct value {
	struct task_struct __kptr *owned;
	struct task_struct __kptr_untrusted *seen;
	int n;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct value);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, long);
} plain SEC(".maps");

#define look(map)                                                                                  \
	({                                                                                         \
		int key = 0;                                                                       \
		bpf_map_lookup_elem(map, &key);                                                    \
	})

SEC("tc") __failure __msg("BPF_ST imm must be 0 when storing to kptr at off=8")
int number_stored(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		asm volatile("*(u64 *)(%0 + 8) = 1" : : "r"(v) : "memory");
	return 0;
}

SEC("tc") __success
int null_stored(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		asm volatile("*(u64 *)(%0 + 8) = 0" : : "r"(v) : "memory");
	return 0;
}

SEC("tc") __failure __msg("store to referenced kptr disallowed")
int owned_stored(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		asm volatile("*(u64 *)(%0 + 0) = 0" : : "r"(v) : "memory");
	return 0;
}

SEC("tc") __failure __msg("kptr access size must be BPF_DW")
int half_read(struct __sk_buff *skb)
{
	struct value *v = look(&values);
	int n = 0;

	if (v)
		asm volatile("%0 = *(u32 *)(%1 + 8)" : "=r"(n) : "r"(v));
	return 0;
}

SEC("tc") __success
int whole_read(struct __sk_buff *skb)
{
	struct value *v = look(&values);
	long n = 0;

	if (v)
		asm volatile("%0 = *(u64 *)(%1 + 8)" : "=r"(n) : "r"(v));
	return 0;
}

SEC("tc") __failure __msg("kptr access cannot have variable offset")
int somewhere_read(struct __sk_buff *skb)
{
	char *v = look(&values);
	long n = 0;

	if (v) {
		v += skb->len & 8;
		asm volatile("%0 = *(u64 *)(%1 + 0)" : "=r"(n) : "r"(v));
	}
	return 0;
}

SEC("tc") __failure __msg("kptr access misaligned expected=8 off=12")
int askew_read(struct __sk_buff *skb)
{
	struct value *v = look(&values);
	long n = 0;

	if (v)
		asm volatile("%0 = *(u64 *)(%1 + 12)" : "=r"(n) : "r"(v));
	return 0;
}

SEC("tc") __failure __msg("kptr in map can only be accessed using BPF_MEM instruction mode")
int exchanged(struct __sk_buff *skb)
{
	struct value *v = look(&values);
	long n = 0;

	if (v)
		asm volatile("lock *(u64 *)(%0 + 8) += %1" : : "r"(v), "r"(n) : "memory");
	return 0;
}

SEC("tc") __failure __msg("kptr cannot be accessed indirectly by helper")
int filled_by_a_helper(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		bpf_skb_load_bytes(skb, 0, v, sizeof(*v));
	return 0;
}

SEC("tc") __success
int its_number_filled_by_a_helper(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		bpf_skb_load_bytes(skb, 0, &v->n, sizeof(v->n));
	return 0;
}

SEC("tc") __failure __msg("off=8 kptr isn't referenced kptr")
int untrusted_exchanged(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		bpf_kptr_xchg(&v->seen, 0);
	return 0;
}

SEC("tc") __failure __msg("off=16 doesn't point to kptr")
int number_exchanged(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		bpf_kptr_xchg(&v->n, 0);
	return 0;
}

SEC("tc") __failure __msg("has no valid kptr")
int value_without_pointers(struct __sk_buff *skb)
{
	long *v = look(&plain);

	if (v)
		bpf_kptr_xchg(v, 0);
	return 0;
}

SEC("tc") __failure __msg("doesn't have constant offset. kptr has to be at the constant offset")
int exchanged_somewhere(struct __sk_buff *skb)
{
	char *v = look(&values);

	if (v) {
		v += skb->len & 8;
		bpf_kptr_xchg(v, 0);
	}
	return 0;
}

SEC("tc") __failure __msg("R2 type=map_value expected=ptr_, trusted_ptr_, rcu_ptr_")
int number_put_in(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		bpf_kptr_xchg(&v->owned, v);
	return 0;
}

SEC("tc") __failure __msg("invalid kptr access, R")
int other_pointer_stored(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v)
		asm volatile("*(u64 *)(%0 + 8) = %0" : : "r"(v) : "memory");
	return 0;
}

SEC("tc") __failure __msg("Unreleased reference id=")
int taken_and_kept(struct __sk_buff *skb)
{
	struct value *v = look(&values);

	if (v && bpf_kptr_xchg(&v->owned, 0))
		return 1;
	return 0;
}

SEC("tc") __success
int looked_at(struct __sk_buff *skb)
{
	struct value *v = look(&values);
	struct task_struct *t = v ? v->seen : 0;

	return t ? t->pid : 0;
}

char _license[] SEC("license") = "GPL";
