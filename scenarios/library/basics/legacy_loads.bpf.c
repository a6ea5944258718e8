// Classic loads from the packet, LD_ABS and LD_IND: UDP to port 7 is dropped. Offsets count from
// the link layer's header, values come in host order, and a load beyond the end leaves the program
// with 0, which is TC_ACT_OK.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int legacy(struct __sk_buff *skb)
{
	register struct __sk_buff *ctx asm("r6") = skb;
	int proto, port;

	asm volatile("r0 = *(u8 *)skb[23]\n%0 = r0"
		     : "=r"(proto) : "r"(ctx) : "r0", "r1", "r2", "r3", "r4", "r5");
	if (proto != 17)
		return TC_ACT_OK;
	asm volatile("r7 = 36\nr0 = *(u16 *)skb[r7]\n%0 = r0"
		     : "=r"(port) : "r"(ctx) : "r0", "r1", "r2", "r3", "r4", "r5", "r7");
	return port == 7 ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
