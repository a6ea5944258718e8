/* Iterators, critical sections, strings, locks. */
#include "calls.h"

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym;
extern int bpf_iter_bits_new(struct bpf_iter_bits *it, const __u64 *p, __u32 words) __ksym;
extern int *bpf_iter_bits_next(struct bpf_iter_bits *it) __ksym;
extern void bpf_iter_bits_destroy(struct bpf_iter_bits *it) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern void bpf_preempt_disable(void) __ksym;
extern void bpf_preempt_enable(void) __ksym;
extern void bpf_local_irq_save(unsigned long *flags) __ksym;
extern void bpf_local_irq_restore(unsigned long *flags) __ksym;
extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) __ksym;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) __ksym;
extern int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags) __ksym;
extern void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags) __ksym;
extern int bpf_strcmp(const char *a, const char *b) __ksym;
extern int bpf_strcasecmp(const char *a, const char *b) __ksym;
extern int bpf_strchr(const char *s, char c) __ksym;
extern int bpf_strchrnul(const char *s, char c) __ksym;
extern int bpf_strnchr(const char *s, size_t n, char c) __ksym;
extern int bpf_strrchr(const char *s, int c) __ksym;
extern int bpf_strlen(const char *s) __ksym;
extern int bpf_strnlen(const char *s, size_t n) __ksym;
extern int bpf_strspn(const char *s, const char *set) __ksym;
extern int bpf_strcspn(const char *s, const char *set) __ksym;
extern int bpf_strstr(const char *s, const char *what) __ksym;
extern int bpf_strnstr(const char *s, const char *what, size_t n) __ksym;

static __always_inline void counted(int start, int end)
{
	struct bpf_iter_num it;
	int *v, n = 0, last = -7;

	note(bpf_iter_num_new(&it, start, end));
	while ((v = bpf_iter_num_next(&it))) {
		n++;
		last = *v;
	}
	bpf_iter_num_destroy(&it);
	note(n);
	note(last);
}

SEC("tc") int numbers(struct __sk_buff *skb)
{
	counted(0, 10);
	counted(-3, 3);
	counted(5, 5);
	counted(6, 5);
	counted(0, 1 << 24);
	counted(-2147483647 - 1, -2147483640);
	return 0;
}

static __u64 words[3] = { 0x8000000000000001, 0, 6 };

static __always_inline void bits(const __u64 *p, __u32 n)
{
	struct bpf_iter_bits it;
	int *v;

	note(bpf_iter_bits_new(&it, p, n));
	while ((v = bpf_iter_bits_next(&it)))
		note(*v);
	bpf_iter_bits_destroy(&it);
}

SEC("tc") int bitmaps(struct __sk_buff *skb)
{
	bits(words, 1);
	bits(words, 3);
	bits(words, 0);
	bits(NULL, 1);
	bits(words, 512);
	bits((void *)8, 1);
	bits((void *)8, 2);
	return 0;
}

SEC("tc") int sections(struct __sk_buff *skb)
{
	unsigned long flags;

	bpf_rcu_read_lock();
	note(1);
	bpf_rcu_read_unlock();
	bpf_preempt_disable();
	bpf_preempt_disable();
	note(2);
	bpf_preempt_enable();
	bpf_preempt_enable();
	bpf_local_irq_save(&flags);
	note(3);
	bpf_local_irq_restore(&flags);
	return 0;
}

struct locked {
	struct bpf_res_spin_lock lock;
	int counter;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct locked);
} locks SEC(".maps");

SEC("tc") int resilient(struct __sk_buff *skb)
{
	__u32 zero = 0, one = 1;
	struct locked *a = bpf_map_lookup_elem(&locks, &zero), *b = bpf_map_lookup_elem(&locks, &one);
	unsigned long flags;
	int err;

	if (!a || !b)
		return 1;
	err = bpf_res_spin_lock(&a->lock);
	note(err);
	if (err)
		return 2;
	err = bpf_res_spin_lock(&b->lock);
	note(err);
	if (!err)
		bpf_res_spin_unlock(&b->lock);
	a = a;
	bpf_res_spin_unlock(&a->lock);
	err = bpf_res_spin_lock_irqsave(&b->lock, &flags);
	note(err);
	if (!err)
		bpf_res_spin_unlock_irqrestore(&b->lock, &flags);
	return 0;
}

static char hello[16] = "hello, world", upper[16] = "HELLO, World", empty[2] = "", lo[4] = "lo";
static char longer[8] = "hellp", set[8] = "elh";

SEC("tc") int strings(struct __sk_buff *skb)
{
	char *bad = (char *)8;

	note(bpf_strcmp(hello, hello));
	note(bpf_strcmp(hello, longer));
	note(bpf_strcmp(longer, hello));
	note(bpf_strcmp(hello, empty));
	note(bpf_strcmp(hello, bad));
	note(bpf_strcmp(hello, upper));
	note(bpf_strcasecmp(hello, upper));
	note(bpf_strcasecmp(longer, upper));
	note(bpf_strchr(hello, 'l'));
	note(bpf_strchr(hello, 'z'));
	note(bpf_strchr(hello, 0));
	note(bpf_strchr(bad, 'z'));
	note(bpf_strchrnul(hello, 'w'));
	note(bpf_strchrnul(hello, 'z'));
	note(bpf_strnchr(hello, 4, 'o'));
	note(bpf_strnchr(hello, 5, 'o'));
	note(bpf_strnchr(hello, 20, 'z'));
	note(bpf_strrchr(hello, 'o'));
	note(bpf_strrchr(hello, 'z'));
	note(bpf_strrchr(hello, 0));
	note(bpf_strlen(hello));
	note(bpf_strlen(empty));
	note(bpf_strnlen(hello, 5));
	note(bpf_strnlen(hello, 50));
	note(bpf_strspn(hello, set));
	note(bpf_strspn(hello, empty));
	note(bpf_strcspn(hello, lo));
	note(bpf_strcspn(hello, empty));
	note(bpf_strstr(hello, lo));
	note(bpf_strstr(hello, longer));
	note(bpf_strstr(hello, empty));
	note(bpf_strstr(empty, lo));
	note(bpf_strnstr(hello, lo, 5));
	note(bpf_strnstr(hello, lo, 4));
	note(bpf_strnstr(hello, empty, 0));
	note(bpf_strstr(bad, lo));
	return 0;
}
