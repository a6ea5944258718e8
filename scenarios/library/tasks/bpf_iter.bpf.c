// Programs that write a line for each object of a kind, as bpftool's and systemd's do.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define say(seq, fmt, ...)                                                                         \
	({                                                                                         \
		static const char text[] = fmt;                                                    \
		__u64 all[] = { __VA_ARGS__ };                                                     \
		bpf_seq_printf(seq, text, sizeof(text), all, sizeof(all));                         \
	})

int tries;
long too_long;

SEC("iter/task")
int dump_task(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;

	if (!task) {
		say(seq, "end after %llu\n", ctx->meta->seq_num);
		return 0;
	}
	if (!ctx->meta->seq_num)
		say(seq, "pid comm, session %llu\n", ctx->meta->session_id);
	say(seq, "%d %s\n", task->pid, (__u64)task->comm);
	return 0;
}

// Sleepable: with locks of its own kind.
SEC("iter.s/task")
int dump_task_sleepable(struct bpf_iter__task *ctx)
{
	static const char and[] = " and ";
	struct task_struct *task = ctx->task;

	if (task) {
		say(ctx->meta->seq, "%d", task->pid);
		bpf_seq_write(ctx->meta->seq, and, sizeof(and) - 1);
	}
	return 0;
}

SEC("iter/task_file")
int dump_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && ctx->file)
		say(ctx->meta->seq, "%d has %d\n", task->pid, ctx->fd);
	return 0;
}

SEC("iter/bpf_map")
int dump_map(struct bpf_iter__bpf_map *ctx)
{
	struct bpf_map *map = ctx->map;

	if (map)
		say(ctx->meta->seq, "%u: %s, %u entries\n", map->id, (__u64)map->name, map->max_entries);
	return 0;
}

SEC("iter/cgroup")
int dump_cgroup(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgroup = ctx->cgroup;

	if (!cgroup) {
		say(ctx->meta->seq, "end\n", 0);
		return 0;
	}
	say(ctx->meta->seq, "%llu at level %d\n", cgroup->kn->id, cgroup->level);
	// The iterator ends behind the second one.
	return ctx->meta->seq_num == 1;
}

// The second task is shown again by the next read: what was said of it is dropped.
SEC("iter/task")
int again(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (!task)
		return 0;
	say(ctx->meta->seq, "%d.", task->pid);
	return ++tries == 2;
}

// More than the buffer holds in one object.
char large[16384];

SEC("iter/task")
int overflows(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;

	if (!ctx->task)
		return 0;
	bpf_seq_write(seq, large, sizeof(large));
	too_long = bpf_seq_write(seq, large, sizeof(large));
	return 0;
}

char _license[] SEC("license") = "GPL";
