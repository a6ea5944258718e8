/* Helpers by family, what they return where nothing is set up for them and what they refuse, as
 * those of Linux 6.18 do. A test run gives programs a packet of 64 zero bytes. */
#include "annotated.h"

#define SKB(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)
#define XDP(name, want, ...) RETURNS("xdp", struct xdp_md, name, want, __VA_ARGS__)
#define EGRESS(name, want, ...)                                                                    \
	RETURNS("cgroup_skb/egress", struct __sk_buff, name, want, __VA_ARGS__)
#define CALL(name, want, ...) RETURNS("syscall", void, name, want, __VA_ARGS__)
#define RAW(name, want, ...) RETURNS("raw_tp/sys_enter", void, name, want, __VA_ARGS__)

#define PERF(name, ...)                                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);                                       \
		__uint(key_size, 4);                                                               \
		__uint(value_size, 4);                                                             \
		__uint(max_entries, 2);                                                            \
	} name SEC(".maps")
PERF(events);

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} of_tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

extern int bpf_dynptr_from_skb(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;

/* Time and chance. */
SKB(jiffies, 1, return bpf_jiffies64() != 0)
SKB(jiffies_go_on, 1, __u64 a = bpf_jiffies64(); return bpf_jiffies64() >= a)
SKB(time_goes_on, 1, __u64 a = bpf_ktime_get_ns(); return bpf_ktime_get_ns() >= a)
SKB(boot_time, 1, return bpf_ktime_get_boot_ns() + 1000000000 >= bpf_ktime_get_ns())
SKB(coarse_time, 1, return bpf_ktime_get_coarse_ns() <= bpf_ktime_get_ns())
SKB(atomic_time, 1, return bpf_ktime_get_tai_ns() > bpf_ktime_get_ns())
SKB(node, 0, return bpf_get_numa_node_id())

/* The task. */
SKB(task, 1, return bpf_get_current_task() != 0)
SKB(task_is_that, 1,
    return bpf_get_current_task() == (__u64)bpf_get_current_task_btf())
SKB(uid, 0, return bpf_get_current_uid_gid())
SKB(comm, 0, char c[16]; return bpf_get_current_comm(c, 16))
SKB(comm_is_cut, 0, char c[2]; bpf_get_current_comm(c, 2); return c[1])
SKB(cgroup, 1, return bpf_get_current_cgroup_id() != 0)
SKB(cgroup_root, 1, return bpf_get_current_ancestor_cgroup_id(0) != 0)
SKB(cgroup_too_deep, 0, return bpf_get_current_ancestor_cgroup_id(99))
SKB(cgroup_negative, 0, return bpf_get_current_ancestor_cgroup_id(-1))
SKB(pid_of_no_ns, -22, struct bpf_pidns_info i;
    return bpf_get_ns_current_pid_tgid(0, 0, &i, sizeof(i)))
SKB(pid_of_ns_size, -22, struct bpf_pidns_info i;
    return bpf_get_ns_current_pid_tgid(0, 0, &i, 4))
SKB(classid, 0, return bpf_get_cgroup_classid(ctx))

/* Memory. */
SKB(probe_kernel_str, 3, char d[8]; char s[8] = "ab";
    return bpf_probe_read_kernel_str(d, 8, s))
SKB(probe_kernel_str_cut, 2, char d[8]; char s[8] = "abc";
    return bpf_probe_read_kernel_str(d, 2, s))
SKB(probe_kernel_str_none, 0, char d[8]; char s[8] = "ab";
    return bpf_probe_read_kernel_str(d, 0, s))
SKB(probe_kernel_str_fault, -34, char d[8]; return bpf_probe_read_kernel_str(d, 8, NULL))
SKB(probe_user_str_fault, -14, char d[8]; return bpf_probe_read_user_str(d, 8, NULL))
SKB(probe_user_of_kernel, -14, char d[8]; char s[8] = "ab";
    return bpf_probe_read_user_str(d, 8, s))
SKB(probe_kernel_fault, -34, char d[8]; return bpf_probe_read_kernel(d, 8, NULL))
SKB(probe_user_fault, -14, char d[8]; return bpf_probe_read_user(d, 8, NULL))
SKB(probe_fault_clears, 0, char d[8] = "abcdefg"; bpf_probe_read_kernel(d, 8, NULL); return d[0])
RAW(probe, 0, char d[8]; char s[8] = "ab"; return bpf_probe_read(d, 8, s))
RAW(probe_str, 3, char d[8]; char s[8] = "ab"; return bpf_probe_read_str(d, 8, s))

SKB(pid_stays, 1, __u64 a = bpf_get_current_pid_tgid(); return a == bpf_get_current_pid_tgid())

static long nothing(struct task_struct *task, struct vm_area_struct *vma, void *ctx)
{
	return 0;
}
SKB(vma_flags, -22,
    return bpf_find_vma(bpf_get_current_task_btf(), 0, (void *)nothing, NULL, 1))

/* Dynptrs. */
SKB(dynptr_writes, 9, __u64 v = 9; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    bpf_dynptr_write(&p, 8, &v, 8, 0); v = 0; bpf_dynptr_read(&v, 8, &p, 8, 0); return v)
SKB(dynptr_write_beyond, -7, __u64 v = 9; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    return bpf_dynptr_write(&p, 60, &v, 8, 0))
SKB(dynptr_write_flags, -22, __u64 v = 9; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    return bpf_dynptr_write(&p, 0, &v, 8, 4))
SKB(record_given_up, 0, struct bpf_dynptr p; bpf_ringbuf_reserve_dynptr(&ring, 8, 0, &p);
    bpf_ringbuf_discard_dynptr(&p, 0); return bpf_ringbuf_query(&ring, BPF_RB_CONS_POS))
SKB(record_not_reserved, -22, struct bpf_dynptr p;
    long e = bpf_ringbuf_reserve_dynptr(&ring, 8, 1, &p); bpf_ringbuf_discard_dynptr(&p, 0);
    return e)

/* The packet. */
SKB(hash_is_kept, 1, return bpf_get_hash_recalc(ctx) == ctx->hash)
SKB(hash_is_set, 7, bpf_set_hash(ctx, 7); return ctx->hash)
SKB(csum_update, -524, return bpf_csum_update(ctx, 1))
SKB(csum_level, -13, return bpf_csum_level(ctx, BPF_CSUM_LEVEL_QUERY))
SKB(csum_level_inc, 0, return bpf_csum_level(ctx, BPF_CSUM_LEVEL_INC))
SKB(csum_level_of_nothing, -22, return bpf_csum_level(ctx, 9))
SKB(tstamp_protocol, -95, return bpf_skb_set_tstamp(ctx, 1, 1))
SKB(tunnel_key_none, -22, struct bpf_tunnel_key k;
    return bpf_skb_get_tunnel_key(ctx, &k, sizeof(k), 0))
SKB(tunnel_key_flags, -22, struct bpf_tunnel_key k;
    return bpf_skb_get_tunnel_key(ctx, &k, sizeof(k), 64))
SKB(tunnel_opt_none, -2, __u32 o; return bpf_skb_get_tunnel_opt(ctx, &o, 4))
SKB(tunnel_opt_of_none, -22, __u32 o = 0; return bpf_skb_set_tunnel_opt(ctx, &o, 4))
SKB(tunnel_opt_odd, -22, __u32 o = 0; return bpf_skb_set_tunnel_opt(ctx, &o, 3))
SKB(realm, 0, return bpf_get_route_realm(ctx))
SKB(xfrm_none, -22, __u32 x[7];
    return bpf_skb_get_xfrm_state(ctx, 0, (void *)x, sizeof(x), 0))
SKB(xfrm_flags, -22, __u32 x[7];
    return bpf_skb_get_xfrm_state(ctx, 0, (void *)x, sizeof(x), 1))
SKB(skb_classid, 0, return bpf_skb_cgroup_classid(ctx))
SKB(skb_cgroup, 1, return bpf_skb_cgroup_id(ctx) == bpf_skb_ancestor_cgroup_id(ctx, 0))
SKB(skb_cgroup_deep, 0, return bpf_skb_ancestor_cgroup_id(ctx, 99))
SKB(mtu_flags, -22, __u32 n = 0; return bpf_check_mtu(ctx, 0, &n, 0, 4))
SKB(mtu_of_no_device, -19, __u32 n = 0; return bpf_check_mtu(ctx, 0x7fffffff, &n, 0, 0))
SKB(neigh_flags, 2, return bpf_redirect_neigh(1, NULL, 0, 1))
SKB(neigh, 7, return bpf_redirect_neigh(1, NULL, 0, 0))
SKB(peer_flags, 2, return bpf_redirect_peer(1, 1))
SKB(peer, 7, return bpf_redirect_peer(1, 0))
SKB(fib_flags, -22, struct bpf_fib_lookup p = {};
    return bpf_fib_lookup(ctx, &p, sizeof(p), 1 << 30))
SKB(fib_size, -22, struct bpf_fib_lookup p = {}; return bpf_fib_lookup(ctx, &p, 8, 0))
SKB(fib_family, -97, struct bpf_fib_lookup p = {};
    p.family = 99; p.ifindex = 1;
    return bpf_fib_lookup(ctx, &p, sizeof(p), 0))
SKB(fib_of_no_device, -19, struct bpf_fib_lookup p = {};
    p.family = 2; p.ifindex = 0x7fffffff;
    return bpf_fib_lookup(ctx, &p, sizeof(p), 0))

/* Sockets. */
SKB(netns, 1, return bpf_get_netns_cookie(ctx) != 0)
SKB(netns_of_none, 1, return bpf_get_netns_cookie(NULL) != 0)
SKB(no_udp, 1, struct bpf_sock_tuple t = {};
    struct bpf_sock *s = bpf_sk_lookup_udp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!s) return 1; bpf_sk_release(s); return 0)
SKB(udp_size, 1, struct bpf_sock_tuple t = {};
    struct bpf_sock *s = bpf_sk_lookup_udp(ctx, &t, 5, BPF_F_CURRENT_NETNS, 0);
    if (!s) return 1; bpf_sk_release(s); return 0)
SKB(no_tcp, 1, struct bpf_sock_tuple t = {};
    struct bpf_sock *s = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!s) return 1; bpf_sk_release(s); return 0)
EGRESS(sk_cgroup, 1, struct bpf_sock *sk = ctx->sk; if (!sk) return 1;
       sk = bpf_sk_fullsock(sk); if (!sk) return 1;
       return bpf_sk_cgroup_id(sk) == bpf_sk_ancestor_cgroup_id(sk, 0))

/* Events. */
SKB(event_output, -2, __u64 v = 1; return bpf_perf_event_output(ctx, &events, 0, &v, 8))
SKB(event_output_outside, -7, __u64 v = 1; return bpf_perf_event_output(ctx, &events, 2, &v, 8))
SKB(event_output_flags, -22, __u64 v = 1;
    return bpf_perf_event_output(ctx, &events, 1ULL << 60, &v, 8))
SKB(event_output_packet, -2, __u64 v = 1;
    return bpf_perf_event_output(ctx, &events, 8ULL << 32, &v, 8))
SKB(event_output_beyond, -14, __u64 v = 1;
    return bpf_perf_event_output(ctx, &events, 99ULL << 32, &v, 8))
RAW(stack_flags, -22, char b[16]; return bpf_get_stack(ctx, b, 16, 1ULL << 40))
RAW(stack_size_odd, -22, char b[16]; return bpf_get_stack(ctx, b, 15, 0))
RAW(cookie_of_none, 0, return bpf_get_attach_cookie(ctx))

RAW(task_stack_flags, -22, char b[16];
    return bpf_get_task_stack(bpf_get_current_task_btf(), b, 16, 1ULL << 40))
RAW(branches_flags, -22, char b[48]; return bpf_get_branch_snapshot(b, 48, 1))
RAW(task_storage_none, -2, return bpf_task_storage_delete(&of_tasks, bpf_get_current_task_btf()))
RAW(task_storage_not_made, 1,
    return bpf_task_storage_get(&of_tasks, bpf_get_current_task_btf(), NULL, 0) == NULL)
RAW(task_storage_flags, 1,
    return bpf_task_storage_get(&of_tasks, bpf_get_current_task_btf(), NULL, 2) == NULL)
RAW(task_storage_goes, 0,
    bpf_task_storage_get(&of_tasks, bpf_get_current_task_btf(), NULL, 1);
    return bpf_task_storage_delete(&of_tasks, bpf_get_current_task_btf()))

/* System calls. */
CALL(find_type, 1, static const char n[] = "task_struct";
     return bpf_btf_find_by_name_kind((char *)n, sizeof(n), 4, 0) > 0)
CALL(find_no_type, -2, static const char n[] = "no_such_struct_";
     return bpf_btf_find_by_name_kind((char *)n, sizeof(n), 4, 0))
CALL(find_type_flags, -22, static const char n[] = "task_struct";
     return bpf_btf_find_by_name_kind((char *)n, sizeof(n), 4, 1))
CALL(find_type_unended, -22, static const char n[] = "task_struct";
     return bpf_btf_find_by_name_kind((char *)n, 4, 4, 0))
CALL(symbol_flags, -22, __u64 v; static const char n[] = "bpf_map_lookup_elem";
     return bpf_kallsyms_lookup_name(n, sizeof(n), 1, &v))
CALL(symbol_unended, -22, __u64 v; static const char n[] = "bpf_map_lookup_elem";
     return bpf_kallsyms_lookup_name(n, 4, 0, &v))
CALL(symbol_none, -2, __u64 v; static const char n[] = "no_such_symbol_";
     return bpf_kallsyms_lookup_name(n, sizeof(n), 0, &v))
CALL(copy_from_task_flags, -22, __u64 v;
     return bpf_copy_from_user_task(&v, 8, NULL, bpf_get_current_task_btf(), 1))
CALL(copy_from_task_fault, -14, __u64 v;
     return bpf_copy_from_user_task(&v, 8, NULL, bpf_get_current_task_btf(), 0))
CALL(copy_from_user_fault, -14, __u64 v; return bpf_copy_from_user(&v, 8, NULL))
