/* Bytes, checksums, hash and metadata of sk_buffs. */
#include "calls.h"

SEC("tc") int load(struct __sk_buff *skb)
{
	__u64 v = -1;

	note(bpf_skb_load_bytes(skb, 14, &v, 4));
	note(bpf_be64_to_cpu(v));
	note(bpf_skb_load_bytes(skb, 60, &v, 8));
	note(v);
	note(bpf_skb_load_bytes(skb, 0x7fffffff, &v, 8));
	note(bpf_skb_load_bytes(skb, -1, &v, 8));
	note(bpf_skb_load_bytes_relative(skb, 0, &v, 8, BPF_HDR_START_MAC));
	note(bpf_be64_to_cpu(v));
	note(bpf_skb_load_bytes_relative(skb, 0, &v, 8, BPF_HDR_START_NET));
	note(bpf_be64_to_cpu(v));
	note(bpf_skb_load_bytes_relative(skb, 44, &v, 8, BPF_HDR_START_NET));
	note(bpf_skb_load_bytes_relative(skb, 0, &v, 8, 2));
	return 0;
}

SEC("tc") int store(struct __sk_buff *skb)
{
	__u64 v = bpf_cpu_to_be64(0x0102030405060708);

	note(bpf_skb_store_bytes(skb, 0, &v, 8, 0));
	note(bpf_skb_store_bytes(skb, 8, &v, 4, 1));
	note(bpf_skb_store_bytes(skb, 12, &v, 1, 3));
	note(bpf_skb_store_bytes(skb, 12, &v, 1, 4));
	note(bpf_skb_store_bytes(skb, 51, &v, 8, 0));
	note(bpf_skb_store_bytes(skb, -1, &v, 8, 0));
	return 0;
}

SEC("tc") int csum(struct __sk_buff *skb)
{
	note(bpf_l3_csum_replace(skb, 24, bpf_htonl(0x0a000001), bpf_htonl(0x0a000003), 4));
	note(bpf_l3_csum_replace(skb, 24, bpf_htons(0x4001), bpf_htons(0x3f01), 2));
	note(bpf_l3_csum_replace(skb, 24, 0, bpf_htonl(0x1234), 0));
	note(bpf_l3_csum_replace(skb, 24, 1, 0x1234, 0));
	note(bpf_l3_csum_replace(skb, 24, 1, 2, 3));
	note(bpf_l3_csum_replace(skb, 24, 1, 2, 16));
	note(bpf_l3_csum_replace(skb, 25, 1, 2, 2));
	note(bpf_l3_csum_replace(skb, 0x10000, 1, 2, 2));
	note(bpf_l3_csum_replace(skb, 200, 1, 2, 2));
	note(bpf_l4_csum_replace(skb, 40, bpf_htons(1), bpf_htons(2), 2));
	note(bpf_l4_csum_replace(skb, 40, bpf_htons(1), bpf_htons(2), 2 | BPF_F_MARK_MANGLED_0));
	note(bpf_l4_csum_replace(skb, 40, bpf_htonl(1), bpf_htonl(2), 4 | BPF_F_PSEUDO_HDR));
	note(bpf_l4_csum_replace(skb, 40, bpf_htonl(1), bpf_htonl(2), 4 | 1 << 8));
	note(bpf_l4_csum_replace(skb, 40, bpf_htonl(7), bpf_htonl(0x12345678), 4 | 1 << 7));
	return 0;
}

SEC("tc") int csum_mangled(struct __sk_buff *skb)
{
	note(bpf_l4_csum_replace(skb, 40, bpf_htons(1), bpf_htons(2), 2 | BPF_F_MARK_MANGLED_0));
	note(bpf_l4_csum_replace(skb, 40, bpf_htons(1), bpf_htons(2), 2 | BPF_F_MARK_MANGLED_0 | BPF_F_MARK_ENFORCE));
	return 0;
}

SEC("tc") int level(struct __sk_buff *skb)
{
	note(bpf_csum_level(skb, 0));
	note(bpf_csum_level(skb, 2));
	note(bpf_csum_level(skb, 1));
	note(bpf_csum_level(skb, 0));
	for (int i = 0; i < 4; i++) {
		note(bpf_csum_level(skb, 1));
		note(bpf_csum_level(skb, 0));
	}
	for (int i = 0; i < 5; i++) {
		note(bpf_csum_level(skb, 2));
		note(bpf_csum_level(skb, 0));
	}
	note(bpf_csum_level(skb, 1));
	note(bpf_csum_level(skb, 1));
	note(bpf_csum_level(skb, 3));
	note(bpf_csum_level(skb, 0));
	note(bpf_csum_level(skb, 4));
	note(bpf_csum_level(skb, 1));
	note(bpf_skb_adjust_room(skb, 8, 1, 1 << 5));
	note(bpf_csum_level(skb, 0));
	note(bpf_skb_adjust_room(skb, 8, 1, 0));
	note(bpf_csum_level(skb, 0));
	note(bpf_csum_update(skb, 1));
	return 0;
}

SEC("tc") int hash(struct __sk_buff *skb)
{
	note(bpf_set_hash(skb, 77));
	note(skb->hash);
	note(bpf_get_hash_recalc(skb));
	bpf_set_hash_invalid(skb);
	note(skb->hash != 77);
	note(bpf_set_hash(skb, 78));
	note(bpf_skb_change_proto(skb, bpf_htons(0x86dd), 0));
	note(skb->hash);
	return 0;
}

SEC("tc") int tstamp(struct __sk_buff *skb)
{
	note(skb->tstamp_type);
	note(bpf_skb_set_tstamp(skb, 5, 1));
	note(skb->tstamp);
	note(skb->tstamp_type);
	note(bpf_skb_set_tstamp(skb, 6, 0));
	note(bpf_skb_set_tstamp(skb, 0, 0));
	note(skb->tstamp);
	note(skb->tstamp_type);
	note(bpf_skb_set_tstamp(skb, 0, 1));
	note(bpf_skb_set_tstamp(skb, 7, 2));
	note(skb->tstamp_type);
	note(bpf_skb_set_tstamp(skb, 7, 3));
	note(skb->tstamp_type);
	note(bpf_skb_set_tstamp(skb, 7, 4));
	return 0;
}

SEC("tc") int tstamp_raw(struct __sk_buff *skb)
{
	note(bpf_skb_set_tstamp(skb, 5, 1));
	note(bpf_skb_set_tstamp(skb, 0, 0));
	return 0;
}

SEC("tc") int ecn(struct __sk_buff *skb)
{
	__u8 tos = 2;

	note(bpf_skb_ecn_set_ce(skb));
	bpf_skb_store_bytes(skb, 15, &tos, 1, 0);
	note(bpf_skb_ecn_set_ce(skb));
	note(bpf_skb_ecn_set_ce(skb));
	return 0;
}

SEC("tc") int ecn_v6(struct __sk_buff *skb)
{
	__u8 flow = 0x10;

	note(bpf_skb_ecn_set_ce(skb));
	bpf_skb_store_bytes(skb, 15, &flow, 1, 0);
	note(bpf_skb_ecn_set_ce(skb));
	note(bpf_skb_ecn_set_ce(skb));
	return 0;
}

SEC("tc") int ecn_raw(struct __sk_buff *skb)
{
	note(bpf_skb_ecn_set_ce(skb));
	return 0;
}

SEC("tc") int mtu(struct __sk_buff *skb)
{
	__u32 len = 0;

	note(bpf_check_mtu(skb, 0, &len, 0, 0));
	note(len);
	len = 65536;
	note(bpf_check_mtu(skb, 1, &len, 0, 0));
	len = 65537;
	note(bpf_check_mtu(skb, 1, &len, 0, 0));
	note(len);
	len = 65000;
	note(bpf_check_mtu(skb, 1, &len, 1000, 0));
	note(len);
	note(bpf_check_mtu(skb, 9999, &len, 0, 0));
	note(bpf_check_mtu(skb, 1, &len, 0, 1));
	note(bpf_check_mtu(skb, 1, &len, 0, 2));
	len = 0;
	note(bpf_check_mtu(skb, 1, &len, 1, 1));
	note(bpf_check_mtu(skb, 1, &len, 0, 1));
	note(bpf_check_mtu(skb, 1, &len, -40, 0));
	return 0;
}

SEC("tc") int redirects(struct __sk_buff *skb)
{
	note(bpf_get_cgroup_classid(skb));
	note(bpf_get_route_realm(skb));
	note(bpf_redirect_neigh(1, NULL, 0, 0));
	note(bpf_redirect_neigh(1, NULL, 0, 1));
	note(bpf_redirect_peer(1, 0));
	note(bpf_redirect_peer(1, 1));
	note(bpf_redirect(1, 0));
	note(bpf_redirect(1, 1));
	note(bpf_redirect(1, 2));
	return 0;
}
