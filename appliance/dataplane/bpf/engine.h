/* The engine's liveness, candidates of policy, and the state word. */
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

/* Whether policy might want this SYN's flow: never fewer than policy::judge would take. */
static __always_inline int candidate(struct packet *p, __u32 segment, struct configuration *c)
{
	__u32 index = segment * 2 + (c->half & 1);
	struct candidate_ports *ports_of = bpf_map_lookup_elem(&candidates, &index);
	if (!ports_of)
		return 0;
	__u32 server_end = p->from_low ? 1 : 0;
	__u16 port = bpf_ntohs(server_end ? p->key.port[1] : p->key.port[0]);
	__u32 byte = (port >> 3) & 8191, bit = 1 << (port & 7);
	if (ports_of->client[byte] & bit)
		return 1;
	if (!(ports_of->server[byte] & bit))
		return 0;
	struct destination_key key = { .prefix = 32 + 128, .scope = index };
	if (server_end)
		__builtin_memcpy(key.address, p->key.address[1], 16);
	else
		__builtin_memcpy(key.address, p->key.address[0], 16);
	return bpf_map_lookup_elem(&destinations, &key) != 0;
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
