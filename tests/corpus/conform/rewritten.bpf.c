/* What 6.18 makes of calls that it inlines, and of the spills and fills around them. */
#include "annotated.h"

#define __text(x) #x
#define __numbered(tag, n, text) __tag("test_expect_" tag "=" __text(n) "=" text)
#define __msg(text) __numbered("msg", __COUNTER__, text)
/* The last is where the number is a call: s390, whose frames keep the slots. */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define __depth(inlined, called) called
#else
#define __depth(inlined, called) inlined
#endif
#define __stack(inlined, called)                                                                   \
	__tag("test_log_level=4") __msg("stack depth " __depth(inlined, called))

/* Each line follows the one before it. */
#define __x(text) __numbered("xlated", __COUNTER__, text)
#define __number(at, second, third)                                                                \
	__x(at ": r0 = {{-?[0-9]+}}") __x(second ": r0 = &(void __percpu *)(r0)")                    \
	__x(third ": r0 = *(u32 *)(r0 +0)")

#define ASM(name) SEC("tc") __success __attribute__((naked)) int name(void)

#define NUMBER "call %[bpf_get_smp_processor_id];"
#define RANDOM "call %[bpf_get_prandom_u32];"
#define CODE(text)                                                                                 \
	asm volatile(text ::[bpf_get_smp_processor_id] "i"(BPF_FUNC_get_smp_processor_id),         \
		     [bpf_get_prandom_u32] "i"(BPF_FUNC_get_prandom_u32),                          \
		     [bpf_map_lookup_elem] "i"(BPF_FUNC_map_lookup_elem)                           \
		     : "memory")

void *bpf_rdonly_cast(const void *obj, __u32 type) __ksym __weak;

/* The types of what assembly calls. */
int used(void)
{
	return bpf_rdonly_cast(NULL, 0) != NULL;
}

__retval(7) __stack("0", "8")
__x("0: r1 = 7") __number("1", "2", "3") __x("4: r0 = r1") __x("5: exit")
ASM(a_pair_goes)
{
	CODE("r1 = 7;"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r1 = *(u64 *)(r10 - 8);"
	     "r0 = r1; exit;");
}

__retval(15) __stack("0", "40")
__x("0: r1 = 1") __x("1: r2 = 2") __x("2: r3 = 3") __x("3: r4 = 4") __x("4: r5 = 5")
__number("5", "6", "7") __x("8: r0 = r1")
ASM(five_pairs_go)
{
	CODE("r1 = 1; r2 = 2; r3 = 3; r4 = 4; r5 = 5;"
	     "*(u64 *)(r10 - 8) = r5; *(u64 *)(r10 - 16) = r4; *(u64 *)(r10 - 24) = r3;"
	     "*(u64 *)(r10 - 32) = r2; *(u64 *)(r10 - 40) = r1;" NUMBER
	     "r1 = *(u64 *)(r10 - 40); r2 = *(u64 *)(r10 - 32); r3 = *(u64 *)(r10 - 24);"
	     "r4 = *(u64 *)(r10 - 16); r5 = *(u64 *)(r10 - 8);"
	     "r0 = r1; r0 += r2; r0 += r3; r0 += r4; r0 += r5; exit;");
}

__retval(3) __stack("8", "16")
__x("1: *(u64 *)(r10 -8) = 3") __number("2", "3", "4") __x("5: r0 = *(u64 *)(r10 -8)")
ASM(a_variable_stays)
{
	CODE("r1 = 7; *(u64 *)(r10 - 8) = 3;"
	     "*(u64 *)(r10 - 16) = r1;" NUMBER "r1 = *(u64 *)(r10 - 16);"
	     "r0 = *(u64 *)(r10 - 8); exit;");
}

__retval(7) __stack("8", "8")
__x("1: *(u64 *)(r10 -8) = r1") __number("2", "3", "4") __x("5: r1 = *(u64 *)(r10 -8)")
__x("6: r1 = *(u64 *)(r10 -8)")
ASM(a_slot_that_is_read_again)
{
	CODE("r1 = 7;"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r1 = *(u64 *)(r10 - 8);"
	     "r1 = *(u64 *)(r10 - 8); r0 = r1; exit;");
}

__retval(7) __stack("16", "16")
__x("2: *(u64 *)(r10 -8) = r6") __number("3", "4", "5") __x("6: r6 = *(u64 *)(r10 -8)")
ASM(a_register_that_calls_keep)
{
	CODE("r6 = 7; *(u64 *)(r10 - 16) = r6;"
	     "*(u64 *)(r10 - 8) = r6;" NUMBER "r6 = *(u64 *)(r10 - 8);"
	     "r0 = r6; exit;");
}

__retval(7) __stack("8", "8")
__x("1: *(u64 *)(r10 -8) = r1") __number("2", "3", "4") __x("5: r2 = *(u64 *)(r10 -8)")
ASM(another_register_is_filled)
{
	CODE("r1 = 7;"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r2 = *(u64 *)(r10 - 8);"
	     "r0 = r2; exit;");
}

__retval(7) __stack("16", "16")
__x("1: *(u64 *)(r10 -8) = r1") __number("2", "3", "4") __x("5: r1 = *(u64 *)(r10 -8)")
ASM(not_the_lowest_slot)
{
	CODE("r1 = 7;"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r1 = *(u64 *)(r10 - 8);"
	     "*(u64 *)(r10 - 16) = r1; r0 = r1; exit;");
}

__retval(7) __stack("8", "8")
__x("1: *(u64 *)(r10 -8) = r1") __x("2: call") __x("3: r1 = *(u64 *)(r10 -8)")
__number("4", "5", "6") __x("7: r0 = r1")
ASM(a_call_that_stays_keeps_the_frame)
{
	CODE("r1 = 7;"
	     "*(u64 *)(r10 - 8) = r1;" RANDOM "r1 = *(u64 *)(r10 - 8);"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r1 = *(u64 *)(r10 - 8);"
	     "r0 = r1; exit;");
}

__retval(7) __stack("0", "0")
__x("0: r3 = 7") __x("1: r2 = 0") __x("2: r0 = r1") __x("3: r0 = r3")
ASM(a_cast_is_a_move)
{
	CODE("r3 = 7; r2 = 0;"
	     "*(u64 *)(r10 - 8) = r3; call bpf_rdonly_cast; r3 = *(u64 *)(r10 - 8);"
	     "r0 = r3; exit;");
}

__retval(7) __stack("0", "8")
__x("1: r1 = 7") __x("2: if r6 == 0x0 goto pc+3") __number("3", "4", "5") __x("6: r0 = r1")
ASM(a_jump_past_the_pair)
{
	CODE("r6 = *(u32 *)(r1 + 0); r1 = 7; if r6 == 0 goto 1f;"
	     "*(u64 *)(r10 - 8) = r1;" NUMBER "r1 = *(u64 *)(r10 - 8);"
	     "1: r0 = r1; exit;");
}

/* The count (and the time) is below all that the program may have. */
__retval(5)
ASM(may_goto_above_a_full_stack)
{
	CODE("r6 = 5; *(u64 *)(r10 - 512) = r6; r1 = 0;"
	     "1: r1 += 1; .byte 0xe5, 0; .short 2; .long 0; if r1 == 100 goto 2f; goto 1b;"
	     "2: r0 = *(u64 *)(r10 - 512); exit;");
}

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 2);
} inside SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner);
} maps SEC(".maps") = { .values = { [1] = &inside } };

/* The slot of an array of maps is read, that of a map that is found so is not. */
__retval(1)
__x("4: r1 = {{.*}}") __x("6: r1 += {{[0-9]+}}") __x("7: r0 = *(u32 *)(r2 +0)")
__x("8: if r0 >= 0x2 goto pc+5") __tag("test_expect_xlated=900=...")
__x("r0 <<= 3") __x("r0 += r1") __x("r0 = *(u64 *)(r0 +0)") __x("if r0 == 0x0 goto pc+1")
__x("goto pc+1") __x("r0 = 0")
ASM(a_map_in_an_array)
{
	asm volatile("r1 = 1; *(u32 *)(r10 - 4) = r1; r2 = r10; r2 += -4;"
		     "r1 = %[maps] ll; call %[bpf_map_lookup_elem];"
		     "if r0 != 0 goto 1f; exit; 1: r0 = 1; exit;" ::[bpf_map_lookup_elem] "i"(
			     BPF_FUNC_map_lookup_elem),
		     [maps] "i"(&maps)
		     : "memory");
}
