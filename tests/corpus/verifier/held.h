/* What callbacks and critical sections work on. */
#pragma once

#include "kernel.h"

struct timed {
	int x;
	struct bpf_timer t;
};

struct work {
	int x;
	struct bpf_wq w;
};

struct locked {
	struct bpf_res_spin_lock l;
	int n;
};

#define MAP(name, kind, val) \
	struct { \
		__uint(type, kind); \
		__uint(max_entries, 4); \
		__type(key, int); \
		__type(value, val); \
	} name SEC(".maps")
MAP(timers, BPF_MAP_TYPE_ARRAY, struct timed);
MAP(timers2, BPF_MAP_TYPE_HASH, struct timed);
MAP(wqs, BPF_MAP_TYPE_ARRAY, struct work);
MAP(wqs2, BPF_MAP_TYPE_HASH, struct work);
MAP(locks2, BPF_MAP_TYPE_HASH, struct locked);
MAP(plain, BPF_MAP_TYPE_ARRAY, u64);

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} urb SEC(".maps");

private(A) struct bpf_res_spin_lock la;
private(B) struct bpf_res_spin_lock lb;
private(C) struct bpf_spin_lock lc;
int sink;
