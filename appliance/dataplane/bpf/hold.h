/* Handing the packets of held flows to user space. All records of a flow go by one ring, that of the
 * CPU that saw its SYN. A record is reserved before the flow's state changes: records of a ring are
 * read in the order of reservation, so a flow's first packet comes first. */
#ifndef WEIR_HOLD_H
#define WEIR_HOLD_H

enum { HOLD_OK, HOLD_RING_FULL, HOLD_TOO_LARGE, HOLD_RACE };

/* From watching to held; `f` is in `flows`, and `h` describes it. */
static __always_inline int promote(struct packet *p, struct flow *f, __u64 word, struct held *h)
{
	if (*(volatile __u64 *)&f->word != word)
		return HOLD_RACE;
	f->owner = INSTANCE; /* before the state: whoever sees a held flow asks whose it is */
	if (!swap(f, word, STATE_HELD))
		return HOLD_RACE;
	/* Another CPU may have noted this since it was described; what it notes later does not cross. */
	h->flow.client_heard = *(volatile __u32 *)&f->client_heard;
	h->flow.said = *(volatile __u32 *)&f->said;
	f->counted = 1;
	count_entry(&p->key, f->client_low, 0, -1);
	return HOLD_OK;
}

static __always_inline void describe(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word, struct held *h, __u32 kind, __u32 length)
{
	h->id = word >> 8;
	__builtin_memcpy(&h->flow, f, sizeof(h->flow));
	__builtin_memcpy(&h->key, &p->key, sizeof(h->key));
	h->kind = kind;
	h->length = length;
	h->gso_size = skb ? skb->gso_size : 0;
	h->gso_segments = skb ? skb->gso_segs : 0;
	h->vlan_tci = skb ? skb->vlan_tci : 0;
	h->vlan_present = skb ? skb->vlan_present : 0;
}

/* Room for a record in the ring of a flow. */
static __always_inline struct held *reserve(__u64 word, __u64 size)
{
	void *ring = ring_of(word);
	return ring ? bpf_ringbuf_reserve(ring, size, 0) : 0;
}

/* Of each ring, up to where its reader has been woken. */
static volatile __u64 woken_up_to[MAX_RINGS];

/* How a record that is to be read at once is submitted; called right before. The kernel by itself
 * wakes the reader only where it has read all before: not for what stands behind a HELD_FINAL, which
 * wakes nobody. Here it is woken where it has read all it was woken for; where it has not, it is
 * awake, and does not sleep before it has read this, too. */
static __noinline int wake(__u64 word)
{
	void *ring = ring_of(word);
	__u32 number = ring_number(word) & (MAX_RINGS - 1);
	if (!ring)
		return BPF_RB_FORCE_WAKEUP;
	/* Atomically, though no other CPU writes at this moment what matters: between the record that was
	 * reserved and the look at how far is read, as the reader has it between its two. */
	__u64 woken = __sync_fetch_and_add(&woken_up_to[number], 0);
	__u64 read = bpf_ringbuf_query(ring, BPF_RB_CONS_POS);
	woken_up_to[number] = bpf_ringbuf_query(ring, BPF_RB_PROD_POS);
	return read >= woken ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* One function for each size of record. */
#define HOLD_CLASS(SIZE)                                                                                             \
	static __noinline int hold_##SIZE(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word,       \
					  __u32 kind)                                                                \
	{                                                                                                            \
		__u32 length = skb->len;                                                                             \
		if (!p || !f)                                                                                        \
			return HOLD_RACE;                                                                            \
		struct held *h = reserve(word, sizeof(*h) + SIZE);                                              \
		if (!h)                                                                                              \
			return HOLD_RING_FULL;                                                                       \
		/* The verifier of 6.1 learns nothing from "is not 0": a bound on length - 1 gives it both   \
		 * ends. The asm keeps clang from moving the bound away from its use. */                     \
		__u64 last = (__u64)length - 1;                                                              \
		asm volatile("" : "+r"(last));                                                               \
		if (last >= SIZE || bpf_skb_load_bytes(skb, 0, (void *)(h + 1), last + 1)) {                 \
			bpf_ringbuf_discard(h, 0);                                                                   \
			return HOLD_TOO_LARGE;                                                                       \
		}                                                                                                    \
		if (kind == HELD_FIRST)                                                                              \
			f->touched = bpf_ktime_get_ns();                                                             \
		describe(skb, p, f, word, h, kind, length);                                                          \
		if (kind == HELD_FIRST) {                                                                            \
			int result = promote(p, f, word, h);                                                          \
			if (result) {                                                                                \
				bpf_ringbuf_discard(h, 0);                                                           \
				return result;                                                                       \
			}                                                                                            \
		}                                                                                                    \
		bpf_ringbuf_submit(h, wake(word));                                                                   \
		return HOLD_OK;                                                                                      \
	}
HOLD_CLASS(2048)
HOLD_CLASS(16384)
/* Whatever a server takes of its client before it said a word (RFC 7323 2.2: the window of its SYN-ACK is
 * not scaled), with a tag, a tunnel and all of TCP's options. */
#define HOLD_MOST 65712
_Static_assert(HOLD_MOST >= 65535 + 14 + 8 + 28 + 40 + 60, "headers, largest first");
HOLD_CLASS(65712)

/* Leaves a flow that would be held to the bridge, and counts it by its reason; or drops the packet, where
 * another CPU moves or holds the flow at this moment. */
static __always_inline int leave_or_drop(struct packet *p, struct flow *f, __u64 word, __u32 segment, __u32 reason)
{
	if (leave_to_bridge(p, f, word)) {
		count_index(segment, reason);
		return TC_ACT_OK;
	}
	count(segment, state_race_dropped);
	return TC_ACT_SHOT;
}

/* The client of a flow that would be held has too many. */
static __always_inline int on_client_flood(struct packet *p, struct flow *f, __u64 word, struct configuration *c, __u32 segment)
{
	if (c->evasion & EVASION_CLIENT_FLOOD) {
		count(segment, client_flood_dropped); /* it comes again */
		return TC_ACT_SHOT;
	}
	return leave_or_drop(p, f, word, segment, COUNTER_client_flood_passed);
}

/* Of a record: what it has of a packet. */
static __always_inline __u32 room_of(struct __sk_buff *skb)
{
	return skb->len <= 2048 ? 2048 : skb->len <= 16384 ? 16384 : HOLD_MOST;
}

/* Whether a flow's ring takes no record now; counted. */
static __always_inline int ring_refuses(struct packet *p, struct flow *f, __u64 word, __u32 room, __u32 segment)
{
	int answer = ask_ring(p, f, word, room);
	if (answer == RING_HAS_ROOM)
		return 0;
	if (answer == RING_FULL)
		count(segment, ring_full_dropped);
	else
		count(segment, ring_share_dropped);
	return 1;
}

/* Whether another CPU was the first to hold a packet of a flow that was answered. */
static __always_inline int held_by_another_cpu(struct flow *f, __u64 word)
{
	return *(volatile __u64 *)&f->word == ((word & ~0xffULL) | STATE_HELD) && f->owner == INSTANCE;
}

static __noinline int hold_sized(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word, __u32 kind)
{
	if (skb->len <= 2048)
		return hold_2048(skb, p, f, word, kind);
	if (skb->len <= 16384)
		return hold_16384(skb, p, f, word, kind);
	return hold_65712(skb, p, f, word, kind);
}

/* Takes a client's packet off the wire and hands it to the engine, whose ring was asked before. A flow's
 * first was counted for its client. */
static __noinline int hold_asked(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word, __u32 kind)
{
	if (!p || !f)
		return TC_ACT_SHOT;
	__u32 segment = p->key.segment;
	int result = hold_sized(skb, p, f, word, kind);
	if (kind == HELD_FIRST && result != HOLD_OK)
		client_subtracts(&p->key, p->from_low);
	if (kind == HELD_FIRST && result == HOLD_RACE && held_by_another_cpu(f, word)) {
		kind = HELD_MORE;
		result = hold_sized(skb, p, f, word, kind);
	}
	switch (result) {
	case HOLD_OK:
		if (kind == HELD_REPEATED)
			count(segment, packet_repeated);
		else
			count(segment, packet_held);
		if (kind == HELD_FIRST)
			count(segment, flow_held);
		return TC_ACT_SHOT;
	case HOLD_RING_FULL:
		count(segment, ring_full_dropped);
		return TC_ACT_SHOT;
	case HOLD_TOO_LARGE:
		count(segment, client_invalid_dropped);
		return TC_ACT_SHOT;
	default:
		count(segment, state_race_dropped);
		return TC_ACT_SHOT;
	}
}

/* A further packet of a client whose flow is held, or was. */
static __always_inline int hold_more(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word, __u32 segment, __u32 kind)
{
	if (ring_refuses(p, f, word, room_of(skb), segment))
		return TC_ACT_SHOT;
	return hold_asked(skb, p, f, word, kind);
}

/* The server speaks before the client, which a server proxy's server may not (SPEC T9), nor another
 * where policy blocks it: the flow is held without a packet, and its judge blocks it. It was counted
 * for its client. */
static __noinline int hold_server_first(struct packet *p, struct flow *f, __u64 word, __u32 segment)
{
	if (!p || !f)
		return TC_ACT_SHOT;
	struct held *h = reserve(word, sizeof(*h));
	if (!h) {
		client_subtracts(&p->key, f->client_low);
		count(segment, ring_full_dropped);
		return TC_ACT_SHOT;
	}
	f->touched = bpf_ktime_get_ns();
	describe(0, p, f, word, h, HELD_SERVER_FIRST, 0);
	int result = promote(p, f, word, h);
	if (result) {
		bpf_ringbuf_discard(h, 0);
		client_subtracts(&p->key, f->client_low);
		count(segment, state_race_dropped);
		return TC_ACT_SHOT;
	}
	bpf_ringbuf_submit(h, wake(word));
	count(segment, flow_held);
	count(segment, server_spoke_first_dropped);
	return TC_ACT_SHOT;
}

/* The server ends before the client's bytes were judged, or seems to: nobody knows whether its client
 * believes it. One that believes a RST says no more, and nothing is lost by judging what it said. One
 * that heard a FIN would go on, and acknowledge what the engine's socket never heard: the FIN waits, it
 * comes again. */
static __always_inline int on_server_end(struct packet *p, struct flow *f, struct configuration *c, __u32 segment)
{
	if (!(p->flags & TCP_RST) || !may_be_first(f, c)) {
		/* One that ended ends again, or resets what comes. */
		count(segment, server_end_dropped);
		return TC_ACT_SHOT;
	}
	count(segment, held_ended);
	return TC_ACT_OK;
}

/* The server speaks before the client's bytes were judged, or seems to. Its client may hear it, where
 * policy has nothing against that, and is judged by what it says: who speaks no TLS is released. What of
 * the server it acknowledges meanwhile is not passed on, so the server says it again to whoever is its
 * client then. */
static __always_inline int on_server_spoke(struct packet *p, struct flow *f, __u64 word, struct configuration *c, __u32 segment)
{
	if (may_be_first(f, c)) {
		if (f->reset != SERVER_SPOKE && *(volatile __u64 *)&f->word == word) {
			f->reset = SERVER_SPOKE;
			count(segment, server_spoke_first);
		}
		note_said(p, f);
		return TC_ACT_OK;
	}
	struct held *h = reserve(word, sizeof(*h));
	if (!h) {
		count(segment, ring_full_dropped);
		return TC_ACT_SHOT;
	}
	/* Still held: its judge blocks it. */
	describe(0, p, f, word, h, HELD_SERVER_SPOKE, 0);
	bpf_ringbuf_submit(h, wake(word));
	count(segment, server_spoke_first_dropped);
	return TC_ACT_SHOT;
}

#endif
