/* Fields, strings, locks and callbacks: rules that need maps with types. Each is broken by a
 * program, and kept by the one behind it. */
#include "held.h"

#define __kptr_owned __attribute__((btf_type_tag("kptr")))
#define __arg(tag) __attribute__((btf_decl_tag("arg:" tag)))
#define global __attribute__((noinline))

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));
extern struct task_struct *bpf_task_from_pid(int pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;

struct plainly_locked {
	struct bpf_spin_lock l;
	int n;
};
MAP(guarded, BPF_MAP_TYPE_ARRAY, struct plainly_locked);

struct twice {
	int x;
	struct bpf_list_node a;
	struct bpf_list_node b;
};
struct leaf {
	int x;
	struct bpf_rb_node r;
};
private(T) struct bpf_spin_lock tlock;
private(T) struct bpf_list_head thead __contains(twice, a);
private(T) struct bpf_rb_root troot __contains(leaf, r);

struct with_task {
	struct task_struct __kptr_owned *task;
};
MAP(tasks, BPF_MAP_TYPE_ARRAY, struct with_task);

SEC(".rodata.unended") const volatile char unended[4] = "abcd";
const volatile char plain_text[4] = "abc";
const volatile char wrong_format[4] = "%y";

#define FIRST(type, map)                                                                           \
	({                                                                                         \
		int key = 0;                                                                       \
		type *v = bpf_map_lookup_elem(&map, &key);                                         \
		if (!v)                                                                            \
			return 0;                                                                  \
		v;                                                                                 \
	})

SEC("tc") __failure __msg("R1 doesn't have constant offset. bpf_spin_lock has to be at the constant offset")
int lock_somewhere(struct __sk_buff *skb)
{
	struct plainly_locked *v = FIRST(struct plainly_locked, guarded);
	long off = skb->len & 4;

	asm volatile("r1 = %0; r1 += %1; call %[lock]" ::"r"(v), "r"(off),
		     [lock] "i"(93) : "r0", "r1", "r2", "r3", "r4", "r5");
	return 0;
}

SEC("tc") __success
int lock_in_its_place(struct __sk_buff *skb)
{
	struct plainly_locked *v = FIRST(struct plainly_locked, guarded);

	bpf_spin_lock(&v->l);
	v->n = skb->len;
	bpf_spin_unlock(&v->l);
	return 0;
}

SEC("tc") __failure __msg("irq flag acquired by native kfuncs cannot be restored with lock kfuncs")
int irqs_of_no_lock(struct __sk_buff *skb)
{
	unsigned long own, flags;

	bpf_local_irq_save(&own);
	if (bpf_res_spin_lock_irqsave(&la, &flags)) {
		bpf_local_irq_restore(&own);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&la, &own);
	bpf_local_irq_restore(&flags);
	return 0;
}

SEC("tc") __success
int irqs_with_their_lock(struct __sk_buff *skb)
{
	unsigned long flags;

	if (bpf_res_spin_lock_irqsave(&la, &flags))
		return 0;
	bpf_res_spin_unlock_irqrestore(&la, &flags);
	return 0;
}

SEC("tc") __failure __msg("arg#1 offset=32, but expected bpf_list_node at offset=8 in struct twice")
int the_other_node(struct __sk_buff *skb)
{
	struct twice *t = new(struct twice);

	if (!t)
		return 0;
	bpf_spin_lock(&tlock);
	push(&thead, &t->b);
	bpf_spin_unlock(&tlock);
	return 0;
}

SEC("tc") __success
int the_node(struct __sk_buff *skb)
{
	struct twice *t = new(struct twice);

	if (!t)
		return 0;
	bpf_spin_lock(&tlock);
	push(&thead, &t->a);
	bpf_spin_unlock(&tlock);
	return 0;
}

SEC("tc") __failure __msg("arg#0 expected pointer to map value or allocated object")
int a_list_on_the_stack(struct __sk_buff *skb)
{
	struct bpf_list_head head = {};
	struct twice *t = new(struct twice);

	if (!t)
		return 0;
	bpf_spin_lock(&tlock);
	push(&head, &t->a);
	bpf_spin_unlock(&tlock);
	return 0;
}

SEC("tc") __failure __msg("arg2 expected pointer to func")
int no_order(struct __sk_buff *skb)
{
	struct leaf *l = new(struct leaf);

	if (!l)
		return 0;
	bpf_spin_lock(&tlock);
	add(&troot, &l->r, (void *)0);
	bpf_spin_unlock(&tlock);
	return 0;
}

static _Bool in_order(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return containing(a, struct leaf, r)->x < containing(b, struct leaf, r)->x;
}

SEC("tc") __success
int an_order(struct __sk_buff *skb)
{
	struct leaf *l = new(struct leaf);

	if (!l)
		return 0;
	bpf_spin_lock(&tlock);
	add(&troot, &l->r, in_order);
	bpf_spin_unlock(&tlock);
	return 0;
}

SEC("tc") __failure __msg("Possibly NULL pointer passed to helper arg2")
int perhaps_a_task(struct __sk_buff *skb)
{
	struct with_task *v = FIRST(struct with_task, tasks);
	struct task_struct *task = bpf_task_from_pid(1);

	task = bpf_kptr_xchg(&v->task, task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc") __success
int a_task(struct __sk_buff *skb)
{
	struct with_task *v = FIRST(struct with_task, tasks);
	struct task_struct *task = bpf_task_from_pid(1);

	if (!task)
		return 0;
	task = bpf_kptr_xchg(&v->task, task);
	if (task)
		bpf_task_release(task);
	return 0;
}

SEC("tc") __failure __msg("string is not zero-terminated")
int a_text_without_end(struct __sk_buff *skb)
{
	char to[8];

	return bpf_strncmp(to, sizeof(to), (const char *)unended + 0);
}

SEC("tc") __success
int a_text(struct __sk_buff *skb)
{
	char to[8] = {};

	return bpf_strncmp(to, sizeof(to), (const char *)plain_text);
}

SEC("tc") __failure __msg("R3 is not a constant address'")
int some_text(struct __sk_buff *skb)
{
	char to[8] = {};

	return bpf_strncmp(to, sizeof(to), (const char *)plain_text + (skb->len & 1));
}

SEC("tc") __failure __msg("Invalid format string")
int no_format(struct __sk_buff *skb)
{
	char to[8];
	u64 args[1] = { 1 };

	return bpf_snprintf(to, sizeof(to), (const char *)wrong_format, args, sizeof(args));
}

SEC("tc") __success
int a_format(struct __sk_buff *skb)
{
	char to[8];

	return bpf_snprintf(to, sizeof(to), (const char *)plain_text, 0, 0);
}

global int nameless_context(struct { int a; } *ctx __arg("ctx"))
{
	asm volatile("" ::"r"(ctx));
	return 0;
}

SEC("tc") __failure __msg("arg#0 type doesn't have a name")
int a_context_without_name(struct __sk_buff *skb)
{
	return nameless_context((void *)skb);
}

static int returns_its_value(void *m, int *k, struct timed *v)
{
	long value;

	asm volatile("%0 = %1" : "=r"(value) : "r"(v));
	return value;
}

static int returns_nothing(void *m, int *k, struct timed *v)
{
	return 0;
}

SEC("tc") __failure __msg("At async callback return the register R0 is not a known value (map_value)")
int a_pointer_from_a_timer(struct __sk_buff *skb)
{
	struct timed *v = FIRST(struct timed, timers);

	bpf_timer_set_callback(&v->t, returns_its_value);
	return 0;
}

SEC("tc") __success
int nothing_from_a_timer(struct __sk_buff *skb)
{
	struct timed *v = FIRST(struct timed, timers);

	bpf_timer_set_callback(&v->t, returns_nothing);
	return 0;
}

/* A callback that runs later is a path of its own, beside those that branches leave. */
static int later(void *map, int *key, struct timed *v)
{
	return 0;
}

#define LEAVE(n)                                                                                   \
	asm volatile("r1 = 0; 1: if %0 == 77 goto +0; r1 += 1; if r1 != " #n " goto 1b"            \
		     ::"r"(c->len) : "r1")

__failure __msg("The sequence of 8193 jumps is too complex for async cb.")
SEC("tc")
int a_callback_too_many(struct __sk_buff *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers, &k);

	if (!v)
		return 0;
	LEAVE(8192);
	bpf_timer_set_callback(&v->t, later);
	return 0;
}

__success
SEC("tc")
int as_many_as_there_may_be(struct __sk_buff *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers, &k);

	if (!v)
		return 0;
	LEAVE(8191);
	bpf_timer_set_callback(&v->t, later);
	return 0;
}

/* Memory of the task's, which the kernel maps. */
struct shared {
	int n;
};
/* What only a pointer in a map names would be no more than declared. */
struct shared whole;
struct with_shared {
	struct shared __attribute__((btf_type_tag("uptr"))) *p;
	long n;
};
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct with_shared);
} shares SEC(".maps");

static struct with_shared *of_this_task(void)
{
	return bpf_task_storage_get(&shares, bpf_get_current_task_btf(), 0, 0);
}

__failure __msg("store to uptr disallowed")
SEC("raw_tp/sys_enter")
int stores_memory_of_a_task(void *c)
{
	struct with_shared *v = of_this_task();

	if (v)
		v->p = NULL;
	return 0;
}

__success
SEC("raw_tp/sys_enter")
int reads_memory_of_a_task(void *c)
{
	struct with_shared *v = of_this_task();

	if (v && v->p)
		v->n = v->p->n;
	return 0;
}

char _license[] SEC("license") = "GPL";
