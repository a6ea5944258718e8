/* Objects of the kernel that a program is given by type: what it may read of them. Each rule is
 * broken by a program, and kept by the one behind it. */
#include "kernel.h"

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

SEC("tp_btf/sched_process_fork") __failure __msg("access beyond struct task_struct at off 1000000 size 8")
int far_away(unsigned long long *ctx)
{
	asm volatile("r2 = *(u64 *)(r1 + 0); r2 += 1000000;"
		     "r0 = *(u64 *)(r2 + 0)" ::: "r0", "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("R2 is ptr_task_struct invalid negative access: off=-8")
int in_front(unsigned long long *ctx)
{
	asm volatile("r2 = *(u64 *)(r1 + 0); r2 += -8; r0 = *(u64 *)(r2 + 0)" ::: "r0", "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("R2 is ptr_task_struct invalid variable offset: off=0, var_off=(0x0; 0x8)")
int somewhere(unsigned long long *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	long off = task->pid & 8;

	asm volatile("r2 = %0; r2 += %1; r0 = *(u64 *)(r2 + 0)" ::"r"(task), "r"(off) : "r0", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("only read is supported")
int written(unsigned long long *ctx)
{
	asm volatile("r2 = *(u64 *)(r1 + 0); *(u64 *)(r2 + 0) = r1" ::: "r0", "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __success
int its_number(unsigned long long *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	return task->pid ? 0 : 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("func 'sched_process_fork' doesn't have 3-th argument")
int third_argument(unsigned long long *ctx)
{
	asm volatile("r2 = *(u64 *)(r1 + 16)" ::: "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("func 'sched_process_fork' offset 4 is not multiple of 8")
int half_of_an_argument(unsigned long long *ctx)
{
	asm volatile("r2 = *(u32 *)(r1 + 4)" ::: "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __failure __msg("func 'sched_process_fork' size 4 must be 8")
int a_part_of_an_argument(unsigned long long *ctx)
{
	asm volatile("r2 = *(u32 *)(r1 + 0)" ::: "r1", "r2");
	return 0;
}

SEC("tp_btf/sched_process_fork") __success
int second_argument(unsigned long long *ctx)
{
	asm volatile("r2 = *(u64 *)(r1 + 8)" ::: "r1", "r2");
	return 0;
}

char _license[] SEC("license") = "GPL";
