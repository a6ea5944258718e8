/* Maps with keys and values of plain bytes, and what is done to them. */
#include "annotated.h"

#define MAP(name, kind, keys, values, entries, flags)                                              \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_##kind);                                                 \
		__uint(key_size, keys);                                                            \
		__uint(value_size, values);                                                        \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, flags);                                                          \
	} name SEC(".maps")

static __always_inline long put(void *map, int key, __u64 flags)
{
	__u64 value = 7;

	return bpf_map_update_elem(map, &key, &value, flags);
}

static __always_inline long cut(void *map, int key)
{
	return bpf_map_delete_elem(map, &key);
}

static __always_inline long get(void *map, int key)
{
	__u64 *value = bpf_map_lookup_elem(map, &key);

	return value ? *value : -1;
}
