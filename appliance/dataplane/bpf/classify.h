/* What precedes TLS inspection, in the order of SPEC D5: inspection bypass rules, traffic filters,
 * reputation, quarantine; and which packets TLS policy covers. weir_policy's precedence::evaluate is
 * the definition, and a test holds the two together.
 *
 * A packet like one before costs a look into this CPU's memory; a new one walks the tables (rules.h).
 * Where a table has no answer the packet passes. */
#ifndef WEIR_CLASSIFY_H
#define WEIR_CLASSIFY_H

static __always_inline __u32 lowest_bit(__u64 word)
{
	__u64 below = (word & -word) - 1; /* counted without branches */
	below = below - ((below >> 1) & 0x5555555555555555ULL);
	below = (below & 0x3333333333333333ULL) + ((below >> 2) & 0x3333333333333333ULL);
	below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (below * 0x0101010101010101ULL) >> 56;
}

/* The first rule of `count` words from `at` on: its number from 1, or 0. */
__noinline int first_rule(struct row *row, __u32 at, __u32 count)
{
	if (!row)
		return 0;
	for (__u32 i = 0; i < MOST_WORDS; i++) {
		__u32 index = at + i;
		if (i >= count || index >= ROW_WORDS)
			break;
		__u64 word = row->words[index];
		if (word)
			return i * 64 + lowest_bit(word) + 1;
	}
	return 0;
}

/* Begins with the rules that a class satisfies. */
__noinline int begin(struct intersection *i, __u32 index)
{
	struct row *row = bpf_map_lookup_elem(&rows, &index);
	if (!i)
		return 0;
	if (row)
		i->left = *row;
	else
		__builtin_memset(&i->left, 0, sizeof(i->left));
	i->kept = index;
	return 0;
}

/* Keeps of them those that this class satisfies, too. The dimensions that no rule asks for share one
 * class, whose rules are those to begin with. */
__noinline int narrow(struct intersection *i, __u32 index)
{
	struct row *row = bpf_map_lookup_elem(&rows, &index);
	if (!i || !row || i->kept == index)
		return 0;
	for (int word = 0; word < ROW_WORDS; word++)
		i->left.words[word] &= row->words[word];
	return 0;
}

static __always_inline __u32 class_of(const struct network_key *key)
{
	__u32 *class = bpf_map_lookup_elem(&networks, key);
	return class ? *class : 0;
}

static __always_inline int is_blocked(const __u8 *address)
{
	struct address_key key = { .prefix = 128 };
	__builtin_memcpy(key.address, address, 16);
	__u8 *standing = bpf_map_lookup_elem(&reputation, &key);
	return standing && *standing == 1;
}

/* Until when one of the two is quarantined; 0: neither. */
static __always_inline __u64 quarantined(const struct packet *p)
{
	__u64 now = bpf_ktime_get_ns();
	struct host host; /* 6.1 takes keys from the stack only */
	__builtin_memcpy(host.address, p->key.address[0], 16);
	__u64 *until = bpf_map_lookup_elem(&quarantine, &host);
	if (until && *until > now)
		return *until;
	__builtin_memcpy(host.address, p->key.address[1], 16);
	until = bpf_map_lookup_elem(&quarantine, &host);
	return until && *until > now ? *until : 0;
}

/* The tables' answer. `port`: segment * 2 + side. */
__noinline int walk(struct packet *p, struct verdict *v, __u32 port, __u32 half)
{
	__u32 zero = 0;
	struct network_key key = { .prefix = 32 + 128 };
	half &= 1;
	struct classes *t = bpf_map_lookup_elem(&classes, &half);
	struct intersection *i = bpf_map_lookup_elem(&intersection, &zero);
	if (!p || !v || !t || !i)
		return 0;
	__builtin_memset(v, 0, sizeof(*v));
	__u32 base = half * ROWS, from_high = !p->from_low;
	/* In network order, as the tables are: 6.1 loses the bounds of a number that it turns round. */
	__u16 low_port = p->key.port[0];
	__u16 high_port = p->key.port[1];
	__u32 icmp = NO_ICMP_TYPE, vlan = UNTAGGED;
	if (p->has_icmp_type)
		icmp = p->icmp_type;
	if (p->key.outer_vlan)
		vlan = p->key.outer_vlan & 0xfff;
	begin(i, base + t->vlan[vlan]);
	narrow(i, base + t->port[port & (MAX_SEGMENTS * 2 - 1)]);
	narrow(i, base + t->ether_type[p->ether_type]);
	narrow(i, base + t->protocol[p->protocol]);
	narrow(i, base + t->icmp_type[icmp]);
	narrow(i, base + t->source_port[from_high ? high_port : low_port]);
	narrow(i, base + t->destination_port[from_high ? low_port : high_port]);
	const __u64 *words = (const __u64 *)p->key.address;
	int internet = words[0] || words[1] || words[2] || words[3];
	if (internet) {
		key.scope = half * 2 + from_high;
		__builtin_memcpy(key.address, p->key.address[0], 16);
		narrow(i, base + class_of(&key));
		key.scope = half * 2 + !from_high;
		__builtin_memcpy(key.address, p->key.address[1], 16);
		narrow(i, base + class_of(&key));
	} else {
		narrow(i, base + t->no_address[0]);
		narrow(i, base + t->no_address[1]);
	}

	v->virtual_segment = first_rule(&i->left, 0, SEGMENT_WORDS);
	v->rule = first_rule(&i->left, BYPASS_AT, BYPASS_WORDS);
	if (v->rule) {
		v->passage = PASS_BYPASSED;
		return 0;
	}
	v->rule = first_rule(&i->left, FILTER_AT, FILTER_WORDS);
	if (v->rule) {
		__u32 index = half * TRAFFIC_FILTERS + v->rule - 1;
		struct traffic_filter *filter = bpf_map_lookup_elem(&traffic_filters, &index);
		__u32 action = filter ? filter->action : FILTER_ALLOW;
		if (action == FILTER_BLOCK) {
			v->passage = DROP_FILTER;
			return 0;
		}
		if (action == FILTER_TRUST)
			v->passage = PASS_TRUSTED;
		v->limited = action == FILTER_RATE_LIMIT;
	}
	__u32 kind = 0;
	if (v->virtual_segment) {
		__u32 index = half * VIRTUAL_SEGMENTS + v->virtual_segment - 1;
		struct policies *own = bpf_map_lookup_elem(&segment_policies, &index);
		if (own) {
			for (int word = 0; word < POLICY_WORDS; word++)
				i->left.words[POLICY_AT + word] &= own->words[word];
			__u32 policy = first_rule(&i->left, POLICY_AT, POLICY_WORDS);
			if (policy)
				kind = t->policy_kind[(policy - 1) & (POLICIES - 1)];
		}
	}
	v->candidate = kind == POLICY_SERVER ? 2 : kind == POLICY_EXCEPTED || kind == POLICY_CLIENT;
	if (v->passage == PASS_TRUSTED || !internet)
		return 0;
	if (t->reputation && (is_blocked(p->key.address[0]) || is_blocked(p->key.address[1]))) {
		v->passage = DROP_REPUTATION;
		v->candidate = 0;
		return 0;
	}
	v->until = quarantined(p);
	if (v->until) {
		v->passage = DROP_QUARANTINE;
		v->candidate = 0;
	} else if (kind == POLICY_QUIC_BLOCKED) {
		v->passage = DROP_QUIC;
	}
	return 0;
}

/* The verdict on a packet, remembered or found; 0 only where a map is missing. What is remembered is
 * remembered for all ports that the rules do not tell apart: a connection of the same ends is no new
 * packet for having another port of its client. */
static __always_inline struct verdict *verdict_of(struct packet *p, __u32 port, __u64 generation)
{
	const __u32 *address = (const __u32 *)p->key.address;
	__u32 half = generation & 1;
	struct classes *t = bpf_map_lookup_elem(&classes, &half);
	if (!t)
		return 0;
	__u16 source = p->from_low ? p->key.port[0] : p->key.port[1];
	__u16 destination = p->from_low ? p->key.port[1] : p->key.port[0];
	__u32 ports = (__u32)t->source_port[source] << 16 | t->destination_port[destination];
	__u64 facts = (__u64)p->key.outer_vlan | (__u64)p->ether_type << 16 | (__u64)p->protocol << 32 |
		      (__u64)p->icmp_type << 40 | (__u64)(port & 0xff) << 48 | (__u64)(p->from_low & 1) << 56 |
		      (__u64)(p->has_icmp_type & 1) << 57;
	__u64 mixed = ((__u64)address[0] << 32 | address[1]) * 0x9e3779b97f4a7c15ULL +
		      ((__u64)address[2] << 32 | address[3]) * 0xbf58476d1ce4e5b9ULL +
		      ((__u64)address[4] << 32 | address[5]) * 0x94d049bb133111ebULL +
		      ((__u64)address[6] << 32 | address[7]) * 0xd6e8feb86659fd93ULL + (ports ^ facts) * 0xff51afd7ed558ccdULL;
	mixed ^= mixed >> 32;
	__u32 slot = (mixed ^ mixed >> 16) & (REMEMBERED - 1);
	struct remembered *r = bpf_map_lookup_elem(&memory, &slot);
	if (!r)
		return 0;
	if (r->facts == facts && r->ports == ports && r->generation == (__u32)generation &&
	    r->address[3] == address[3] && r->address[7] == address[7] && r->address[2] == address[2] &&
	    r->address[6] == address[6] && r->address[1] == address[1] && r->address[5] == address[5] &&
	    r->address[0] == address[0] && r->address[4] == address[4] &&
	    (r->verdict.passage != DROP_QUARANTINE || bpf_ktime_get_ns() < r->verdict.until))
		return &r->verdict;
	r->facts = facts;
	r->ports = ports;
	r->generation = generation;
	__builtin_memcpy(r->address, address, 32);
	walk(p, &r->verdict, port, generation & 1);
	return &r->verdict;
}

/* Whether a packet is over its filter's rate. CPUs share the bucket; where they contend for it, a
 * packet passes and is charged all the same. */
static __always_inline int over_rate(struct traffic_filter *filter, __u32 length)
{
	__u64 now = bpf_ktime_get_ns(), cost = (length * filter->picoseconds + 500) / 1000;
	for (int i = 0; i < 4; i++) {
		__u64 next = *(volatile __u64 *)&filter->next;
		__u64 start = next > now ? next : now;
		if (start + cost - now > filter->burst)
			return 1;
		if (__sync_val_compare_and_swap(&filter->next, next, start + cost) == next)
			return 0;
	}
	__sync_fetch_and_add(&filter->next, cost);
	return 0;
}

static __always_inline void count_rule(__u32 half, __u32 bit, __u32 length)
{
	__u32 index = half * RULES + bit;
	struct rule_count *value = bpf_map_lookup_elem(&rule_counts, &index);
	if (value) {
		value->packets++;
		value->bytes += length;
	}
}

#include "quic.h"

/* Whether a packet is stopped that a rule drops, or limits. In fallback, and without an engine, none is
 * (SPEC D2). A function of its own: what it needs of the stack most packets do without. */
static __noinline int is_stopped(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct verdict *v)
{
	if (!p || !port || !c || !v)
		return 0;
	__u32 segment = port->segment;
	if (c->fallback || engine_dead(c, INSTANCE)) {
		if (v->passage > PASS_TRUSTED)
			count(segment, fallback_unblocked);
		return 0;
	}
	if (v->limited) {
		__u32 index = (c->generation & 1) * TRAFFIC_FILTERS + v->rule - 1;
		struct traffic_filter *filter = bpf_map_lookup_elem(&traffic_filters, &index);
		if (filter && over_rate(filter, skb->len)) {
			count(segment, rate_limit_dropped);
			return 1;
		}
	}
	switch (v->passage) {
	case DROP_FILTER:
		count(segment, filter_dropped);
		return 1;
	case DROP_REPUTATION:
		count(segment, reputation_dropped);
		return 1;
	case DROP_QUARANTINE:
		count(segment, quarantine_dropped);
		return 1;
	case DROP_QUIC:
		if (is_excepted(skb, p, c))
			return 0;
		count(segment, quic_dropped);
		tell_engine(skb, p, port, c);
		return 1;
	default:
		return 0;
	}
}

/* Of the verdict on a packet, what is asked for later on its way. */
struct said {
	__u16 virtual_segment; /* number from 1, of a half: half * VIRTUAL_SEGMENTS more; 0: none */
	__u8 passage;
	__u8 candidate;
};

/* A packet's way has ended: counts for its virtual segment what it was dropped for, if it was. */
__noinline int count_drop(__u32 virtual_segment)
{
	__u32 zero = 0, *reason = bpf_map_lookup_elem(&dropped_for, &zero);
	if (!reason || !*reason)
		return 0;
	struct virtual_drop key = { .counter = *reason };
	*reason = 0;
	if (!virtual_segment)
		return 0;
	key.virtual_segment = virtual_segment - 1;
	__u64 once = 1, *drops = bpf_map_lookup_elem(&virtual_drops, &key);
	if (drops)
		(*drops)++;
	else
		bpf_map_update_elem(&virtual_drops, &key, &once, BPF_ANY); /* of this CPU alone, where another one was faster */
	return 0;
}

/* Whether a packet is stopped here; else `said` says what else the rules have for it. */
static __always_inline int classify(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct segment_settings *settings, struct said *said)
{
	if (!settings || !settings->rules)
		return 0;
	__u64 generation = *(volatile __u64 *)&c->generation;
	__u32 half = generation & 1;
	struct verdict *v = verdict_of(p, port->segment * 2 + (port->side & 1), generation);
	if (!v)
		return 0;
	if (v->virtual_segment)
		said->virtual_segment = half * VIRTUAL_SEGMENTS + v->virtual_segment;
	said->passage = v->passage;
	said->candidate = v->candidate;
	if (v->virtual_segment)
		count_rule(half, v->virtual_segment - 1, skb->len);
	if (v->rule) {
		__u32 group = v->passage == PASS_BYPASSED ? BYPASS_AT * 64 : FILTER_AT * 64;
		count_rule(half, group + v->rule - 1, skb->len);
	}
	if (v->passage <= PASS_TRUSTED && !v->limited)
		return 0;
	return is_stopped(skb, p, port, c, v);
}

#endif
