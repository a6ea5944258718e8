/* What a test run gives a program: a socket, a calling task, its memory and stacks, errno by errno
 * as Linux 6.18 does. */
#include "annotated.h"
#include <bpf/bpf_endian.h>

#define SKB(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)
#define FILTER(name, want, ...) RETURNS("socket", struct __sk_buff, name, want, __VA_ARGS__)
#define EGRESS(name, want, ...)                                                                    \
	RETURNS("cgroup_skb/egress", struct __sk_buff, name, want, __VA_ARGS__)
#define CALL(name, want, ...) RETURNS("syscall", void, name, want, __VA_ARGS__)

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} of_socket SEC(".maps");

/* The socket of the packet. */
SKB(has_socket, 1, return ctx->sk != NULL)
#define SK(name, want, ...)                                                                        \
	SKB(name, want, struct bpf_sock *sk = ctx->sk; if (!sk) return -1; __VA_ARGS__)
#define FULL(name, want, ...)                                                                      \
	SK(name, want, sk = bpf_sk_fullsock(sk); if (!sk) return -2; __VA_ARGS__)
FULL(family, 0, return sk->family)
FULL(type, 0, return sk->type)
FULL(protocol, 0, return sk->protocol)
FULL(mark, 0, return sk->mark)
FULL(priority, 0, return sk->priority)
FULL(bound, 0, return sk->bound_dev_if)
FULL(state, 7, return sk->state)
FULL(src_port, 0, return sk->src_port)
FULL(dst_port, 0, return sk->dst_port)
FULL(src_ip4, 0, return sk->src_ip4)
FULL(dst_ip4, 0, return sk->dst_ip4)
FULL(rx_queue, -1, return sk->rx_queue_mapping)
FULL(tcp, 0, return bpf_tcp_sock(sk) != NULL)
FULL(listener, 0, return bpf_get_listener_sock(sk) != NULL)
FULL(storage_none, 0, return bpf_sk_storage_get(&of_socket, sk, NULL, 0) != NULL)
FULL(storage_new, 1, return bpf_sk_storage_get(&of_socket, sk, NULL, 1) != NULL)
FULL(storage_twice, 7, __u64 *v = bpf_sk_storage_get(&of_socket, sk, NULL, 1); if (v) *v = 7;
     v = bpf_sk_storage_get(&of_socket, sk, NULL, 0); return v ? *v : -1)
FULL(storage_flags, 0, return bpf_sk_storage_get(&of_socket, sk, NULL, 2) != NULL)
FULL(storage_delete, 0, bpf_sk_storage_get(&of_socket, sk, NULL, 1);
     return bpf_sk_storage_delete(&of_socket, sk))
FULL(storage_delete_none, -2, return bpf_sk_storage_delete(&of_socket, sk))
SKB(cookie_same, 1, __u64 c = bpf_get_socket_cookie(ctx);
    return c && c == bpf_get_socket_cookie(ctx))
SKB(socket_uid, 0, return bpf_get_socket_uid(ctx))
SKB(skb_cgroup, 1, return bpf_skb_cgroup_id(ctx))
SKB(skb_ancestor, 1, return bpf_skb_ancestor_cgroup_id(ctx, 0))
SKB(classid, 0, return bpf_skb_cgroup_classid(ctx))
SKB(cgroup_classid, 0, return bpf_get_cgroup_classid(ctx))
SKB(realm, 0, return bpf_get_route_realm(ctx))
SKB(skb_hash, 0, return ctx->hash)
SKB(skb_type, 0, return ctx->pkt_type)
FILTER(filter_cookie, 1, return bpf_get_socket_cookie(ctx) != 0)
FILTER(filter_uid, 0, return bpf_get_socket_uid(ctx))
EGRESS(egress_socket, 1, return ctx->sk != NULL)
EGRESS(egress_cookie, 1, return bpf_get_socket_cookie(ctx) != 0)
EGRESS(egress_uid, 0, return bpf_get_socket_uid(ctx) != 0)
EGRESS(egress_cgroup, 1, return bpf_skb_cgroup_id(ctx) == 1)
EGRESS(egress_sk_cgroup, 1, struct bpf_sock *sk = ctx->sk; return sk && bpf_sk_cgroup_id(sk) == 1)
EGRESS(egress_ancestor, 1, struct bpf_sock *sk = ctx->sk;
       return sk && bpf_sk_ancestor_cgroup_id(sk, 0) == 1)
EGRESS(egress_ancestor_deep, 1, struct bpf_sock *sk = ctx->sk;
       return sk && bpf_sk_ancestor_cgroup_id(sk, 9) == 0)
EGRESS(egress_full, 1, struct bpf_sock *sk = ctx->sk; return sk && bpf_sk_fullsock(sk) != 0)
EGRESS(egress_storage, 1, struct bpf_sock *sk = ctx->sk;
       return sk && bpf_sk_storage_get(&of_socket, sk, NULL, 1) != 0)
EGRESS(egress_family, 1, return ctx->family == 0)
EGRESS(egress_netns, 1, return bpf_get_netns_cookie(ctx) != 0)
EGRESS(egress_ports, 1, return ctx->remote_port == 0 && ctx->local_port == 0)
EGRESS(egress_addresses, 1, return ctx->remote_ip4 == 0 && ctx->local_ip4 == 0)
EGRESS(egress_listener, 0, struct bpf_sock *sk = ctx->sk;
       return sk && bpf_get_listener_sock(sk) != 0)

#define TP(name, want, ...)                                                                        \
	RETURNS("raw_tp", struct bpf_raw_tracepoint_args, name, want, __VA_ARGS__)
#define READ(name, want, call, n, from)                                                            \
	TP(name, want, char b[8] = "abcdefg"; return bpf_##call(b, n, (void *)(from)))
#define USER 0x7f0000001000ULL
#define LOW 0x1000ULL
/* Neither half's. */
#define HOLE 0x0800000000000000ULL
/* The kernel's, with nothing there. */
#define NONE 0xffffeb0000000000ULL
#define TOP 0xfffffffffffffff8ULL
/* What is told of addresses of the user's, of neither's, of the kernel's; then with size 0. */
#define FAMILY(call, user, hole, kernel, user_0, hole_0, kernel_0)                                 \
	READ(call##_null, user, call, 8, 0)                                                        \
	READ(call##_low, user, call, 8, LOW)                                                       \
	READ(call##_user, user, call, 8, USER)                                                     \
	READ(call##_hole, hole, call, 8, HOLE)                                                     \
	READ(call##_none, kernel, call, 8, NONE)                                                   \
	READ(call##_top, kernel, call, 8, TOP)                                                     \
	READ(call##_null_size_0, user_0, call, 0, 0)                                               \
	READ(call##_low_size_0, user_0, call, 0, LOW)                                              \
	READ(call##_user_size_0, user_0, call, 0, USER)                                            \
	READ(call##_hole_size_0, hole_0, call, 0, HOLE)                                            \
	READ(call##_none_size_0, kernel_0, call, 0, NONE)                                          \
	READ(call##_stack_size_0, kernel_0, call, 0, b)                                            \
	TP(call##_clears, 0x67, char b[8] = "abcdefg"; bpf_##call(b, 4, (void *)LOW);              \
	   return b[0] | b[6])                                                                     \
	TP(call##_clears_null, 0, char b[8] = "abcdefg"; bpf_##call(b, 8, NULL);                   \
	   return b[0] | b[1] | b[6])
FAMILY(probe_read, -14, -34, -14, 0, -34, 0)
FAMILY(probe_read_kernel, -34, -34, -14, -34, -34, 0)
FAMILY(probe_read_user, -14, -14, -14, 0, -14, -14)
FAMILY(probe_read_str, -14, -34, -14, 0, 0, 0)
FAMILY(probe_read_kernel_str, -34, -34, -14, 0, 0, 0)
FAMILY(probe_read_user_str, -14, -14, -14, 0, 0, 0)
TP(probe_read_stack, 0, __u64 v = 7; __u64 w; return bpf_probe_read(&w, 8, &v))
TP(probe_read_str_stack, 4, char s[8] = "abc"; char b[8]; return bpf_probe_read_str(b, 8, s))
TP(probe_read_str_cut, 2, char s[8] = "abc"; char b[8]; return bpf_probe_read_str(b, 2, s))

/* Stacks of the caller. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, 4);
	__uint(value_size, 8 * 16);
} stacks SEC(".maps");

#define FITS(n) ((n) > 0 && (n) % 8 == 0)
TP(stack_kernel, 1, __u64 b[8]; int n = bpf_get_stack(ctx, b, 64, 0); return FITS(n))
TP(stack_user, 1, __u64 b[8]; int n = bpf_get_stack(ctx, b, 64, BPF_F_USER_STACK); return FITS(n))
TP(stack_user_address, 1, __u64 b[8]; bpf_get_stack(ctx, b, 64, BPF_F_USER_STACK);
   return b[0] && b[0] < HOLE)
TP(stack_user_deep, -14, __u64 b[8]; return bpf_get_stack(ctx, b, 64, BPF_F_USER_STACK | 255))
TP(stack_kernel_deep, -14, __u64 b[8]; return bpf_get_stack(ctx, b, 64, 255))
TP(stack_odd, -22, __u64 b[8]; return bpf_get_stack(ctx, b, 63, 0))
TP(stack_size_0, 0, __u64 b[8]; return bpf_get_stack(ctx, b, 0, 0))
TP(stack_flags, -22, __u64 b[8]; return bpf_get_stack(ctx, b, 64, 1 << 12))
TP(stack_build_id_kernel, -22, __u64 b[8];
   return bpf_get_stack(ctx, b, 64, BPF_F_USER_BUILD_ID))
TP(stackid_kernel, 1, return bpf_get_stackid(ctx, &stacks, BPF_F_REUSE_STACKID) >= 0)
TP(stackid_user, 1,
   return bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | BPF_F_REUSE_STACKID) >= 0)
TP(stackid_again, 1, long id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
   return id >= 0 && id == bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP))
TP(stackid_deep, -14, return bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 255))
TP(stackid_flags, -22, return bpf_get_stackid(ctx, &stacks, 1 << 12))
TP(task_stack_user, 1, __u64 b[8];
   int n = bpf_get_task_stack(bpf_get_current_task_btf(), b, 64, BPF_F_USER_STACK);
   return FITS(n))
TP(tp_tgid, 1, return bpf_get_current_pid_tgid() >> 32 != 0)
TP(tp_mm, 1, return bpf_get_current_task_btf()->mm != NULL)
TP(tp_comm, 1, char b[16] = ""; return !bpf_get_current_comm(b, 16) && b[0])
TP(tp_cgroup, 1, return bpf_get_current_cgroup_id())

#define SYN(v) struct iphdr ip = {}; struct ipv6hdr ip6 = {}; struct tcphdr th = {}; th.doff = v
SKB(syncookie4_gen, 1, SYN(5); return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 20) >= 0)
SKB(syncookie4_gen_short, -22, SYN(5); return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 19))
SKB(syncookie4_gen_doff, -22, SYN(4); return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 20))
SKB(syncookie4_gen_mss, 536, SYN(5); return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 20) >> 32)
SKB(syncookie6_gen_mss, 1220, SYN(5); return bpf_tcp_raw_gen_syncookie_ipv6(&ip6, &th, 20) >> 32)
SKB(syncookie4_check, -13, SYN(5); return bpf_tcp_raw_check_syncookie_ipv4(&ip, &th))
SKB(syncookie6_check, -13, SYN(5); return bpf_tcp_raw_check_syncookie_ipv6(&ip6, &th))
SKB(syncookie4, 0, SYN(5); th.seq = bpf_htonl(7);
    __s64 c = bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 20); if (c < 0) return c;
    th.seq = bpf_htonl(8); th.ack_seq = bpf_htonl((__u32)c + 1);
    return bpf_tcp_raw_check_syncookie_ipv4(&ip, &th))
SKB(syncookie6, 0, SYN(5); th.seq = bpf_htonl(7);
    __s64 c = bpf_tcp_raw_gen_syncookie_ipv6(&ip6, &th, 20); if (c < 0) return c;
    th.seq = bpf_htonl(8); th.ack_seq = bpf_htonl((__u32)c + 1);
    return bpf_tcp_raw_check_syncookie_ipv6(&ip6, &th))
SKB(syncookie4_other, -13, SYN(5); th.seq = bpf_htonl(7);
    __s64 c = bpf_tcp_raw_gen_syncookie_ipv4(&ip, &th, 20); if (c < 0) return c;
    th.seq = bpf_htonl(8); th.ack_seq = bpf_htonl((__u32)c + 1); th.dest = 1;
    return bpf_tcp_raw_check_syncookie_ipv4(&ip, &th))

/* The SYN names a segment size; the sizes that a cookie can tell. */
#define OPTIONS(mss) SYN(6); struct { struct tcphdr th; __u8 o[4]; } s = { th, { 2, 4, mss } }
SKB(syncookie4_mss_1460, 1460, OPTIONS(0x05); s.o[3] = 0xb4;
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 24) >> 32)
SKB(syncookie4_mss_1459, 1440, OPTIONS(0x05); s.o[3] = 0xb3;
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 24) >> 32)
SKB(syncookie4_mss_small, 536, OPTIONS(0); s.o[3] = 1;
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 24) >> 32)
SKB(syncookie6_mss_9000, 8940, OPTIONS(0x23); s.o[3] = 0x28;
    return bpf_tcp_raw_gen_syncookie_ipv6(&ip6, &s.th, 24) >> 32)
SKB(syncookie6_mss_1460, 1440, OPTIONS(0x05); s.o[3] = 0xb4;
    return bpf_tcp_raw_gen_syncookie_ipv6(&ip6, &s.th, 24) >> 32)
SKB(syncookie4_mss_nop, 1300, SYN(7);
    struct { struct tcphdr th; __u8 o[8]; } s = { th, { 1, 1, 3, 2, 2, 4, 0x05, 0x20 } };
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 28) >> 32)
SKB(syncookie4_mss_end, 536, SYN(7);
    struct { struct tcphdr th; __u8 o[8]; } s = { th, { 1, 0, 1, 1, 2, 4, 0x05, 0x20 } };
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 28) >> 32)
SKB(syncookie4_mss_bad, 536, SYN(7);
    struct { struct tcphdr th; __u8 o[8]; } s = { th, { 3, 1, 1, 1, 2, 4, 0x05, 0x20 } };
    return bpf_tcp_raw_gen_syncookie_ipv4(&ip, &s.th, 28) >> 32)

/* The caller. */
CALL(tgid, 1, return bpf_get_current_pid_tgid() >> 32 != 0)
CALL(pid, 1, return (__u32)bpf_get_current_pid_tgid() != 0)
CALL(uid_gid, 0, return bpf_get_current_uid_gid() != 0)
CALL(comm, 1, char b[16] = ""; if (bpf_get_current_comm(b, 16)) return -1; return b[0] != 0)
CALL(no_swapper, 1, char b[16] = ""; if (bpf_get_current_comm(b, 16)) return -1;
     return __builtin_memcmp(b, "swapper/", 8) != 0)
CALL(comm_short, 0, char b[16] = "xxxxxxxx"; if (bpf_get_current_comm(b, 2)) return -1;
     return b[1])
CALL(task_pid, 0, struct task_struct *t = bpf_get_current_task_btf();
     return t->pid != (__u32)bpf_get_current_pid_tgid())
CALL(task_kthread, 0, struct task_struct *t = bpf_get_current_task_btf();
     return (t->flags & 0x200000) != 0)
CALL(task_mm, 1, struct task_struct *t = bpf_get_current_task_btf(); return t->mm != NULL)
CALL(ns_tgid, -22, struct bpf_pidns_info p; return bpf_get_ns_current_pid_tgid(1, 1, &p, 8))
CALL(copy_null, -14, __u64 v; return bpf_copy_from_user(&v, 8, NULL))
CALL(copy_size_0, 0, __u64 v; return bpf_copy_from_user(&v, 0, NULL))
CALL(copy_kernel, -14, __u64 v; return bpf_copy_from_user(&v, 8, (void *)NONE))
CALL(cgroup_id, 1, return bpf_get_current_cgroup_id() != 0)
CALL(ancestor_cgroup_id, 1, return bpf_get_current_ancestor_cgroup_id(0) != 0)
CALL(ancestor_cgroup_deep, 0, return bpf_get_current_ancestor_cgroup_id(1000) != 0)
CALL(signal_bad, -22, return bpf_send_signal(65))
CALL(signal_thread_bad, -22, return bpf_send_signal_thread(65))
