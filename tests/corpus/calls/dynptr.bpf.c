/* Dynptrs of packets and memory. */
#include "calls.h"

extern int bpf_dynptr_from_skb(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;
extern int bpf_dynptr_from_xdp(struct xdp_md *x, __u64 flags, struct bpf_dynptr *p) __ksym;
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u32 off, void *buf, __u32 len) __ksym;
extern void *bpf_dynptr_slice_rdwr(const struct bpf_dynptr *p, __u32 off, void *buf, __u32 len) __ksym;
extern int bpf_dynptr_adjust(const struct bpf_dynptr *p, __u32 start, __u32 end) __ksym;
extern bool bpf_dynptr_is_null(const struct bpf_dynptr *p) __ksym;
extern bool bpf_dynptr_is_rdonly(const struct bpf_dynptr *p) __ksym;
extern __u32 bpf_dynptr_size(const struct bpf_dynptr *p) __ksym;
extern int bpf_dynptr_clone(const struct bpf_dynptr *p, struct bpf_dynptr *c) __ksym;
extern int bpf_dynptr_copy(struct bpf_dynptr *d, __u32 doff, struct bpf_dynptr *s, __u32 soff, __u32 n) __ksym;
extern int bpf_dynptr_memset(struct bpf_dynptr *p, __u32 off, __u32 n, __u8 v) __ksym;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, char[600]);
} room SEC(".maps");

static __always_inline void looked(struct bpf_dynptr *p, __u32 off)
{
	char buf[8] = {};
	__u64 *v = bpf_dynptr_slice(p, off, buf, 8);

	note(v ? bpf_be64_to_cpu(*v) : 0);
	v = bpf_dynptr_slice(p, off, NULL, 8);
	note(v ? bpf_be64_to_cpu(*v) : 0);
}

SEC("tc") int skb(struct __sk_buff *skb)
{
	struct bpf_dynptr p, c;
	__u64 v = 0;
	char buf[8] = {};
	__u8 *w;

	note(bpf_dynptr_from_skb(skb, 1, &p));
	note(bpf_dynptr_is_null(&p));
	note(bpf_dynptr_size(&p));
	note(bpf_dynptr_is_rdonly(&p));
	note(bpf_dynptr_adjust(&p, 0, 0));
	note(bpf_dynptr_clone(&p, &c));
	note(bpf_dynptr_from_skb(skb, 0, &p));
	note(bpf_dynptr_is_null(&p));
	note(bpf_dynptr_size(&p));
	note(bpf_dynptr_is_rdonly(&p));
	looked(&p, 26);
	looked(&p, 50);
	looked(&p, 51);
	note(bpf_dynptr_read(&v, 8, &p, 30, 0));
	note(bpf_be64_to_cpu(v));
	note(bpf_dynptr_read(&v, 8, &p, 51, 0));
	note(bpf_dynptr_read(&v, 8, &p, 0, 1));
	note(bpf_dynptr_write(&p, 0, &v, 4, 0));
	note(bpf_dynptr_write(&p, 0, &v, 4, 3));
	note(bpf_dynptr_write(&p, 0, &v, 4, 4));
	note(bpf_dynptr_write(&p, 55, &v, 4, 0));
	note(bpf_dynptr_data(&p, 0, 4) != 0);
	note(bpf_dynptr_adjust(&p, 20, 10));
	note(bpf_dynptr_adjust(&p, 10, 90));
	note(bpf_dynptr_adjust(&p, 14, 50));
	note(bpf_dynptr_size(&p));
	looked(&p, 12);
	note(bpf_dynptr_clone(&p, &c));
	note(bpf_dynptr_size(&c));
	note(bpf_dynptr_adjust(&c, 4, 8));
	note(bpf_dynptr_size(&c));
	note(bpf_dynptr_size(&p));
	w = bpf_dynptr_slice_rdwr(&p, 1, buf, 1);
	if (w)
		*w = 0x7f;
	note(bpf_dynptr_memset(&c, 0, 2, 0xee));
	note(bpf_dynptr_memset(&c, 3, 2, 0xee));
	return 0;
}

SEC("xdp.frags") int xdp_big(struct xdp_md *xdp)
{
	struct bpf_dynptr p;
	long end = (long)xdp->data_end - (long)xdp->data;
	__u64 v = bpf_cpu_to_be64(0x1122334455667788);
	char buf[8] = {};
	__u64 *w;

	note(bpf_dynptr_from_xdp(xdp, 1, &p));
	note(bpf_dynptr_is_null(&p));
	note(bpf_dynptr_from_xdp(xdp, 0, &p));
	note(bpf_dynptr_size(&p));
	note(bpf_dynptr_is_rdonly(&p));
	looked(&p, 26);
	looked(&p, end - 4);
	looked(&p, 9034);
	looked(&p, 9035);
	note(bpf_dynptr_write(&p, end - 4, &v, 8, 0));
	note(bpf_dynptr_write(&p, end - 4, &v, 8, 1));
	v = 0;
	note(bpf_dynptr_read(&v, 8, &p, end - 4, 0));
	note(bpf_be64_to_cpu(v));
	looked(&p, end);
	w = bpf_dynptr_slice_rdwr(&p, end - 4, buf, 8);
	if (w)
		*w = 0;
	note(bpf_dynptr_read(&v, 8, &p, end - 4, 0));
	note(bpf_be64_to_cpu(v));
	note(bpf_dynptr_memset(&p, end - 4, 8, 1));
	note(bpf_dynptr_read(&v, 8, &p, end - 4, 0));
	note(bpf_be64_to_cpu(v));
	return XDP_PASS;
}

SEC("cgroup_skb/egress") int rdonly(struct __sk_buff *skb)
{
	struct bpf_dynptr p;
	__u64 v = 0;

	note(bpf_dynptr_from_skb(skb, 0, &p));
	note(bpf_dynptr_size(&p));
	note(bpf_dynptr_is_rdonly(&p));
	note(bpf_dynptr_read(&v, 8, &p, 12, 0));
	note(bpf_be64_to_cpu(v));
	note(bpf_dynptr_write(&p, 0, &v, 4, 0));
	note(bpf_dynptr_memset(&p, 0, 4, 0));
	looked(&p, 0);
	return 1;
}

SEC("tc") int copies(struct __sk_buff *skb)
{
	struct bpf_dynptr p, m, n;
	__u32 zero = 0;
	char *value = bpf_map_lookup_elem(&room, &zero);
	__u64 *v;

	if (!value)
		return 1;
	note(bpf_dynptr_from_skb(skb, 0, &p));
	note(bpf_dynptr_from_mem(value, 600, 0, &m));
	note(bpf_dynptr_copy(&m, 4, &p, 12, 20));
	v = bpf_dynptr_data(&m, 0, 16);
	if (v) {
		note(bpf_be64_to_cpu(v[0]));
		note(bpf_be64_to_cpu(v[1]));
	}
	note(bpf_dynptr_memset(&m, 0, 600, 0x41));
	note(bpf_dynptr_memset(&m, 0, 601, 0x41));
	note(bpf_dynptr_copy(&p, 0, &m, 590, 10));
	note(bpf_dynptr_copy(&p, 0, &m, 591, 10));
	note(bpf_dynptr_copy(&p, 50, &m, 0, 9));
	note(bpf_dynptr_copy(&p, 42, &p, 14, 8));
	note(bpf_dynptr_clone(&m, &n));
	note(bpf_dynptr_adjust(&n, 10, 20));
	note(bpf_dynptr_memset(&n, 0, 10, 0x42));
	note(bpf_dynptr_copy(&m, 12, &n, 0, 10));
	v = bpf_dynptr_data(&m, 8, 16);
	if (v) {
		note(bpf_be64_to_cpu(v[0]));
		note(bpf_be64_to_cpu(v[1]));
	}
	return 0;
}
