/* Callbacks of helpers, timers and work queues. */
#include "held.h"

static int tcb(void *m, int *k, struct timed *v)
{
	v->x++;
	return 0;
}

static int tcb1(void *m, int *k, struct timed *v)
{
	return 1;
}

static int tcb_rec(void *m, int *k, struct timed *v)
{
	bpf_timer_set_callback(&v->t, tcb);
	bpf_timer_start(&v->t, 100, 0);
	return 0;
}

static int tcb_self(void *m, int *k, struct timed *v)
{
	bpf_timer_set_callback(&v->t, tcb_self);
	return 0;
}

static int tcb_throw(void *m, int *k, struct timed *v)
{
	bpf_throw(0);
	return 0;
}

static int tcb_sleep(void *m, int *k, struct timed *v)
{
	char b[8];
	bpf_copy_from_user(b, 8, 0);
	return 0;
}

static int tcb_read(void *m, int *k, struct timed *v)
{
	return *(volatile int*)((char*)v+64);
}

static int tcb_key(void *m, int *k, struct timed *v)
{
	*k = 1;
	return 0;
}

static int tcb_timer(void *m, int *k, struct timed *v)
{
	return *(volatile int*)&v->t;
}

static int tcb_rcu(void *m, int *k, struct timed *v)
{
	bpf_rcu_read_lock();
	return 0;
}

static int wcb(void *m, int *k, void *v)
{
	char b[8];
	bpf_copy_from_user(b, 8, 0);
	return 0;
}

static int wcb1(void *m, int *k, void *v)
{
	return 5;
}

static int wcb_v(void *m, int *k, void *v)
{
	struct work *w = v;
	w->x++;
	bpf_wq_start(&w->w, 0);
	return 0;
}

static int wcb_bad(void *m, int *k, void *v)
{
	return ((int*)v)[20];
}

static long urb_cb(struct bpf_dynptr *d, void *c)
{
	int *p = bpf_dynptr_data(d, 0, 4);
	if (p)
		sink = *p;
	return 0;
}

static long urb_w(struct bpf_dynptr *d, void *c)
{
	*(volatile int*)d = 1;
	return 0;
}

static long urb_leak(struct bpf_dynptr *d, void *c)
{
	*(void**)c = d;
	return 0;
}

static long fe_cb(struct bpf_map *m, int *k, u64 *v, void *c)
{
	*v += *k;
	return 0;
}

static long fe_key(struct bpf_map *m, int *k, u64 *v, void *c)
{
	*k = 0;
	return 0;
}

static long fe_oob(struct bpf_map *m, int *k, u64 *v, void *c)
{
	sink = v[1];
	return 0;
}

static long fe_ret(struct bpf_map *m, int *k, u64 *v, void *c)
{
	return *v;
}

static long fe_ctx(struct bpf_map *m, int *k, u64 *v, void *c)
{
	long *p = c;
	*p += *v;
	return 0;
}

static long fe_nest(struct bpf_map *m, int *k, u64 *v, void *c)
{
	bpf_for_each_map_elem(&plain, fe_cb, 0, 0);
	return 0;
}

static long fe_del(struct bpf_map *m, int *k, u64 *v, void *c)
{
	bpf_map_delete_elem(m, k);
	return 0;
}

static long l_cb(u32 i, int *c)
{
	*c += i;
	return 0;
}

static long l_big(u32 i, int *c)
{
	return i;
}

static long l_cond(u32 i, char *c)
{
	if (i<8)
		c[i] = 1;
	return 0;
}

__success
SEC("tc")
int t_ok(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_init(&v->t, &timers2, 1);
	bpf_timer_set_callback(&v->t, tcb);
	bpf_timer_start(&v->t, 1, 0);
	bpf_timer_cancel(&v->t);
	return 0;
}

__failure __msg("timer pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0")
SEC("tc")
int t_othermap(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_init(&v->t, &timers, 1);
	return 0;
}

__failure __msg("off 0 doesn't point to 'struct bpf_timer' that is at 8")
SEC("tc")
int t_off(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_init((void*)&v->x, &timers2, 1);
	return 0;
}

__failure __msg("map 'plain' has no valid bpf_timer")
SEC("tc")
int t_plain(void *c)
{
	int k = 0;
	void *v = bpf_map_lookup_elem(&plain, &k);
	if (!v)
		return 0;
	bpf_timer_init(v, &plain, 1);
	return 0;
}

__failure __msg("At async callback return the register R0 has smin=1 smax=1 should have been in [0, 0]")
SEC("tc")
int t_ret1(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb1);
	return 0;
}

__success
SEC("tc")
int t_rec(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_rec);
	return 0;
}

__success
SEC("tc")
int t_self(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_self);
	return 0;
}

__failure __msg("bpf_throw kfunc (insn 16) cannot be called from callback subprog 1")
SEC("tc")
int t_throw(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_throw);
	return 0;
}

__failure __msg("helper call might sleep in a non-sleepable prog")
SEC("syscall")
int t_sleep(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_sleep);
	return 0;
}

__failure __msg("R3 min value is outside of the allowed memory range")
SEC("tc")
int t_read(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_read);
	return 0;
}

__failure __msg("write to change key R2 not allowed")
SEC("tc")
int t_keyw(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_key);
	return 0;
}

__failure __msg("bpf_timer cannot be accessed directly by load/store")
SEC("tc")
int t_timer(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_timer);
	return 0;
}

__failure __msg("BPF_EXIT instruction in main prog cannot be used inside bpf_rcu_read_lock-ed region")
SEC("tc")
int t_rcu(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_set_callback(&v->t, tcb_rcu);
	return 0;
}

__failure __msg("R1 doesn't have constant offset. bpf_timer has to be at the constant offset")
SEC("tc")
int t_var(struct __sk_buff *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_timer_start((void*)&v->t+(c->len&8), 1, 0);
	return 0;
}

__failure __msg("bpf_timer cannot be accessed directly by load/store")
SEC("tc")
int t_copy(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	return *(volatile int*)&v->t;
}

__success
SEC("tc")
int w_ok(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_init(&v->w, &wqs2, 0);
	bpf_wq_set_callback_impl(&v->w, wcb, 0, 0);
	bpf_wq_start(&v->w, 0);
	return 0;
}

__failure __msg("workqueue pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0")
SEC("tc")
int w_othermap(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_init(&v->w, &wqs, 0);
	return 0;
}

__failure __msg("off 0 doesn't point to 'struct bpf_wq' that is at 8")
SEC("tc")
int w_off(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_init((void*)&v->x, &wqs2, 0);
	return 0;
}

__failure __msg("At async callback return the register R0 has smin=5 smax=5 should have been in [0, 0]")
SEC("tc")
int w_ret(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_set_callback_impl(&v->w, wcb1, 0, 0);
	return 0;
}

__success
SEC("tc")
int w_v(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_set_callback_impl(&v->w, wcb_v, 0, 0);
	return 0;
}

__failure __msg("R3 min value is outside of the allowed memory range")
SEC("tc")
int w_bad(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_set_callback_impl(&v->w, wcb_bad, 0, 0);
	return 0;
}

__failure __msg("arg#0 doesn't point to a map value")
SEC("tc")
int w_stack(void *c)
{
	struct bpf_wq w;
	bpf_wq_init(&w, &wqs2, 0);
	return 0;
}

__failure __msg("map 'plain' has no valid bpf_wq")
SEC("tc")
int w_plain(void *c)
{
	int k = 0;
	void *v = bpf_map_lookup_elem(&plain, &k);
	if (!v)
		return 0;
	bpf_wq_init(v, &plain, 0);
	return 0;
}

__failure __msg("map 'timers2' has no valid bpf_wq")
SEC("tc")
int w_timer(void *c)
{
	int k = 0;
	struct timed *v = bpf_map_lookup_elem(&timers2, &k);
	if (!v)
		return 0;
	bpf_wq_init((void*)&v->t, &timers2, 0);
	return 0;
}

__failure __msg("tracing progs cannot use bpf_wq yet")
SEC("kprobe/x")
int kp_wq(void *c)
{
	int k = 0;
	struct work *v = bpf_map_lookup_elem(&wqs2, &k);
	if (!v)
		return 0;
	bpf_wq_start(&v->w, 0);
	return 0;
}

__success
SEC("tc")
int u_ok(void *c)
{
	bpf_user_ringbuf_drain(&urb, urb_cb, 0, 0);
	return 0;
}

__failure __msg("R1 invalid mem access 'dynptr_ptr'")
SEC("tc")
int u_w(void *c)
{
	bpf_user_ringbuf_drain(&urb, urb_w, 0, 0);
	return 0;
}

__success
SEC("tc")
int u_leak(void *c)
{
	long x = 0;
	bpf_user_ringbuf_drain(&urb, urb_leak, &x, 0);
	return x != 0;
}

__failure __msg("cannot pass map_type 2 into func bpf_user_ringbuf_drain#209")
SEC("tc")
int u_map(void *c)
{
	bpf_user_ringbuf_drain(&plain, urb_cb, 0, 0);
	return 0;
}

__success
SEC("tc")
int f_ok(void *c)
{
	bpf_for_each_map_elem(&plain, fe_cb, 0, 0);
	return 0;
}

__failure __msg("write to change key R2 not allowed")
SEC("tc")
int f_key(void *c)
{
	bpf_for_each_map_elem(&plain, fe_key, 0, 0);
	return 0;
}

__failure __msg("R3 min value is outside of the allowed memory range")
SEC("tc")
int f_oob(void *c)
{
	bpf_for_each_map_elem(&plain, fe_oob, 0, 0);
	return 0;
}

__failure __msg("At callback return the register R0 has unknown scalar value should have been in [0, 1]")
SEC("tc")
int f_ret(void *c)
{
	bpf_for_each_map_elem(&plain, fe_ret, 0, 0);
	return 0;
}

__success
SEC("tc")
int f_ctx(void *c)
{
	long x = 0;
	bpf_for_each_map_elem(&plain, fe_ctx, &x, 0);
	return x&1;
}

__failure __msg("R4 invalid mem access 'scalar'")
SEC("tc")
int f_ctx0(void *c)
{
	bpf_for_each_map_elem(&plain, fe_ctx, 0, 0);
	return 0;
}

__success
SEC("tc")
int f_nest(void *c)
{
	bpf_for_each_map_elem(&plain, fe_nest, 0, 0);
	return 0;
}

__success
SEC("tc")
int f_del(void *c)
{
	bpf_for_each_map_elem(&plain, fe_del, 0, 0);
	return 0;
}

__failure __msg("callback function not allowed for map")
SEC("tc")
int f_urb(void *c)
{
	bpf_for_each_map_elem(&urb, fe_cb, 0, 0);
	return 0;
}

__success
SEC("tc")
int l_ok(void *c)
{
	int x = 0;
	bpf_loop(100, l_cb, &x, 0);
	return x&1;
}

__failure __msg("At callback return the register R0 has smin=0 smax=4294967295 should have been in [0, 1]")
SEC("tc")
int l_ret(void *c)
{
	bpf_loop(100, l_big, 0, 0);
	return 0;
}

__success
SEC("tc")
int l_conds(void *c)
{
	char b[8] = {};
	bpf_loop(8, l_cond, b, 0);
	return b[0];
}

__success
SEC("tc")
int l_flags(void *c)
{
	int x = 0;
	bpf_loop(100, l_cb, &x, 1);
	return x&1;
}

__success
SEC("tc")
int l_zero(void *c)
{
	int x = 0;
	bpf_loop(0, l_cb, &x, 0);
	return x&1;
}

__success
SEC("tc")
int l_var(struct __sk_buff *c)
{
	int x = 0;
	bpf_loop(c->len, l_cb, &x, 0);
	return x&1;
}

char LICENSE[] SEC("license") = "GPL";
