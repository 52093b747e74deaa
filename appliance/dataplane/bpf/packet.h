/* Reading packets: VLAN tag, one GRE or IPIP header, IPv4 or IPv6, and the head of what is inside.
 * For: the facts that rules match (struct packet) and the flow's key (SPEC D4, D16). Not for: TCP
 * options (options.h), flows. What is not understood keeps the facts found so far, is counted by
 * its reason and never reaches the flow machine. */
#ifndef WEIR_PACKET_H
#define WEIR_PACKET_H

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_URG 0x20
#define TCP_ECE 0x40
#define TCP_CWR 0x80

#define ECN_CE 3 /* in the last two bits of TOS or traffic class */

/* IPv6 extension headers read before a packet is left alone (hop-by-hop, routing, destination). */
#define MAX_EXTENSIONS 6
#define MAX_PACKET (1 << 20) /* more than the largest there are, with headers */
#define PORT_GTP_U 2152 /* 3GPP TS 29.281 */
#define PORT_VXLAN 4789 /* RFC 7348 */
#define PORT_GENEVE 6081 /* RFC 8926 */
#define PORT_L2TP 1701 /* RFC 2661, RFC 3931 */
#define PROTOCOL_L2TP 115 /* RFC 3931 */

enum parsed {
	PARSE_OTHER = 0, /* no IP header was read: only ether_type and the VLANs of the key */
	PARSE_IP = 1,	 /* facts of an IP packet */
	PARSE_TCP = 2,	 /* a whole TCP header of a flow that could be taken */
};

enum tunnel { TUNNEL_NONE = 0, TUNNEL_IPIP = 1, TUNNEL_GRE = 2, TUNNEL_GRE_KEY = 3 };

struct packet {
	struct flow_key key; /* ports are 0 where there are none, or in a later fragment */
	__u32 seq; /* of an IP fragment: the id of its packet */
	__u32 ack; /* of an IPv6 fragment: the offset of what it carries */
	__u32 payload;	  /* bytes */
	__u32 l3;	  /* offset of the innermost IP header */
	__u32 l4;	  /* offset of what follows it and its extension headers */
	__u32 end;	  /* offset past the packet: what follows is padding */
	__u32 options;	  /* bytes of TCP options; of an IP fragment: whether it is plain (reassembly.h) */
	__u32 flow_label; /* first word of the IPv6 header, host order: traffic class and flow label */
	__u32 wire_tunnel_key; /* as in this packet; the key's may be the SYN's instead (tunnel.h) */
	__u16 ether_type; /* of the innermost network header, host order */
	__u16 vlan_tci;	  /* of the outer tag */
	__u16 window; /* of an IPv6 fragment: its place as its header says it, host order */
	__be16 outer_fragment; /* the tunnel's IPv4 header: flags, TTL, TOS */
	__u8 outer_ttl;
	__u8 outer_tos;
	__u8 flags;
	__u8 ttl;
	__u8 tos;
	__u8 protocol; /* innermost; 0: not IP */
	__u8 fragment; /* an IP fragment, of the packet or of the tunnel's around it */
	__u8 later_fragment;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 from_low; /* the sender is end 0 of the key */
	__u8 stacked;  /* a second tag, or an 802.1ad one */
	__u8 tags;
	__u8 has_icmp_type;
	__u8 odd_headers; /* more than are read, that an end may look through to a TCP packet */
	__u8 wire_tunnel;
};

/* Source and destination while a packet is read. */
struct addresses {
	__u32 source[4];
	__u32 destination[4];
	__be32 outer_source;
	__be32 outer_destination;
	__be16 port[2];
};

/* Copies `size` bytes of the packet, a constant: from where they are, if they are in one piece with
 * its beginning as headers mostly are; the helper costs more than all else that is done for a packet. */
static __always_inline int load(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	if (offset < 256) {
		void *at = (void *)(long)skb->data + offset;
		if (at + size <= (void *)(long)skb->data_end) {
			/* Aligned or not: words, which x86-64 reads either way. */
			__builtin_memcpy(to, __builtin_assume_aligned(at, 4), size);
			return 0;
		}
	}
	return bpf_skb_load_bytes(skb, offset, to, size);
}

/* A tag of VLAN 0 only has a priority: ends take the frame as one without it (802.1Q 6.9.1), and so
 * does the key, or its flow would not be known. */
static __always_inline void note_tag(struct packet *p, __u16 tci, __be16 protocol)
{
	if (p->tags || protocol != bpf_htons(ETH_P_8021Q))
		p->stacked = 1;
	if (!p->tags)
		p->vlan_tci = tci;
	p->tags++;
	if (!(tci & 0xfff))
		p->odd_headers |= 2;
	else if (!p->key.outer_vlan)
		p->key.outer_vlan = 0x1000 | (tci & 0xfff);
	else if (!p->key.inner_vlan)
		p->key.inner_vlan = 0x1000 | (tci & 0xfff);
}

/* 802.1Q: the kernel keeps the outer tag beside the frame; a tag inside it is read as well. */
static __always_inline int read_link_layer(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__be16 tci;
		__be16 type;
	} tag;
	__u16 type = bpf_ntohs(skb->protocol);
	p->l3 = ETH_HLEN;
	if (skb->vlan_present)
		note_tag(p, skb->vlan_tci, skb->vlan_proto);
	for (int i = 0; i < 2; i++) {
		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		if (bpf_skb_load_bytes(skb, p->l3, &tag, sizeof(tag)))
			return 0;
		note_tag(p, bpf_ntohs(tag.tci), bpf_htons(type));
		p->l3 += sizeof(tag);
		type = bpf_ntohs(tag.type);
	}
	if (type == ETH_P_8021Q || type == ETH_P_8021AD || p->tags > 2)
		p->stacked = p->odd_headers = 1;
	p->ether_type = type;
	/* One tag of VLAN 0 is looked through. */
	if (!p->stacked)
		p->odd_headers = 0;
	return 1;
}

/* The IPv4 header at l3 of a packet that ends at `limit`, at the latest. */
static __always_inline int read_ipv4(struct __sk_buff *skb, struct packet *p, struct iphdr *ip, __u32 limit)
{
	if (load(skb, p->l3, ip, sizeof(*ip)) || ip->version != 4 || ip->ihl < 5)
		return 0;
	/* tot_len is 0 in frames over 64 KiB; Ethernet padding is no payload. */
	__u32 total = bpf_ntohs(ip->tot_len);
	if (!total)
		total = limit - p->l3;
	__u32 l4 = p->l3 + ip->ihl * 4, end = p->l3 + total;
	if (end > limit || l4 > end)
		return 0;
	p->l4 = l4;
	p->end = end;
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->tos = ip->tos;
	p->fragment = (ip->frag_off & bpf_htons(0x3fff)) != 0;
	p->later_fragment = (ip->frag_off & bpf_htons(0x1fff)) != 0;
	p->seq = ip->id;
	return 1;
}

/* Past the tunnel's header where it is one that is understood: what is inside is read instead. */
static __always_inline int enter_tunnel(struct __sk_buff *skb, struct packet *p, struct iphdr *ip, struct addresses *a)
{
	struct {
		__be16 flags;
		__be16 type;
		__be32 key;
	} gre = {};
	__u32 header = 0, segment = p->key.segment;
	__u8 kind = TUNNEL_IPIP;
	/* What the head of a first one says is a first fragment of what is inside. */
	__u32 fragment = p->fragment;
	if (fragment)
		count(segment, outer_fragment_passed);
	if (p->later_fragment)
		return 0;
	/* One too short for what is inside to be told: the longest tunnel header, an IP header and ports. No router
	 * has to make such (RFC 791: it takes 68 bytes); who reads on reads what is behind its end (RFC 1858). */
	if (fragment && p->l4 + 8 + sizeof(struct iphdr) + 8 > p->end) {
		p->odd_headers = 1;
		return 0;
	}
	if (ip->ihl != 5) {
		count(segment, outer_options_passed);
		return 0;
	}
	if (p->protocol == IPPROTO_GRE) {
		header = 4;
		kind = TUNNEL_GRE;
		if (bpf_skb_load_bytes(skb, p->l4, &gre, 4))
			return 0;
		/* RFC 2784, RFC 2890: a key is the only option that is understood. */
		if (gre.flags & bpf_htons(0x2000)) {
			header = 8;
			kind = TUNNEL_GRE_KEY;
			if (bpf_skb_load_bytes(skb, p->l4, &gre, sizeof(gre)))
				return 0;
		}
		if (gre.flags & ~bpf_htons(0x2000)) {
			count(segment, gre_options_passed);
			return 0;
		}
		if (gre.type == bpf_htons(ETH_P_IPV6)) {
			count(segment, tunnel_ipv6_passed);
			return 0;
		}
		if (gre.type != bpf_htons(ETH_P_IP)) {
			count(segment, gre_protocol_passed);
			return 0;
		}
	}
	struct iphdr inner;
	__u32 outer_l3 = p->l3, outer_end = p->end;
	__u8 outer_ttl = p->ttl, outer_tos = p->tos;
	p->l3 = p->l4 + header;
	if (!read_ipv4(skb, p, &inner, fragment ? MAX_PACKET : outer_end)) {
		p->l3 = outer_l3; /* the outer packet's facts stand */
		return 0;
	}
	if (fragment) {
		p->fragment = 1;
		if (p->end > outer_end)
			p->end = outer_end;
	}
	p->key.tunnel = p->wire_tunnel = kind;
	p->key.tunnel_key = p->wire_tunnel_key = gre.key;
	p->outer_ttl = outer_ttl;
	p->outer_tos = outer_tos;
	p->outer_fragment = ip->frag_off;
	a->outer_source = ip->saddr;
	a->outer_destination = ip->daddr;
	*ip = inner;
	if (p->protocol == IPPROTO_IPIP || p->protocol == IPPROTO_GRE || p->protocol == IPPROTO_IPV6) {
		count(segment, tunnel_nested_passed);
		return 0;
	}
	return 1;
}

/* The IPv6 header at l3 and its extension headers, as far as they are bounded. */
static __always_inline int read_ipv6(struct __sk_buff *skb, struct packet *p, struct addresses *a)
{
	struct ipv6hdr ip;
	__u8 extension[8];
	if (load(skb, p->l3, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	__u32 total = bpf_ntohs(ip.payload_len) + sizeof(ip);
	if (!ip.payload_len)
		total = skb->len - p->l3;
	p->end = p->l3 + total;
	if (p->end > skb->len)
		return 0;
	p->flow_label = bpf_ntohl(*(__be32 *)&ip);
	p->tos = p->flow_label >> 20;
	p->ttl = ip.hop_limit;
	__builtin_memcpy(a->source, &ip.saddr, 16);
	__builtin_memcpy(a->destination, &ip.daddr, 16);
	__u32 at = p->l3 + sizeof(ip);
	__u8 next = ip.nexthdr;
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT)
			break;
		if (i == MAX_EXTENSIONS || bpf_skb_load_bytes(skb, at, extension, 8)) {
			p->protocol = next;
			p->odd_headers = 1;
			count(p->key.segment, ipv6_extensions_passed);
			return 0;
		}
		if (next == IPPROTO_FRAGMENT) {
			/* One that is first and last is whole (RFC 6946). */
			if (extension[2] | (extension[3] & 0xf9))
				p->fragment = 1;
			p->later_fragment = (extension[2] | (extension[3] & 0xf8)) != 0;
			__builtin_memcpy(&p->seq, &extension[4], 4);
			p->window = extension[2] << 8 | extension[3];
			at += 8;
			p->ack = at;
		} else {
			at += (extension[1] + 1) * 8;
		}
		if (next == IPPROTO_ROUTING && extension[3]) {
			/* The address of the header is not the last one on its way (RFC 8200 4.4). */
			p->protocol = next;
			count(p->key.segment, ipv6_extensions_passed);
			return 0;
		}
		next = extension[0];
		if (p->later_fragment)
			break;
	}
	p->protocol = next;
	p->l4 = at;
	if (p->l4 > p->end)
		return 0;
	/* RFC 4038 4.2: these are no addresses of a wire, and the key would mistake them. */
	if ((!a->source[0] && !a->source[1] && a->source[2] == bpf_htonl(0xffff)) ||
	    (!a->destination[0] && !a->destination[1] && a->destination[2] == bpf_htonl(0xffff))) {
		count(p->key.segment, ipv6_mapped_passed);
		return 0;
	}
	if (p->protocol == IPPROTO_IPIP || p->protocol == IPPROTO_GRE || p->protocol == IPPROTO_IPV6) {
		count(p->key.segment, tunnel_in_ipv6_passed);
		return 0;
	}
	return 1;
}

/* Encapsulations that are not looked into (SPEC D4), by what they are known by: the reason that they are
 * counted by, plus one; 0: none of these. */
static __always_inline __u32 unread_ether_type(__u16 type)
{
	switch (type) {
	case ETH_P_PPP_SES:
		return 1 + COUNTER_pppoe_passed;
	case ETH_P_MPLS_UC:
	case ETH_P_MPLS_MC:
		return 1 + COUNTER_mpls_passed;
	default:
		return 0;
	}
}

static __always_inline __u32 unread_protocol(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_AH:
		return 1 + COUNTER_ah_passed;
	case IPPROTO_ESP:
		return 1 + COUNTER_esp_passed;
	case PROTOCOL_L2TP:
		return 1 + COUNTER_l2tp_passed;
	default:
		return 0;
	}
}

static __always_inline __u32 unread_port(__be16 port)
{
	switch (bpf_ntohs(port)) {
	case PORT_GTP_U:
		return 1 + COUNTER_gtp_passed;
	case PORT_VXLAN:
		return 1 + COUNTER_vxlan_passed;
	case PORT_GENEVE:
		return 1 + COUNTER_geneve_passed;
	case PORT_L2TP:
		return 1 + COUNTER_l2tp_passed;
	default:
		return 0;
	}
}

/* Ports, or ICMP type and code; for TCP the header. PARSE_TCP: it is whole. */
static __always_inline int read_transport(struct __sk_buff *skb, struct packet *p, struct addresses *a)
{
	struct tcphdr tcp;
	__u8 icmp[2];
	if (p->later_fragment)
		return PARSE_IP;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) {
		if (p->l4 + 4 > p->end || load(skb, p->l4, a->port, 4))
			return PARSE_IP;
		if (p->protocol == IPPROTO_UDP) {
			/* Of the tunnels' answers too, whose source it is. */
			__u32 reason = unread_port(a->port[1]);
			if (!reason)
				reason = unread_port(a->port[0]);
			if (reason)
				count_index(p->key.segment, reason - 1);
		}
	} else if (p->protocol == (p->ether_type == ETH_P_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		if (p->l4 + 2 > p->end || bpf_skb_load_bytes(skb, p->l4, icmp, 2))
			return PARSE_IP;
		p->has_icmp_type = 1;
		p->icmp_type = icmp[0];
		p->icmp_code = icmp[1];
	}
	if (p->protocol != IPPROTO_TCP) {
		__u32 reason = unread_protocol(p->protocol);
		if (reason)
			count_index(p->key.segment, reason - 1);
		return PARSE_IP;
	}
	if (p->fragment || p->stacked)
		return PARSE_IP;
	if (load(skb, p->l4, &tcp, sizeof(tcp)))
		return PARSE_IP;
	__u32 header = tcp.doff * 4;
	if (header < 20 || p->l4 + header > p->end)
		return PARSE_IP;
	p->payload = p->end - p->l4 - header;
	p->options = header - 20;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack_seq);
	p->window = bpf_ntohs(tcp.window);
	p->flags = ((__u8 *)&tcp)[13];
	return PARSE_TCP;
}

static __always_inline int not_above(const struct addresses *a)
{
	for (int i = 0; i < 4; i++) {
		if (a->source[i] != a->destination[i])
			return bpf_ntohl(a->source[i]) < bpf_ntohl(a->destination[i]);
	}
	return bpf_ntohs(a->port[0]) <= bpf_ntohs(a->port[1]);
}

/* The key's two ends, the lower one first. */
static __always_inline void order_ends(struct packet *p, const struct addresses *a)
{
	p->from_low = not_above(a);
	if (p->from_low) {
		__builtin_memcpy(p->key.address[0], a->source, 16);
		__builtin_memcpy(p->key.address[1], a->destination, 16);
		__builtin_memcpy(p->key.outer[0], &a->outer_source, 4);
		__builtin_memcpy(p->key.outer[1], &a->outer_destination, 4);
		p->key.port[0] = a->port[0];
		p->key.port[1] = a->port[1];
	} else {
		__builtin_memcpy(p->key.address[0], a->destination, 16);
		__builtin_memcpy(p->key.address[1], a->source, 16);
		__builtin_memcpy(p->key.outer[0], &a->outer_destination, 4);
		__builtin_memcpy(p->key.outer[1], &a->outer_source, 4);
		p->key.port[0] = a->port[1];
		p->key.port[1] = a->port[0];
	}
}

/* Fills a packet that is all zeroes. A function of its own (verified once, whoever calls it). */
__noinline int parse(struct __sk_buff *skb, struct packet *p, __u32 segment)
{
	struct addresses a = {};
	struct iphdr ip;
	int understood, result = PARSE_IP;
	if (!p)
		return PARSE_OTHER;
	p->key.segment = segment;
	if (!read_link_layer(skb, p))
		return PARSE_OTHER;
	if (p->stacked)
		count(segment, qinq_passed);
	if (p->ether_type == ETH_P_IP) {
		if (!read_ipv4(skb, p, &ip, skb->len))
			return PARSE_OTHER;
		understood = 1;
		if (p->protocol == IPPROTO_IPIP || p->protocol == IPPROTO_GRE)
			understood = enter_tunnel(skb, p, &ip, &a);
		else if (p->protocol == IPPROTO_IPV6)
			count(segment, tunnel_ipv6_passed);
		a.source[2] = a.destination[2] = bpf_htonl(0xffff);
		a.source[3] = ip.saddr;
		a.destination[3] = ip.daddr;
	} else if (p->ether_type == ETH_P_IPV6) {
		understood = read_ipv6(skb, p, &a);
	} else {
		__u32 reason = unread_ether_type(p->ether_type);
		if (reason)
			count_index(segment, reason - 1);
		return PARSE_OTHER;
	}
	if (understood)
		result = read_transport(skb, p, &a);
	order_ends(p, &a);
	return result;
}

static __always_inline void tuple_of(const struct flow_key *key, struct tuple_key *tuple)
{
	tuple->segment = key->segment;
	__builtin_memcpy(tuple->address, key->address, sizeof(tuple->address));
	__builtin_memcpy(tuple->port, key->port, sizeof(tuple->port));
}

static __always_inline void forget_tuple(const struct flow_key *key)
{
	struct tuple_key tuple = {};
	tuple_of(key, &tuple);
	bpf_map_delete_elem(&engine_tuples, &tuple);
}

#endif
