/* Field access that survives a different layout of the running kernel (CO-RE).
 *
 * Each macro makes clang record what was accessed; the loader patches the instruction.
 */
#pragma once

#include "bpf_helpers.h"

/* Second argument of __builtin_preserve_field_info. */
enum bpf_field_info_kind {
	BPF_FIELD_BYTE_OFFSET = 0,
	BPF_FIELD_BYTE_SIZE = 1,
	BPF_FIELD_EXISTS = 2,
	BPF_FIELD_SIGNED = 3,
	BPF_FIELD_LSHIFT_U64 = 4,
	BPF_FIELD_RSHIFT_U64 = 5,
};

/* Second argument of __builtin_btf_type_id. */
enum bpf_type_id_kind {
	BPF_TYPE_ID_LOCAL = 0,
	BPF_TYPE_ID_TARGET = 1,
};

/* Second argument of __builtin_preserve_type_info. */
enum bpf_type_info_kind {
	BPF_TYPE_EXISTS = 0,
	BPF_TYPE_SIZE = 1,
	BPF_TYPE_MATCHES = 2,
};

/* Second argument of __builtin_preserve_enum_value. */
enum bpf_enum_value_kind {
	BPF_ENUMVAL_EXISTS = 0,
	BPF_ENUMVAL_VALUE = 1,
};

#define __CORE_RELO(src, field, info) \
	__builtin_preserve_field_info((src)->field, BPF_FIELD_##info)

/* The bytes that hold a bitfield, in the low or high end of `dst` by byte order. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define __CORE_BITFIELD_DST(dst, src, field) ((void *)(dst))
#else
#define __CORE_BITFIELD_DST(dst, src, field) \
	((void *)(dst) + (8 - __CORE_RELO(src, field, BYTE_SIZE)))
#endif

#define __CORE_BITFIELD_SHIFT(val, s, field)                            \
	({                                                              \
		val <<= __CORE_RELO(s, field, LSHIFT_U64);              \
		if (__CORE_RELO(s, field, SIGNED))                      \
			val = ((long long)val) >> __CORE_RELO(s, field, RSHIFT_U64); \
		else                                                    \
			val = val >> __CORE_RELO(s, field, RSHIFT_U64); \
		val;                                                    \
	})

/* A bitfield read through a helper. */
#define BPF_CORE_READ_BITFIELD_PROBED(s, field)                                          \
	({                                                                               \
		unsigned long long ___v = 0;                                             \
		bpf_probe_read_kernel(__CORE_BITFIELD_DST(&___v, s, field),              \
				      __CORE_RELO(s, field, BYTE_SIZE),                  \
				      (const void *)(s) + __CORE_RELO(s, field, BYTE_OFFSET)); \
		__CORE_BITFIELD_SHIFT(___v, s, field);                                   \
	})

/* A bitfield read directly, for pointers the verifier knows. */
#define BPF_CORE_READ_BITFIELD(s, field)                                                \
	({                                                                              \
		const void *___p = (const void *)(s) + __CORE_RELO(s, field, BYTE_OFFSET); \
		unsigned long long ___v;                                                \
		/* The compiler must not fold the offset into the loads below. */       \
		asm volatile("" : "+r"(___p));                                          \
		switch (__CORE_RELO(s, field, BYTE_SIZE)) {                             \
		case 1: ___v = *(const unsigned char *)___p; break;                     \
		case 2: ___v = *(const unsigned short *)___p; break;                    \
		case 4: ___v = *(const unsigned int *)___p; break;                      \
		default: ___v = *(const unsigned long long *)___p; break;               \
		}                                                                       \
		__CORE_BITFIELD_SHIFT(___v, s, field);                                  \
	})

#define ___core_field1(field) (field)
#define ___core_field2(type, field) (((typeof(type) *)0)->field)
#define ___core_field(args...) ___bpf_apply(___core_field, ___bpf_narg(args))(args)

/* Of `ptr->field`, or of (type, field). */
#define bpf_core_field_exists(field...) \
	__builtin_preserve_field_info(___core_field(field), BPF_FIELD_EXISTS)
#define bpf_core_field_size(field...) \
	__builtin_preserve_field_info(___core_field(field), BPF_FIELD_BYTE_SIZE)
#define bpf_core_field_offset(field...) \
	__builtin_preserve_field_info(___core_field(field), BPF_FIELD_BYTE_OFFSET)

#define bpf_core_type_id_local(type) \
	__builtin_btf_type_id(*(typeof(type) *)0, BPF_TYPE_ID_LOCAL)
#define bpf_core_type_id_kernel(type) \
	__builtin_btf_type_id(*(typeof(type) *)0, BPF_TYPE_ID_TARGET)
#define bpf_core_type_exists(type) \
	__builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_EXISTS)
#define bpf_core_type_matches(type) \
	__builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_MATCHES)
#define bpf_core_type_size(type) \
	__builtin_preserve_type_info(*(typeof(type) *)0, BPF_TYPE_SIZE)
#define bpf_core_enum_value_exists(type, value) \
	__builtin_preserve_enum_value(*(typeof(type) *)value, BPF_ENUMVAL_EXISTS)
#define bpf_core_enum_value(type, value) \
	__builtin_preserve_enum_value(*(typeof(type) *)value, BPF_ENUMVAL_VALUE)

#define bpf_core_read(dst, size, src) \
	bpf_probe_read_kernel(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_user(dst, size, src) \
	bpf_probe_read_user(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_str(dst, size, src) \
	bpf_probe_read_kernel_str(dst, size, (const void *)__builtin_preserve_access_index(src))
#define bpf_core_read_user_str(dst, size, src) \
	bpf_probe_read_user_str(dst, size, (const void *)__builtin_preserve_access_index(src))

extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;
#define bpf_core_cast(ptr, type) \
	((typeof(type) *)bpf_rdonly_cast((ptr), bpf_core_type_id_kernel(type)))

/* src->a->b->c as an expression, for its type. */
#define ___core_arrow1(a) a
#define ___core_arrow2(a, b) a->b
#define ___core_arrow3(a, b, c) a->b->c
#define ___core_arrow4(a, b, c, d) a->b->c->d
#define ___core_arrow5(a, b, c, d, e) a->b->c->d->e
#define ___core_arrow6(a, b, c, d, e, f) a->b->c->d->e->f
#define ___core_arrow7(a, b, c, d, e, f, g) a->b->c->d->e->f->g
#define ___core_arrow8(a, b, c, d, e, f, g, h) a->b->c->d->e->f->g->h
#define ___core_arrow9(a, b, c, d, e, f, g, h, i) a->b->c->d->e->f->g->h->i
#define ___core_arrow10(a, b, c, d, e, f, g, h, i, j) a->b->c->d->e->f->g->h->i->j
#define ___core_arrow(args...) ___bpf_apply(___core_arrow, ___bpf_narg(args))(args)
#define ___core_type(args...) typeof(___core_arrow(args))

/* All pointers of the chain but the last, one read each; ___t holds the pointer reached so far. */
#define ___core_step(read, src_type, src, field) \
	read((void *)(&___t), sizeof(___t), &((src_type)(src))->field)
#define ___core_walk2(read, s, a)
#define ___core_walk3(read, s, a, b) ___core_step(read, ___core_type(s), s, a);
#define ___core_walk4(read, s, a, b, c) \
	___core_walk3(read, s, a, b) ___core_step(read, ___core_type(s, a), ___t, b);
#define ___core_walk5(read, s, a, b, c, d) \
	___core_walk4(read, s, a, b, c) ___core_step(read, ___core_type(s, a, b), ___t, c);
#define ___core_walk6(read, s, a, b, c, d, e) \
	___core_walk5(read, s, a, b, c, d) ___core_step(read, ___core_type(s, a, b, c), ___t, d);
#define ___core_walk7(read, s, a, b, c, d, e, f) \
	___core_walk6(read, s, a, b, c, d, e) \
	___core_step(read, ___core_type(s, a, b, c, d), ___t, e);
#define ___core_walk8(read, s, a, b, c, d, e, f, g) \
	___core_walk7(read, s, a, b, c, d, e, f) \
	___core_step(read, ___core_type(s, a, b, c, d, e), ___t, f);
#define ___core_walk9(read, s, a, b, c, d, e, f, g, h) \
	___core_walk8(read, s, a, b, c, d, e, f, g) \
	___core_step(read, ___core_type(s, a, b, c, d, e, f), ___t, g);
#define ___core_walk10(read, s, a, b, c, d, e, f, g, h, i) \
	___core_walk9(read, s, a, b, c, d, e, f, g, h) \
	___core_step(read, ___core_type(s, a, b, c, d, e, f, g), ___t, h);

/* The last read, which goes to the caller's variable. */
#define ___core_last2(read, dst, s, a) read((void *)(dst), sizeof(*(dst)), &(s)->a)
#define ___core_lastn(read, dst, type, field) \
	read((void *)(dst), sizeof(*(dst)), &((type)(___t))->field)
#define ___core_last3(read, dst, s, a, b) ___core_lastn(read, dst, ___core_type(s, a), b)
#define ___core_last4(read, dst, s, a, b, c) ___core_lastn(read, dst, ___core_type(s, a, b), c)
#define ___core_last5(read, dst, s, a, b, c, d) \
	___core_lastn(read, dst, ___core_type(s, a, b, c), d)
#define ___core_last6(read, dst, s, a, b, c, d, e) \
	___core_lastn(read, dst, ___core_type(s, a, b, c, d), e)
#define ___core_last7(read, dst, s, a, b, c, d, e, f) \
	___core_lastn(read, dst, ___core_type(s, a, b, c, d, e), f)
#define ___core_last8(read, dst, s, a, b, c, d, e, f, g) \
	___core_lastn(read, dst, ___core_type(s, a, b, c, d, e, f), g)
#define ___core_last9(read, dst, s, a, b, c, d, e, f, g, h) \
	___core_lastn(read, dst, ___core_type(s, a, b, c, d, e, f, g), h)
#define ___core_last10(read, dst, s, a, b, c, d, e, f, g, h, i) \
	___core_lastn(read, dst, ___core_type(s, a, b, c, d, e, f, g, h), i)

#define ___core_chain(read, read_last, dst, args...)                                     \
	({                                                                               \
		const void *___t __attribute__((unused));                                \
		___bpf_apply(___core_walk, ___bpf_narg(args))(read, args)                \
		___bpf_apply(___core_last, ___bpf_narg(args))(read_last, dst, args);     \
	})

#define BPF_CORE_READ_INTO(dst, src, a, ...) \
	___core_chain(bpf_core_read, bpf_core_read, dst, src, a, ##__VA_ARGS__)
#define BPF_CORE_READ_USER_INTO(dst, src, a, ...) \
	___core_chain(bpf_core_read_user, bpf_core_read_user, dst, src, a, ##__VA_ARGS__)
#define BPF_CORE_READ_STR_INTO(dst, src, a, ...) \
	___core_chain(bpf_core_read, bpf_core_read_str, dst, src, a, ##__VA_ARGS__)
#define BPF_CORE_READ_USER_STR_INTO(dst, src, a, ...) \
	___core_chain(bpf_core_read_user, bpf_core_read_user_str, dst, src, a, ##__VA_ARGS__)
#define BPF_PROBE_READ_INTO(dst, src, a, ...) \
	___core_chain(bpf_probe_read_kernel, bpf_probe_read_kernel, dst, src, a, ##__VA_ARGS__)
#define BPF_PROBE_READ_STR_INTO(dst, src, a, ...) \
	___core_chain(bpf_probe_read_kernel, bpf_probe_read_kernel_str, dst, src, a, ##__VA_ARGS__)

#define ___core_value(into, src, a, ...)                                \
	({                                                              \
		___core_type((src), a, ##__VA_ARGS__) __r;              \
		into(&__r, (src), a, ##__VA_ARGS__);                    \
		__r;                                                    \
	})
#define BPF_CORE_READ(src, a, ...) ___core_value(BPF_CORE_READ_INTO, src, a, ##__VA_ARGS__)
#define BPF_CORE_READ_USER(src, a, ...) \
	___core_value(BPF_CORE_READ_USER_INTO, src, a, ##__VA_ARGS__)
#define BPF_PROBE_READ(src, a, ...) ___core_value(BPF_PROBE_READ_INTO, src, a, ##__VA_ARGS__)
