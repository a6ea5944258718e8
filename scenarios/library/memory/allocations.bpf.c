// A program that allocates in every way programs can, and copes when it may not.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

extern void *bpf_obj_new_impl(__u64 type, void *meta) __ksym;
extern void bpf_obj_drop_impl(void *object, void *meta) __ksym;

struct note {
	__u64 number;
	__u64 text[6];
};

struct holder {
	struct note __kptr *note;
	__u64 used;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct holder);
} holders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} per_task SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

__u32 runs, no_note, no_element, no_storage, no_record, unexpected;

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 zero = 0, key = runs++;
	__u64 one = 1, *mine, *record;
	struct holder *holder;
	struct note *note;

	holder = bpf_map_lookup_elem(&holders, &zero);
	if (!holder)
		return 0;
	note = bpf_obj_new_impl(bpf_core_type_id_local(struct note), NULL);
	if (note) {
		note->number = key;
		note = bpf_kptr_xchg(&holder->note, note);
		if (note)
			bpf_obj_drop_impl(note, NULL);
	} else {
		no_note++;
	}
	switch (bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST)) {
	case 0:
		break;
	case -12:
		no_element++;
		break;
	default:
		unexpected++;
	}
	mine = bpf_task_storage_get(&per_task, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (mine)
		__sync_fetch_and_add(mine, 1);
	else
		no_storage++;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (record) {
		*record = key;
		bpf_ringbuf_submit(record, 0);
	} else {
		no_record++;
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
