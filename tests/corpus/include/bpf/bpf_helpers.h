/* What a BPF program in C needs to declare itself, its maps and its loops.
 *
 * The names are those that programs already use with libbpf, so that an unmodified source builds here.
 * A program includes either <linux/bpf.h> or "vmlinux.h" first.
 */
#pragma once

#include "bpf_helper_defs.h"

/* Map attributes: the value travels as an array length, the type as a pointer. */
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define __ulong(name, val) enum { ___bpf_paste(__ulong_value_, __COUNTER__) = val } name

#define ___bpf_paste_(a, b) a##b
#define ___bpf_paste(a, b) ___bpf_paste_(a, b)

/* Section of a program, map or variable. GCC warns about it on extern declarations; clang does not. */
#define SEC(name) __attribute__((section(name), used))

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif
#ifndef __weak
#define __weak __attribute__((weak))
#endif
#define __hidden __attribute__((visibility("hidden")))

#ifndef NULL
#define NULL ((void *)0)
#endif
#ifndef KERNEL_VERSION
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#endif
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#ifndef container_of
#define container_of(ptr, type, member)                                  \
	({                                                               \
		void *__container_ptr = (void *)(ptr);                   \
		((type *)(__container_ptr - offsetof(type, member)));    \
	})
#endif

#ifndef barrier
#define barrier() asm volatile("" ::: "memory")
#endif
/* The compiler must treat the variable as changed: keeps a bounds check in front of its use. */
#ifndef barrier_var
#define barrier_var(var) asm volatile("" : "+r"(var))
#endif

/* A path that cannot be taken; the call fails to link when the compiler thinks it can. */
#ifndef __bpf_unreachable
#define __bpf_unreachable() __builtin_trap()
#endif

enum libbpf_pin_type {
	LIBBPF_PIN_NONE,
	LIBBPF_PIN_BY_NAME,
};

enum libbpf_tristate {
	TRI_NO = 0,
	TRI_YES = 1,
	TRI_MODULE = 2,
};

/* Externs: kernel configuration values, kernel symbols and kernel functions. */
#define __kconfig __attribute__((section(".kconfig")))
#define __ksym __attribute__((section(".ksyms")))

#define bpf_ksym_exists(sym)                                                             \
	({                                                                               \
		_Static_assert(!__builtin_constant_p(!!sym), #sym " must be weak");      \
		!!sym;                                                                   \
	})

/* Kernel pointers kept in map values. */
#define __kptr_untrusted __attribute__((btf_type_tag("kptr_untrusted")))
#define __kptr __attribute__((btf_type_tag("kptr")))
#define __percpu_kptr __attribute__((btf_type_tag("percpu_kptr")))
#define __uptr __attribute__((btf_type_tag("uptr")))

/* What the verifier may assume of a global function's argument. */
#define __arg_ctx __attribute__((btf_decl_tag("arg:ctx")))
#define __arg_nonnull __attribute__((btf_decl_tag("arg:nonnull")))
#define __arg_nullable __attribute__((btf_decl_tag("arg:nullable")))
#define __arg_trusted __attribute__((btf_decl_tag("arg:trusted")))
#define __arg_untrusted __attribute__((btf_decl_tag("arg:untrusted")))
#define __arg_arena __attribute__((btf_decl_tag("arg:arena")))

/* A tail call to a constant slot: constant in r3 at the call, which the JIT can turn into a jump. */
#if defined(__bpf__)
static __always_inline void bpf_tail_call_static(void *ctx, const void *map, const __u32 slot)
{
	if (!__builtin_constant_p(slot))
		__bpf_unreachable();
	asm volatile("r1 = %[ctx]\n\t"
		     "r2 = %[map]\n\t"
		     "r3 = %[slot]\n\t"
		     "call 12"
		     :
		     : [ctx] "r"(ctx), [map] "r"(map), [slot] "i"(slot)
		     : "r0", "r1", "r2", "r3", "r4", "r5");
}
#endif

/* Token pasting by argument count, for the macros below and in bpf_tracing.h. */
#ifndef ___bpf_concat
#define ___bpf_concat(a, b) a##b
#endif
#ifndef ___bpf_apply
#define ___bpf_apply(fn, n) ___bpf_concat(fn, n)
#endif
#ifndef ___bpf_nth
#define ___bpf_nth(_, _1, _2, _3, _4, _5, _6, _7, _8, _9, _a, _b, _c, N, ...) N
#endif
#ifndef ___bpf_narg
#define ___bpf_narg(...) ___bpf_nth(_, ##__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#endif

#define ___bpf_fill0(arr, at)
#define ___bpf_fill1(arr, at, x) arr[at] = (unsigned long long)x
#define ___bpf_fill2(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill1(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill3(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill2(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill4(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill3(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill5(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill4(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill6(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill5(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill7(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill6(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill8(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill7(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill9(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill8(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill10(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill9(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill11(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill10(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill12(arr, at, x, ...) arr[at] = (unsigned long long)x; ___bpf_fill11(arr, at + 1, __VA_ARGS__)
#define ___bpf_fill(arr, args...) ___bpf_apply(___bpf_fill, ___bpf_narg(args))(arr, 0, args)

/* Runs `call` with `___fmt` a constant string and `___param` the arguments as an array. */
#define ___bpf_with_params(fmt, call, args...)                                          \
	({                                                                               \
		static const char ___fmt[] = fmt;                                        \
		unsigned long long ___param[___bpf_narg(args) ? ___bpf_narg(args) : 1];  \
		_Pragma("GCC diagnostic push")                                           \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                   \
		___bpf_fill(___param, args);                                             \
		_Pragma("GCC diagnostic pop")                                            \
		call;                                                                    \
	})

#define ___bpf_param_bytes(args...) (___bpf_narg(args) * sizeof(unsigned long long))

#define BPF_SEQ_PRINTF(seq, fmt, args...)                                                 \
	___bpf_with_params(fmt, bpf_seq_printf(seq, ___fmt, sizeof(___fmt), ___param,     \
					       ___bpf_param_bytes(args)), args)

#define BPF_SNPRINTF(out, out_size, fmt, args...)                                         \
	___bpf_with_params(fmt, bpf_snprintf(out, out_size, ___fmt, ___param,             \
					     ___bpf_param_bytes(args)), args)

#define __bpf_vprintk(fmt, args...)                                                       \
	___bpf_with_params(fmt, bpf_trace_vprintk(___fmt, sizeof(___fmt), ___param,       \
						  ___bpf_param_bytes(args)), args)

#ifdef BPF_NO_GLOBAL_DATA
#define ___bpf_fmt_storage
#else
#define ___bpf_fmt_storage static const
#endif

#define __bpf_printk(fmt, args...)                                        \
	({                                                                \
		___bpf_fmt_storage char ____fmt[] = fmt;                  \
		bpf_trace_printk(____fmt, sizeof(____fmt), ##args);       \
	})

/* Up to three arguments go through trace_printk, more through trace_vprintk. */
#define ___bpf_pick_printk(...)                                                                \
	___bpf_nth(_, ##__VA_ARGS__, __bpf_vprintk, __bpf_vprintk, __bpf_vprintk,              \
		   __bpf_vprintk, __bpf_vprintk, __bpf_vprintk, __bpf_vprintk, __bpf_vprintk,  \
		   __bpf_vprintk, __bpf_printk, __bpf_printk, __bpf_printk, __bpf_printk)
#define bpf_printk(fmt, args...) ___bpf_pick_printk(args)(fmt, ##args)

/* Open-coded iterators. */
#ifndef __VMLINUX_H__
#include <linux/version.h>
#if LINUX_VERSION_CODE < 0x060400 /* UAPI headers from before open-coded iterators */
struct bpf_iter_num {
	__u64 __opaque[1];
} __attribute__((aligned(8)));
#endif
#endif
extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __weak __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __weak __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __weak __ksym;

#ifndef bpf_for_each
#define bpf_for_each(kind, cur, args...)                                                      \
	for (struct bpf_iter_##kind ___it __attribute__((aligned(8),                          \
			cleanup(bpf_iter_##kind##_destroy))),                                 \
	     *___p __attribute__((unused)) = (bpf_iter_##kind##_new(&___it, ##args),          \
			(void)bpf_iter_##kind##_destroy, (void *)0);                          \
	     (((cur) = bpf_iter_##kind##_next(&___it)));)
#endif

#ifndef bpf_for
#define bpf_for(i, start, end)                                                                \
	for (struct bpf_iter_num ___it __attribute__((aligned(8),                             \
			cleanup(bpf_iter_num_destroy))),                                      \
	     *___p __attribute__((unused)) = (bpf_iter_num_new(&___it, (start), (end)),       \
			(void)bpf_iter_num_destroy, (void *)0);                               \
	     ({                                                                               \
		     int *___t = bpf_iter_num_next(&___it);                                   \
		     (___t && ((i) = *___t, (i) >= (start) && (i) < (end)));                  \
	     });)
#endif

#ifndef bpf_repeat
#define bpf_repeat(n)                                                                         \
	for (struct bpf_iter_num ___it __attribute__((aligned(8),                             \
			cleanup(bpf_iter_num_destroy))),                                      \
	     *___p __attribute__((unused)) = (bpf_iter_num_new(&___it, 0, (n)),               \
			(void)bpf_iter_num_destroy, (void *)0);                               \
	     bpf_iter_num_next(&___it);)
#endif
