/* A flow's life on the wire: its handshake is watched, its client's first payload held, and once it
 * is taken its packets go to the engine. For: TCP flows of policy's candidates. Not for: what comes
 * before flows (weir.bpf.c), handing packets to user space (hold.h). */
#ifndef WEIR_FLOW_H
#define WEIR_FLOW_H

/* Whether the client may take a packet of the server that was the first to say something. */
static __always_inline int server_in_window(struct packet *p, struct flow *f)
{
	__u32 offset = p->seq - (f->end[1].isn + 1);
	return !offset || offset < f->end[0].syn_window;
}

/* A server may say less in its SYN-ACK than it takes a moment later, even nothing at all. */
static __always_inline void learn_window(struct packet *p, struct flow *f)
{
	struct end *client = &f->end[0], *server = &f->end[1];
	if (!(server->flags & END_SEEN) || (p->flags & (TCP_ACK | TCP_SYN)) != TCP_ACK ||
	    p->ack != client->isn + 1 || p->seq != server->isn + 1)
		return;
	__u32 window = p->window;
	if (client->flags & server->flags & END_WINDOW_SCALE)
		window <<= server->window_scale & 15;
	if (window > 65535)
		window = 65535;
	if (window > server->syn_window)
		server->syn_window = window;
}

/* A decoy that the other end is not meant to get: an end's packets come the way of its SYN. */
static __always_inline int expires_early(struct packet *p, struct end *end)
{
	return end->ttl > p->ttl + TTL_VARIES;
}

/* A packet that came in by the port of its other end: a second pass of the same tuple (SPEC D16), or a
 * forged source, which must not change the flow. */
static __always_inline int on_other_pass(struct configuration *c, __u32 segment)
{
	if (c->evasion & EVASION_TWO_PASSES) {
		count(segment, two_passes_dropped);
		return TC_ACT_SHOT;
	}
	count(segment, two_passes_passed);
	return TC_ACT_OK;
}

static __always_inline int on_syn(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, int candidate)
{
	__u32 segment = port->segment, zero = 0;
	struct tcp_options options = {};
	if (!candidate)
		return TC_ACT_OK;
	count(segment, candidate_syn);
	if (c->fallback) {
		count(segment, fallback_passed);
		return TC_ACT_OK;
	}
	if (engine_dead(c, INSTANCE)) {
		count(segment, engine_dead_passed);
		return TC_ACT_OK;
	}
	if (p->payload && (c->evasion & EVASION_SYN_DATA)) {
		count(segment, syn_payload_dropped);
		return TC_ACT_SHOT;
	}
	if (!takeable_options(skb, p, segment, c, &options))
		return c->evasion & EVASION_UNTAKEABLE_OPTIONS ? TC_ACT_SHOT : TC_ACT_OK;

	struct flow *old = bpf_map_lookup_elem(&half_open, &p->key);
	if (old && old->end[0].isn == p->seq && old->client_low == p->from_low) {
		if (old->client_side != port->side) {
			/* The same SYN came in by the other port: the tuple crosses twice (SPEC D16). */
			__u64 word = *(volatile __u64 *)&old->word;
			if (!(c->evasion & EVASION_TWO_PASSES) && (word & 0xff) == STATE_HALF_OPEN)
				swap(old, word, STATE_IGNORED);
			return on_other_pass(c, segment);
		} else {
			/* A retransmission. */
			if (options.flags & END_TIMESTAMPS)
				old->end[0].tsval = options.tsval;
			if (p->payload > old->syn_payload)
				old->syn_payload = p->payload;
		}
		return TC_ACT_OK;
	}
	if (over_syn_share(p, c)) {
		if (c->evasion & EVASION_CLIENT_FLOOD) {
			count(segment, syn_flood_dropped);
			return TC_ACT_SHOT;
		}
		count(segment, syn_flood_passed);
		return TC_ACT_OK;
	}
	__u64 now = bpf_ktime_get_ns();
	__u8 contested = 0;
	/* A SYN with another sequence number, which a server that has the first one ignores. Where no
	 * SYN-ACK ever came, an old entry is of a connection that is long over. */
	if (old && (*(volatile __u64 *)&old->word & 0xff) == STATE_HALF_OPEN) {
		/* The server's side says in its client's name that there is another connection. */
		if (old->client_low == p->from_low && old->client_side != port->side &&
		    now - old->touched < SYN_ANSWERED)
			return on_other_pass(c, segment);
		contested = old->contested || (old->end[1].flags & END_SEEN) || now - old->touched < SYN_ANSWERED;
	}
	struct flow *fresh = bpf_map_lookup_elem(&scratch, &zero);
	if (!fresh)
		return TC_ACT_OK;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->word = new_id() << 8 | STATE_HALF_OPEN;
	fresh->client_low = p->from_low;
	fresh->client_side = port->side;
	fresh->touched = now;
	fresh->contested = contested;
	fresh->served = candidate == 2;
	fresh->syn_payload = p->payload;
	learn_syn(skb, p, &options, &fresh->end[0]);
	bpf_map_update_elem(&half_open, &p->key, fresh, BPF_ANY);
	if (is_gre(p->key.tunnel))
		note_gre_syn(p);
	return TC_ACT_OK;
}

/* A SYN-ACK whose SYN was not seen, or forgotten under a flood of them. */
static __noinline int on_unknown_answer(struct packet *p, struct port *port, struct configuration *c)
{
	if (!p || !port || !c)
		return TC_ACT_OK;
	p->from_low = !p->from_low; /* what the rules say of its client's SYN */
	struct verdict *v = verdict_of(p, port->segment * 2 + !port->side, c->generation);
	if (!v || !v->candidate)
		return TC_ACT_OK;
	if ((c->evasion & EVASION_UNSEEN_HANDSHAKE) && !c->fallback && !engine_dead(c, INSTANCE)) {
		/* Where it only was forgotten its client sends the SYN again. */
		count(port->segment, handshake_unknown_dropped);
		return TC_ACT_SHOT;
	}
	count(port->segment, handshake_unknown_passed);
	return TC_ACT_OK;
}

enum { SEEN_PASS, SEEN_DROP, SEEN_FIRST, SEEN_SERVER_FIRST };

/* Data of a handshake that was seen by half: the flow is watched on, for a SYN-ACK may still come. */
static __always_inline int on_unseen(struct configuration *c, struct flow *f, __u32 segment)
{
	if (f && f->contested) {
		count(segment, contested_dropped);
		return SEEN_DROP;
	}
	if (c->evasion & EVASION_UNSEEN_HANDSHAKE) {
		count(segment, unseen_dropped);
		return SEEN_DROP;
	}
	count(segment, unseen_passed);
	return SEEN_PASS;
}

/* A packet of a handshake that is watched, or the first after it: what is to be done with it. */
static __always_inline int see_handshake(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	__u32 from_client = p->from_low == f->client_low;
	if ((f->client_side == port->side) != from_client)
		return on_other_pass(c, segment) == TC_ACT_OK ? SEEN_PASS : SEEN_DROP;
	/* One packet that its receiver may ignore (a wrong sequence number, acknowledgement or checksum)
	 * never makes us forget the flow: what ends it is left to the ends, and the entry to the LRU. */
	if (p->flags & TCP_RST)
		return SEEN_PASS;
	struct end *server = &f->end[1];
	if (!from_client) {
		struct tcp_options options = {};
		if ((p->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && !p->payload) {
			__u32 taken = p->ack - (f->end[0].isn + 1);
			if (taken && taken <= f->syn_payload && swap(f, word, STATE_IGNORED))
				count(segment, syn_payload_passed);
			if (taken)
				return SEEN_PASS;
			if (!takeable_options(skb, p, segment, c, &options)) {
				if (c->evasion & EVASION_UNTAKEABLE_OPTIONS)
					return SEEN_DROP;
				swap(f, word, STATE_IGNORED);
				return SEEN_PASS;
			}
			learn_syn(skb, p, &options, server);
			f->contested = 0;
			return SEEN_PASS;
		}
		if (!p->payload && !(p->flags & TCP_FIN)) {
			learn_window(p, f);
			return SEEN_PASS;
		}
		if (p->flags & TCP_SYN) {
			/* A SYN-ACK with payload; of another connection, the client ignores it. */
			if (p->ack != f->end[0].isn + 1)
				return SEEN_PASS;
		} else if (!(server->flags & END_SEEN)) {
			/* Nothing says where its sequence is: its SYN-ACK took another path, or it is the other
			 * end of a connection that was opened from both. */
			return on_unseen(c, f, segment);
		} else if (!server_in_window(p, f)) {
			count(segment, server_outside_window_dropped);
			return SEEN_DROP;
		}
		/* STARTTLS, or no TLS at all. */
		if (p->payload && (f->served || (c->evasion & EVASION_SERVER_SPEAKS_FIRST)))
			return SEEN_SERVER_FIRST;
		/* The server speaks or ends first: not TLS as we know it, not ours. */
		if (swap(f, word, STATE_IGNORED)) {
			count(segment, server_spoke_first);
			return SEEN_PASS;
		}
		/* Another CPU is holding the flow at this moment; the server will send this again. */
		count(segment, state_race_dropped);
		return SEEN_DROP;
	}
	if (!p->payload)
		return SEEN_PASS;
	if ((p->flags & (TCP_SYN | TCP_ACK)) != TCP_ACK) {
		count(segment, client_invalid_dropped); /* RFC 9293 3.10.7: no segment that carries data */
		return SEEN_DROP;
	}
	if (!(server->flags & END_SEEN)) {
		return on_unseen(c, f, segment);
	}
	__s32 acknowledged = p->ack - (server->isn + 1);
	if (acknowledged < 0) {
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	if (acknowledged > 0) {
		/* Bytes of the server that took another path: all that follows acknowledges them too. Where
		 * there are none the server ignores this packet, and the next one is held. */
		return on_unseen(c, 0, segment);
	}
	__u32 offset = p->seq - (f->end[0].isn + 1);
	if ((__s32)offset < 0) {
		if ((__s32)(offset + p->payload) <= 0)
			return SEEN_PASS; /* a keep-alive: no byte that the server would take */
		/* The server would trim it and take the rest; no client sends such. */
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	if (offset >= server->syn_window) {
		/* The server would not take it either (SPEC D15), if the window is what the server said. */
		if (c->evasion & EVASION_DECOY) {
			count(segment, outside_window_dropped);
			return SEEN_DROP;
		}
		count(segment, outside_window_passed);
		return SEEN_PASS;
	}
	if (expires_early(p, &f->end[0])) {
		count(segment, client_ttl_dropped);
		return SEEN_DROP;
	}
	return SEEN_FIRST;
}

static __always_inline int on_handshake(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f)
{
	__u32 segment = port->segment;
	__u64 word = *(volatile __u64 *)&f->word;
	if ((word & 0xff) == STATE_IGNORED)
		return TC_ACT_OK;
	if ((p->flags & TCP_URG) && clear_urgent(skb, p->l4)) {
		p->flags &= ~TCP_URG;
		count(segment, urgent_cleared);
	}
	int seen = see_handshake(skb, p, port, c, f, word);
	if (seen == SEEN_PASS)
		return TC_ACT_OK;
	if (c->fallback || engine_dead(c, INSTANCE)) {
		/* Nobody judges: what would be dropped crosses as well (SPEC D2). */
		if (swap(f, word, STATE_IGNORED)) {
			if (c->fallback)
				count(segment, fallback_passed);
			else
				count(segment, engine_dead_passed);
		}
		return TC_ACT_OK;
	}
	if (seen == SEEN_FIRST) {
		if (note_congestion(p, f, &f->end[0]))
			return drop_congested(segment);
		return hold(skb, p, f, word, c, segment, HELD_FIRST);
	}
	if (seen == SEEN_SERVER_FIRST) {
		if (!client_adds(&p->key, f->client_low, c))
			return on_client_flood(f, word, c, segment);
		return hold_server_first(p, f, word, segment);
	}
	return TC_ACT_SHOT;
}

/* Whether a packet of the server acknowledges all bytes that were judged. A RST says nothing: a server
 * may answer one wrong segment with it and keep the connection. */
static __always_inline int acknowledges_judged(struct packet *p, struct flow *f)
{
	__u32 acknowledged = p->ack - (f->end[0].isn + 1);
	return (p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) == TCP_ACK && (__s32)acknowledged >= 0 &&
	       acknowledged >= f->judged;
}

static __always_inline void forget_watched(struct packet *p, struct flow *f, __u64 word, __u32 segment)
{
	if (swap(f, word, STATE_RELEASED)) {
		forget_flow(&p->key, f);
		count(segment, release_final);
	}
}

/* The release is final (SPEC D15): the flow is the bridge's alone. User space need not be woken. */
static __always_inline void end_watch(struct packet *p, struct flow *f, __u64 word, __u32 segment)
{
	struct held *h = reserve(word, sizeof(*h));
	if (!h) {
		forget_watched(p, f, word, segment);
		return; /* asked again below, the verifier of 6.1 would not know that there is none */
	}
	describe(0, p, f, word, h, HELD_FINAL, 0);
	forget_watched(p, f, word, segment);
	bpf_ringbuf_submit(h, BPF_RB_NO_WAKEUP);
}

/* A released flow until its server acknowledged what was judged: the client cannot put other bytes
 * in their place, whatever became of the packets that were judged. */
static __always_inline int on_watched(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	__u32 from_client = p->from_low == f->client_low;
	if ((f->client_side == port->side) != from_client)
		return on_other_pass(c, segment);
	if (from_client && (p->flags & TCP_URG) && clear_urgent(skb, p->l4))
		count(segment, urgent_cleared);
	if (!from_client) {
		if (acknowledges_judged(p, f))
			end_watch(p, f, word, segment);
		return TC_ACT_OK;
	}
	__s32 start = p->seq - (f->end[0].isn + 1), end = start + p->payload;
	if (!p->payload || end <= 0 || start >= (__s32)f->judged)
		return TC_ACT_OK;
	if (engine_dead(c, f->owner)) {
		if (swap(f, word, STATE_RELEASED)) {
			forget_flow(&p->key, f);
			count(segment, held_given_back);
		}
		return TC_ACT_OK;
	}
	if (f->owner != INSTANCE) {
		/* Only the engine that drains knows what was judged; it gives the watch up in time. */
		count(segment, draining_held_dropped);
		return TC_ACT_SHOT;
	}
	return hold(skb, p, f, word, c, segment, HELD_REPEATED);
}

static __always_inline int on_held(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	__u32 from_client = p->from_low == f->client_low;
	if ((f->client_side == port->side) != from_client)
		return on_other_pass(c, segment);
	if (from_client && (p->flags & TCP_URG) && clear_urgent(skb, p->l4))
		count(segment, urgent_cleared);
	if (!from_client) {
		if ((word & 0xff) == STATE_RELEASING && acknowledges_judged(p, f)) {
			/* state_command looks at this after its change of state, as we do at the state. */
			f->acknowledged = 1;
			__u64 now = __sync_val_compare_and_swap(&f->word, word, word);
			if (now == ((word & ~0xffULL) | STATE_WATCHED))
				end_watch(p, f, now, segment);
		}
		if ((p->flags & TCP_SYN) || (word & 0xff) == STATE_RELEASING)
			return TC_ACT_OK;
		if (!p->payload && !(p->flags & (TCP_FIN | TCP_RST)))
			return TC_ACT_OK;
		if (!server_in_window(p, f)) {
			count(segment, server_outside_window_dropped);
			return TC_ACT_SHOT;
		}
		if (!engine_dead(c, f->owner)) {
			if (expires_early(p, &f->end[1])) {
				count(segment, server_ttl_dropped);
				return TC_ACT_SHOT;
			}
			return server_ends_hold(p, f, word, c, segment);
		}
	}
	if (engine_dead(c, f->owner)) {
		/* Nothing was acknowledged: the client sends it all again, and the bridge carries it. */
		if (!swap(f, word, STATE_RELEASED))
			goto race;
		client_leaves(&p->key, f);
		forget_flow(&p->key, f);
		count(segment, held_given_back);
		return TC_ACT_OK;
	}
	if (!p->payload && !(p->flags & (TCP_FIN | TCP_RST | TCP_SYN)) && p->seq == f->end[0].isn + 1)
		return TC_ACT_OK; /* the handshake's last ACK, late or again */
	/* The server said nothing yet: it drops what acknowledges anything else, and so do we, or bytes
	 * would be judged that it never takes. A RST needs no acknowledgement. */
	if ((word & 0xff) == STATE_HELD && !(p->flags & TCP_RST) &&
	    (!(p->flags & TCP_ACK) || p->ack != f->end[1].isn + 1)) {
		count(segment, client_invalid_dropped);
		return TC_ACT_SHOT;
	}
	if (f->owner != INSTANCE) {
		/* An engine that drains has its ring elsewhere. It judges by what it has, or the client
		 * sends this again to whoever decides then. */
		count(segment, draining_held_dropped);
		return TC_ACT_SHOT;
	}
	if ((word & 0xff) == STATE_HELD && expires_early(p, &f->end[0])) {
		count(segment, client_ttl_dropped);
		return TC_ACT_SHOT;
	}
	if (note_congestion(p, f, &f->end[0]))
		return drop_congested(segment);
	return hold(skb, p, f, word, c, segment, HELD_MORE);
race:
	count(segment, state_race_dropped);
	return TC_ACT_SHOT;
}

static __always_inline int on_taken(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 from_server = p->from_low != f->client_low;
	if ((f->client_side == port->side) != !from_server) {
		/* The tuple crosses twice, and the pass by the other ports is the one that was taken: this is
		 * the client's own packet on its way there, or what our sockets sent on its way back. */
		if (c->evasion & EVASION_TWO_PASSES)
			return on_other_pass(c, port->segment);
		count(port->segment, taken_other_pass_passed);
		return TC_ACT_OK;
	}
	struct end *end = &f->end[from_server & 1];
	if (note_congestion(p, f, end))
		return drop_congested(port->segment);
	if ((word & 0xff) == STATE_TOMBSTONE)
		f->touched = bpf_ktime_get_ns();
	else if (is_keep_alive(p, end))
		tell_keep_alive(p, f, word, from_server);
	if (stands_next(p, end))
		learn_path(skb, p, end);
	return to_engine(skb, p, port);
}

#endif
