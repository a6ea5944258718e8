/* Notes of what calls return; suites/calls.rs reads them. */
#pragma once

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define NOTES 64
#define true 1
#define false 0

/* One variable, so that its place in the section is known. */
struct {
	__u64 out[NOTES];
	__u64 made;
} notes SEC(".data.notes");

static __always_inline void note(__u64 value)
{
	__u64 at = notes.made;

	if (at < NOTES) {
		notes.out[at] = value;
		notes.made = at + 1;
	}
}

char _license[] SEC("license") = "GPL";
