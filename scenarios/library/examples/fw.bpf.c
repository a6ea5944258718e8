// A firewall that knows connections: who is inside may begin what the policy allows, answers come
// through, and nothing else does. What happens is told in a ring buffer.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TC_ACT_OK 0
#define TC_ACT_SHOT 2
#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

enum proto { TCP = 6, UDP = 17 };
enum verdict { DENY, ALLOW };
enum kind { NEW, ESTABLISHED, DROP };
enum reason { NONE, BAD_SEQ };

struct policy_key {
	enum proto proto;
	__u16 dport;
	__u16 pad;
};

struct ct_key {
	__be32 saddr, daddr;
	__u16 sport, dport;
	enum proto proto;
};

struct ct {
	__u64 seen;
	/* The next byte that the outside may send. */
	__u32 next;
	__u32 established;
};

struct event {
	__u64 ts;
	enum kind kind;
	enum reason reason;
	__u16 dport;
};

/* Keeps the type of the records in the object. */
const struct event *record __attribute__((unused));

__u64 established_ttl = 1000000000;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct policy_key);
	__type(value, enum verdict);
} policy SEC(".maps");

/* By the tuple as the inside sends it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, struct ct_key);
	__type(value, struct ct);
} ct SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

int fw_expire(struct __sk_buff *skb);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} jumps SEC(".maps") = { .values = { [0] = (void *)&fw_expire } };

struct packet {
	struct ct_key key;
	__u32 seq, bytes;
	__u8 flags;
	/* From the outside to 10.0.0.0/8. */
	__u8 inbound;
};

static void tell(enum kind kind, enum reason reason, __u16 dport)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return;
	e->ts = bpf_ktime_get_ns();
	e->kind = kind;
	e->reason = reason;
	e->dport = dport;
	bpf_ringbuf_submit(e, 0);
}

/* The tuple as the inside would send it; 0 for what is no TCP or UDP over IPv4. */
static int parse(struct __sk_buff *skb, struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(0x0800))
		return 0;
	if (ip->ihl != 5 || (ip->protocol != TCP && ip->protocol != UDP))
		return 0;
	p->key.proto = ip->protocol;
	p->inbound = (bpf_ntohl(ip->daddr) >> 24) == 10;
	if (p->inbound) {
		p->key.saddr = ip->daddr;
		p->key.daddr = ip->saddr;
		p->key.sport = bpf_ntohs(udp->dest);
		p->key.dport = bpf_ntohs(udp->source);
	} else {
		p->key.saddr = ip->saddr;
		p->key.daddr = ip->daddr;
		p->key.sport = bpf_ntohs(udp->source);
		p->key.dport = bpf_ntohs(udp->dest);
	}
	if (ip->protocol == TCP) {
		if ((void *)(tcp + 1) > end)
			return 0;
		p->seq = bpf_ntohl(tcp->seq);
		p->flags = ((__u8 *)tcp)[13];
		p->bytes = bpf_ntohs(ip->tot_len) - 20 - tcp->doff * 4;
	}
	return 1;
}

static int allowed(const struct packet *p)
{
	struct policy_key key = { .proto = p->key.proto, .dport = p->key.dport };
	enum verdict *v = bpf_map_lookup_elem(&policy, &key);

	return v && *v == ALLOW;
}

static int judge(struct __sk_buff *skb)
{
	struct packet p = {};

	if (!parse(skb, &p))
		return TC_ACT_OK;

	struct ct *c = bpf_map_lookup_elem(&ct, &p.key);
	__u64 now = bpf_ktime_get_ns();

	if (c && now - c->seen > established_ttl) {
		bpf_tail_call(skb, &jumps, 0);
		return TC_ACT_SHOT;
	}
	if (!c) {
		struct ct new = { .seen = now };

		if (p.inbound || !allowed(&p))
			return TC_ACT_SHOT;
		if (p.key.proto == TCP && !(p.flags & SYN))
			return TC_ACT_SHOT;
		bpf_map_update_elem(&ct, &p.key, &new, BPF_ANY);
		if (p.key.proto == TCP)
			tell(NEW, NONE, p.key.dport);
		return TC_ACT_OK;
	}
	if (p.inbound && p.key.proto == TCP) {
		if (!(p.flags & SYN) && p.seq - c->next > 65535) {
			tell(DROP, BAD_SEQ, p.key.dport);
			return TC_ACT_SHOT;
		}
		c->next = p.seq + p.bytes + !!(p.flags & (SYN | FIN));
	}
	if (!p.inbound && p.key.proto == TCP && !c->established && c->next) {
		c->established = 1;
		tell(ESTABLISHED, NONE, p.key.dport);
	}
	c->seen = now;
	return TC_ACT_OK;
}

SEC("tc")
int fw_in(struct __sk_buff *skb)
{
	return judge(skb);
}

SEC("tc")
int fw_out(struct __sk_buff *skb)
{
	return judge(skb);
}

/* The connection of this packet is too old: it is forgotten, and what is inside may begin anew. */
SEC("tc")
int fw_expire(struct __sk_buff *skb)
{
	struct packet p = {};

	if (!parse(skb, &p))
		return TC_ACT_OK;
	bpf_map_delete_elem(&ct, &p.key);
	return p.inbound || !allowed(&p) ? TC_ACT_SHOT : TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
