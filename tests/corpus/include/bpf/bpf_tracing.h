/* Arguments of traced functions and system calls by position.
 *
 * The registers are the target machine's, given by -D__TARGET_ARCH_x86 (arm64, riscv, s390). The
 * conventions are those of each psABI; system calls differ from calls on some machines.
 */
#pragma once

#include "bpf_helpers.h"

/* The registers are named through a flavour of pt_regs of our own: a program then builds for every
 * machine whatever machine its vmlinux.h is of, and is relocated to where that kernel has them.
 */
#define ___PT_FLAVOUR struct __attribute__((preserve_access_index))

#if defined(__TARGET_ARCH_x86)
___PT_FLAVOUR pt_regs___x86 {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs,
		flags, sp, ss;
};
#define ___PT_REGS(x) ((const struct pt_regs___x86 *)(x))
#define ___PT_PARM1 di
#define ___PT_PARM2 si
#define ___PT_PARM3 dx
#define ___PT_PARM4 cx
#define ___PT_PARM5 r8
#define ___PT_PARM6 r9
#define ___PT_SYS1 di
#define ___PT_SYS2 si
#define ___PT_SYS3 dx
#define ___PT_SYS4 r10
#define ___PT_SYS5 r8
#define ___PT_SYS6 r9
#define ___PT_FP bp
#define ___PT_RC ax
#define ___PT_SP sp
#define ___PT_IP ip
#define ___PT_RET_ON_STACK 1
#elif defined(__TARGET_ARCH_arm64)
___PT_FLAVOUR pt_regs___arm64 {
	unsigned long regs[31], sp, pc, pstate;
};
#define ___PT_REGS(x) ((const struct pt_regs___arm64 *)(x))
#define ___PT_PARM1 regs[0]
#define ___PT_PARM2 regs[1]
#define ___PT_PARM3 regs[2]
#define ___PT_PARM4 regs[3]
#define ___PT_PARM5 regs[4]
#define ___PT_PARM6 regs[5]
#define ___PT_PARM7 regs[6]
#define ___PT_PARM8 regs[7]
#define ___PT_SYS1 regs[0]
#define ___PT_SYS2 regs[1]
#define ___PT_SYS3 regs[2]
#define ___PT_SYS4 regs[3]
#define ___PT_SYS5 regs[4]
#define ___PT_SYS6 regs[5]
#define ___PT_FP regs[29]
#define ___PT_RC regs[0]
#define ___PT_SP sp
#define ___PT_IP pc
#define ___PT_RET regs[30]
#elif defined(__TARGET_ARCH_riscv)
___PT_FLAVOUR pt_regs___riscv {
	unsigned long epc, ra, sp, gp, tp, t0, t1, t2, s0, s1, a0, a1, a2, a3, a4, a5, a6, a7;
};
#define ___PT_REGS(x) ((const struct pt_regs___riscv *)(x))
#define ___PT_PARM1 a0
#define ___PT_PARM2 a1
#define ___PT_PARM3 a2
#define ___PT_PARM4 a3
#define ___PT_PARM5 a4
#define ___PT_PARM6 a5
#define ___PT_PARM7 a6
#define ___PT_PARM8 a7
#define ___PT_SYS1 a0
#define ___PT_SYS2 a1
#define ___PT_SYS3 a2
#define ___PT_SYS4 a3
#define ___PT_SYS5 a4
#define ___PT_SYS6 a5
#define ___PT_FP s0
#define ___PT_RC a0
#define ___PT_SP sp
#define ___PT_IP epc
#define ___PT_RET ra
#elif defined(__TARGET_ARCH_s390)
___PT_FLAVOUR pt_regs___s390 {
	struct {
		unsigned long mask, addr;
	} psw;
	unsigned long gprs[16];
};
#define ___PT_REGS(x) ((const struct pt_regs___s390 *)(x))
#define ___PT_PARM1 gprs[2]
#define ___PT_PARM2 gprs[3]
#define ___PT_PARM3 gprs[4]
#define ___PT_PARM4 gprs[5]
#define ___PT_PARM5 gprs[6]
#define ___PT_SYS1 gprs[2]
#define ___PT_SYS2 gprs[3]
#define ___PT_SYS3 gprs[4]
#define ___PT_SYS4 gprs[5]
#define ___PT_SYS5 gprs[6]
#define ___PT_SYS6 gprs[7]
#define ___PT_FP gprs[11]
#define ___PT_RC gprs[2]
#define ___PT_SP gprs[15]
#define ___PT_IP psw.addr
#define ___PT_RET gprs[14]
#else
#define ___PT_REGS_UNKNOWN 1
#endif

#ifdef ___PT_REGS_UNKNOWN
#define ___pt_missing() _Pragma("GCC error \"pass -D__TARGET_ARCH_x86 (arm64, riscv, s390)\"")
#define PT_REGS_PARM1(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM2(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM3(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM4(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM5(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM6(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM7(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_PARM8(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_RC(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_FP(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_SP(x) ({ ___pt_missing() 0ll; })
#define PT_REGS_IP(x) ({ ___pt_missing() 0ll; })
#else
#ifdef ___PT_PARM1
#define PT_REGS_PARM1(x) (___PT_REGS(x)->___PT_PARM1)
#define PT_REGS_PARM1_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM1)
#endif
#ifdef ___PT_PARM2
#define PT_REGS_PARM2(x) (___PT_REGS(x)->___PT_PARM2)
#define PT_REGS_PARM2_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM2)
#endif
#ifdef ___PT_PARM3
#define PT_REGS_PARM3(x) (___PT_REGS(x)->___PT_PARM3)
#define PT_REGS_PARM3_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM3)
#endif
#ifdef ___PT_PARM4
#define PT_REGS_PARM4(x) (___PT_REGS(x)->___PT_PARM4)
#define PT_REGS_PARM4_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM4)
#endif
#ifdef ___PT_PARM5
#define PT_REGS_PARM5(x) (___PT_REGS(x)->___PT_PARM5)
#define PT_REGS_PARM5_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM5)
#endif
#ifdef ___PT_PARM6
#define PT_REGS_PARM6(x) (___PT_REGS(x)->___PT_PARM6)
#define PT_REGS_PARM6_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM6)
#endif
#ifdef ___PT_PARM7
#define PT_REGS_PARM7(x) (___PT_REGS(x)->___PT_PARM7)
#define PT_REGS_PARM7_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM7)
#endif
#ifdef ___PT_PARM8
#define PT_REGS_PARM8(x) (___PT_REGS(x)->___PT_PARM8)
#define PT_REGS_PARM8_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_PARM8)
#endif
#define PT_REGS_PARM1_SYSCALL(x) (___PT_REGS(x)->___PT_SYS1)
#define PT_REGS_PARM1_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS1)
#define PT_REGS_PARM2_SYSCALL(x) (___PT_REGS(x)->___PT_SYS2)
#define PT_REGS_PARM2_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS2)
#define PT_REGS_PARM3_SYSCALL(x) (___PT_REGS(x)->___PT_SYS3)
#define PT_REGS_PARM3_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS3)
#define PT_REGS_PARM4_SYSCALL(x) (___PT_REGS(x)->___PT_SYS4)
#define PT_REGS_PARM4_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS4)
#define PT_REGS_PARM5_SYSCALL(x) (___PT_REGS(x)->___PT_SYS5)
#define PT_REGS_PARM5_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS5)
#define PT_REGS_PARM6_SYSCALL(x) (___PT_REGS(x)->___PT_SYS6)
#define PT_REGS_PARM6_CORE_SYSCALL(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SYS6)
#define PT_REGS_FP(x) (___PT_REGS(x)->___PT_FP)
#define PT_REGS_FP_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_FP)
#define PT_REGS_RC(x) (___PT_REGS(x)->___PT_RC)
#define PT_REGS_RC_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_RC)
#define PT_REGS_SP(x) (___PT_REGS(x)->___PT_SP)
#define PT_REGS_SP_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_SP)
#define PT_REGS_IP(x) (___PT_REGS(x)->___PT_IP)
#define PT_REGS_IP_CORE(x) BPF_CORE_READ(___PT_REGS(x), ___PT_IP)
#ifdef ___PT_RET
#define PT_REGS_RET(x) (___PT_REGS(x)->___PT_RET)
#endif
/* The registers of a system call wrapper's caller are behind its one argument. */
#define PT_REGS_SYSCALL_REGS(ctx) ((struct pt_regs *)PT_REGS_PARM1(ctx))
#endif

#define ___bpf_ctx_cast0() ctx
#define ___bpf_ctx_cast1(x) ___bpf_ctx_cast0(), (void *)ctx[0]
#define ___bpf_ctx_cast2(x, args...) ___bpf_ctx_cast1(args), (void *)ctx[1]
#define ___bpf_ctx_cast3(x, args...) ___bpf_ctx_cast2(args), (void *)ctx[2]
#define ___bpf_ctx_cast4(x, args...) ___bpf_ctx_cast3(args), (void *)ctx[3]
#define ___bpf_ctx_cast5(x, args...) ___bpf_ctx_cast4(args), (void *)ctx[4]
#define ___bpf_ctx_cast6(x, args...) ___bpf_ctx_cast5(args), (void *)ctx[5]
#define ___bpf_ctx_cast7(x, args...) ___bpf_ctx_cast6(args), (void *)ctx[6]
#define ___bpf_ctx_cast8(x, args...) ___bpf_ctx_cast7(args), (void *)ctx[7]
#define ___bpf_ctx_cast9(x, args...) ___bpf_ctx_cast8(args), (void *)ctx[8]
#define ___bpf_ctx_cast10(x, args...) ___bpf_ctx_cast9(args), (void *)ctx[9]
#define ___bpf_ctx_cast11(x, args...) ___bpf_ctx_cast10(args), (void *)ctx[10]
#define ___bpf_ctx_cast12(x, args...) ___bpf_ctx_cast11(args), (void *)ctx[11]
#define ___bpf_ctx_cast(args...) ___bpf_apply(___bpf_ctx_cast, ___bpf_narg(args))(args)

/* A program whose context is an array of 64-bit arguments (fentry, raw_tp, lsm, struct_ops). */
#define BPF_PROG(name, args...)                                                         \
	name(unsigned long long *ctx);                                                  \
	static __always_inline typeof(name(0))                                          \
	____##name(unsigned long long *ctx, ##args);                                    \
	typeof(name(0)) name(unsigned long long *ctx)                                   \
	{                                                                               \
		_Pragma("GCC diagnostic push")                                          \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                  \
		return ____##name(___bpf_ctx_cast(args));                               \
		_Pragma("GCC diagnostic pop")                                           \
	}                                                                               \
	static __always_inline typeof(name(0))                                          \
	____##name(unsigned long long *ctx, ##args)

#define ___bpf_kprobe_args0() ctx
#define ___bpf_kprobe_args1(x) ___bpf_kprobe_args0(), (void *)PT_REGS_PARM1(ctx)
#define ___bpf_kprobe_args2(x, args...) ___bpf_kprobe_args1(args), (void *)PT_REGS_PARM2(ctx)
#define ___bpf_kprobe_args3(x, args...) ___bpf_kprobe_args2(args), (void *)PT_REGS_PARM3(ctx)
#define ___bpf_kprobe_args4(x, args...) ___bpf_kprobe_args3(args), (void *)PT_REGS_PARM4(ctx)
#define ___bpf_kprobe_args5(x, args...) ___bpf_kprobe_args4(args), (void *)PT_REGS_PARM5(ctx)
#define ___bpf_kprobe_args6(x, args...) ___bpf_kprobe_args5(args), (void *)PT_REGS_PARM6(ctx)
#define ___bpf_kprobe_args7(x, args...) ___bpf_kprobe_args6(args), (void *)PT_REGS_PARM7(ctx)
#define ___bpf_kprobe_args8(x, args...) ___bpf_kprobe_args7(args), (void *)PT_REGS_PARM8(ctx)
#define ___bpf_kprobe_args(args...) ___bpf_apply(___bpf_kprobe_args, ___bpf_narg(args))(args)

#define ___bpf_syscall_args0() ctx
#define ___bpf_syscall_args1(x) ___bpf_syscall_args0(), (void *)PT_REGS_PARM1_CORE_SYSCALL(regs)
#define ___bpf_syscall_args2(x, args...) ___bpf_syscall_args1(args), (void *)PT_REGS_PARM2_CORE_SYSCALL(regs)
#define ___bpf_syscall_args3(x, args...) ___bpf_syscall_args2(args), (void *)PT_REGS_PARM3_CORE_SYSCALL(regs)
#define ___bpf_syscall_args4(x, args...) ___bpf_syscall_args3(args), (void *)PT_REGS_PARM4_CORE_SYSCALL(regs)
#define ___bpf_syscall_args5(x, args...) ___bpf_syscall_args4(args), (void *)PT_REGS_PARM5_CORE_SYSCALL(regs)
#define ___bpf_syscall_args6(x, args...) ___bpf_syscall_args5(args), (void *)PT_REGS_PARM6_CORE_SYSCALL(regs)
#define ___bpf_syscall_args(args...) ___bpf_apply(___bpf_syscall_args, ___bpf_narg(args))(args)

#define ___bpf_kretprobe_args0() ctx
#define ___bpf_kretprobe_args1(x) ___bpf_kretprobe_args0(), (void *)PT_REGS_RC(ctx)
#define ___bpf_kretprobe_args(args...) ___bpf_apply(___bpf_kretprobe_args, ___bpf_narg(args))(args)

/* A probe at the entry of a function, with the function's arguments. */
#define BPF_KPROBE(name, args...)                                                       \
	name(struct pt_regs *ctx);                                                      \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args); \
	typeof(name(0)) name(struct pt_regs *ctx)                                       \
	{                                                                               \
		_Pragma("GCC diagnostic push")                                          \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                  \
		return ____##name(___bpf_kprobe_args(args));                            \
		_Pragma("GCC diagnostic pop")                                           \
	}                                                                               \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)

/* A probe at the return, with the returned value. */
#define BPF_KRETPROBE(name, args...)                                                       \
	name(struct pt_regs *ctx);                                                      \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args); \
	typeof(name(0)) name(struct pt_regs *ctx)                                       \
	{                                                                               \
		_Pragma("GCC diagnostic push")                                          \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                  \
		return ____##name(___bpf_kretprobe_args(args));                            \
		_Pragma("GCC diagnostic pop")                                           \
	}                                                                               \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)

/* A probe on a system call, with the system call's arguments. */
#define BPF_KSYSCALL(name, args...)                                                       \
	name(struct pt_regs *ctx);                                                      \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args); \
	typeof(name(0)) name(struct pt_regs *ctx)                                       \
	{                                                                               \
		struct pt_regs *regs = PT_REGS_SYSCALL_REGS(ctx);                       \
		_Pragma("GCC diagnostic push")                                          \
		_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                  \
		return ____##name(___bpf_syscall_args(args));                            \
		_Pragma("GCC diagnostic pop")                                           \
	}                                                                               \
	static __always_inline typeof(name(0)) ____##name(struct pt_regs *ctx, ##args)

#define BPF_UPROBE(name, args...) BPF_KPROBE(name, ##args)
#define BPF_URETPROBE(name, args...) BPF_KRETPROBE(name, ##args)
#define BPF_KPROBE_SYSCALL BPF_KSYSCALL
