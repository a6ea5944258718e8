// Allocations while interrupts are off: nothing fills the allocator's cache meanwhile.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern void bpf_local_irq_save(unsigned long *flags) __ksym;
extern void bpf_local_irq_restore(unsigned long *flags) __ksym;

struct big {
	__u64 words[100];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct big);
} large SEC(".maps");

struct big zero;

static __always_inline int store(void *map, const void *value, __u32 from, __u32 to)
{
	unsigned long flags;
	int stored = 0;
	__u32 i;

	bpf_local_irq_save(&flags);
	for (i = from; i < to; i++) {
		__u32 key = i;

		stored += !bpf_map_update_elem(map, &key, value, BPF_NOEXIST);
	}
	bpf_local_irq_restore(&flags);
	return stored;
}

SEC("xdp")
int irqs_off(struct xdp_md *ctx)
{
	__u64 one = 1;
	int first = store(&small, &one, 0, 60), other = store(&large, &zero, 0, 20);

	return first | other << 8 | store(&small, &one, 100, 180) << 16;
}

char _license[] SEC("license") = "GPL";
