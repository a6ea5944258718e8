/* Pointers to allocated objects in map values: loads, stores, exchanges, one for each CPU. */
#include "kernel.h"

#define __kptr_owned __attribute__((btf_type_tag("kptr")))
#define __percpu_kptr __attribute__((btf_type_tag("percpu_kptr")))

extern void *bpf_percpu_obj_new_impl(u64 local_type_id, void *meta) __ksym;
extern void bpf_percpu_obj_drop_impl(void *kptr, void *meta) __ksym;
#define percpu_new(type) \
	((type __percpu_kptr *)bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(type *)0, 0), 0))
#define percpu_drop(ptr) bpf_percpu_obj_drop_impl(ptr, 0)

struct plain {
	long a;
	int b;
};

struct obj {
	long v;
	struct bpf_refcount rc;
};

struct pc {
	long a;
	char c[8];
};

struct value {
	struct plain __kptr_owned *p;
	struct obj __kptr_owned *o;
	struct pc __percpu_kptr *pc;
	struct bpf_spin_lock l;
	int data;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, struct value);
} values SEC(".maps");

static __always_inline struct value *first(void)
{
	int key = 0;

	return bpf_map_lookup_elem(&values, &key);
}

SEC("tc")
__success
int load_from_map_is_checked(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = v->p;
	if (!p)
		return 0;
	return p->b;
}

SEC("tc")
__failure __msg("R1 invalid mem access 'rcu_ptr_or_null_'")
int load_from_map_may_be_null(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	return v->p->b;
}

SEC("tc")
__success
int stored_by_exchange(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = new(struct plain);
	if (!p)
		return 0;
	p->a = 3;
	p = bpf_kptr_xchg(&v->p, p);
	if (p)
		drop(p);
	return 0;
}

SEC("tc")
__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
int exchanged_and_forgotten(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	bpf_kptr_xchg(&v->p, 0);
	return 0;
}

SEC("tc")
__failure __msg("verifier bug: invalid PTR_TO_BTF_ID register for type match")
int exchanged_unchecked(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = new(struct plain);
	p = bpf_kptr_xchg(&v->p, p);
	if (p)
		drop(p);
	return 0;
}

SEC("tc")
__failure __msg("invalid kptr access, R2 type=ptr_plain expected=ptr_obj")
int exchange_of_another_type(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = new(struct plain);
	if (!p)
		return 0;
	p = bpf_kptr_xchg((void *)&v->o, p);
	if (p)
		drop(p);
	return 0;
}

SEC("tc")
__failure __msg("off=28 doesn't point to kptr")
int exchange_of_no_pointer(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	bpf_kptr_xchg((void *)&v->data, 0);
	return 0;
}

SEC("tc")
__failure __msg("store to referenced kptr disallowed")
int plain_store(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	v->p = 0;
	return 0;
}

SEC("tc")
__failure __msg("kptr access misaligned expected=0 off=4")
int half_a_pointer(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	return *(int *)((char *)&v->p + 4);
}

SEC("tc")
__failure __msg("kptr cannot be accessed indirectly by helper")
int through_a_helper(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	return bpf_probe_read_kernel(v, 16, (void *)1);
}

SEC("tc")
__failure __msg("access beyond struct plain at off 16 size 8")
int beyond_the_object(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = new(struct plain);
	if (!p)
		return 0;
	*(long *)((char *)p + 16) = 1;
	drop(p);
	return 0;
}

SEC("tc")
__failure __msg("direct access to bpf_refcount is disallowed")
int counter_is_not_data(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct obj *p = new(struct obj);
	if (!p)
		return 0;
	*(int *)&p->rc = 1;
	drop(p);
	return 0;
}

SEC("tc")
__success
int shared(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct obj *p = new(struct obj), *q;
	if (!p)
		return 0;
	q = share(p);
	drop(q);
	drop(p);
	return 0;
}

SEC("tc")
__failure __msg("R6 invalid mem access 'scalar'")
int used_after_drop(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct plain *p = new(struct plain);
	if (!p)
		return 0;
	drop(p);
	return p->b;
}

SEC("tc")
__success
int percpu_on_this_cpu(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct pc __percpu_kptr *p = v->pc;
	struct pc *q;
	if (!p)
		return 0;
	q = bpf_this_cpu_ptr(p);
	q->a = 3;
	return q->c[0];
}

SEC("tc")
__failure __msg("R1 is ptr_pc access percpu memory: off=0")
int percpu_as_it_is(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct pc *p = (void *)v->pc;
	if (!p)
		return 0;
	return p->a;
}

SEC("tc")
__success
int percpu_stored(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct pc __percpu_kptr *p = percpu_new(struct pc);
	if (!p)
		return 0;
	p = bpf_kptr_xchg(&v->pc, p);
	if (p)
		percpu_drop(p);
	return 0;
}

SEC("tc")
__failure __msg("arg#0 expected for bpf_percpu_obj_drop_impl()")
int percpu_dropped_as_object(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct pc *p = (void *)percpu_new(struct pc);
	if (!p)
		return 0;
	drop(p);
	return 0;
}

SEC("tc")
__failure __msg("bpf_percpu_obj_new type ID argument must not contain special fields")
int percpu_with_a_counter(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	struct obj *p = (void *)percpu_new(struct obj);
	if (!p)
		return 0;
	percpu_drop(p);
	return 0;
}

SEC("tc")
__failure __msg("function calls are not allowed while holding a lock")
int not_with_a_lock_held(void *ctx)
{
	struct value *v = first();

	if (!v)
		return 0;
	bpf_spin_lock(&v->l);
	bpf_kptr_xchg(&v->p, 0);
	bpf_spin_unlock(&v->l);
	return 0;
}

char _license[] SEC("license") = "GPL";
