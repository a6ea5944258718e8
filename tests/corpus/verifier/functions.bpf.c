/* Global functions: what their arguments and results may be, and what callers pass. Each rule is
 * broken by a program, and kept by the one behind it. */
#include "kernel.h"

#define __arg(tag) __attribute__((btf_decl_tag("arg:" tag)))
#define global __attribute__((noinline))
/* What a compiler knows nothing of. */
#define hidden(value)                                                                              \
	({                                                                                         \
		typeof(value) v = value;                                                           \
		asm volatile("" : "+r"(v));                                                        \
		v;                                                                                 \
	})
#define null hidden((void *)0)

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));
struct no_such_thing {
	int x;
} __attribute__((preserve_access_index));
struct unknown;
struct pair {
	int a;
	int b;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct pair);
} pairs SEC(".maps");

int seen;

global int *returns_pointer(void)
{
	return hidden(&seen);
}

SEC("tc") __failure __msg("Global function returns_pointer() doesn't return scalar. Only those are supported.")
int pointer_returned(struct __sk_buff *skb)
{
	return returns_pointer() != 0;
}

global int returns_number(void)
{
	return seen;
}

SEC("tc") __success
int number_returned(struct __sk_buff *skb)
{
	return returns_number() != 0;
}

global int takes_unknown(struct unknown *p)
{
	return hidden(p) != 0;
}

SEC("tc") __failure __msg("arg#0 reference type('FWD unknown') size cannot be determined: -22")
int unknown_taken(struct __sk_buff *skb)
{
	return takes_unknown(null);
}

global int takes_pair(struct pair *p)
{
	return hidden(p) ? p->a : 0;
}

SEC("tc") __success
int pair_taken(struct __sk_buff *skb)
{
	return takes_pair(null);
}

global int context_of_number(int n __arg("ctx"))
{
	return hidden(n);
}

SEC("tc") __failure __msg("arg#0 has pointer tag, but is not a pointer type")
int number_as_context(struct __sk_buff *skb)
{
	return context_of_number(hidden(1));
}

global int context_of_context(void *ctx __arg("ctx"))
{
	return hidden(ctx) != 0;
}

SEC("tc") __success
int context_as_context(struct __sk_buff *skb)
{
	return context_of_context(skb);
}

global int two_tags(void *ctx __arg("ctx") __arg("nonnull"))
{
	return hidden(ctx) != 0;
}

SEC("tc") __failure __msg("arg#0 has invalid combination of tags")
int tags_that_do_not_fit(struct __sk_buff *skb)
{
	return two_tags(skb);
}

global int arena_and_more(void *p __arg("arena") __arg("nonnull"))
{
	return hidden(p) != 0;
}

SEC("tc") __failure __msg("arg#0 arena cannot be combined with any other tags")
int arena_with_another_tag(struct __sk_buff *skb)
{
	return arena_and_more(null);
}

global int arena_alone(void *p __arg("arena"))
{
	return hidden(p) != 0;
}

SEC("tc") __failure __msg("R1 is not a pointer to arena or scalar.")
int stack_as_arena(struct __sk_buff *skb)
{
	int on_stack = 1;

	return arena_alone(&on_stack);
}

SEC("tc") __success
int number_as_arena(struct __sk_buff *skb)
{
	return arena_alone(null);
}

global int nonnull(struct pair *p __arg("nonnull"))
{
	return hidden(p)->a;
}

SEC("tc") __failure __msg("arg#0 is expected to be non-NULL")
int maybe_null_as_nonnull(struct __sk_buff *skb)
{
	int key = 0;

	return nonnull(bpf_map_lookup_elem(&pairs, &key));
}

SEC("tc") __success
int pair_as_nonnull(struct __sk_buff *skb)
{
	struct pair p = {};

	return nonnull(&p);
}

SEC("tc") __failure __msg("arg#0 expects pointer to ctx")
int stack_as_context(struct __sk_buff *skb)
{
	int on_stack = 1;

	return context_of_context(&on_stack);
}

global int number(long n)
{
	return hidden(n);
}

SEC("tc") __failure __msg("R1 is not a scalar")
int pointer_as_number(struct __sk_buff *skb)
{
	return number((long)skb);
}

SEC("tc") __success
int number_as_number(struct __sk_buff *skb)
{
	return number(skb->len);
}

global int trusted_unknown(struct no_such_thing *p __arg("trusted"))
{
	return hidden(p) != 0;
}

SEC("tc") __failure __msg("arg#0 reference type('STRUCT no_such_thing') has no matches")
int no_type_of_the_kernel(struct __sk_buff *skb)
{
	return trusted_unknown(null);
}

global int trusted_task(struct task_struct *p __arg("trusted") __arg("nullable"))
{
	return hidden(p) != 0;
}

SEC("tc") __success
int type_of_the_kernel(struct __sk_buff *skb)
{
	return trusted_task(null);
}

global int untrusted_and_more(struct task_struct *p __arg("untrusted") __arg("nonnull"))
{
	return hidden(p) != 0;
}

SEC("tc") __failure __msg("arg#0 untrusted cannot be combined with any other tags")
int untrusted_with_another_tag(struct __sk_buff *skb)
{
	return untrusted_and_more(null);
}

global int untrusted(struct task_struct *p __arg("untrusted"))
{
	return p->pid;
}

SEC("tc") __success
int anything_as_untrusted(struct __sk_buff *skb)
{
	return untrusted(null);
}

global int wrong_context(struct pair *ctx __arg("ctx"))
{
	return hidden(ctx) != 0;
}

SEC("tc") __failure __msg("arg#0 should be `struct __sk_buff *`")
int context_of_another_type(struct __sk_buff *skb)
{
	return wrong_context((void *)skb);
}


char _license[] SEC("license") = "GPL";
