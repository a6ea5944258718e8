/* Tunnel metadata. */
#include "calls.h"

static __always_inline void key_noted(struct bpf_tunnel_key *key)
{
	note(key->tunnel_id);
	note(key->remote_ipv4);
	note(key->remote_ipv6[3]);
	note(key->tunnel_tos);
	note(key->tunnel_ttl);
	note(bpf_ntohs(key->tunnel_flags));
	note(key->tunnel_label);
	note(key->local_ipv4);
	note(key->local_ipv6[3]);
}

SEC("tc") int none(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = { .tunnel_id = 7, .remote_ipv4 = 8 };
	__u32 opt = 9;

	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0));
	key_noted(&key);
	note(bpf_skb_get_tunnel_opt(skb, &opt, sizeof(opt)));
	note(opt);
	note(bpf_skb_set_tunnel_opt(skb, &opt, sizeof(opt)));
	return 0;
}

SEC("tc") int v4(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = 0x11223344, .remote_ipv4 = 0x0a000001, .tunnel_tos = 3, .tunnel_ttl = 64,
		.local_ipv4 = 0x0a000002,
	};

	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0));
	__builtin_memset(&key, 0xff, sizeof(key));
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0));
	key_noted(&key);
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 1));
	key_noted(&key);
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 2));
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 16));
	note(bpf_ntohs(key.tunnel_flags));
	return 0;
}

SEC("tc") int v6(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = 5, .remote_ipv6 = { 1, 2, 3, 4 }, .tunnel_ttl = 9, .tunnel_label = 0x12345,
		.local_ipv6 = { 5, 6, 7, 8 },
	};

	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 1 | 2 | 4 | 8));
	__builtin_memset(&key, 0xff, sizeof(key));
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 1 | 16));
	key_noted(&key);
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0));
	note(key.tunnel_id);
	return 0;
}

SEC("tc") int flags(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	for (int i = 0; i < 32; i += 2) {
		bpf_skb_set_tunnel_key(skb, &key, sizeof(key), i);
		bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 16);
		note(bpf_ntohs(key.tunnel_flags));
		key.tunnel_flags = 0;
	}
	return 0;
}

SEC("tc") int errors(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 32));
	key.tunnel_label = 1;
	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0));
	key.tunnel_label = 0;
	key.tunnel_ext = 1;
	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0));
	key.tunnel_ext = 0;
	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key) - 1, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, 28, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, 24, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, 22, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, 8, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, 4, 0));
	note(bpf_skb_get_tunnel_key(skb, &key, 28, 0));
	note(bpf_skb_get_tunnel_key(skb, &key, 24, 0));
	note(bpf_skb_get_tunnel_key(skb, &key, 22, 0));
	note(bpf_skb_get_tunnel_key(skb, &key, 8, 0));
	note(bpf_skb_get_tunnel_key(skb, &key, 4, 0));
	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 1));
	note(bpf_skb_get_tunnel_key(skb, &key, 28, 1));
	note(bpf_skb_get_tunnel_key(skb, &key, 24, 1));
	note(bpf_skb_get_tunnel_key(skb, &key, 8, 1));
	return 0;
}

SEC("tc") int options(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	__u32 opt[3] = { 1, 2, 3 };

	note(bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0));
	note(bpf_skb_get_tunnel_opt(skb, &opt, sizeof(opt)));
	note(opt[0]);
	opt[0] = 4;
	opt[1] = 5;
	note(bpf_skb_set_tunnel_opt(skb, &opt, 8));
	note(bpf_skb_set_tunnel_opt(skb, &opt, 7));
	note(bpf_skb_get_tunnel_opt(skb, &opt, 4));
	note(opt[0]);
	opt[2] = 9;
	note(bpf_skb_get_tunnel_opt(skb, &opt, sizeof(opt)));
	note(opt[0]);
	note(opt[1]);
	note(opt[2]);
	note(bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 16));
	note(bpf_ntohs(key.tunnel_flags));
	return 0;
}
