/* The rule tables. All but reputation and quarantine have two halves: the generation's last bit says
 * which one is in force. */
#ifndef WEIR_RULE_MAPS_H
#define WEIR_RULE_MAPS_H

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROWS * 2);
	__type(key, __u32);
	__type(value, struct row);
	PINNED;
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct classes);
	PINNED;
} classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536); /* both halves; more networks are refused when a configuration is checked */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_key);
	__type(value, __u32); /* class */
	PINNED;
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VIRTUAL_SEGMENTS * 2);
	__type(key, __u32);
	__type(value, struct policies);
	PINNED;
} segment_policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TRAFFIC_FILTERS * 2);
	__type(key, __u32);
	__type(value, struct traffic_filter);
	PINNED;
} traffic_filters SEC(".maps");

/* Server ports of which there may be flows in any table: those that a policy covers, or one before it did. Bits
 * are set before the policy is in force, and stay: an entry outlives its policy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct port_set);
	PINNED;
} covered_ports SEC(".maps");

/* 1: blocked, 2: permitted. More entries are refused by apply(); memory is used as they come. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1000001); /* one divides IPv4 from IPv6 */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address_key);
	__type(value, __u8);
	PINNED;
} reputation SEC(".maps");

/* Hosts to the CLOCK_MONOTONIC ns of their release. A host over the bound is refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct host);
	__type(value, __u64);
	PINNED;
} quarantine SEC(".maps");

/* What rules let pass or stopped: virtual segments, bypass rules, traffic filters and policies, by
 * their bit, of each half. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RULES * 2);
	__type(key, __u32);
	__type(value, struct rule_count);
	PINNED;
} rule_counts SEC(".maps");

/* Packets that were dropped, by virtual segment and reason; those that were. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, VIRTUAL_DROPS);
	__type(key, struct virtual_drop);
	__type(value, __u64);
	PINNED;
} virtual_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, struct remembered);
} memory SEC(".maps");

/* To the engine, as `struct dropped`: some three hundred; past it a datagram is dropped without a word. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} dropped_ring SEC(".maps");

/* QUIC connections that pass although policy blocks QUIC, as their clients ask for names that it excepts. The
 * least recently used goes: its client connects anew. Of one client src/quic/excepted.rs bounds them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct flow_key);
	__type(value, struct excepted);
	PINNED;
} excepted_quic SEC(".maps");

/* Datagrams that each client gave to the engine lately, while that had many (clients.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CLIENT_CELLS);
	__type(key, __u32);
	__type(value, struct share);
} quic_shares SEC(".maps");

/* How many such datagrams a second, as a rate of one byte each; past it, silence. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct traffic_filter);
} dropped_rate SEC(".maps");

/* Where rows are intersected: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct intersection);
} intersection SEC(".maps");

#endif
