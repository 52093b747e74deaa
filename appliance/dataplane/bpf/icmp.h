/* ICMP errors and fragments of flows that are ours. An error about a packet of a taken flow is about
 * a packet of one of the engine's sockets: it goes to the engine's namespace, where the kernel finds
 * the socket by the embedded addresses and ports and lowers its path MTU or tells it the error
 * (RFC 1191, RFC 8201, RFC 5927), and not to the end. All other ICMP passes. */
#ifndef WEIR_ICMP_H
#define WEIR_ICMP_H

static __always_inline int is_icmp_error(struct packet *p)
{
	if (p->protocol == IPPROTO_ICMPV6)
		return p->ether_type == ETH_P_IPV6 && p->icmp_type >= 1 && p->icmp_type <= 4;
	/* Destination unreachable (fragmentation needed among its codes), time exceeded, parameter problem. */
	return p->protocol == IPPROTO_ICMP && p->ether_type == ETH_P_IP &&
	       (p->icmp_type == 3 || p->icmp_type == 11 || p->icmp_type == 12);
}

/* The key of the packet that an ICMP error is about, as its sender's: ports of TCP right after the
 * IP header. `about` comes as zeroes. */
static __noinline int embedded_key(struct __sk_buff *skb, struct packet *p, struct packet *about)
{
	struct addresses a = {};
	__u8 head[8]; /* not the whole header: stack is short here */
	if (!p || !about)
		return 0;
	__u32 at = p->l4 + 8;
	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
		return 0;
	if (p->ether_type == ETH_P_IPV6) {
		_Static_assert(offsetof(struct addresses, destination) == 16, "both addresses of the header in one piece");
		if (head[0] >> 4 != 6 || head[6] != IPPROTO_TCP || bpf_skb_load_bytes(skb, at + 8, &a, 32))
			return 0;
		at += sizeof(struct ipv6hdr);
	} else {
		__u32 length = (head[0] & 15) * 4;
		__u8 protocol;
		a.source[2] = a.destination[2] = bpf_htonl(0xffff);
		if (head[0] >> 4 != 4 || length < 20 || ((head[6] & 0x1f) | head[7]) ||
		    bpf_skb_load_bytes(skb, at + 9, &protocol, 1) || protocol != IPPROTO_TCP ||
		    bpf_skb_load_bytes(skb, at + 12, &a.source[3], 4) ||
		    bpf_skb_load_bytes(skb, at + 16, &a.destination[3], 4))
			return 0;
		at += length;
	}
	if (at + 4 > p->end || bpf_skb_load_bytes(skb, at, a.port, 4))
		return 0;
	/* The error travels against the packet: what it comes from is where the packet went. */
	__builtin_memcpy(&a.outer_source, p->from_low ? p->key.outer[1] : p->key.outer[0], 4);
	__builtin_memcpy(&a.outer_destination, p->from_low ? p->key.outer[0] : p->key.outer[1], 4);
	about->key.segment = p->key.segment;
	about->key.outer_vlan = p->key.outer_vlan;
	about->key.tunnel = p->key.tunnel;
	about->key.tunnel_key = p->key.tunnel_key;
	order_ends(about, &a);
	return 1;
}

static __noinline int on_icmp_error(struct __sk_buff *skb, struct packet *p, struct port *port)
{
	struct packet about = {};
	if (!p || !port || !embedded_key(skb, p, &about))
		return TC_ACT_OK;
	struct flow *f = bpf_map_lookup_elem(&flows, &about.key);
	if (!f && is_gre(about.key.tunnel)) {
		/* Looked up as what it is: a packet against the direction of the embedded one. */
		about.from_low = !about.from_low;
		int paired = pair_gre_key(&about);
		about.from_low = !about.from_low;
		if (paired)
			f = bpf_map_lookup_elem(&flows, &about.key);
	}
	if (!f)
		return TC_ACT_OK;
	__u32 state = *(volatile __u64 *)&f->word & 0xff;
	if (state != STATE_TAKEN && state != STATE_TOMBSTONE)
		return TC_ACT_OK;
	/* About the client's packets it comes from the server's side, and the other way round. */
	__u32 about_client = about.from_low == f->client_low;
	if ((f->client_side == port->side) == about_client)
		return TC_ACT_OK;
	count(port->segment, icmp_to_engine);
	return to_engine(skb, p, port);
}

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

/* As long as a receiver waits for the rest of a packet at least (RFC 791 3.2: 15 s; Linux: 30 s). */
#define REST_COMES 30000000000ULL

/* By what the first fragment of a packet and the rest of it are known as one's. */
static __always_inline void key_of_fragments(struct packet *p, struct port *port)
{
	p->key.port[0] = p->seq;
	p->key.port[1] = p->seq >> 16;
	p->key.reserved[0] = 1 + p->from_low;
	p->key.reserved[1] = port->side;
}

/* A first fragment of a taken flow: the kernel that has the flow's sockets puts it together with the rest. */
static __noinline int first_of_taken(struct __sk_buff *skb, struct packet *p, struct port *port, struct flow *f)
{
	if (!p || !port || !f)
		return TC_ACT_SHOT;
	__u64 now = bpf_ktime_get_ns();
	if (note_congestion(p, f, &f->end[(p->from_low != f->client_low) & 1]))
		return drop_congested(port->segment);
	if ((*(volatile __u64 *)&f->word & 0xff) == STATE_TOMBSTONE)
		f->touched = now;
	key_of_fragments(p, port);
	bpf_map_update_elem(&taken_fragments, &p->key, &now, BPF_ANY);
	count(port->segment, fragment_to_engine);
	return to_engine(skb, p, port);
}

/* Whether the first fragment of this one's packet was given to the engine's kernel. */
static __noinline int rest_of_taken(struct packet *p, struct port *port)
{
	if (!p || !port)
		return 0;
	key_of_fragments(p, port);
	__u64 *first = bpf_map_lookup_elem(&taken_fragments, &p->key);
	return first && bpf_ktime_get_ns() - *first < REST_COMES;
}

/* TCP in IP fragments. Those of a taken flow go to the kernel that has its sockets; what comes before the
 * packet's first fragment crosses, and is of no use. A first fragment of a flow that is held or watched is
 * dropped: what is reassembled at the end would never have been looked at (SPEC D15). So is one of a taken flow
 * in a VLAN or a tunnel: that kernel knows of neither, and would put what belongs to two of them together (D16).
 * Before anything was held, policy lets the flow pass by one of its client: else it would not have come here.
 * Later fragments name no ports and pass, but nothing comes of them without the first. So it goes with fragments
 * of a tunnel's packet, too. A flow whose SYN was a fragment is unknown here and passes, counted. One that comes
 * in by the port of its other end is none of the flow. */
static __noinline int on_fragment(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c)
{
	if (!p || !port || !c)
		return TC_ACT_OK;
	__u32 segment = p->key.segment;
	/* Behind a second tag is another network's (SPEC D16). */
	if (p->protocol != IPPROTO_TCP || p->stacked)
		goto passed;
	if (p->later_fragment) {
		if (!rest_of_taken(p, port))
			goto passed;
		count(segment, fragment_to_engine);
		return to_engine(skb, p, port);
	}
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
		} else if ((state == STATE_TAKEN || state == STATE_TOMBSTONE) && !p->key.outer_vlan && !p->key.tunnel) {
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
	if (!(p->outer_fragment & bpf_htons(0x3fff)))
		count(segment, fragment_passed);
	return TC_ACT_OK;
}

#endif
