/* Work queues; arenas. */
#include "calls.h"

extern int bpf_wq_init(struct bpf_wq *wq, void *map, unsigned int flags) __ksym;
extern int bpf_wq_start(struct bpf_wq *wq, unsigned int flags) __ksym;
extern int bpf_wq_set_callback_impl(struct bpf_wq *wq, int (cb)(void *map, int *key, void *value),
				    unsigned int flags, void *aux) __ksym;
extern __s64 bpf_map_sum_elem_count(const struct bpf_map *map) __ksym;

struct elem {
	struct bpf_wq work;
	__u64 ran;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct elem);
} works SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, int);
	__type(value, int);
} table SEC(".maps");

static int called(void *map, int *key, void *value)
{
	((struct elem *)value)->ran++;
	return 0;
}

SEC("syscall") int queue(void *ctx)
{
	int zero = 0;
	struct elem *e = bpf_map_lookup_elem(&works, &zero), none = {};

	if (!e)
		return 1;
	note(bpf_wq_start(&e->work, 0));
	note(bpf_wq_set_callback_impl(&e->work, called, 0, NULL));
	note(bpf_wq_init(&e->work, &works, 1));
	note(bpf_wq_init(&e->work, &works, 0));
	note(bpf_wq_init(&e->work, &works, 0));
	note(bpf_wq_set_callback_impl(&e->work, called, 1, NULL));
	note(bpf_wq_set_callback_impl(&e->work, called, 0, NULL));
	note(bpf_wq_start(&e->work, 1));
	note(bpf_map_update_elem(&works, &zero, &none, 0));
	note(bpf_wq_start(&e->work, 0));
	return 0;
}

SEC("syscall") int counts(void *ctx)
{
	int key = 1;

	bpf_map_update_elem(&table, &key, &key, 0);
	key = 2;
	bpf_map_update_elem(&table, &key, &key, 0);
	key = 1;
	bpf_map_update_elem(&table, &key, &key, 0);
	note(bpf_map_sum_elem_count((struct bpf_map *)&table));
	note(bpf_map_sum_elem_count((struct bpf_map *)&works));
	return 0;
}
