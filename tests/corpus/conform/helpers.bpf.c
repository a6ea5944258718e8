/* What helpers return, errno by errno, as those of Linux 6.18 do. A test run gives programs a
 * packet of 64 zero bytes. */
#include "annotated.h"

extern int bpf_dynptr_from_skb(struct __sk_buff *s, __u64 flags, struct bpf_dynptr *p) __ksym;

#define SKB(name, want, ...) RETURNS("tc", struct __sk_buff, name, want, __VA_ARGS__)
#define XDP(name, want, ...) RETURNS("xdp", struct xdp_md, name, want, __VA_ARGS__)

SKB(load_bytes, 0, __u64 v; return bpf_skb_load_bytes(ctx, 0, &v, 8))
SKB(load_bytes_at_end, 0, __u64 v; return bpf_skb_load_bytes(ctx, 56, &v, 8))
SKB(load_bytes_beyond, -14, __u64 v; return bpf_skb_load_bytes(ctx, 57, &v, 8))
SKB(load_bytes_far, -14, __u64 v; return bpf_skb_load_bytes(ctx, 0x10000, &v, 8))
SKB(load_relative, 0, __u64 v; return bpf_skb_load_bytes_relative(ctx, 0, &v, 8, BPF_HDR_START_MAC))
SKB(load_relative_beyond, -14, __u64 v;
    return bpf_skb_load_bytes_relative(ctx, 60, &v, 8, BPF_HDR_START_MAC))
SKB(load_relative_nowhere, -14, __u64 v; return bpf_skb_load_bytes_relative(ctx, 0, &v, 8, 2))
SKB(store_bytes, 0, __u64 v = 1; return bpf_skb_store_bytes(ctx, 0, &v, 8, 0))
SKB(store_bytes_beyond, -14, __u64 v = 1; return bpf_skb_store_bytes(ctx, 60, &v, 8, 0))
SKB(store_bytes_flags, -22, __u64 v = 1; return bpf_skb_store_bytes(ctx, 0, &v, 8, 4))
SKB(pull_data, 0, return bpf_skb_pull_data(ctx, 0))
SKB(pull_data_beyond, -12, return bpf_skb_pull_data(ctx, 65))
SKB(l3_csum_flags, -22, return bpf_l3_csum_replace(ctx, 24, 0, 1, 16))
SKB(l3_csum_size, -22, return bpf_l3_csum_replace(ctx, 24, 0, 1, 3))
SKB(l3_csum_odd, -14, return bpf_l3_csum_replace(ctx, 25, 0, 1, 2))
SKB(l3_csum_beyond, -14, return bpf_l3_csum_replace(ctx, 0x10000, 0, 1, 2))
SKB(l3_csum, 0, return bpf_l3_csum_replace(ctx, 24, 0, 1, 2))
SKB(l4_csum_odd, -14, return bpf_l4_csum_replace(ctx, 35, 0, 1, 2))
SKB(l4_csum, 0, return bpf_l4_csum_replace(ctx, 34, 0, 1, 2))
#define ONES 0x0101010101010101ULL
SKB(csum_diff_odd, 0x303, __u64 v = ONES; return bpf_csum_diff(NULL, 0, (void *)&v, 6, 0))
SKB(csum_diff_same, 0xffff, __u32 v = 0; return bpf_csum_diff(&v, 4, &v, 4, 0))
SKB(csum_diff_from, 0xfdfd, __u64 v = ONES; return bpf_csum_diff((void *)&v, 4, NULL, 0, 0))
SKB(csum_diff_from_zeroes, 0, __u32 v = 0; return bpf_csum_diff(&v, 4, NULL, 0, 0))
SKB(csum_diff_of_nothing, 0x2346, return bpf_csum_diff(NULL, 0, NULL, 0, 0x12345))
SKB(vlan_protocol, 0, return bpf_skb_vlan_push(ctx, 0x1234, 1))
SKB(vlan_pop_none, 0, return bpf_skb_vlan_pop(ctx))
SKB(change_tail_flags, -22, return bpf_skb_change_tail(ctx, 70, 1))
SKB(change_tail, 0, return bpf_skb_change_tail(ctx, 80, 0))
SKB(change_tail_short, -22, return bpf_skb_change_tail(ctx, 3, 0))
SKB(change_head_flags, -22, return bpf_skb_change_head(ctx, 4, 1))
SKB(change_head, 0, return bpf_skb_change_head(ctx, 4, 0))
SKB(change_type, -22, return bpf_skb_change_type(ctx, 9))
SKB(change_proto, -524, return bpf_skb_change_proto(ctx, 0x0608, 0))
SKB(adjust_room_flags, -22, return bpf_skb_adjust_room(ctx, 4, 0, 1ULL << 40))
SKB(adjust_room_large, -14, return bpf_skb_adjust_room(ctx, 0x1000, 0, 0))
SKB(redirect_flags, 2, return bpf_redirect(1, 8))
SKB(clone_redirect_flags, -22, return bpf_clone_redirect(ctx, 1, 8))
SKB(clone_redirect_nowhere, -22, return bpf_clone_redirect(ctx, 0x7fffffff, 0))
SKB(set_tunnel_key_size, -22, __u32 k = 1; return bpf_skb_set_tunnel_key(ctx, (void *)&k, 4, 0))
SKB(hash_recalc, 0, bpf_set_hash_invalid(ctx); return 0)
SKB(ecn, 0, return bpf_skb_ecn_set_ce(ctx))
SKB(strtol_empty, -22, char s[2] = ""; long v; return bpf_strtol(s, 1, 0, &v))
SKB(strtol_length, 2, char s[4] = "12"; long v; return bpf_strtol(s, 3, 0, &v))
SKB(strtol_value, 12, char s[4] = "12"; long v = 0; bpf_strtol(s, 3, 0, &v); return v)
SKB(strtol_base, -22, char s[4] = "12"; long v; return bpf_strtol(s, 3, 7, &v))
SKB(strtol_words, -22, char s[4] = "ab"; long v; return bpf_strtol(s, 3, 10, &v))
SKB(strtol_range, -34, char s[24] = "99999999999999999999"; long v; return bpf_strtol(s, 24, 10, &v))
SKB(strtoul_negative, -22, char s[4] = "-1"; unsigned long v; return bpf_strtoul(s, 3, 10, &v))

static long third(__u32 i, void *ctx)
{
	return i == 3;
}

static long always(__u32 i, void *ctx)
{
	return 0;
}

SKB(loop, 10, return bpf_loop(10, always, NULL, 0))
SKB(loop_ends, 4, return bpf_loop(10, third, NULL, 0))
SKB(loop_flags, -22, return bpf_loop(10, always, NULL, 1))
SKB(loop_long, -7, return bpf_loop((1 << 23) + 1, always, NULL, 0))

SKB(dynptr_read, 0, __u64 v; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    return bpf_dynptr_read(&v, 8, &p, 0, 0))
SKB(dynptr_read_beyond, -7, __u64 v; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    return bpf_dynptr_read(&v, 8, &p, 60, 0))
SKB(dynptr_read_flags, -22, __u64 v; struct bpf_dynptr p; bpf_dynptr_from_skb(ctx, 0, &p);
    return bpf_dynptr_read(&v, 8, &p, 0, 1))

XDP(adjust_head, 0, return bpf_xdp_adjust_head(ctx, 4))
XDP(adjust_head_beyond, -22, return bpf_xdp_adjust_head(ctx, 60))
XDP(adjust_head_far, -22, return bpf_xdp_adjust_head(ctx, -4096))
XDP(adjust_tail, 0, return bpf_xdp_adjust_tail(ctx, -4))
XDP(adjust_tail_short, -22, return bpf_xdp_adjust_tail(ctx, -60))
XDP(adjust_tail_far, -22, return bpf_xdp_adjust_tail(ctx, 0x10000))
XDP(adjust_meta, 0, return bpf_xdp_adjust_meta(ctx, -8))
XDP(adjust_meta_odd, -13, return bpf_xdp_adjust_meta(ctx, -7))
XDP(adjust_meta_most, 0, return bpf_xdp_adjust_meta(ctx, -128))
XDP(adjust_meta_large, -22, return bpf_xdp_adjust_meta(ctx, -512))
XDP(xdp_load_bytes, 0, __u64 v; return bpf_xdp_load_bytes(ctx, 0, &v, 8))
XDP(xdp_load_bytes_beyond, -22, __u64 v; return bpf_xdp_load_bytes(ctx, 60, &v, 8))
XDP(xdp_store_bytes_beyond, -22, __u64 v = 1; return bpf_xdp_store_bytes(ctx, 60, &v, 8))
XDP(xdp_buff_len, 64, return bpf_xdp_get_buff_len(ctx))
XDP(xdp_redirect_flags, 0, return bpf_redirect(1, 8))
