/* Declaration tags by which a program says what is expected of it, as the kernel's tests write
 * them, and programs that are one expression. */
#pragma once

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define __tag(text) __attribute__((btf_decl_tag("comment:" text)))
#define __success __tag("test_expect_success")
#define __retval(value) __tag("test_retval=" #value)

/* A program of a type, and what it returns. */
#define RETURNS(type, ctx_type, name, want, ...)                                                   \
	SEC(type) __success __retval(want) int name(ctx_type *ctx)                                 \
	{                                                                                          \
		__VA_ARGS__;                                                                       \
	}

char _license[] SEC("license") = "GPL";
