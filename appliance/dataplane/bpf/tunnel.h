/* GRE keys that differ by direction (SPEC D4). A flow is known by the key of its SYN; a SYN-ACK with
 * another key, or with none, is paired with the one half-open SYN of its tuple and outer addresses,
 * where there is exactly one, and from then on that end's packets are found by the SYN's key. Not
 * for: stripping and adding headers (path.h). */
#ifndef WEIR_TUNNEL_H
#define WEIR_TUNNEL_H

static __always_inline __u32 tunnel_length(__u8 kind)
{
	switch (kind) {
	case TUNNEL_IPIP:
		return 20;
	case TUNNEL_GRE:
		return 24;
	case TUNNEL_GRE_KEY:
		return 28;
	default:
		return 0;
	}
}

static __always_inline int is_gre(__u8 kind)
{
	return kind == TUNNEL_GRE || kind == TUNNEL_GRE_KEY;
}

/* Of all flows that differ in nothing but their GRE keys. */
static __always_inline void without_gre_key(const struct flow_key *key, struct flow_key *out)
{
	__builtin_memcpy(out, key, sizeof(*out));
	out->tunnel = TUNNEL_GRE;
	out->tunnel_key = 0;
}

/* A SYN of a candidate came: it is the one that an answer with another key would belong to. */
static __noinline void note_gre_syn(struct packet *p)
{
	struct flow_key bare;
	if (!p)
		return;
	struct gre_pair fresh = { .syn_key = p->key.tunnel_key, .syn_tunnel = p->key.tunnel, .server_low = !p->from_low };
	without_gre_key(&p->key, &bare);
	struct gre_pair *pair = bpf_map_lookup_elem(&gre_pairs, &bare);
	if (pair && pair->server_low == fresh.server_low) {
		if (pair->syn_key == fresh.syn_key && pair->syn_tunnel == fresh.syn_tunnel)
			return;
		bare.tunnel = pair->syn_tunnel;
		bare.tunnel_key = pair->syn_key;
		fresh.ambiguous = bpf_map_lookup_elem(&half_open, &bare) != 0;
		without_gre_key(&p->key, &bare);
	}
	bpf_map_update_elem(&gre_pairs, &bare, &fresh, BPF_ANY);
}

/* Gives an end's packet that has a GRE key of its own the key its flow is known by. Whether it did. */
static __noinline int pair_gre_key(struct packet *p)
{
	struct flow_key bare;
	if (!p)
		return 0;
	struct gre_pair *pair = bpf_map_lookup_elem(&gre_aliases, &p->key);
	if (pair && pair->server_low == p->from_low)
		goto found;
	without_gre_key(&p->key, &bare);
	pair = bpf_map_lookup_elem(&gre_pairs, &bare);
	if (!pair || pair->server_low != p->from_low)
		return 0;
	if (pair->answered && pair->answer_key == p->key.tunnel_key && pair->answer_tunnel == p->key.tunnel)
		goto found;
	if ((p->flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK))
		return 0;
	bare.tunnel = pair->syn_tunnel;
	bare.tunnel_key = pair->syn_key;
	struct flow *f = bpf_map_lookup_elem(&half_open, &bare);
	if (!f || (f->word & 0xff) != STATE_HALF_OPEN || f->client_low == p->from_low || p->ack != f->end[0].isn + 1)
		return 0;
	if (pair->ambiguous) {
		count(p->key.segment, gre_key_ambiguous_passed);
		return 0;
	}
	pair->answer_key = p->key.tunnel_key;
	pair->answer_tunnel = p->key.tunnel;
	pair->answered = 1;
	if (pair->answer_key != pair->syn_key || pair->answer_tunnel != pair->syn_tunnel)
		count(p->key.segment, gre_keys_differ);
found:
	p->key.tunnel_key = pair->syn_key;
	p->key.tunnel = pair->syn_tunnel;
	return 1;
}

/* The key that the server's packets of a flow come with, where it differs. */
static __always_inline int alias_of(const struct flow_key *key, const struct flow *f, struct flow_key *alias)
{
	if (!is_gre(key->tunnel) || !is_gre(f->end[1].tunnel) ||
	    (f->end[1].tunnel == key->tunnel && f->end[1].tunnel_key == key->tunnel_key))
		return 0;
	__builtin_memcpy(alias, key, sizeof(*alias));
	alias->tunnel = f->end[1].tunnel;
	alias->tunnel_key = f->end[1].tunnel_key;
	return 1;
}

/* For as long as the flow is in `flows`; where the table is full the server's packets are unknown,
 * so the flow must not be held. */
static __noinline int keep_alias(struct flow_key *key, struct flow *f)
{
	struct flow_key alias;
	if (!key || !f || !alias_of(key, f, &alias))
		return 0;
	struct gre_pair pair = {
		.syn_key = key->tunnel_key,
		.syn_tunnel = key->tunnel,
		.server_low = !f->client_low,
	};
	return bpf_map_update_elem(&gre_aliases, &alias, &pair, BPF_ANY);
}

static __noinline void forget_alias(struct flow_key *key, struct flow *f)
{
	struct flow_key alias;
	if (key && f && alias_of(key, f, &alias))
		bpf_map_delete_elem(&gre_aliases, &alias);
}

/* Takes a flow out of the table, with what else knows it. */
static __noinline void forget_flow(struct flow_key *key, struct flow *f)
{
	if (!key || !f)
		return;
	/* What is read of it is read before: its memory may be another flow's right after. */
	__u32 client_low = *(volatile __u8 *)&f->client_low;
	forget_alias(key, f);
	if (!bpf_map_delete_elem(&flows, key))
		count_entry(key, client_low, -1, 0);
}

#endif
