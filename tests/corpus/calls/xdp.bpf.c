/* XDP helpers. */
#include "calls.h"

#define TO_END(xdp) ((long)(xdp)->data_end - (long)(xdp)->data)

SEC("xdp.frags") int bytes_big(struct xdp_md *xdp)
{
	__u64 v = 0;

	note(bpf_xdp_get_buff_len(xdp));
	note(TO_END(xdp));
	note(bpf_xdp_load_bytes(xdp, 26, &v, 8));
	note(bpf_be64_to_cpu(v));
	note(bpf_xdp_load_bytes(xdp, TO_END(xdp) - 4, &v, 8));
	note(v);
	note(bpf_xdp_load_bytes(xdp, 9034, &v, 8));
	note(bpf_xdp_load_bytes(xdp, 9035, &v, 8));
	note(bpf_xdp_load_bytes(xdp, 0xffff, &v, 8));
	note(bpf_xdp_load_bytes(xdp, 0x10000, &v, 8));
	v = 0;
	note(bpf_xdp_store_bytes(xdp, TO_END(xdp) - 4, &v, 8));
	v = 1;
	note(bpf_xdp_load_bytes(xdp, TO_END(xdp) - 4, &v, 8));
	note(v);
	note(bpf_xdp_store_bytes(xdp, 9038, &v, 8));
	return XDP_PASS;
}

SEC("xdp.frags") int tail_big(struct xdp_md *xdp)
{
	note(bpf_xdp_adjust_tail(xdp, -5000));
	note(bpf_xdp_get_buff_len(xdp));
	note(bpf_xdp_adjust_tail(xdp, -4000));
	note(bpf_xdp_get_buff_len(xdp));
	note(bpf_xdp_adjust_tail(xdp, -40));
	note(bpf_xdp_adjust_tail(xdp, -20));
	note(bpf_xdp_get_buff_len(xdp));
	note(TO_END(xdp));
	return XDP_PASS;
}

SEC("xdp") int adjust(struct xdp_md *xdp)
{
	note(bpf_xdp_adjust_head(xdp, -257));
	note(bpf_xdp_adjust_head(xdp, -217));
	note(bpf_xdp_adjust_head(xdp, -216));
	note(TO_END(xdp));
	note(bpf_xdp_adjust_head(xdp, 216));
	note(bpf_xdp_adjust_head(xdp, 46));
	note(bpf_xdp_adjust_head(xdp, 44));
	note(bpf_xdp_adjust_head(xdp, -44));
	note(bpf_xdp_adjust_meta(xdp, -3));
	note(bpf_xdp_adjust_meta(xdp, -217));
	note(bpf_xdp_adjust_meta(xdp, -216));
	note(bpf_xdp_adjust_meta(xdp, 4));
	note((long)xdp->data - (long)xdp->data_meta);
	note(bpf_xdp_adjust_head(xdp, -4));
	note(bpf_xdp_adjust_head(xdp, -5));
	note((long)xdp->data - (long)xdp->data_meta);
	note(bpf_xdp_adjust_meta(xdp, 300));
	note(bpf_xdp_adjust_tail(xdp, 0));
	note(bpf_xdp_adjust_tail(xdp, 64));
	note(bpf_xdp_adjust_tail(xdp, 4096));
	note(bpf_xdp_adjust_tail(xdp, -64));
	note(bpf_xdp_adjust_tail(xdp, -45));
	note(bpf_xdp_adjust_tail(xdp, -4096));
	note(TO_END(xdp));
	return XDP_PASS;
}

SEC("xdp") int mtu(struct xdp_md *xdp)
{
	__u32 len = 0;

	note(bpf_check_mtu(xdp, 0, &len, 0, 0));
	note(len);
	len = 65537;
	note(bpf_check_mtu(xdp, 1, &len, 0, 0));
	note(bpf_check_mtu(xdp, 1, &len, 0, 1));
	note(bpf_check_mtu(xdp, 9999, &len, 0, 0));
	len = 0;
	note(bpf_check_mtu(xdp, 1, &len, 65500, 0));
	note(bpf_check_mtu(xdp, 1, &len, -70, 0));
	return XDP_PASS;
}

SEC("xdp") int redirects(struct xdp_md *xdp)
{
	note(bpf_redirect(1, 0));
	note(bpf_redirect(1, 1));
	note(bpf_redirect(9999, 0));
	return XDP_PASS;
}
