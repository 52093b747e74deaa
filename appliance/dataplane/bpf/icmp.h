/* ICMP errors about flows that are ours. An error about a packet of a taken flow is about
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

#endif
