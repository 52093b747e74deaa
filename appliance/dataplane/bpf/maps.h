/* The maps. Those that must outlive an engine are pinned by name; the rings belong to one engine
 * and are new with each. Sizes here are replaced at load time by
 * Options; what happens past each bound is said beside it. */
#ifndef WEIR_MAPS_H
#define WEIR_MAPS_H

#define PINNED __uint(pinning, LIBBPF_PIN_BY_NAME)

/* By interface index in the wire namespace; an index past it is refused when the data plane is
 * opened. An array: every packet looks its port up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct port);
	PINNED;
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct configuration);
	PINNED;
} configuration SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SEGMENTS);
	__type(key, __u32);
	__type(value, struct segment_settings);
	PINNED;
} segments SEC(".maps");

/* Handshakes being watched until they are whole, and flows that were left to the bridge. Past its size
 * the least recently used is forgotten: that flow stays on the bridge; all others are elsewhere. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow);
	PINNED;
} half_open SEC(".maps");

/* Flows whose handshake is whole, held, taken and finished ones. Past its size a candidate stays on the bridge. A finished flow
 * stays for 60 s, so the size bounds the flows taken a second; memory is used as entries come. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct flow);
	PINNED;
} flows SEC(".maps");

/* Moves from half_open to `flows` so far, by a hash of the flow's ends. Pinned: while programs are replaced
 * those of two engines see packets. */
#define MOVE_SLOTS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOVE_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
	PINNED;
} moves SEC(".maps");

/* Which flow the engine's sockets of a tuple belong to. Past its size a flow is not taken. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct tuple_key);
	__type(value, struct flow_key);
	PINNED;
} engine_tuples SEC(".maps");

/* GRE keys of handshakes, by the flow's key without its GRE key. Past its size the least recently
 * used is forgotten: a flow with different keys then stays on the bridge. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct flow_key);
	__type(value, struct gre_pair);
	PINNED;
} gre_pairs SEC(".maps");

/* For each flow in `flows` whose server has a GRE key of its own: by that key. Past its size such a
 * flow is not held. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct gre_pair);
	PINNED;
} gre_aliases SEC(".maps");

#define CLIENT_CELLS 8192

/* Packets of taken flows that came in fragments and are not whole yet (fragments.h), by a hash of what their
 * fragments are known by. A slot has one at a time: another one's first fragment is dropped meanwhile, and
 * comes again. */
#define FRAGMENT_SLOTS 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FRAGMENT_SLOTS);
	__type(key, __u32);
	__type(value, struct fragments);
} taken_fragments SEC(".maps");

/* By a hash: another pair's takes the slot, and that one's next packet is lost again. */
#define DISORDER_SLOTS 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DISORDER_SLOTS);
	__type(key, __u32);
	__type(value, struct disorder);
} disordered_pairs SEC(".maps");

/* Later fragments that came first, by a hash; in another one's slot they are forgotten. */
#define EARLY_SLOTS 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EARLY_SLOTS);
	__type(key, __u32);
	__type(value, struct early);
} early_fragments SEC(".maps");

/* Fragments of each client's flows that came lately, of packets that are not whole (clients.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLIENT_CELLS);
	__type(key, __u32);
	__type(value, struct share);
} fragment_shares SEC(".maps");

/* Flows by client (clients.h): two rows of cells, so that two clients share their count only where
 * they meet in both. A cell's lower half is its count; the upper one changes with each change, so that
 * a cell that reads the same twice is one that nothing changed between. */
#define CLIENT_ENTRIES (2 * CLIENT_CELLS) /* from here on: of all entries in `flows` */
#define CLIENT_HANDSHAKES (4 * CLIENT_CELLS) /* of those in STATE_ANSWERED */
#define CLIENT_ENTRIES_ALL (6 * CLIENT_CELLS) /* both of all clients */
#define CLIENT_HANDSHAKES_ALL (6 * CLIENT_CELLS + 1)
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 6 * CLIENT_CELLS + 2);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} client_flows SEC(".maps");

/* Handshakes that each client began lately (clients.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLIENT_CELLS);
	__type(key, __u32);
	__type(value, struct share);
} syn_shares SEC(".maps");

/* What each client put into a crowded ring lately (clients.h); shared by all rings. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLIENT_CELLS);
	__type(key, __u32);
	__type(value, struct share);
} ring_shares SEC(".maps");

enum counter {
#define COUNTER(name, meaning) COUNTER_##name,
#include "counters.h"
#undef COUNTER
	COUNTERS
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SEGMENTS * COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
	PINNED;
} counters SEC(".maps");

/* One ring for each CPU, or for some: rings_in_use of them, which src/rings.rs makes anew with each engine. Past its
 * size a held packet is dropped; TCP sends it again. Pinned only while the programs are loaded: the
 * loader cannot make a map of maps, and takes on a pinned one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_RINGS);
	__type(key, __u32);
	__type(value, __u32);
	PINNED;
} held_rings SEC(".maps");
const volatile __u32 rings_in_use = 1; /* 1 to MAX_RINGS, set at load time */

/* The number of the ring that all records of a flow go by, from its word. */
static __always_inline __u32 ring_number(__u64 word)
{
	__u32 cpu = (word >> 8) & 0xff;
	return cpu % (rings_in_use ? rings_in_use : 1);
}

static __always_inline void *ring_of(__u64 word)
{
	__u32 number = ring_number(word);
	return bpf_map_lookup_elem(&held_rings, &number);
}

/* At an engine's index: a listening socket of it. The kernel takes it out when the engine ends. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, ENGINES);
	__type(key, __u32);
	__type(value, __u32);
	PINNED;
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ENGINES);
	__type(key, __u32);
	__type(value, struct engine_instance);
	PINNED;
} engines SEC(".maps");

/* Entries of half_open; set at load time. */
const volatile __u32 half_open_entries = 65536;
/* Entries of flows, likewise. */
const volatile __u32 flow_entries = 262144;

/* The engine that these programs were loaded by; its ring is theirs. */
const volatile __u32 INSTANCE = 0;

/* A new flow entry is built here: it is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} scratch SEC(".maps");

static __always_inline void count_index(__u32 segment, __u32 counter)
{
	__u32 index = segment * COUNTERS + counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &index);
	if (value)
		(*value)++; /* per CPU, and programs on one CPU do not interrupt one another */
}

/* What the packet on its way was dropped for: a counter, 0 where for nothing. Looked at where its way ends
 * (count_drop, classify.h), for the virtual segment that it belongs to. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} dropped_for SEC(".maps");

__noinline int note_drop(__u32 counter)
{
	__u32 zero = 0, *reason = bpf_map_lookup_elem(&dropped_for, &zero);
	if (reason)
		*reason = counter;
	return 0;
}

/* The compiler knows which counters count drops, by their names. */
#define COUNTS_DROPS(name) (!__builtin_memcmp(&#name[sizeof(#name) - sizeof("_dropped")], "_dropped", sizeof("_dropped")))
#define count(segment, name)                                    \
	do {                                                    \
		count_index(segment, COUNTER_##name);           \
		if (COUNTS_DROPS(name))                         \
			note_drop(COUNTER_##name);              \
	} while (0)
/* Where another counter says what it was dropped for, or its virtual segment is not known. */
#define count_only(segment, name) count_index(segment, COUNTER_##name)

/* For a program that a packet's may interrupt. */
static __always_inline void count_atomically(__u32 segment, __u32 counter)
{
	__u32 index = segment * COUNTERS + counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &index);
	if (value)
		__sync_fetch_and_add(value, 1);
}

#endif
