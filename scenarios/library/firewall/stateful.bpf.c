// A stateful firewall. The inside opens connections where the policy lets it; answers come back
// only to connections that were opened. Old connections make room for new ones.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum action { DENY, ALLOW };
enum ct_state { OPENING, ESTABLISHED, CLOSING };

struct prefix {
	__u32 len;
	__u8 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, enum action);
} policy SEC(".maps");

/* As seen from the inside. */
struct tuple {
	__be32 inside;
	__be32 outside;
	__be16 inside_port;
	__be16 outside_port;
	__u32 proto;
};

struct conn {
	__u64 opened_ns;
	__u32 out;
	__u32 in;
	enum ct_state state;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 128);
	__type(key, struct tuple);
	__type(value, struct conn);
} ct SEC(".maps");

struct header {
	struct iphdr *ip;
	__be16 sport;
	__be16 dport;
	struct tcphdr *tcp;
};

/* Where allowed frames go on to. */
const volatile __u32 lan_ifindex = 1;
const volatile __u32 wan_ifindex = 2;

static __always_inline int parse(struct __sk_buff *skb, struct header *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *ports = (void *)(ip + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(ports + 2) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return -1;
	if (ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))
		return -1;
	h->ip = ip;
	h->sport = ports[0];
	h->dport = ports[1];
	h->tcp = NULL;
	if (ip->protocol == IPPROTO_UDP)
		return 0;
	if (ip->protocol != IPPROTO_TCP || (void *)(tcp + 1) > end)
		return -1;
	h->tcp = tcp;
	return 0;
}

SEC("tc")
int fw_out(struct __sk_buff *skb)
{
	struct tuple t = {};
	struct conn fresh = {};
	struct prefix to = { .len = 32 };
	enum action *rule;
	struct header h;
	struct conn *c;

	if (parse(skb, &h))
		return TC_ACT_SHOT;
	t.inside = h.ip->saddr;
	t.outside = h.ip->daddr;
	t.inside_port = h.sport;
	t.outside_port = h.dport;
	t.proto = h.ip->protocol;
	c = bpf_map_lookup_elem(&ct, &t);
	if (c) {
		c->out++;
		if (h.tcp && (h.tcp->fin || h.tcp->rst))
			c->state = CLOSING;
		return bpf_redirect(wan_ifindex, 0);
	}
	__builtin_memcpy(to.addr, &h.ip->daddr, 4);
	rule = bpf_map_lookup_elem(&policy, &to);
	if (!rule || *rule != ALLOW)
		return TC_ACT_SHOT;
	/* A TCP connection begins with a SYN. */
	if (h.tcp && (!h.tcp->syn || h.tcp->ack))
		return TC_ACT_SHOT;
	fresh.opened_ns = bpf_ktime_get_ns();
	fresh.out = 1;
	if (bpf_map_update_elem(&ct, &t, &fresh, BPF_NOEXIST))
		return TC_ACT_SHOT;
	return bpf_redirect(wan_ifindex, 0);
}

SEC("tc")
int fw_in(struct __sk_buff *skb)
{
	struct tuple t = {};
	struct header h;
	struct conn *c;

	if (parse(skb, &h))
		return TC_ACT_SHOT;
	t.inside = h.ip->daddr;
	t.outside = h.ip->saddr;
	t.inside_port = h.dport;
	t.outside_port = h.sport;
	t.proto = h.ip->protocol;
	c = bpf_map_lookup_elem(&ct, &t);
	if (!c)
		return TC_ACT_SHOT;
	c->in++;
	if (h.tcp && h.tcp->rst)
		c->state = CLOSING;
	else if (c->state == OPENING)
		c->state = ESTABLISHED;
	return bpf_redirect(lan_ifindex, 0);
}

char _license[] SEC("license") = "GPL";
