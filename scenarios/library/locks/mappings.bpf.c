// Programs that look at the mappings of the task that runs: under its mmap_lock, if they get it.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define ENOENT 2
#define EBUSY 16

extern int bpf_iter_task_vma_new(struct bpf_iter_task_vma *it, struct task_struct *task, __u64 addr) __ksym;
extern struct vm_area_struct *bpf_iter_task_vma_next(struct bpf_iter_task_vma *it) __ksym;
extern void bpf_iter_task_vma_destroy(struct bpf_iter_task_vma *it) __ksym;

#define PAGE 4096

struct found {
	__u64 start;
	__u64 end;
	__u64 flags;
};

/// What find_vma saw after the last mmap, and what the iterator did.
struct found last;
__u64 mappings, pages;
/// Results by kind.
__u64 seen, busy, missing, other;
/// Turns of the loop inside mmap_region: how long it has the lock.
__u64 turns = 1;

static long look(struct task_struct *task, struct vm_area_struct *vma, void *ctx)
{
	struct found *to = ctx;

	to->start = vma->vm_start;
	to->end = vma->vm_end;
	to->flags = vma->vm_flags;
	return 0;
}

static long spin(__u64 i, void *ctx)
{
	*(volatile __u64 *)ctx += i;
	return 0;
}

static void count(long ret)
{
	__sync_fetch_and_add(ret == 0 ? &seen : ret == -EBUSY ? &busy : ret == -ENOENT ? &missing : &other, 1);
}

/// mmap and munmap have the lock for themselves here.
SEC("fentry/mmap_region")
int BPF_PROG(inside, struct file *file, unsigned long addr)
{
	struct found at = {};
	volatile __u64 work = 0;

	count(bpf_find_vma(bpf_get_current_task_btf(), addr, look, &at, 0));
	bpf_loop(turns, spin, (void *)&work, 0);
	return 0;
}

/// Nobody has it any more.
SEC("fexit/vm_mmap_pgoff")
int BPF_PROG(after, struct file *file, unsigned long hint, unsigned long len, unsigned long prot,
	     unsigned long flag, unsigned long pgoff, unsigned long ret)
{
	struct found at = {};
	long err = bpf_find_vma(bpf_get_current_task_btf(), ret, look, &at, 0);

	count(err);
	if (!err)
		last = at;
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(all, struct pt_regs *regs, long ret)
{
	struct bpf_iter_task_vma it;
	struct vm_area_struct *vma;
	__u64 n = 0, size = 0;

	if (bpf_iter_task_vma_new(&it, bpf_get_current_task_btf(), 0) == 0) {
		while ((vma = bpf_iter_task_vma_next(&it))) {
			n++;
			size += vma->vm_end - vma->vm_start;
		}
		mappings = n;
		pages = size / PAGE;
	}
	bpf_iter_task_vma_destroy(&it);
	return 0;
}

char _license[] SEC("license") = "GPL";
