/* A flow's handshake, up to the first packet after it: what is learnt of both ends, and which first
 * payload is one that the other end would take. For: SYNs of candidates, their answers, and data of
 * handshakes that were seen by half. Not for: holding that payload (hold.h). What is not as it should
 * be passes or is dropped as policy says, and is counted by its reason. */
#ifndef WEIR_HANDSHAKE_H
#define WEIR_HANDSHAKE_H

/* `old`: an answered flow of the same tuple, if there is one. A newer handshake of that tuple may be
 * watched beside it, which this SYN may belong to. */
static __always_inline int on_syn(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, int candidate, struct flow *old)
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
	if (!takeable_options(skb, p, port, c, &options))
		return c->evasion & EVASION_UNTAKEABLE_OPTIONS ? TC_ACT_SHOT : TC_ACT_OK;

	struct flow *newer = bpf_map_lookup_elem(&half_open, &p->key);
	if (!old || (newer && p->seq != old->end[0].isn && (*(volatile __u64 *)&newer->word & 0xff) == STATE_HALF_OPEN))
		old = newer;
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
			if (p->payload > old->syn_payload && (*(volatile __u64 *)&old->word & 0xff) == STATE_HALF_OPEN)
				old->syn_payload = p->payload;
		}
		return TC_ACT_OK;
	}
	if (over_syn_share(&p->key, p->from_low)) {
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
	 * SYN-ACK ever came, an old entry is of a connection that is long over. Where the server spoke first
	 * the old connection goes on by what policy says of handshakes that were not seen. */
	if (old && (*(volatile __u64 *)&old->word & 0xff) != STATE_IGNORED && old->reset != SERVER_SPOKE &&
	    !answered_strangely(old)) {
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

enum { SEEN_PASS, SEEN_DROP, SEEN_WHOLE, SEEN_FIRST, SEEN_SERVER_FIRST };

/* Data of a handshake that was seen by half: the flow is watched on, for a SYN-ACK may still come. */
static __always_inline int on_unseen(struct configuration *c, struct flow *f, __u32 segment)
{
	if (f && answered_strangely(f))
		return SEEN_PASS;
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

/* So much a server must have said, to a client that said nothing else, for its flow to be left to the
 * bridge for good: before, sequence numbers that went all the way round say nothing. */
#define BELIEVED (1 << 30)

/* The server is the first to speak: STARTTLS, or no TLS at all, not ours. Or its client never gets it: as
 * long as the entry is known what the client says is held that acknowledges nothing of it. What does
 * acknowledge it a server takes only that did say it. The entry has no room among those that nothing
 * pushes out. */
static __always_inline int on_server_first(struct packet *p, struct flow *f, __u64 word, __u32 segment)
{
	__u32 first = f->reset != SERVER_SPOKE, done;
	if ((word & 0xff) == STATE_ANSWERED) {
		done = enter_half_open(p, f, word, STATE_HALF_OPEN);
	} else {
		done = *(volatile __u64 *)&f->word == word;
		if (done)
			note_word(p, f);
		/* What another CPU moves at this moment may not have the first. */
		if (done && first)
			done = __sync_val_compare_and_swap(&f->word, word, word) == word;
		else if (done && f->said > BELIEVED)
			done = leave_to_bridge(p, f, word);
	}
	if (!done) {
		/* Another CPU is holding the flow at this moment; the server will send this again. */
		count(segment, state_race_dropped);
		return SEEN_DROP;
	}
	if (first)
		count(segment, server_spoke_first);
	return SEEN_PASS;
}

/* A client's data that begins before its first byte. A keep-alive has no byte that the server would take;
 * but for one that knows connections by SYN cookies (RFC 4987 3.6) alone, whose client may have said another
 * number than in its SYN: for it the byte is the first of a ClientHello, where it begins one, and a longer
 * one is all of it. */
static __noinline int ahead_of_first(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	__u8 last = 0;
	if (!p)
		return SEEN_DROP;
	if (offset == -1U && p->payload == 1 && !bpf_skb_load_bytes(skb, p->end - 1, &last, 1) && last != TLS_HANDSHAKE)
		return SEEN_PASS;
	/* The server would trim it and take the rest; no client sends such. */
	count(p->key.segment, client_invalid_dropped);
	return SEEN_DROP;
}

/* A packet of a handshake that is watched, or the first after it: what is to be done with it. */
static __always_inline int see_handshake(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	__u32 from_client = p->from_low == f->client_low;
	if ((f->client_side == port->side) != from_client)
		return on_other_pass(c, segment) == TC_ACT_OK ? SEEN_PASS : SEEN_DROP;
	/* One packet that its receiver may ignore (a wrong sequence number, acknowledgement or checksum)
	 * never makes us forget the flow: what ends it is left to the ends, and the entry to the LRU, or
	 * to user space. */
	if (p->flags & TCP_RST) {
		if (p->seq == f->end[!from_client].isn + 1 && !expires_early(p, &f->end[!from_client]) && !f->reset)
			f->reset = RESET_BY_ANYBODY;
		return SEEN_PASS;
	}
	struct end *server = &f->end[1];
	__u32 answered = (word & 0xff) == STATE_ANSWERED;
	if (answered)
		f->touched = bpf_ktime_get_ns();
	if (!from_client) {
		struct tcp_options options = {};
		if ((p->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && !p->payload) {
			/* The client has acknowledged one, or seems to have. */
			if (answered || (f->end[0].flags & END_CONFIRMED)) {
				if (p->ack == f->end[0].isn + 1 && p->seq != server->isn) {
					if (!(server->flags & END_DOUBTFUL))
						server->flags |= END_DOUBTFUL;
					if (f->reset == SERVER_SPOKE)
						forget_words(f);
				}
				return SEEN_PASS;
			}
			__u32 taken = p->ack - (f->end[0].isn + 1);
			if (taken && f->reset != SERVER_SPOKE && taken <= f->syn_payload && !f->contested && on_strange_answer(server))
				count(segment, syn_payload_passed);
			if (taken)
				return SEEN_PASS;
			if (!takeable_options(skb, p, port, c, &options)) {
				if (c->evasion & EVASION_UNTAKEABLE_OPTIONS)
					return SEEN_DROP;
				on_strange_answer(server);
				return SEEN_PASS;
			}
			learn_answer(skb, p, &options, f);
			return SEEN_PASS;
		}
		if (!p->payload && !(p->flags & TCP_FIN)) {
			learn_window(p, f);
			/* The client ended without a word, and its server has seen so; or a server says so, whose
			 * client ignores it and speaks yet. It is judged then, and forgotten soon where it does not. */
			if (answered && (p->flags & (TCP_ACK | TCP_SYN)) == TCP_ACK && p->ack == f->end[0].isn + 2 && !f->reset)
				f->reset = RESET_BY_CLIENT;
			return SEEN_PASS;
		}
		if (p->flags & TCP_SYN) {
			/* A SYN-ACK with payload; of another connection, the client ignores it. */
			if (p->ack != f->end[0].isn + 1)
				return SEEN_PASS;
		} else if (server_spoke(f)) {
			return on_server_first(p, f, word, segment);
		} else if (!(server->flags & END_SEEN)) {
			/* Nothing says where its sequence is: its SYN-ACK took another path, or it is the other
			 * end of a connection that was opened from both. */
			return on_unseen(c, f, segment);
		} else if (!server_in_window(p, f)) {
			count(segment, server_outside_window_dropped);
			return SEEN_DROP;
		}
		int second = !may_be_first(f, c);
		if (expires_early(p, server)) {
			if (second) {
				count(segment, server_ttl_dropped);
				return SEEN_DROP;
			}
			/* Another box answered the SYN in the server's name; or its client never hears this, and
			 * is judged by what it says. One that does hear it acknowledges it. */
			count(segment, server_ttl_passed);
			return SEEN_PASS;
		}
		if (!p->payload) {
			/* It ends, as it may, or its client never believes it: what the client says that has not
			 * heard of it is not left unjudged. Where another CPU is moving the entry this one goes
			 * unread: the server ends again. */
			f->reset = RESET_BY_SERVER;
			if (__sync_val_compare_and_swap(&f->word, word, word) == word)
				return SEEN_PASS;
			count(segment, state_race_dropped);
			return SEEN_DROP;
		}
		if (second)
			return SEEN_SERVER_FIRST;
		if (server->flags & END_SEEN)
			return on_server_first(p, f, word, segment);
		/* In its SYN-ACK: nothing else says where its sequence is. */
		if (on_strange_answer(server))
			count(segment, server_spoke_first);
		return SEEN_PASS;
	}
	__u32 offset = p->seq - (f->end[0].isn + 1);
	/* Before what it acknowledges is believed. */
	if (ended_silently(f) && begins_hello_after_end(skb, p, offset)) {
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	confirm(p, f, answered);
	if (out_of_place(p, f)) {
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	if (!p->payload) {
		if (!note_client_heard(p, f, word)) {
			count(segment, state_race_dropped);
			return SEEN_DROP;
		}
		if (!answered && f->reset != SERVER_SPOKE && (server->flags & END_SEEN) && (p->flags & (TCP_ACK | TCP_SYN)) == TCP_ACK &&
		    p->ack == server->isn + 1 && p->seq == f->end[0].isn + 1)
			return SEEN_WHOLE;
		return SEEN_PASS;
	}
	if ((p->flags & (TCP_SYN | TCP_ACK)) != TCP_ACK) {
		count(segment, client_invalid_dropped); /* RFC 9293 3.10.7: no segment that carries data */
		return SEEN_DROP;
	}
	if (!(server->flags & END_SEEN)) {
		return on_unseen(c, f, segment);
	}
	__u32 ahead = (__s32)offset < 0;
	/* Whatever else it says; what follows upon a server's word is left to who hears it. */
	if (ahead && f->reset != SERVER_SPOKE)
		return ahead_of_first(skb, p, offset);
	__s32 acknowledged = p->ack - (server->isn + 1);
	if (acknowledged < 0) {
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	if (acknowledged > 0) {
		if (f->reset && !may_be_first(f, c)) {
			/* The end of a server that may not end without a word of TLS. */
			count(segment, server_spoke_first_dropped);
			return SEEN_DROP;
		}
		if (f->reset == SERVER_SPOKE) {
			if (note_client_heard(p, f, word))
				return SEEN_PASS;
			count(segment, state_race_dropped);
			return SEEN_DROP;
		}
		__u32 its_end = f->reset == RESET_BY_SERVER && acknowledged == 1;
		if (its_end && (offset || !begins_hello(skb, p))) {
			/* It heard its server's end; one that only says so is not heard itself, as below. */
			count(segment, server_spoke_first);
			return SEEN_PASS;
		}
		/* Bytes of the server that took another path: all that follows acknowledges them too. Where
		 * there are none the server ignores this packet, and the next one is held. */
		if (!its_end)
			return on_unseen(c, 0, segment);
		/* Nobody can have a session with a server that ended, but one may with a server that has lost this
		 * connection (SYN cookies): that is judged. */
		if (!note_client_heard(p, f, word)) {
			count(segment, state_race_dropped);
			return SEEN_DROP;
		}
	}
	if (ahead)
		return ahead_of_first(skb, p, offset);
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
	if (begins_hello_behind(skb, p, offset)) {
		count(segment, client_invalid_dropped);
		return SEEN_DROP;
	}
	return SEEN_FIRST;
}

/* A handshake is whole. Where there is no room its entry stays where a flood may push it out; policy says
 * whether its client must wait: the server answers again, and the client acknowledges that. */
static __always_inline int on_whole(struct packet *p, struct flow *f, __u64 word, struct configuration *c, __u32 segment)
{
	if (handshake_has_room(&p->key, f->client_low, c->seed) && enter(p, f, word) != ENTER_FULL)
		return TC_ACT_OK;
	if ((c->evasion & EVASION_TABLE_FULL) && !c->fallback && !engine_dead(c, INSTANCE)) {
		count(segment, handshakes_full_dropped);
		return TC_ACT_SHOT;
	}
	count(segment, handshakes_full_passed);
	return TC_ACT_OK;
}

/* A flow that is to be held and is not in `flows` yet: it, where it is now, held already where another
 * CPU was faster; or none, and what is to be done with its packet. */
static __always_inline struct flow *enter_to_hold(struct packet *p, struct flow *f, __u64 *word, struct configuration *c, __u32 segment, int *action)
{
	if (!entry_has_room(&p->key, f->client_low, c->seed)) {
		*action = on_client_flood(p, f, *word, c, segment);
		return 0;
	}
	int entered = enter(p, f, *word);
	switch (entered) {
	case ENTER_DONE:
	case ENTER_RACE:
		f = moved(p, f);
		if (f) {
			__u64 now = *(volatile __u64 *)&f->word;
			__u32 state = now & 0xff;
			if (now >> 8 == *word >> 8 && (state == STATE_ANSWERED || state == STATE_HELD)) {
				*word = now;
				return f;
			}
		}
		break;
	case ENTER_FULL:
		if (c->evasion & EVASION_TABLE_FULL) {
			count(segment, flow_table_full_dropped);
			*action = TC_ACT_SHOT;
			return 0;
		}
		*action = leave_or_drop(p, f, *word, segment, COUNTER_flow_table_full_passed);
		return 0;
	}
	if (entered == ENTER_DONE)
		leave_half_open(&p->key, *word);
	count(segment, state_race_dropped);
	*action = TC_ACT_SHOT;
	return 0;
}

/* `f` is in half_open, or answered and in `flows`. */
static __always_inline int on_handshake(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct flow *f, __u64 word)
{
	__u32 segment = port->segment;
	if ((word & 0xff) == STATE_IGNORED)
		return TC_ACT_OK;
	/* Of what will not be held of a flow whose server spoke, too, nothing is changed. */
	__u32 ours = (f->reset != SERVER_SPOKE && !answered_strangely(f)) || (p->from_low == f->client_low && p->ack == f->end[1].isn + 1);
	if ((p->flags & TCP_URG) && ours && clear_urgent(skb, p->l4)) {
		p->flags &= ~TCP_URG;
		count(segment, urgent_cleared);
	}
	int seen = see_handshake(skb, p, port, c, f, word);
	if (seen == SEEN_PASS)
		return TC_ACT_OK;
	if (seen == SEEN_WHOLE)
		return on_whole(p, f, word, c, segment);
	if (c->fallback || engine_dead(c, INSTANCE)) {
		/* Nobody judges: what would be dropped crosses as well (SPEC D2). */
		if (leave_to_bridge(p, f, word)) {
			if (c->fallback)
				count(segment, fallback_passed);
			else
				count(segment, engine_dead_passed);
		}
		return TC_ACT_OK;
	}
	if (seen == SEEN_DROP)
		return TC_ACT_SHOT;
	/* All that may refuse it is asked while it is where it was: in `flows` it would have the room of those
	 * that say nothing. */
	if (seen == SEEN_FIRST && note_congestion(p, f, &f->end[0]))
		return drop_congested(segment);
	if (ring_refuses(p, f, word, seen == SEEN_FIRST ? room_of(skb) : 0, segment))
		return TC_ACT_SHOT;
	__u32 client_low = f->client_low;
	if (!client_adds(&p->key, client_low, c))
		return on_client_flood(p, f, word, c, segment);
	__u32 enters = (word & 0xff) != STATE_ANSWERED;
	int action = TC_ACT_SHOT;
	if (enters) {
		f = enter_to_hold(p, f, &word, c, segment, &action);
		if (!f) {
			client_subtracts(&p->key, client_low);
			return action;
		}
		if ((word & 0xff) == STATE_HELD) {
			client_subtracts(&p->key, client_low);
			if (seen == SEEN_FIRST && f->owner == INSTANCE)
				return hold_asked(skb, p, f, word, HELD_MORE);
			count(segment, state_race_dropped);
			return TC_ACT_SHOT;
		}
	}
	action = seen == SEEN_FIRST ? hold_asked(skb, p, f, word, HELD_FIRST) : hold_server_first(p, f, word, segment);
	if (enters && *(volatile __u64 *)&f->word != ((word & ~0xffULL) | STATE_HELD))
		leave_half_open(&p->key, word);
	return action;
}

#endif
