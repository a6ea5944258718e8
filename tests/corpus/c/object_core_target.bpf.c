// The types object_core is relocated against.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct thing {
	long pad[3];
	struct {
		int first;
		union {
			int moved;
			char other;
		};
	};
	unsigned before : 5;
	unsigned flag : 3;
} thing;

char LICENSE[] SEC("license") = "GPL";
