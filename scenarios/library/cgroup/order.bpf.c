// Which programs run for a group, and in which order: each notes its letter.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char trace[256];
__u32 at;

static __always_inline int note(char letter)
{
	if (at < sizeof(trace) - 1)
		trace[at++] = letter;
	return 1;
}

#define NOTE(name, letter)                                                                         \
	SEC("cgroup/sock_create")                                                                  \
	int name(struct bpf_sock *sk)                                                              \
	{                                                                                          \
		return note(letter);                                                               \
	}

NOTE(root_a, 'a')
NOTE(root_b, 'b')
NOTE(web_c, 'c')
NOTE(web_d, 'd')
NOTE(web_e, 'e')
NOTE(front_f, 'f')
NOTE(front_g, 'g')
NOTE(new_h, 'h')

// One refuses, and the others still run.
SEC("cgroup/sock_create")
int refuse(struct bpf_sock *sk)
{
	note('x');
	return 0;
}

__s32 seen;

// An error that one of them set stays, whatever those behind it return.
SEC("cgroup/sock_create")
int busy(struct bpf_sock *sk)
{
	note('y');
	return 1;
}

// Connections: a program that may be replaced by one of a group below.
SEC("cgroup/connect4")
int general(struct bpf_sock_addr *ctx)
{
	note('G');
	return 1;
}

SEC("cgroup/connect4")
int special(struct bpf_sock_addr *ctx)
{
	note('S');
	seen = bpf_get_retval();
	bpf_set_retval(-111);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
