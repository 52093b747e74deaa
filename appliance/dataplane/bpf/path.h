/* What the ends' packets teach about their path, and giving it to the engine's packets (SPEC D1,
 * D17). Towards the engine tag and tunnel are stripped; on the way out each end's own are put back:
 * MAC addresses, VLAN tag with its PCP and DEI, the tunnel's header (addresses, key, TTL, DSCP, DF; a
 * fresh id), TTL or hop limit, DSCP, IPv6 flow label.
 *
 * What does not cross a taken flow: ECN (see ecn.h; the tunnel's ECN bits are the inner ones, RFC 6040
 * 4.1), urgent marks, IPv4 options and IPv6 extension headers of single packets, the ends' own
 * IPv4 ids, and TTL or DSCP of a packet that differs from the newest of its end. */
#ifndef WEIR_PATH_H
#define WEIR_PATH_H

static __always_inline __u8 ecn_of_syn(struct __sk_buff *skb, struct packet *p);

/* An end's path may change under a taken flow (a router fails over). Only from packets that
 * stands_next says are the end's own: anybody at its side may send some of the tuple. */
static __always_inline void learn_path(struct __sk_buff *skb, struct packet *p, struct end *end)
{
	__u32 *seen = (void *)(long)skb->data, *known = (__u32 *)end->mac;
	if (end->ttl != p->ttl)
		end->ttl = p->ttl;
	/* Its ECN bits may differ by packet, and are nobody's (ecn.h). */
	if ((end->tos ^ p->tos) & 0xfc)
		end->tos = p->tos;
	if (end->vlan_tci != p->vlan_tci)
		end->vlan_tci = p->vlan_tci;
	if (end->flow_label != p->flow_label)
		end->flow_label = p->flow_label;
	if (p->key.tunnel) {
		if (end->outer_ttl != p->outer_ttl)
			end->outer_ttl = p->outer_ttl;
		if (end->outer_tos != p->outer_tos)
			end->outer_tos = p->outer_tos;
		if (end->outer_fragment != p->outer_fragment)
			end->outer_fragment = p->outer_fragment;
	}
	if ((void *)(seen + 3) > (void *)(long)skb->data_end)
		return;
	if (seen[0] != known[0] || seen[1] != known[1] || seen[2] != known[2])
		__builtin_memcpy(end->mac, seen, 12);
}

static __always_inline void learn_syn(struct __sk_buff *skb, struct packet *p, struct tcp_options *options, struct end *end)
{
	end->isn = p->seq;
	end->tsval = options->tsval;
	end->syn_window = p->window;
	end->mss = options->mss;
	end->window_scale = options->window_scale;
	end->flags = options->flags | END_SEEN | ecn_of_syn(skb, p);
	end->tunnel = p->wire_tunnel;
	end->tunnel_key = p->wire_tunnel_key;
	learn_path(skb, p, end);
}

/* Takes tag and tunnel off a packet and hands it to the engine's namespace, from a port's ingress. */
static __noinline int to_engine(struct __sk_buff *skb, struct packet *p, struct port *port)
{
	if (!p || !port)
		return TC_ACT_SHOT;
	__u32 engine = port->engine, segment = port->segment, tunnel = tunnel_length(p->wire_tunnel);
	/* The segments inside a GSO frame stay as large as they were. Where its kernel received it the
	 * packet was for another host; nobody looks at its MAC address again. */
	if ((p->tags && bpf_skb_vlan_pop(skb)) ||
	    (tunnel && bpf_skb_adjust_room(skb, -(__s32)tunnel, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)) ||
	    bpf_skb_change_type(skb, PACKET_HOST)) {
		count(segment, decapsulation_dropped);
		return TC_ACT_SHOT;
	}
	/* Into the inner end at once: sent by the outer one, every packet would wait in a queue once more. */
	return bpf_redirect_peer(engine, 0);
}

static __always_inline int rewrite_ipv4(struct __sk_buff *skb, struct packet *p, __u8 ttl, __u8 tos)
{
	__be16 old, new;
	if (tos != p->tos) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &old, 2))
			return -1;
		new = (old & bpf_htons(0xff00)) | bpf_htons(tos);
		if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2) || bpf_skb_store_bytes(skb, ETH_HLEN, &new, 2, 0))
			return -1;
	}
	if (ttl != p->ttl) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &old, 2))
			return -1;
		new = (old & bpf_htons(0x00ff)) | bpf_htons(ttl << 8);
		if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2) || bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0))
			return -1;
	}
	return 0;
}

/* No checksum covers these fields of IPv6. */
static __always_inline int rewrite_ipv6(struct __sk_buff *skb, struct end *end, __u8 tos)
{
	__be32 word = bpf_htonl(6u << 28 | (__u32)tos << 20 | (end->flow_label & 0xfffff));
	__u8 ttl = end->ttl;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &word, 4, 0) || bpf_skb_store_bytes(skb, ETH_HLEN + 7, &ttl, 1, 0);
}

/* Puts the tunnel's header of an end around its packet. The segments of a GSO frame get smaller by
 * the header; a packet that does not fit the engine's veth with it is dropped. */
static __noinline int encapsulate(struct __sk_buff *skb, struct end *end, struct flow_key *key, __u32 from_low, __u32 tos)
{
	struct {
		__be16 flags;
		__be16 type;
		__be32 key;
	} gre = { .type = bpf_htons(ETH_P_IP) };
	struct iphdr outer = { .version = 4, .ihl = 5 };
	if (!end || !key)
		return -1;
	__u32 length = tunnel_length(end->tunnel), inner = skb->len - ETH_HLEN;
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	outer.protocol = IPPROTO_IPIP;
	if (is_gre(end->tunnel)) {
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
		outer.protocol = IPPROTO_GRE;
	}
	if (!length || bpf_skb_adjust_room(skb, length, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	outer.tos = (end->outer_tos & 0xfc) | (tos & 3);
	outer.tot_len = bpf_htons(inner + length);
	outer.id = bpf_get_prandom_u32();
	outer.frag_off = end->outer_fragment & bpf_htons(0x4000);
	outer.ttl = end->outer_ttl;
	__builtin_memcpy(&outer.saddr, from_low ? key->outer[0] : key->outer[1], 4);
	__builtin_memcpy(&outer.daddr, from_low ? key->outer[1] : key->outer[0], 4);
	__u64 sum = bpf_csum_diff(0, 0, (void *)&outer, sizeof(outer), 0);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~sum;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0))
		return -1;
	if (end->tunnel == TUNNEL_GRE)
		return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(outer), &gre, 4, 0);
	if (end->tunnel == TUNNEL_GRE_KEY) {
		gre.flags = bpf_htons(0x2000);
		gre.key = end->tunnel_key;
		return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(outer), &gre, 8, 0);
	}
	return 0;
}

/* Makes a packet of the engine's sockets one of the end it speaks for. */
static __always_inline int wear(struct __sk_buff *skb, struct packet *p, struct flow_key *key, struct end *end)
{
	/* ECN bits are the engine's own sockets' (SPEC D17). */
	__u8 mac[12], tos = (end->tos & 0xfc) | (p->tos & 3);
	__u16 tci = end->vlan_tci;
	__builtin_memcpy(mac, end->mac, 12);
	if (p->ether_type == ETH_P_IPV6) {
		if (rewrite_ipv6(skb, end, tos))
			return -1;
	} else if (rewrite_ipv4(skb, p, end->ttl, tos)) {
		return -1;
	}
	if (end->tunnel && encapsulate(skb, end, key, p->from_low, tos))
		return -1;
	if (bpf_skb_store_bytes(skb, 0, mac, 12, 0))
		return -1;
	/* Of VLAN 0 where the end's packets have a priority and no VLAN. */
	return key->outer_vlan || tci ? bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tci) : 0;
}

#endif
