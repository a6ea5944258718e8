/* A switch in a program and one in a function that it calls: jump tables of clang 22 (-mcpu=v4). */
typedef unsigned int u32;
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol;
};
#define SEC(name) __attribute__((section(name), used))

static __attribute__((noinline)) u32 inner(u32 x, u32 m)
{
	switch (x & 15) {
	case 0: return m / 3;
	case 1: return m + 4;
	case 2: return m ^ 9;
	case 3: return m << 1;
	case 4: return m - 33;
	case 5: return m * 21;
	case 6: return m & 77;
	case 7: return m | 5;
	case 8: return m >> 2;
	case 9: return m % 7;
	case 10: return m + 1000;
	case 11: return m * 12;
	case 12: return m / 13;
	case 13: return m ^ 14;
	default: return 0;
	}
}

SEC("tc")
u32 pick(struct __sk_buff *skb)
{
	u32 m = skb->mark, r;

	switch (skb->protocol & 15) {
	case 0: r = m * 3; break;
	case 1: r = m + 7; break;
	case 2: r = m ^ skb->len; break;
	case 3: r = m / 5; break;
	case 4: r = skb->queue_mapping; break;
	case 5: r = m << 3; break;
	case 6: r = skb->pkt_type + 1; break;
	case 7: r = m >> 3; break;
	case 8: r = m | 3; break;
	case 9: r = m & 12; break;
	case 10: r = m % 11; break;
	case 11: r = m - 4; break;
	case 12: r = m ^ 5; break;
	case 13: r = m * 10; break;
	default: r = 0;
	}
	return r + inner(skb->len, m);
}

SEC("tc")
u32 other(struct __sk_buff *skb)
{
	return inner(skb->mark, 1);
}

char _license[] SEC("license") = "GPL";
