/* Objects of programs: lists, trees, references, CPU sets, per-CPU objects. */
#include "calls.h"

extern void *bpf_obj_new_impl(__u64 id, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *p, void *meta) __ksym;
extern void *bpf_percpu_obj_new_impl(__u64 id, void *meta) __ksym;
extern void bpf_percpu_obj_drop_impl(void *p, void *meta) __ksym;
extern void *bpf_refcount_acquire_impl(void *p, void *meta) __ksym;
extern int bpf_list_push_front_impl(struct bpf_list_head *h, struct bpf_list_node *n, void *meta, __u64 off) __ksym;
extern int bpf_list_push_back_impl(struct bpf_list_head *h, struct bpf_list_node *n, void *meta, __u64 off) __ksym;
extern struct bpf_list_node *bpf_list_pop_front(struct bpf_list_head *h) __ksym;
extern struct bpf_list_node *bpf_list_pop_back(struct bpf_list_head *h) __ksym;
extern struct bpf_list_node *bpf_list_front(struct bpf_list_head *h) __ksym;
extern struct bpf_list_node *bpf_list_back(struct bpf_list_head *h) __ksym;
extern int bpf_rbtree_add_impl(struct bpf_rb_root *r, struct bpf_rb_node *n,
			       bool (less)(struct bpf_rb_node *a, const struct bpf_rb_node *b),
			       void *meta, __u64 off) __ksym;
extern struct bpf_rb_node *bpf_rbtree_remove(struct bpf_rb_root *r, struct bpf_rb_node *n) __ksym;
extern struct bpf_rb_node *bpf_rbtree_first(struct bpf_rb_root *r) __ksym;
extern struct bpf_rb_node *bpf_rbtree_root(struct bpf_rb_root *r) __ksym;
extern struct bpf_rb_node *bpf_rbtree_left(struct bpf_rb_root *r, struct bpf_rb_node *n) __ksym;
extern struct bpf_rb_node *bpf_rbtree_right(struct bpf_rb_root *r, struct bpf_rb_node *n) __ksym;

#define obj_new(t) ((t *)bpf_obj_new_impl(__builtin_btf_type_id(*(t *)0, 0), NULL))
#define obj_drop(p) bpf_obj_drop_impl(p, NULL)
#define contains(t, m) __attribute__((btf_decl_tag("contains:" #t ":" #m)))
#define private(name) SEC(".bss." #name) __hidden __attribute__((aligned(8)))

struct item {
	__u64 key;
	struct bpf_list_node list;
	struct bpf_rb_node rb;
	struct bpf_refcount refs;
};

struct shelf {
	struct bpf_spin_lock lock;
	struct bpf_list_head list contains(item, list);
	struct bpf_rb_root tree contains(item, rb);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shelf);
} shelves SEC(".maps");

static struct shelf *shelf(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&shelves, &zero);
}

static __always_inline void pushed(struct shelf *s, __u64 key, bool back)
{
	struct item *i = obj_new(struct item);

	if (!i)
		return;
	i->key = key;
	bpf_spin_lock(&s->lock);
	if (back)
		note(bpf_list_push_back_impl(&s->list, &i->list, NULL, 0));
	else
		note(bpf_list_push_front_impl(&s->list, &i->list, NULL, 0));
	bpf_spin_unlock(&s->lock);
}

static __always_inline void popped(struct shelf *s, bool back)
{
	struct bpf_list_node *n;
	struct item *i;

	bpf_spin_lock(&s->lock);
	n = back ? bpf_list_pop_back(&s->list) : bpf_list_pop_front(&s->list);
	bpf_spin_unlock(&s->lock);
	if (!n) {
		note(-1);
		return;
	}
	i = container_of(n, struct item, list);
	note(i->key);
	obj_drop(i);
}

SEC("tc") int lists(struct __sk_buff *skb)
{
	struct shelf *s = shelf();
	struct bpf_list_node *n;

	if (!s)
		return 1;
	popped(s, false);
	pushed(s, 1, true);
	pushed(s, 2, true);
	pushed(s, 3, false);
	bpf_spin_lock(&s->lock);
	n = bpf_list_front(&s->list);
	if (n)
		note(container_of(n, struct item, list)->key);
	n = bpf_list_back(&s->list);
	if (n)
		note(container_of(n, struct item, list)->key);
	bpf_spin_unlock(&s->lock);
	popped(s, false);
	popped(s, true);
	popped(s, true);
	popped(s, true);
	pushed(s, 9, true);
	return 0;
}

static bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct item, rb)->key < container_of(b, struct item, rb)->key;
}

static __always_inline void added(struct shelf *s, __u64 key)
{
	struct item *i = obj_new(struct item);

	if (!i)
		return;
	i->key = key;
	bpf_spin_lock(&s->lock);
	note(bpf_rbtree_add_impl(&s->tree, &i->rb, less, NULL, 0));
	bpf_spin_unlock(&s->lock);
}

static __always_inline void shape(struct shelf *s)
{
	struct bpf_rb_node *n, *l, *r;

	bpf_spin_lock(&s->lock);
	n = bpf_rbtree_first(&s->tree);
	note(n ? container_of(n, struct item, rb)->key : -1);
	n = bpf_rbtree_root(&s->tree);
	if (n) {
		note(container_of(n, struct item, rb)->key);
		l = bpf_rbtree_left(&s->tree, n);
		if (l)
			note(container_of(l, struct item, rb)->key);
		r = bpf_rbtree_right(&s->tree, n);
		if (r)
			note(container_of(r, struct item, rb)->key);
	}
	bpf_spin_unlock(&s->lock);
}

static __always_inline void first_removed(struct shelf *s)
{
	struct bpf_rb_node *n;

	bpf_spin_lock(&s->lock);
	n = bpf_rbtree_first(&s->tree);
	if (n)
		n = bpf_rbtree_remove(&s->tree, n);
	bpf_spin_unlock(&s->lock);
	if (n) {
		note(container_of(n, struct item, rb)->key);
		obj_drop(container_of(n, struct item, rb));
	}
}

SEC("tc") int trees(struct __sk_buff *skb)
{
	struct shelf *s = shelf();
	static const __u64 keys[8] = { 50, 20, 80, 10, 30, 70, 90, 5 };

	if (!s)
		return 1;
	shape(s);
	added(s, 50);
	added(s, 20);
	shape(s);
	added(s, 10);
	shape(s);
	added(s, 30);
	added(s, 40);
	added(s, 35);
	shape(s);
	first_removed(s);
	first_removed(s);
	shape(s);
	first_removed(s);
	added(s, 30);
	shape(s);
	return 0;
}

SEC("tc") int references(struct __sk_buff *skb)
{
	struct shelf *s = shelf();
	struct item *i, *again;

	if (!s)
		return 1;
	i = obj_new(struct item);
	if (!i)
		return 2;
	i->key = 77;
	again = bpf_refcount_acquire_impl(i, NULL);
	note(again == i);
	bpf_spin_lock(&s->lock);
	note(bpf_list_push_back_impl(&s->list, &i->list, NULL, 0));
	bpf_spin_unlock(&s->lock);
	if (!again)
		return 3;
	note(again->key);
	bpf_spin_lock(&s->lock);
	note(bpf_rbtree_add_impl(&s->tree, &again->rb, less, NULL, 0));
	bpf_spin_unlock(&s->lock);
	popped(s, true);
	first_removed(s);
	return 0;
}

struct held {
	struct item __kptr *item;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct held);
} holders SEC(".maps");

SEC("tc") int kptrs(struct __sk_buff *skb)
{
	__u32 key = 1;
	struct held none = {}, *h;
	struct item *i, *old;

	note(bpf_map_update_elem(&holders, &key, &none, 0));
	h = bpf_map_lookup_elem(&holders, &key);
	i = obj_new(struct item);
	if (!h || !i) {
		if (i)
			obj_drop(i);
		return 1;
	}
	i->key = 5;
	old = bpf_kptr_xchg(&h->item, i);
	note(old != 0);
	if (old)
		obj_drop(old);
	old = bpf_kptr_xchg(&h->item, NULL);
	if (old) {
		note(old->key);
		old = bpf_kptr_xchg(&h->item, old);
		if (old)
			obj_drop(old);
	}
	note(bpf_map_update_elem(&holders, &key, &none, 0));
	old = bpf_kptr_xchg(&h->item, NULL);
	note(old != 0);
	if (old)
		obj_drop(old);
	note(bpf_map_delete_elem(&holders, &key));
	return 0;
}

struct counts {
	__u64 n;
};

struct percpu_held {
	struct counts __percpu_kptr *counts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct percpu_held);
} percpu SEC(".maps");

SEC("tc") int percpu_objects(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct percpu_held *h = bpf_map_lookup_elem(&percpu, &zero);
	struct counts *c, *mine;

	if (!h)
		return 1;
	c = bpf_percpu_obj_new_impl(__builtin_btf_type_id(*(struct counts *)0, 0), NULL);
	if (!c)
		return 2;
	c = bpf_kptr_xchg(&h->counts, c);
	if (c)
		bpf_percpu_obj_drop_impl(c, NULL);
	c = h->counts;
	if (!c)
		return 3;
	mine = bpf_this_cpu_ptr(c);
	note(mine->n);
	mine->n = 4;
	mine = bpf_per_cpu_ptr(c, bpf_get_smp_processor_id());
	note(mine ? mine->n : -1);
	mine = bpf_per_cpu_ptr(c, 9999);
	note(mine ? mine->n : -1);
	mine = bpf_per_cpu_ptr(c, !bpf_get_smp_processor_id());
	note(mine ? mine->n : -1);
	return 0;
}
