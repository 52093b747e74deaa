/* The engine's liveness, and the state word. */
#ifndef WEIR_ENGINE_H
#define WEIR_ENGINE_H

#define ID_MASK ((1ULL << 56) - 1)

/* Whether the process of an engine lives, be it stuck. */
static __always_inline int engine_there(__u32 number)
{
	__u32 index = number % ENGINES;
	struct engine_instance *engine = bpf_map_lookup_elem(&engines, &index);
	if (!engine || engine->number != number)
		return 0;
	struct bpf_sock *socket = bpf_map_lookup_elem(&listeners, &index);
	if (!socket)
		return 0; /* it ended: the kernel emptied the slot */
	bpf_sk_release(socket);
	return 1;
}

/* Whether an engine judges nothing (any more): it ended, or says nothing. */
static __noinline int engine_dead(struct configuration *c, __u32 number)
{
	__u32 index = number % ENGINES;
	if (!c || !engine_there(number))
		return 1;
	struct engine_instance *engine = bpf_map_lookup_elem(&engines, &index);
	if (!engine)
		return 1;
	/* A beat newer than this packet's clock reading is no old one. */
	__s64 age = bpf_ktime_get_ns() - *(volatile __u64 *)&engine->heartbeat;
	return age > (__s64)c->heartbeat_timeout;
}

/* Unique among the flows that can exist at one time: nanoseconds (78 hours of them) and CPU, which
 * also says the flow's ring. */
static __always_inline __u64 new_id(void)
{
	return ((bpf_ktime_get_ns() << 8) | (bpf_get_smp_processor_id() & 0xff)) & ID_MASK;
}

static __always_inline int swap(struct flow *f, __u64 word, __u32 state)
{
	return __sync_val_compare_and_swap(&f->word, word, (word & ~0xffULL) | state) == word;
}

#endif
