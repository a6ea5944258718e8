// One of everything that an object can contain, for `orrery inspect`.
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

int _version SEC("version") = 0x61200;
char _license[] SEC("license") = "Dual BSD/GPL";

/* Maps: every attribute. */
struct pair {
	__u32 a;
	__u64 b;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE);
	__uint(numa_node, 1);
	__type(key, struct pair);
	__type(value, struct pair);
} numa SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(map_extra, 3);
	__type(value, __u64);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} pinned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} perf SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} first SEC(".maps"), second SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { [1] = &first, [3] = &second } };

int last(struct __sk_buff *skb);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__array(values, int(void));
} chain SEC(".maps") = { .values = { [1] = (void *)&last } };

/* Data sections of every kind, custom names too. */
int initialised = 7;
int zeroed;
const volatile int constant = 9;
static volatile int hidden = 3;
int custom SEC(".data.custom") = 5;
const volatile int table[3] SEC(".rodata.table") = { 1, 2, 3 };
__u64 counters[4] SEC(".bss.counters");

/* The kernel's configuration and symbols. */
extern int LINUX_KERNEL_VERSION __kconfig;
extern int CONFIG_HZ __kconfig __weak;
extern bool CONFIG_BPF_JIT __kconfig __weak;
extern enum libbpf_tristate CONFIG_DUMMY __kconfig __weak;
extern char CONFIG_LOCALVERSION[8] __kconfig __weak;
extern const void some_symbol __ksym __weak;
extern const int some_variable __ksym __weak;
extern int some_function(struct __sk_buff *skb, int n) __ksym __weak;

/* Functions: static, global, hidden, tagged. */
static __noinline int twice(int n)
{
	hidden += n;
	return n * 2;
}

__noinline int visible(int n)
{
	return twice(n) + custom + table[n & 1];
}

__noinline int __attribute__((visibility("hidden"))) concealed(int n)
{
	counters[n & 3]++;
	return n + 1;
}

__attribute__((btf_decl_tag("a tag of a function")))
__noinline int tagged(int n __attribute__((btf_decl_tag("a tag of an argument"))))
{
	return n ^ initialised;
}

static long each(__u32 n, void *ctx)
{
	return n > 3;
}

SEC("tc")
int first_of_chain(struct __sk_buff *skb)
{
	int n = visible(skb->len) + concealed(skb->mark) + tagged(constant) + zeroed;

	bpf_loop(4, each, NULL, 0);
	if (LINUX_KERNEL_VERSION > 0x50000 && CONFIG_BPF_JIT)
		n += CONFIG_HZ + CONFIG_DUMMY + CONFIG_LOCALVERSION[0];
	if (&some_symbol)
		n++;
	if (&some_variable)
		n++;
	if (some_function)
		n += some_function(skb, n);
	bpf_tail_call(skb, &chain, 1);
	return n;
}

SEC("?tcx/ingress")
int last(struct __sk_buff *skb)
{
	return 0;
}

SEC("xdp.frags/devmap")
int on_devmap(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* All kinds of CO-RE relocations. */
struct sk_buff___old {
	unsigned int len;
	int no_such_member;
} __attribute__((preserve_access_index));

struct no_such_type {
	int x;
} __attribute__((preserve_access_index));

enum xdp_action___old { XDP_DROP___old = 9, NO_SUCH___old = 1 };

SEC("tp_btf/netif_receive_skb")
int BPF_PROG(core, struct sk_buff *skb)
{
	struct sk_buff___old *old = (void *)skb;
	struct iphdr ip = {};
	__u64 sum = 0;

	sum += BPF_CORE_READ(skb, dev, ifindex);
	sum += bpf_core_field_exists(old->no_such_member);
	sum += bpf_core_field_size(skb->cb);
	sum += bpf_core_field_offset(skb->len);
	sum += BPF_CORE_READ_BITFIELD(&ip, version);
	sum += bpf_core_type_exists(struct no_such_type);
	sum += bpf_core_type_matches(struct sk_buff___old);
	sum += bpf_core_type_size(struct sk_buff);
	sum += bpf_core_type_id_local(struct pair);
	sum += bpf_core_type_id_kernel(struct sk_buff);
	sum += bpf_core_enum_value_exists(enum xdp_action___old, NO_SUCH___old);
	sum += bpf_core_enum_value(enum xdp_action___old, XDP_DROP___old);
	return sum;
}
