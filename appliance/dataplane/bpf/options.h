/* TCP options of SYNs, and whether two sockets of ours could carry a flow with them. */
#ifndef WEIR_OPTIONS_H
#define WEIR_OPTIONS_H

struct tcp_options {
	__u32 tsval;
	__u16 mss;
	__u8 window_scale;
	__u8 flags; /* END_* */
	__u16 at;     /* the option that is refused: offset in the packet */
	__u8 length;
	__u8 mss_at; /* of its two bytes: offset from the first option; 0: there is none */
};

enum refusal { TAKEABLE = 0, REFUSE_MALFORMED, REFUSE_MPTCP, REFUSE_FAST_OPEN, REFUSE_SIGNED };

#define SMALLEST_MTU 576 /* RFC 791: a port whose MTU is below carries no IP of use */
#define NEUTRALISED 4 /* options overwritten in one SYN; it is malformed past them */

/* Options of a SYN or SYN-ACK (RFC 9293 3.2; kinds from IANA's list). Not static, as neutralise():
 * the verifier looks at it once and by itself, not again for every caller and turn of a loop, which
 * is more than that of 6.1 does. */
__noinline int read_options(struct __sk_buff *skb, __u32 at, __u32 length, struct tcp_options *options)
{
	__u32 first = at, end = at + length;
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
		options->at = at;
		options->length = head[1];
		if (head[0] == 2 && head[1] == 4) {
			__be16 mss;
			if (bpf_skb_load_bytes(skb, at + 2, &mss, 2))
				return REFUSE_MALFORMED;
			options->mss = bpf_ntohs(mss);
			options->mss_at = at + 2 - first;
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

/* Overwrites an option with no-operations (kind 1) and mends the checksum, two bytes at a time as
 * that is made of them. `at` and `length` are the option's, `l4` is the TCP header's offset. */
__noinline int neutralise(struct __sk_buff *skb, __u32 l4, __u32 at, __u32 length)
{
	__u32 word = at - ((at - l4) & 1);
	for (int i = 0; i < 21; i++) {
		__be16 old, new;
		if (word >= at + length)
			return 0;
		if (bpf_skb_load_bytes(skb, word, &old, 2))
			return -1;
		__u16 bytes = bpf_ntohs(old);
		if (word >= at)
			bytes = (bytes & 0x00ff) | 0x0100;
		if (word + 1 < at + length)
			bytes = (bytes & 0xff00) | 0x0001;
		new = bpf_htons(bytes);
		if (bpf_l4_csum_replace(skb, l4 + 16, old, new, 2) || bpf_skb_store_bytes(skb, word, &new, 2, 0))
			return -1;
		word += 2;
	}
	return -1;
}

/* Lets an end that comes in a tunnel say no larger segments than fit both ports with the tunnel's header
 * around them: whoever puts that around larger ones fragments what comes of it, and fragments of a tunnel's
 * packets are read by nobody here. What its peer's tunnel adds is as much, but for a GRE key that only one
 * of them has. */
static __noinline int clamp_mss(struct __sk_buff *skb, struct packet *p, struct port *port, struct tcp_options *options)
{
	__u32 mtu = 0, other = 0;
	if (!p || !port || !options || !p->wire_tunnel || !options->mss_at)
		return 0;
	/* What they answer does not matter: each says the MTU that its interface has now. */
	bpf_check_mtu(skb, port->interface[0], &mtu, 0, 0);
	bpf_check_mtu(skb, port->interface[1], &other, 0, 0);
	if (other < mtu)
		mtu = other;
	/* Inside is IPv4 only (packet.h). */
	__u32 around = tunnel_length(p->wire_tunnel) + sizeof(struct iphdr) + sizeof(struct tcphdr);
	if (mtu < SMALLEST_MTU || options->mss <= mtu - around)
		return 0;
	__be16 old = bpf_htons(options->mss), new = bpf_htons(mtu - around);
	__u32 at = p->l4 + sizeof(struct tcphdr) + options->mss_at, odd = (at - p->l4) & 1;
	/* At an odd place its bytes are of two of the checksum's words, each the other's half. */
	__be16 from = odd ? __builtin_bswap16(old) : old, to = odd ? __builtin_bswap16(new) : new;
	if (bpf_l4_csum_replace(skb, p->l4 + 16, from, to, 2) || bpf_skb_store_bytes(skb, at, &new, 2, 0))
		return 0;
	options->mss = mtu - around;
	count(port->segment, syn_mss_clamped);
	return 0;
}

/* Takes the urgent mark off a packet of a flow that is not judged yet, or whose judgement is not final:
 * a server's socket leaves an urgent byte out of the stream, which then is another than was judged.
 * No TLS has any. Whether it could be done. */
__noinline int clear_urgent(struct __sk_buff *skb, __u32 l4)
{
	__be16 old, new;
	if (bpf_skb_load_bytes(skb, l4 + 12, &old, 2))
		return 0;
	new = old & ~bpf_htons(TCP_URG);
	if (bpf_l4_csum_replace(skb, l4 + 16, old, new, 2) || bpf_skb_store_bytes(skb, l4 + 12, &new, 2, 0))
		return 0;
	if (bpf_skb_load_bytes(skb, l4 + 18, &old, 2))
		return 0;
	new = 0;
	return !bpf_l4_csum_replace(skb, l4 + 16, old, new, 2) && !bpf_skb_store_bytes(skb, l4 + 18, &new, 2, 0);
}

/* Whether a flow whose SYN or SYN-ACK has these options can be carried by two sockets of ours, once
 * those options are overwritten that both ends can do without (SPEC D12), and its MSS fits. */
static __noinline int takeable_options(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c, struct tcp_options *options)
{
	int refusal = REFUSE_MALFORMED;
	if (!p || !port || !c || !options)
		return 0;
	__u32 segment = port->segment;
	for (int i = 0; i <= NEUTRALISED; i++) {
		__builtin_memset(options, 0, sizeof(*options));
		refusal = read_options(skb, p->l4 + 20, p->options, options);
		if (refusal == REFUSE_MPTCP)
			count(segment, syn_mptcp_neutralised);
		else if (refusal == REFUSE_FAST_OPEN)
			count(segment, syn_fast_open_neutralised);
		else
			break;
		if (neutralise(skb, p->l4, options->at, options->length))
			break;
	}
	if (refusal == TAKEABLE) {
		clamp_mss(skb, p, port, options);
		return 1;
	}
	if (c->evasion & EVASION_UNTAKEABLE_OPTIONS)
		count(segment, syn_options_dropped);
	else if (refusal == REFUSE_SIGNED)
		count(segment, syn_signed_passed);
	else
		count(segment, syn_options_passed);
	return 0;
}

#endif
