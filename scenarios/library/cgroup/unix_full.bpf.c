// Names and lengths that sockets of AF_UNIX have, by the functions that their calls come to.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

__u32 packets, nameless, autobound, receives;

SEC("fentry/unix_seqpacket_sendmsg")
int BPF_PROG(packet, struct socket *sock, struct msghdr *msg, unsigned long len)
{
	packets++;
	return 0;
}

// Who sends has a name of five digits, or none.
SEC("fentry/unix_dgram_recvmsg")
int BPF_PROG(datagram, struct socket *sock)
{
	struct unix_sock *u = bpf_skc_to_unix_sock(sock->sk);
	struct unix_address *addr = u ? BPF_CORE_READ(u, addr) : 0;
	char name[7] = {};

	receives++;
	if (!addr) {
		nameless++;
		return 0;
	}
	bpf_probe_read_kernel(name, 6, &addr->name[0].sun_path);
	for (int i = 1; i < 6; i++)
		if (!(name[i] >= '0' && name[i] <= '9') && !(name[i] >= 'a' && name[i] <= 'f'))
			return 0;
	autobound += BPF_CORE_READ(addr, len) == 8 && !name[0];
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
