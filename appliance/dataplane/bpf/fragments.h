/* IP fragments of flows that are ours (SPEC D15): those of a taken flow go to the engine's namespace, whose
 * kernel puts them together (reassembly.h). Not for: fragments that no policy covers. What is not given to it is
 * dropped, or crosses, and comes again with all of its packet. */
#ifndef WEIR_FRAGMENTS_H
#define WEIR_FRAGMENTS_H

/* Of a flow that is not held yet: a first fragment of its server, which says something before its client
 * does. Nobody knows whether it becomes a whole packet. */
static __noinline int on_server_fragment(struct __sk_buff *skb, struct packet *p, struct flow *f, __u64 word)
{
	__u32 zero = 0;
	__u8 flags = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!p || !f || !c)
		return SEEN_DROP;
	__u32 segment = p->key.segment;
	if (!(f->end[1].flags & END_SEEN))
		return SEEN_PASS;
	/* Another answer, which its client may believe: its first word says so. One too short to tell may be, of a
	 * server that may be the first to say something. */
	__u32 unread = p->l4 + 14 > p->end || bpf_skb_load_bytes(skb, p->l4 + 13, &flags, 1);
	if ((flags & TCP_SYN) || (unread && may_be_first(f, c))) {
		on_strange_answer(&f->end[1]);
		return SEEN_PASS;
	}
	if (!may_be_first(f, c) && !c->fallback && !engine_dead(c, INSTANCE)) {
		count(segment, fragment_dropped);
		return SEEN_DROP;
	}
	/* At most; forged ones alone do not make a server one that is believed. */
	p->payload = f->reset != SERVER_SPOKE || f->said < BELIEVED / 2 ? 65535 : 0;
	return on_server_first(p, f, word, segment);
}

/* Whether a fragment of TCP is one of which something could come that policy covers: a first one, between
 * ends that a policy is for in either direction, or of unknown ports. `candidate`: what the rules said of it. */
static __noinline int is_covered_fragment(struct packet *p, struct port *port, struct configuration *c, __u32 candidate)
{
	if (!p || !port || !c || p->later_fragment)
		return 0;
	if (candidate || !p->key.port[0] || !p->key.port[1])
		return 1;
	p->from_low = !p->from_low; /* what the rules say of its client's packets */
	struct verdict *v = verdict_of(p, port->segment * 2 + !port->side, c->generation);
	p->from_low = !p->from_low;
	return v && v->candidate;
}

/* Whether a segment stands about where the socket expects its end's next one: behind it in the window, or
 * again. Whoever does not see the flow guesses that once among 2,000; what is further ahead comes again when
 * the socket has got that far. */
#define STANDS_ABOUT (1 << 20)

static __always_inline int stands_about(__u32 seq, struct end *end)
{
	return seq - end->next + STANDS_ABOUT < 2 * STANDS_ABOUT;
}

/* A first fragment of a taken flow: the kernel that has the flow's sockets puts it together with the rest. */
static __noinline int first_of_taken(struct __sk_buff *skb, struct packet *p, struct port *port, struct flow *f)
{
	__be32 seq = 0;
	if (!p || !port || !f)
		return TC_ACT_SHOT;
	struct end *end = &f->end[(p->from_low != f->client_low) & 1];
	__u64 place = place_of(skb, p);
	if (!(place & 1) || p->l4 + sizeof(struct tcphdr) > p->end || bpf_skb_load_bytes(skb, p->l4 + 4, &seq, 4) ||
	    !stands_about(bpf_ntohl(seq), end)) {
		count(port->segment, fragment_dropped);
		return TC_ACT_SHOT;
	}
	if (note_congestion(p, f, end))
		return drop_congested(port->segment);
	if ((*(volatile __u64 *)&f->word & 0xff) == STATE_TOMBSTONE)
		f->touched = bpf_ktime_get_ns();
	p->options = is_plain(skb, p);
	if (!begins_packet(p, port, f, place)) {
		count(port->segment, fragment_dropped);
		return TC_ACT_SHOT;
	}
	count(port->segment, fragment_to_engine);
	return to_engine(skb, p, port);
}

/* TCP in IP fragments. Those of a taken flow go to the kernel that has its sockets, in order; what comes before
 * the packet's first fragment crosses, and is of no use but where it is known to come so. A first fragment of a flow that is held or watched is
 * dropped: what is reassembled at the end would never have been looked at (SPEC D15). So is one of a taken flow
 * whose packet that kernel could mix up with another one (D16), and that of a tunnel's packet. Before anything
 * was held, policy lets the flow pass by one of its client: else it would not have come here.
 * Later fragments name no ports and pass, but nothing comes of them without the first. So it goes with fragments
 * of a tunnel's packet, too. A flow whose SYN was a fragment is unknown here and passes, counted. One that comes
 * in by the port of its other end is none of the flow. */
static __noinline int on_fragment(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c)
{
	if (!p || !port || !c)
		return TC_ACT_OK;
	__u32 segment = p->key.segment;
	/* Not one of a tunnel's packet. */
	__u32 inner = !(p->outer_fragment & bpf_htons(0x3fff));
	/* Behind a second tag is another network's (SPEC D16). */
	if (p->stacked)
		goto passed;
	if (p->later_fragment) {
		if (!inner || (p->protocol != IPPROTO_TCP && p->ether_type != ETH_P_IPV6))
			goto passed;
		int rest = rest_of_taken(skb, p, port);
		if (rest == REST_OF_NONE)
			goto passed;
		/* A flow of these ends that is not taken has its own by the bridge. */
		if (rest == REST_OF_EITHER) {
			count(segment, fragment_passed);
			bpf_clone_redirect(skb, port->interface[port->side == SIDE_A], 0);
		}
		count(segment, fragment_to_engine);
		return to_engine(skb, p, port);
	}
	if (p->protocol != IPPROTO_TCP)
		goto passed;
	struct flow *f = bpf_map_lookup_elem(&flows, &p->key), *watched = 0;
	if (!f)
		watched = watched_in_half_open(p);
	if (!f && !watched && is_gre(p->key.tunnel) && pair_gre_key(p)) {
		f = bpf_map_lookup_elem(&flows, &p->key);
		if (!f)
			watched = watched_in_half_open(p);
	}
	if (!f && (!watched || (*(volatile __u64 *)&watched->word & 0xff) == STATE_ANSWERED))
		f = moved(p, watched);
	struct flow *known = f ? f : watched;
	__u32 known_state = known ? *(volatile __u64 *)&known->word & 0xff : STATE_IGNORED;
	if (known && known_state != STATE_IGNORED && known_state != STATE_RELEASED &&
	    (known->client_side == port->side) != (p->from_low == known->client_low))
		return on_other_pass(c, segment);
	if (f) {
		__u32 state = *(volatile __u64 *)&f->word & 0xff;
		if (state == STATE_ANSWERED) {
			watched = f;
		} else if ((state == STATE_TAKEN || state == STATE_TOMBSTONE) && inner) {
			return first_of_taken(skb, p, port, f);
		} else if (state != STATE_RELEASED && state != STATE_IGNORED) {
			count(segment, fragment_dropped);
			return TC_ACT_SHOT;
		}
	}
	if (watched) {
		__u64 word = *(volatile __u64 *)&watched->word;
		__u32 state = word & 0xff;
		if (p->from_low == watched->client_low && expires_early(p, &watched->end[0])) {
			count(segment, client_ttl_dropped);
			return TC_ACT_SHOT;
		}
		if (state != STATE_IGNORED) {
			/* Of nothing but a handshake that is watched; another CPU may change it at this moment. */
			__u32 watched_in = f ? STATE_ANSWERED : STATE_HALF_OPEN;
			if (state == watched_in && p->from_low != watched->client_low) {
				if (on_server_fragment(skb, p, watched, word) == SEEN_DROP)
					return TC_ACT_SHOT;
				goto passed;
			}
			if (state != watched_in || !leave_to_bridge(p, watched, word)) {
				count(segment, state_race_dropped);
				return TC_ACT_SHOT;
			}
			count(segment, fragmented_flow_passed);
		}
	}
passed:
	/* Those of a tunnel's packets were counted when they were read. */
	if (inner)
		count(segment, fragment_passed);
	return TC_ACT_OK;
}

#endif
