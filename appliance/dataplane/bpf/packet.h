/* Reading packets: key, TCP header, options; what is learnt from them; rewriting. */
#ifndef WEIR_PACKET_H
#define WEIR_PACKET_H

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct flow_key key;
	__u32 seq;
	__u32 ack;
	__u32 payload; /* bytes */
	__u32 l4;      /* offset of the TCP header */
	__u32 options; /* bytes of TCP options */
	__u16 window;
	__u8 flags;
	__u8 ttl;
	__u8 tos;
	__u8 from_low; /* the sender is end 0 of the key */
};

/* Whether it is a whole, untagged IPv4 TCP packet; everything else is left to the bridge. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p, __u32 segment)
{
	struct iphdr ip;
	struct tcphdr tcp;
	if (skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) {
		count(segment, vlan_passed);
		return 0;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		count(segment, ipv6_passed);
		return 0;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 4 || ip.ihl < 5)
		return 0;
	if (ip.frag_off & bpf_htons(0x3fff)) {
		count(segment, fragment_passed);
		return 0;
	}
	if (ip.protocol != IPPROTO_TCP)
		return 0;
	__u32 header = ip.ihl * 4;
	p->l4 = ETH_HLEN + header;
	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return 0;
	__u32 offset = tcp.doff * 4;
	/* tot_len is 0 in frames over 64 KiB; Ethernet padding is no payload. */
	__u32 total = bpf_ntohs(ip.tot_len);
	if (!total)
		total = skb->len - ETH_HLEN;
	if (offset < 20 || total < header + offset || skb->len < ETH_HLEN + total)
		return 0;
	p->payload = total - header - offset;
	p->options = offset - 20;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack_seq);
	p->window = bpf_ntohs(tcp.window);
	p->flags = ((__u8 *)&tcp)[13];
	p->ttl = ip.ttl;
	p->tos = ip.tos;

	__u32 source = bpf_ntohl(ip.saddr), destination = bpf_ntohl(ip.daddr);
	p->from_low = source < destination ||
		      (source == destination && bpf_ntohs(tcp.source) <= bpf_ntohs(tcp.dest));
	__u32 low = p->from_low ? ip.saddr : ip.daddr, high = p->from_low ? ip.daddr : ip.saddr;
	p->key.segment = segment;
	p->key.address[0][10] = p->key.address[0][11] = 0xff;
	p->key.address[1][10] = p->key.address[1][11] = 0xff;
	*(__u32 *)&p->key.address[0][12] = low;
	*(__u32 *)&p->key.address[1][12] = high;
	p->key.port[0] = p->from_low ? tcp.source : tcp.dest;
	p->key.port[1] = p->from_low ? tcp.dest : tcp.source;
	return 1;
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

struct tcp_options {
	__u32 tsval;
	__u16 mss;
	__u8 window_scale;
	__u8 flags; /* END_* */
};

enum refusal { TAKEABLE = 0, REFUSE_MALFORMED, REFUSE_MPTCP, REFUSE_FAST_OPEN, REFUSE_SIGNED };

/* Options of a SYN or SYN-ACK (RFC 9293 3.2; kinds from IANA's list). */
static __noinline int read_options(struct __sk_buff *skb, __u32 at, __u32 length, struct tcp_options *options)
{
	__u32 end = at + length;
	__u8 head[2];
	if (!options)
		return REFUSE_MALFORMED;
	for (int i = 0; i < 40; i++) {
		if (at >= end)
			return TAKEABLE;
		if (bpf_skb_load_bytes(skb, at, head, 1))
			return REFUSE_MALFORMED;
		if (head[0] == 0)
			return TAKEABLE;
		if (head[0] == 1) {
			at++;
			continue;
		}
		if (at + 2 > end || bpf_skb_load_bytes(skb, at, head, 2) || head[1] < 2 || at + head[1] > end)
			return REFUSE_MALFORMED;
		if (head[0] == 2 && head[1] == 4) {
			__be16 mss;
			if (bpf_skb_load_bytes(skb, at + 2, &mss, 2))
				return REFUSE_MALFORMED;
			options->mss = bpf_ntohs(mss);
		} else if (head[0] == 3 && head[1] == 3) {
			__u8 scale;
			if (bpf_skb_load_bytes(skb, at + 2, &scale, 1))
				return REFUSE_MALFORMED;
			options->window_scale = scale > 14 ? 14 : scale; /* RFC 7323 2.3 */
			options->flags |= END_WINDOW_SCALE;
		} else if (head[0] == 4 && head[1] == 2) {
			options->flags |= END_SACK;
		} else if (head[0] == 8 && head[1] == 10) {
			__be32 tsval;
			if (bpf_skb_load_bytes(skb, at + 2, &tsval, 4))
				return REFUSE_MALFORMED;
			options->tsval = bpf_ntohl(tsval);
			options->flags |= END_TIMESTAMPS;
		} else if (head[0] == 30) {
			return REFUSE_MPTCP;
		} else if (head[0] == 34) {
			return REFUSE_FAST_OPEN;
		} else if ((head[0] == 253 || head[0] == 254) && head[1] >= 4) {
			__be16 experiment;
			if (bpf_skb_load_bytes(skb, at + 2, &experiment, 2))
				return REFUSE_MALFORMED;
			if (experiment == bpf_htons(0xf989)) /* RFC 7413 appendix A */
				return REFUSE_FAST_OPEN;
		} else if (head[0] == 19 || head[0] == 29) {
			return REFUSE_SIGNED;
		}
		at += head[1];
	}
	return TAKEABLE;
}

/* Whether a flow whose SYN or SYN-ACK has these options could be carried by two sockets of ours. */
static __always_inline int takeable_options(struct __sk_buff *skb, struct packet *p, __u32 segment, struct tcp_options *options)
{
	switch (read_options(skb, p->l4 + 20, p->options, options)) {
	case TAKEABLE:
		return 1;
	case REFUSE_MPTCP:
		count(segment, syn_mptcp_passed);
		return 0;
	case REFUSE_FAST_OPEN:
		count(segment, syn_fast_open_passed);
		return 0;
	case REFUSE_SIGNED:
		count(segment, syn_signed_passed);
		return 0;
	default:
		count(segment, syn_options_passed);
		return 0;
	}
}

static __always_inline void learn_syn(struct __sk_buff *skb, struct packet *p, struct tcp_options *options, struct end *end)
{
	__u8 mac[12];
	if (bpf_skb_load_bytes(skb, 0, mac, 12))
		return;
	__builtin_memcpy(end->mac, mac, 12);
	end->isn = p->seq;
	end->tsval = options->tsval;
	end->syn_window = p->window;
	end->mss = options->mss;
	end->window_scale = options->window_scale;
	end->ttl = p->ttl;
	end->tos = p->tos;
	end->flags = options->flags | END_SEEN;
}

/* An end's link-layer addresses, TTL and DSCP may change under a taken flow (a router fails over). */
static __always_inline void learn_path(struct __sk_buff *skb, struct packet *p, struct end *end)
{
	__u32 seen[3], known[3];
	if (end->ttl != p->ttl)
		end->ttl = p->ttl;
	if (end->tos != p->tos)
		end->tos = p->tos;
	if (bpf_skb_load_bytes(skb, 0, seen, 12))
		return;
	__builtin_memcpy(known, end->mac, 12);
	if (seen[0] != known[0] || seen[1] != known[1] || seen[2] != known[2])
		__builtin_memcpy(end->mac, seen, 12);
}

static __always_inline int rewrite_ip(struct __sk_buff *skb, struct packet *p, __u8 ttl, __u8 tos)
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

#endif
