/* A flow from its first payload on: held until it is judged, then released and watched until the
 * server acknowledged what was judged, or taken. Not for: handing packets to user space (hold.h), nor
 * the judgement, which is user space's. Without the flow's engine what is held is given back. */
#ifndef WEIR_JUDGED_H
#define WEIR_JUDGED_H

/* Whether a packet of the server acknowledges all that was judged. A RST says nothing: a server
 * may answer one wrong segment with it and keep the connection. */
static __always_inline int acknowledges_judged(struct packet *p, struct flow *f)
{
	__u32 acknowledged = p->ack - (f->end[0].isn + 1);
	return (p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) == TCP_ACK && (__s32)acknowledged >= 0 &&
	       acknowledged >= f->judged;
}

/* Where the server stands: a RST anywhere else does not end its connection (RFC 5961 3.2). */
static __always_inline void note_heard(struct packet *p, struct flow *f)
{
	__u32 heard = p->ack - (f->end[0].isn + 1);
	if ((p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) == TCP_ACK && heard <= f->judged && heard > f->server_heard)
		f->server_heard = heard;
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

enum { SENDER_IS_CLIENT, SENDER_IS_SERVER, SENDER_ON_OTHER_PASS };

/* Whose a packet of a flow is that is held, or was released and is watched; what its client marks as
 * urgent is so no more. */
static __always_inline int sender_of(struct __sk_buff *skb, struct packet *p, struct port *port, struct flow *f)
{
	__u32 from_client = p->from_low == f->client_low;
	if ((f->client_side == port->side) != from_client)
		return SENDER_ON_OTHER_PASS;
	if (!from_client)
		return SENDER_IS_SERVER;
	if ((p->flags & TCP_URG) && clear_urgent(skb, p->l4))
		count(port->segment, urgent_cleared);
	return SENDER_IS_CLIENT;
}

#define FIRST_WINDOW 65535 /* RFC 7323 2.2: most that a server takes before it acknowledged anything */

/* Whether a packet of its client could begin, or go on in, another connection of a released flow's ends: of one
 * whose server has lost it and knows connections by SYN cookies alone, which needs no SYN. What a client sends
 * in its own connection, behind what was judged too, lies in the window and acknowledges no more than its server
 * said (a FIN is one more); src/judged.rs has the same. */
static __noinline int of_another_connection(struct __sk_buff *skb, struct packet *p, struct flow *f)
{
	if (!p || !f || (p->flags & (TCP_ACK | TCP_RST)) != TCP_ACK)
		return 0; /* begins none, and carries nothing in one */
	__u32 start = p->seq - (f->end[0].isn + 1), heard = p->ack - (f->end[1].isn + 1);
	/* Not signed: what is before the first byte is far behind it. */
	if (start > f->server_heard + FIRST_WINDOW || heard > *(volatile __u32 *)&f->said + 1)
		return 1;
	if (ended_silently(f) && begins_hello_after_end(skb, p, start))
		return 1;
	if (!start || !on_a_cookies_line(start, heard))
		return 0;
	/* Behind a short first segment a client's next one may stand there, too, before its server acknowledged
	 * anything: such a connection is no session of TLS unless a hello begins it. One that is served takes what
	 * is none. */
	return !p->payload || (f->served && start > f->server_heard) || begins_hello(skb, p);
}

/* A released flow until its server acknowledged what was judged: the client cannot put other bytes
 * in their place, whatever became of the packets that were judged. */
static __always_inline int on_watched(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	int sender = sender_of(skb, p, port, f);
	if (sender == SENDER_ON_OTHER_PASS)
		return on_other_pass(c, segment);
	if (sender == SENDER_IS_SERVER) {
		note_heard(p, f);
		note_said(p, f);
		if (acknowledges_judged(p, f))
			end_watch(p, f, word, segment);
		return TC_ACT_OK;
	}
	/* Without an engine nobody ends the watch: what would be dropped crosses (SPEC D2). */
	if (of_another_connection(skb, p, f) && !c->fallback && !engine_dead(c, f->owner)) {
		count(segment, another_connection_dropped);
		return TC_ACT_SHOT;
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
	return hold_more(skb, p, f, word, segment, HELD_REPEATED);
}

/* Whether a client may acknowledge more than its server's SYN before it is judged: the server said
 * something before, or ended. Else the server drops what does, and so do we, or bytes would be judged that
 * it never takes. (Where that was a decoy it drops it, too, and hears no other bytes in their place: user
 * space compares them until it acknowledges them.) */
static __always_inline int may_have_heard(struct flow *f, struct configuration *c, __s32 heard)
{
	return heard > 0 && (f->reset == RESET_BY_SERVER || f->reset == SERVER_SPOKE) && may_be_first(f, c);
}

static __always_inline int on_held(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	int sender = sender_of(skb, p, port, f);
	if (sender == SENDER_ON_OTHER_PASS)
		return on_other_pass(c, segment);
	if (sender == SENDER_IS_SERVER) {
		if ((word & 0xff) == STATE_RELEASING) {
			note_heard(p, f);
			note_said(p, f);
		}
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
			if (!p->payload)
				return on_server_end(p, f, c, segment);
			return on_server_spoke(p, f, word, c, segment);
		}
	}
	if (engine_dead(c, f->owner)) {
		/* Nothing was acknowledged: the client sends it all again, and the bridge carries it. */
		if (!swap(f, word, STATE_RELEASED))
			goto race;
		client_leaves(&p->key, f);
		if (server_was_heard(f))
			leave_half_open(&p->key, word);
		forget_flow(&p->key, f);
		count(segment, held_given_back);
		return TC_ACT_OK;
	}
	__s32 heard = p->ack - (f->end[1].isn + 1);
	if (!p->payload && !(p->flags & (TCP_FIN | TCP_RST | TCP_SYN)) && p->seq == f->end[0].isn + 1 &&
	    (!heard || (word & 0xff) == STATE_RELEASING))
		return TC_ACT_OK; /* the handshake's last ACK, late or again */
	/* A RST needs no acknowledgement. */
	if ((word & 0xff) == STATE_HELD && !(p->flags & TCP_RST) &&
	    (!(p->flags & TCP_ACK) || (heard && !may_have_heard(f, c, heard)))) {
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
	if ((word & 0xff) == STATE_HELD &&
	    (begins_hello_behind(skb, p, p->seq - (f->end[0].isn + 1)) ||
	     (ended_silently(f) && begins_hello_after_end(skb, p, p->seq - (f->end[0].isn + 1))))) {
		count(segment, client_invalid_dropped);
		return TC_ACT_SHOT;
	}
	if (note_congestion(p, f, &f->end[0]))
		return drop_congested(segment);
	return hold_more(skb, p, f, word, segment, HELD_MORE);
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
	/* Our sockets would leave the byte out of the stream (RFC 6093), and hand over no more by splice(2). */
	if ((p->flags & TCP_URG) && clear_urgent(skb, p->l4))
		count(port->segment, urgent_cleared);
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
