// Variables and map values of every kind of type: what the scenario writes is what the program
// finds, and what the program writes is what the scenario finds, in both byte orders.
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum level { LOW = -1, NONE, HIGH = 7 };
enum wide { SMALL = 1, HUGE = 0x100000000 };

struct point {
	__s16 x, y;
};

union word {
	__u32 whole;
	__u8 bytes[4];
	struct point point;
};

struct bits {
	__u32 three : 3;
	__u32 ten : 10;
	__u32 flag : 1;
	__s32 low : 5;
	__u8 tail : 4;
};

struct all {
	bool on;
	__s8 small;
	__u16 port;
	__be16 wire;
	__be32 ip;
	__u8 mac[6];
	__u8 ip6[16];
	char name[12];
	enum level level;
	enum wide wide;
	struct point corners[2];
	union word word;
	struct bits bits;
	__u64 big;
	struct {
		__u16 inner;
	} nested;
	struct {
		__u8 outside;
	};
	__u32 grid[2][3];
};

/* Read by the program before it overwrites them. */
struct all given = {};
const volatile __u32 limit = 1;
volatile __s64 negative = 0;
struct all taken = {};
__u32 errors = 0;

extern unsigned int CONFIG_HZ __kconfig;
extern bool CONFIG_BPF_SYSCALL __kconfig;
extern char CONFIG_NAME[8] __kconfig __weak;
__u32 hz = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, struct point);
	__type(value, struct all);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct point);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, struct point);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__type(value, __u32);
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} untyped SEC(".maps");

#define WANT(what) \
	do { \
		if (!(what)) \
			errors++; \
	} while (0)

static void look(const struct all *a)
{
	WANT(a->on && a->small == -5 && a->port == 8080 && a->wire == bpf_htons(443));
	WANT(a->ip == bpf_htonl(0x0a000001) && a->mac[5] == 0x10 && a->ip6[0] == 0x20);
	WANT(a->ip6[15] == 1 && a->name[0] == 'o' && a->name[3] == 0);
	WANT(a->level == LOW && a->wide == HUGE && a->big == 0x123456789abcdef0);
	WANT(a->corners[0].x == -1 && a->corners[1].y == 4 && a->word.bytes[1] == 2);
	WANT(a->bits.three == 5 && a->bits.ten == 1000 && a->bits.flag && a->bits.low == -3);
	WANT(a->bits.tail == 9 && a->nested.inner == 77 && a->outside == 6);
	WANT(a->grid[0][2] == 3 && a->grid[1][0] == 4 && a->grid[1][2] == 0);
}

SEC("xdp")
int values(struct xdp_md *ctx)
{
	struct point key = { .x = -2, .y = 300 }, popped = {};
	struct all *a = bpf_map_lookup_elem(&table, &key);
	__u32 zero = 0, seven = 7;
	struct point *mine = bpf_map_lookup_elem(&percpu, &zero);

	look(&given);
	WANT(limit == 40 && negative == -1234567890123);
	if (a)
		look(a);
	else
		errors++;
	if (mine)
		mine->x += 10;
	WANT(!bpf_map_pop_elem(&queue, &popped) && popped.x == 1 && popped.y == 2);
	bpf_map_push_elem(&stack, &seven, BPF_ANY);
	if (CONFIG_BPF_SYSCALL)
		hz = CONFIG_HZ;
	taken = given;
	taken.bits.ten = 3;
	taken.corners[1].x = -9;
	taken.level = HIGH;
	taken.word.point.x = 1;
	taken.word.point.y = 2;
	return XDP_PASS;
}

/* Never loaded. */
SEC("xdp")
int broken(struct xdp_md *ctx)
{
	return *(volatile int *)(long)ctx->data_end;
}

char LICENSE[] SEC("license") = "GPL";
