/* Bounds of what one client can have of the device, so that its flood is nobody else's overload:
 * flows that are held or in their TLS handshake, and room in the tables and the rings. A client is an
 * IPv4 address, or the /64 of an IPv6 address, whatever segment, VLAN or tunnel it comes by. Counts
 * are in hashed cells: a stranger in the same cells makes a client's bound smaller, never larger. Not
 * for: who is a candidate. Past a bound policy says what becomes of a flow; in a crowded ring the
 * packet is dropped, and comes again. What is not static the verifier looks at once (options.h). */
#ifndef WEIR_CLIENTS_H
#define WEIR_CLIENTS_H

#define RING_WINDOW 24 /* log2 of ns: some 17 ms */
#define RING_SHARE 16	/* of a ring, for one client in that time */
#define SYN_WINDOW 30	/* log2 of ns: some 1.1 s */
#define ENTRY_SHARE 8	/* of the table of flows, for one client once it is half full */
#define HANDSHAKES_PART 4 /* of the table of flows, for whole handshakes that say nothing; src/silence.rs has it too */
#define FRAGMENT_WINDOW 31 /* log2 of ns: some 2.1 s, not less than the engine's kernel waits for the rest of a packet */
#define FRAGMENT_SHARE 128 /* of packets that are not whole, for one client's flows in that time; src/engine_namespace.rs says why */
#define SYN_SHARE 8	/* of the table of handshakes, for one client in that time */

/* The seed keeps an end from choosing addresses that meet another client's. */
static __always_inline __u64 client_hash(const struct flow_key *key, __u32 client_low, __u64 seed)
{
	const __u32 *address = (const __u32 *)key->address[client_low ? 0 : 1];
	__u32 four = !address[0] && !address[1] && address[2] == bpf_htonl(0xffff);
	__u64 client = four ? address[3] : (__u64)address[0] << 32 | address[1];
	__u64 mixed = (client ^ seed) * 0x9e3779b97f4a7c15ULL;
	mixed = (mixed ^ mixed >> 32 ^ seed >> 17) * 0xbf58476d1ce4e5b9ULL;
	return mixed ^ mixed >> 29;
}

/* A count may be below 0, by races: it is none then, and no bound is reached. */
static __always_inline __s32 count_of(__u64 *cell)
{
	return (__s32)*(volatile __u64 *)cell;
}

static __always_inline void change_cell(__u64 *cell, __s32 by)
{
	__sync_fetch_and_add(cell, (1LL << 32) + by);
}

/* One of a client's two cells, of the counts that begin at `base`. */
static __always_inline __u64 *client_cell(__u64 hash, __u32 base, int second)
{
	__u32 at = base + (second ? CLIENT_CELLS + ((hash >> 32) & (CLIENT_CELLS - 1)) : hash & (CLIENT_CELLS - 1));
	return bpf_map_lookup_elem(&client_flows, &at);
}

/* Counts a flow of a client that is held now, if it may be. Whether it was; CPUs that ask at one time
 * may go over a bound by one each. */
static __noinline int client_adds(struct flow_key *key, __u32 client_low, struct configuration *c)
{
	if (!key || !c)
		return 0;
	__s64 most = c->client_flows;
	__u64 hash = client_hash(key, client_low, c->seed);
	__u64 *one = client_cell(hash, 0, 0), *two = client_cell(hash, 0, 1);
	if (!one || !two)
		return 0;
	if (most && count_of(one) >= most && count_of(two) >= most)
		return 0;
	change_cell(one, 1);
	change_cell(two, 1);
	return 1;
}

static __noinline int client_subtracts(struct flow_key *key, __u32 client_low)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!key || !c)
		return 0;
	__u64 hash = client_hash(key, client_low, c->seed);
	__u64 *one = client_cell(hash, 0, 0), *two = client_cell(hash, 0, 1);
	if (!one || !two)
		return 0;
	change_cell(one, -1);
	change_cell(two, -1);
	return 0;
}

/* Adds to a client's two cells that begin at `base`, and to the count of all clients. */
static __always_inline void change_cells(__u64 hash, __u32 base, __u32 all, int change)
{
	__u64 *one = client_cell(hash, base, 0), *two = client_cell(hash, base, 1);
	__u64 *total = bpf_map_lookup_elem(&client_flows, &all);
	if (!one || !two || !total)
		return;
	change_cell(one, change);
	change_cell(two, change);
	change_cell(total, change);
}

/* Entries of a client came into `flows`, or went; and how many of them became, or were,
 * STATE_ANSWERED. */
__noinline int count_entry(struct flow_key *key, __u32 client_low, int entries, int handshakes)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!key || !c)
		return 0;
	__u64 hash = client_hash(key, client_low, c->seed);
	if (entries)
		change_cells(hash, CLIENT_ENTRIES, CLIENT_ENTRIES_ALL, entries);
	if (handshakes)
		change_cells(hash, CLIENT_HANDSHAKES, CLIENT_HANDSHAKES_ALL, handshakes);
	return 0;
}

/* Whether a count is below its bound; and below its client's share, where half of the bound is used. */
static __always_inline int has_share(__u64 hash, __u32 base, __u32 all, __u32 most)
{
	__u64 *one = client_cell(hash, base, 0), *two = client_cell(hash, base, 1);
	__u64 *total = bpf_map_lookup_elem(&client_flows, &all);
	if (!one || !two || !total)
		return 0;
	__s32 half = most / 2, share = most / ENTRY_SHARE;
	return count_of(total) < half || count_of(one) <= share || count_of(two) <= share;
}

/* Whether a client may have one more entry in `flows`: its finished flows take the room of others',
 * where that is short. */
__noinline int entry_has_room(struct flow_key *key, __u32 client_low, __u64 seed)
{
	return key && has_share(client_hash(key, client_low, seed), CLIENT_ENTRIES, CLIENT_ENTRIES_ALL, flow_entries);
}

/* The same of one whose handshake is whole, and that has said nothing: they have a part of the table,
 * so that those which do say something always find room. */
__noinline int handshake_has_room(struct flow_key *key, __u32 client_low, __u64 seed)
{
	__u32 all = CLIENT_HANDSHAKES_ALL, most = flow_entries / HANDSHAKES_PART;
	__u64 *total = bpf_map_lookup_elem(&client_flows, &all);
	if (!key || !total || count_of(total) >= (__s32)most)
		return 0;
	__u64 hash = client_hash(key, client_low, seed);
	return has_share(hash, CLIENT_HANDSHAKES, CLIENT_HANDSHAKES_ALL, most) &&
	       has_share(hash, CLIENT_ENTRIES, CLIENT_ENTRIES_ALL, flow_entries);
}

/* By who changed the state of a flow in `flows` to one that does not count. */
static __always_inline void client_leaves(struct flow_key *key, struct flow *f)
{
	if (!f->counted)
		return;
	f->counted = 0;
	client_subtracts(key, f->client_low);
}

/* Whether a client had its share in this window of time; else it has `amount` more. CPUs may lose one
 * another's additions: then it is a little more. */
static __always_inline int over_share(struct share *share, __u32 window_bits, __u64 amount, __u64 most)
{
	if (!share)
		return 0;
	__u64 window = bpf_ktime_get_ns() >> window_bits;
	if (share->window != window) {
		share->window = window;
		share->amount = 0;
	}
	if (share->amount > most)
		return 1;
	share->amount += amount;
	return 0;
}

/* What a client has of the table of handshakes that are watched. What it has over its share, of those that came
 * back there unasked, it has of the windows that follow. Of several CPUs, so that it is changed atomically; it may
 * be below 0, by races: it is nothing then. */
static __always_inline struct share *syn_share(struct flow_key *key, __u32 client_low)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!key || !c)
		return 0;
	__u32 cell = client_hash(key, client_low, c->seed) & (CLIENT_CELLS - 1);
	struct share *share = bpf_map_lookup_elem(&syn_shares, &cell);
	if (!share)
		return 0;
	__u64 window = *(volatile __u64 *)&share->window;
	__s64 passed = (bpf_ktime_get_ns() >> SYN_WINDOW) - window;
	/* By one CPU; another one's clock may be in the window before. */
	if (passed > 0 && __sync_val_compare_and_swap(&share->window, window, window + passed) == window) {
		__s64 amount = *(volatile __u64 *)&share->amount, most = passed * (half_open_entries / SYN_SHARE);
		__sync_fetch_and_add(&share->amount, amount > most ? -most : -amount);
	}
	return share;
}

/* One more entry of a client is to be there: whether it has so many of the last second that it would soon push
 * out all others'. */
static __noinline int over_syn_share(struct flow_key *key, __u32 client_low)
{
	struct share *share = syn_share(key, client_low);
	if (!share)
		return 0;
	if ((__s64)*(volatile __u64 *)&share->amount > (__s64)(half_open_entries / SYN_SHARE))
		return 1;
	__sync_fetch_and_add(&share->amount, 1);
	return 0;
}

/* One came back there, which nobody was asked about: the client's next ones are. For how long has a bound: more
 * than both tables have room for is not counted. */
static __noinline int return_to_syn_share(struct flow_key *key, __u32 client_low)
{
	struct share *share = syn_share(key, client_low);
	__s64 most = (__s64)half_open_entries + flow_entries;
	if (share && (__s64)*(volatile __u64 *)&share->amount < most)
		__sync_fetch_and_add(&share->amount, 1);
	return 0;
}

/* One left it: whole handshakes have bounds of their own, and who completes all that it begins, as the proxy
 * of many does, pushes out nobody's. */
static __noinline int leave_syn_share(struct flow_key *key, __u32 client_low)
{
	struct share *share = syn_share(key, client_low);
	if (share && (__s64)*(volatile __u64 *)&share->amount > 0)
		__sync_fetch_and_add(&share->amount, -1);
	return 0;
}

enum { RING_HAS_ROOM, RING_OVER_SHARE, RING_FULL };

/* Whether a packet must wait because its flow's ring is full, or more than half full and its client had
 * its share of it: the other half is for all others. */
static __noinline int ask_ring(struct packet *p, struct flow *f, __u64 word, __u32 room)
{
	void *ring = ring_of(word);
	__u32 zero = 0;
	if (!p || !f || !ring)
		return RING_FULL;
	__u64 used = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA), size = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);
	/* A record is its header, and 8 bytes of the kernel's, the longer. */
	if (used + sizeof(struct held) + room + 8 >= size)
		return RING_FULL;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (used < size / 2 || !c)
		return RING_HAS_ROOM;
	__u32 cell = client_hash(&p->key, f->client_low, c->seed) & (CLIENT_CELLS - 1);
	return over_share(bpf_map_lookup_elem(&ring_shares, &cell), RING_WINDOW, room, size / RING_SHARE) ?
		       RING_OVER_SHARE :
		       RING_HAS_ROOM;
}

#endif
