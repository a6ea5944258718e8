/* Lists, trees and reference counts of allocated objects, and the lock that guards them. */
#include "kernel.h"

struct item {
	int x;
	struct bpf_list_node l;
	int y;
};

struct node {
	int x;
	struct bpf_rb_node r;
	int y;
};

struct shared {
	int x;
	struct bpf_refcount ref;
	struct bpf_list_node l;
	struct bpf_rb_node r;
};

struct own_list {
	struct bpf_spin_lock lock;
	struct bpf_list_head head __contains(item, l);
	int n;
};

struct both {
	struct bpf_spin_lock lock;
	struct bpf_list_head head __contains(item, l);
	struct bpf_rb_root root __contains(node, r);
	int n;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct both);
} arr SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct both);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} jt SEC(".maps");

private(A) struct bpf_spin_lock glock;
private(A) struct bpf_list_head ghead __contains(item, l);
private(A) struct bpf_rb_root groot __contains(node, r);
private(B) struct bpf_spin_lock block;
private(B) struct bpf_list_head bhead __contains(shared, l);
private(B) struct bpf_rb_root broot __contains(shared, r);

struct dropctx {
	struct item *f;
};

__attribute__((noinline)) int gfn(int a)
{
	return a+1;
}

static_noinline int sfn(int a)
{
	return a*3;
}

static_noinline void slock(void)
{
	bpf_spin_lock(&glock);
}

static _Bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	struct node *x = containing(a, struct node, r), *y = containing(b, struct node, r);
	return x->x < y->x;
}

static _Bool less_unlock(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_spin_unlock(&glock);
	return 0;
}

static _Bool less_helper(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return bpf_get_prandom_u32()&1;
}

static _Bool less_first(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return bpf_rbtree_first(&groot) != 0;
}

static _Bool less_remove(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return bpf_rbtree_remove(&groot, a) != 0;
}

static _Bool less_rcu(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return 0;
}

static _Bool less_big(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return containing(a, struct node, r)->x;
}

static _Bool less_write(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	containing(a, struct node, r)->y = 7;
	return 0;
}

static _Bool bless(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	struct shared *x = containing(a, struct shared, r), *y = containing(b, struct shared, r);
	return x->x < y->x;
}

static_noinline int thrower(void)
{
	bpf_throw(1);
	return 0;
}

static int loopcb(int i, void *c)
{
	bpf_throw(0);
	return 0;
}

static int loop_new(int i, void *c)
{
	struct item *f = new(struct item);
	return f != 0;
}

static int loop_lock(int i, void *c)
{
	bpf_spin_lock(&glock);
	return 0;
}

static int loop_rcu(int i, void *c)
{
	bpf_rcu_read_lock();
	return 0;
}

static int loop_pre(int i, void *c)
{
	bpf_preempt_disable();
	return 0;
}

static int loop_unpre(int i, void *c)
{
	bpf_preempt_enable();
	return 0;
}

static int loop_drop(int i, struct dropctx *c)
{
	drop(c->f);
	return 0;
}

__success
SEC("tc")
int push_ok(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	f->x = 1;
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_list_head")
SEC("tc")
int push_nolock(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	push(&ghead, &f->l);
	return 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_list_head")
SEC("tc")
int push_otherlock(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&block);
	push(&ghead, &f->l);
	bpf_spin_unlock(&block);
	return 0;
}

__failure __msg("arg#1 expected pointer to allocated object")
SEC("tc")
int push_twice(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	push(&ghead, &f->l);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int push_write_after(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	f->x = 2;
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("R6 invalid mem access 'scalar'")
SEC("tc")
int push_write_after_unlock(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	bpf_spin_unlock(&glock);
	f->x = 2;
	return 0;
}

__failure __msg("R6 pointer arithmetic on ptr_or_null_ prohibited, null-check it first")
SEC("tc")
int push_null(void *c)
{
	struct item *f = new(struct item);
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("operation on bpf_list_head expects arg#1 bpf_list_node at offset=8 in struct item, but arg is at offset=8 in struct shared")
SEC("tc")
int push_wrong_type(void *c)
{
	struct shared *f = new(struct shared);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push(&ghead, &f->l);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("bpf_list_node not found at offset=32")
SEC("tc")
int push_wrong_off(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push(&ghead, (void*)&f->y);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("bpf_list_head not found at offset=16")
SEC("tc")
int head_wrong_off(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	push((void*)&ghead+8, &f->l);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
SEC("tc")
int leak(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	f->x = 1;
	return 0;
}

__success
SEC("tc")
int drop_ok(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	drop(f);
	return 0;
}

__failure __msg("Possibly NULL pointer passed to trusted arg0")
SEC("tc")
int drop_null(void *c)
{
	struct item *f = new(struct item);
	drop(f);
	return 0;
}

__failure __msg("R6 invalid mem access 'scalar'")
SEC("tc")
int use_after_drop(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	drop(f);
	return f->x;
}

__failure __msg("R1 must be referenced or trusted")
SEC("tc")
int drop_twice(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	drop(f);
	drop(f);
	return 0;
}

__failure __msg("R1 must have zero offset when passed to release func or trusted arg to kfunc")
SEC("tc")
int drop_off(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	drop((void*)f+8);
	return 0;
}

__failure __msg("direct access to bpf_list_node is disallowed")
SEC("tc")
int write_node(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	*(volatile int*)&f->l = 1;
	drop(f);
	return 0;
}

__failure __msg("access beyond struct item at off 40 size 4")
SEC("tc")
int read_past(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	int v = *(volatile int*)((char*)f+sizeof(*f));
	drop(f);
	return v;
}

__success
SEC("tc")
int pop_ok(void *c)
{
	struct bpf_list_node *n;
	bpf_spin_lock(&glock);
	n = bpf_list_pop_front(&ghead);
	bpf_spin_unlock(&glock);
	if (!n)
		return 0;
	struct item *f = containing(n, struct item, l);
	drop(f);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
SEC("tc")
int pop_leak(void *c)
{
	struct bpf_list_node *n;
	bpf_spin_lock(&glock);
	n = bpf_list_pop_back(&ghead);
	bpf_spin_unlock(&glock);
	return n != 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_list_head")
SEC("tc")
int pop_nolock(void *c)
{
	struct bpf_list_node *n = bpf_list_pop_front(&ghead);
	if (!n)
		return 0;
	drop(containing(n, struct item, l));
	return 0;
}

__failure __msg("R6 invalid mem access 'ptr_or_null_'")
SEC("tc")
int pop_unchecked(void *c)
{
	struct bpf_list_node *n;
	bpf_spin_lock(&glock);
	n = bpf_list_pop_front(&ghead);
	bpf_spin_unlock(&glock);
	struct item *f = containing(n, struct item, l);
	int v = f->x;
	drop(f);
	return v;
}

__success
SEC("tc")
int front_ok(void *c)
{
	struct bpf_list_node *n;
	int v = 0;
	bpf_spin_lock(&glock);
	n = bpf_list_front(&ghead);
	if (n)
		v = containing(n, struct item, l)->x;
	bpf_spin_unlock(&glock);
	return v;
}

__failure __msg("R6 invalid mem access 'scalar'")
SEC("tc")
int front_escape(void *c)
{
	struct bpf_list_node *n;
	bpf_spin_lock(&glock);
	n = bpf_list_front(&ghead);
	bpf_spin_unlock(&glock);
	return n?containing(n, struct item, l)->x:0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region")
SEC("tc")
int unlock_missing(void *c)
{
	bpf_spin_lock(&glock);
	return 0;
}

__failure __msg("bpf_spin_unlock without taking a lock")
SEC("tc")
int unlock_only(void *c)
{
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int lock_twice(void *c)
{
	bpf_spin_lock(&glock);
	bpf_spin_lock(&glock);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("bpf_spin_unlock of different lock")
SEC("tc")
int unlock_other(void *c)
{
	bpf_spin_lock(&glock);
	bpf_spin_unlock(&block);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int call_under(void *c)
{
	bpf_spin_lock(&glock);
	long t = bpf_ktime_get_ns();
	bpf_spin_unlock(&glock);
	return t;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int new_under(void *c)
{
	bpf_spin_lock(&glock);
	struct item *f = new(struct item);
	bpf_spin_unlock(&glock);
	if (f)
		drop(f);
	return 0;
}

__failure __msg("use static function instead")
SEC("tc")
int global_under(struct __sk_buff *c)
{
	bpf_spin_lock(&glock);
	int v = gfn(c->len);
	bpf_spin_unlock(&glock);
	return v;
}

__success
SEC("tc")
int static_under(struct __sk_buff *c)
{
	bpf_spin_lock(&glock);
	int v = sfn(c->len);
	bpf_spin_unlock(&glock);
	return v;
}

__success
SEC("tc")
int static_lock(void *c)
{
	slock();
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int map_lock(void *c)
{
	int k = 0;
	struct both *v = bpf_map_lookup_elem(&hash, &k);
	if (!v)
		return 0;
	bpf_spin_lock(&v->lock);
	v->n++;
	bpf_spin_unlock(&v->lock);
	return 0;
}

__failure __msg("bpf_spin_unlock of different lock")
SEC("tc")
int map_two_values(void *c)
{
	int k = 0;
	struct both *v = bpf_map_lookup_elem(&hash, &k), *w;
	if (!v)
		return 0;
	w = bpf_map_lookup_elem(&hash, &k);
	if (!w)
		return 0;
	bpf_spin_lock(&v->lock);
	bpf_spin_unlock(&w->lock);
	return 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_list_head")
SEC("tc")
int map_push_other(void *c)
{
	int k = 0;
	struct item *f;
	struct both *v = bpf_map_lookup_elem(&hash, &k), *w;
	if (!v)
		return 0;
	w = bpf_map_lookup_elem(&arr, &k);
	if (!w)
		return 0;
	f = new(struct item);
	if (!f)
		return 0;
	bpf_spin_lock(&v->lock);
	push(&w->head, &f->l);
	bpf_spin_unlock(&v->lock);
	return 0;
}

__failure __msg("bpf_spin_lock cannot be accessed directly by load/store")
SEC("tc")
int map_read_lock(void *c)
{
	int k = 0;
	struct both *v = bpf_map_lookup_elem(&hash, &k);
	if (!v)
		return 0;
	return *(int*)&v->lock;
}

__failure __msg("bpf_list_head cannot be accessed directly by load/store")
SEC("tc")
int map_read_head(void *c)
{
	int k = 0;
	struct both *v = bpf_map_lookup_elem(&hash, &k);
	if (!v)
		return 0;
	return *(volatile int*)&v->head;
}

__success
SEC("tc")
int obj_lock(void *c)
{
	struct own_list *w = new(struct own_list);
	struct item *f;
	if (!w)
		return 0;
	f = new(struct item);
	if (!f) {
		drop(w);
		return 0;
	}
	bpf_spin_lock(&w->lock);
	push(&w->head, &f->l);
	bpf_spin_unlock(&w->lock);
	drop(w);
	return 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_list_head")
SEC("tc")
int obj_lock_other(void *c)
{
	struct own_list *w = new(struct own_list), *v;
	struct item *f;
	if (!w)
		return 0;
	v = new(struct own_list);
	if (!v) {
		drop(w);
		return 0;
	}
	f = new(struct item);
	if (!f) {
		drop(w);
		drop(v);
		return 0;
	}
	bpf_spin_lock(&w->lock);
	push(&v->head, &f->l);
	bpf_spin_unlock(&w->lock);
	drop(w);
	drop(v);
	return 0;
}

__failure __msg("bpf_spin_unlock of different lock")
SEC("tc")
int obj_unlock_other(void *c)
{
	struct own_list *w = new(struct own_list), *v;
	if (!w)
		return 0;
	v = new(struct own_list);
	if (!v) {
		drop(w);
		return 0;
	}
	bpf_spin_lock(&w->lock);
	bpf_spin_unlock(&v->lock);
	drop(w);
	drop(v);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int obj_drop_locked(void *c)
{
	struct own_list *w = new(struct own_list);
	if (!w)
		return 0;
	bpf_spin_lock(&w->lock);
	drop(w);
	return 0;
}

__success
SEC("tc")
int rb_add(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int rb_add_remove(void *c)
{
	struct node *f = new(struct node);
	struct bpf_rb_node *n;
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less);
	n = bpf_rbtree_remove(&groot, &f->r);
	bpf_spin_unlock(&glock);
	if (!n)
		return 0;
	drop(containing(n, struct node, r));
	return 0;
}

__success
SEC("tc")
int rb_first_remove(void *c)
{
	struct bpf_rb_node *n;
	bpf_spin_lock(&glock);
	n = bpf_rbtree_first(&groot);
	if (!n) {
		bpf_spin_unlock(&glock);
		return 0;
	}
	n = bpf_rbtree_remove(&groot, n);
	bpf_spin_unlock(&glock);
	if (!n)
		return 0;
	drop(containing(n, struct node, r));
	return 0;
}

__failure __msg("bpf_rbtree_remove can only take non-owning or refcounted bpf_rb_node pointer")
SEC("tc")
int rb_remove_unlocked(void *c)
{
	struct bpf_rb_node *n;
	bpf_spin_lock(&glock);
	n = bpf_rbtree_first(&groot);
	bpf_spin_unlock(&glock);
	if (!n)
		return 0;
	bpf_spin_lock(&glock);
	n = bpf_rbtree_remove(&groot, n);
	bpf_spin_unlock(&glock);
	if (!n)
		return 0;
	drop(containing(n, struct node, r));
	return 0;
}

__success
SEC("tc")
int rb_left(void *c)
{
	struct bpf_rb_node *n;
	int v = 0;
	bpf_spin_lock(&glock);
	n = bpf_rbtree_root(&groot);
	if (n)
		n = bpf_rbtree_left(&groot, n);
	if (n)
		v = containing(n, struct node, r)->x;
	bpf_spin_unlock(&glock);
	return v;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_rb_root")
SEC("tc")
int rb_left_nolock(void *c)
{
	struct bpf_rb_node *n = bpf_rbtree_root(&groot);
	return n != 0;
}

__failure __msg("bpf_spin_lock at off=0 must be held for bpf_rb_root")
SEC("tc")
int rb_first_nolock(void *c)
{
	struct bpf_rb_node *n = bpf_rbtree_first(&groot);
	return n != 0;
}

__failure __msg("bpf_rb_node not found at offset=40")
SEC("tc")
int rb_add_list_node(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, (void*)&f->y, less);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("arg#1 expected pointer to allocated object")
SEC("tc")
int rb_two_trees(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less);
	add(&groot, &f->r, less);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("can't spin_{lock,unlock} in rbtree cb")
SEC("tc")
int rb_cb_unlock(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_unlock);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int rb_cb_helper(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_helper);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int rb_cb_first(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_first);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("bpf_rbtree_remove not allowed in rbtree cb")
SEC("tc")
int rb_cb_remove(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_remove);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int rb_cb_rcu(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_rcu);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int rb_cb_big(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_big);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int rb_cb_write(void *c)
{
	struct node *f = new(struct node);
	if (!f)
		return 0;
	bpf_spin_lock(&glock);
	add(&groot, &f->r, less_write);
	bpf_spin_unlock(&glock);
	return 0;
}

__success
SEC("tc")
int ref_both(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	g = share(f);
	bpf_spin_lock(&block);
	push(&bhead, &f->l);
	add(&broot, &g->r, bless);
	bpf_spin_unlock(&block);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
SEC("tc")
int ref_leak(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	g = share(f);
	drop(f);
	return g->x;
}

__failure __msg("R6 invalid mem access 'scalar'")
SEC("tc")
int ref_use_after(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	g = share(f);
	drop(f);
	int v = f->x;
	drop(g);
	return v;
}

__failure __msg("arg#0 doesn't point to a type with bpf_refcount field")
SEC("tc")
int ref_foo(void *c)
{
	struct item *f = new(struct item), *g;
	if (!f)
		return 0;
	g = share(f);
	drop(f);
	drop(g);
	return 0;
}

__success
SEC("tc")
int ref_nonown(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	bpf_spin_lock(&block);
	push(&bhead, &f->l);
	g = share(f);
	bpf_spin_unlock(&block);
	if (!g)
		return 0;
	drop(g);
	return 0;
}

__failure __msg("Possibly NULL pointer passed to trusted arg0")
SEC("tc")
int ref_nonown_unchecked(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	bpf_spin_lock(&block);
	push(&bhead, &f->l);
	g = share(f);
	bpf_spin_unlock(&block);
	drop(g);
	return 0;
}

__failure __msg("arg#0 is neither owning or non-owning ref")
SEC("tc")
int ref_after_unlock(void *c)
{
	struct shared *f = new(struct shared), *g;
	if (!f)
		return 0;
	bpf_spin_lock(&block);
	push(&bhead, &f->l);
	bpf_spin_unlock(&block);
	g = share(f);
	if (!g)
		return 0;
	drop(g);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int throw_locked(void *c)
{
	bpf_spin_lock(&glock);
	bpf_throw(0);
	return 0;
}

__failure __msg("bpf_throw would lead to reference leak")
SEC("tc")
int throw_ref(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_throw(0);
	drop(f);
	return 0;
}

__failure __msg("bpf_throw would lead to reference leak")
SEC("tc")
int throw_sub_ref(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	thrower();
	drop(f);
	return 0;
}

__failure __msg("bpf_throw kfunc (insn 9) cannot be called from callback subprog 1")
SEC("tc")
int throw_loop(void *c)
{
	bpf_loop(4, loopcb, 0, 0);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
SEC("tc")
int loop_leak(void *c)
{
	bpf_loop(4, loop_new, 0, 0);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int loop_locks(void *c)
{
	bpf_loop(4, loop_lock, 0, 0);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_rcu_read_lock-ed region")
SEC("tc")
int loop_rcus(void *c)
{
	bpf_loop(4, loop_rcu, 0, 0);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_preempt_disable-ed region")
SEC("tc")
int loop_preempt(void *c)
{
	bpf_loop(4, loop_pre, 0, 0);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_preempt_disable-ed region")
SEC("tc")
int loop_unpreempt(void *c)
{
	bpf_preempt_disable();
	bpf_loop(1, loop_unpre, 0, 0);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog would lead to reference leak")
SEC("tc")
int loop_drops(void *c)
{
	struct dropctx d = { .f = new(struct item)};
	if (!d.f)
		return 0;
	bpf_loop(1, loop_drop, &d, 0);
	return 0;
}

__failure __msg("tracing progs cannot use bpf_{list_head,rb_root} yet")
SEC("kprobe/x")
int kp_lock(void *c)
{
	bpf_spin_lock(&glock);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("tracing progs cannot use bpf_{list_head,rb_root} yet")
SEC("kprobe/x")
int kp_list(void *c)
{
	struct bpf_list_node *n;
	bpf_spin_lock(&glock);
	n = bpf_list_pop_front(&ghead);
	bpf_spin_unlock(&glock);
	return n != 0;
}

__failure __msg("socket filter progs cannot use bpf_spin_lock yet")
SEC("socket")
int sk_lock(void *c)
{
	int k = 0;
	struct both *v = bpf_map_lookup_elem(&hash, &k);
	if (!v)
		return 0;
	bpf_spin_lock(&v->lock);
	bpf_spin_unlock(&v->lock);
	return 0;
}

__failure __msg("function calls are not allowed while holding a lock")
SEC("tc")
int tail_locked(void *c)
{
	bpf_spin_lock(&glock);
	bpf_tail_call(c, &jt, 0);
	bpf_spin_unlock(&glock);
	return 0;
}

__failure __msg("tail_call would lead to reference leak")
SEC("tc")
int tail_ref(void *c)
{
	struct item *f = new(struct item);
	if (!f)
		return 0;
	bpf_tail_call(c, &jt, 0);
	drop(f);
	return 0;
}

__failure __msg("tail_call cannot be used inside bpf_rcu_read_lock-ed region")
SEC("tc")
int tail_rcu(void *c)
{
	bpf_rcu_read_lock();
	bpf_tail_call(c, &jt, 0);
	bpf_rcu_read_unlock();
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
