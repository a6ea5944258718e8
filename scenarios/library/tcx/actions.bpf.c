// tc programs in several places of one hook, each answering with the action that its byte of the
// packet names: how tcx and clsact read the same number.
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

#define PAYLOAD (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))

/* Letters of the programs that saw the packet, by its first payload byte. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

static int act(struct __sk_buff *skb, unsigned int n, char me)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	char *at = data + PAYLOAD;
	__u64 first = me;

	if ((void *)(at + 5) > end)
		return TC_ACT_SHOT;

	__u32 key = at[0];
	__u64 *old = bpf_map_lookup_elem(&seen, &key);

	if (old)
		*old = *old << 8 | me;
	else
		bpf_map_update_elem(&seen, &key, &first, BPF_ANY);
	switch (at[n]) {
	case 'u':
		return TC_ACT_UNSPEC;
	case 'o':
		return TC_ACT_OK;
	case 'c':
		return TC_ACT_RECLASSIFY;
	case 's':
		return TC_ACT_SHOT;
	case 'p':
		return TC_ACT_PIPE;
	case 't':
		return TC_ACT_STOLEN;
	case 'q':
		return TC_ACT_QUEUED;
	case 'R':
		return TC_ACT_REPEAT;
	case 'T':
		return TC_ACT_TRAP;
	case 'x':
		return bpf_redirect(2, 0);
	case 'i':
		return bpf_redirect(2, BPF_F_INGRESS);
	case 'P':
		return bpf_redirect_peer(2, 0);
	case 'k':
		bpf_clone_redirect(skb, 2, 0);
		return TC_ACT_OK;
	case 'n':
		return bpf_redirect(99, 0);
	}
	return TC_ACT_UNSPEC;
}

SEC("tcx/ingress")
int a(struct __sk_buff *skb)
{
	return act(skb, 1, 'a');
}

SEC("tcx/ingress")
int b(struct __sk_buff *skb)
{
	return act(skb, 2, 'b');
}

SEC("tc")
int c(struct __sk_buff *skb)
{
	return act(skb, 3, 'c');
}

SEC("tc")
int d(struct __sk_buff *skb)
{
	return act(skb, 4, 'd');
}

SEC("tcx/egress")
int out(struct __sk_buff *skb)
{
	return act(skb, 0, 'e') == TC_ACT_SHOT ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "GPL";
