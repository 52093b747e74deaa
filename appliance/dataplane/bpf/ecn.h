/* ECN of taken flows (RFC 3168, SPEC D17). The engine's sockets know none: they were put into their
 * connections by TCP_REPAIR, which cannot say that ECN was agreed. So what they send is not ECT, and a
 * router drops it where it would have marked it. What the ends send is ECT as they agreed in their own
 * handshake, and where it comes marked the mark is answered here in the sockets' place: ECE on all
 * that goes to that end, until it says CWR. Each leg has a loop of its own.
 *
 * Not for: accurate ECN (RFC 9768), whose ends give up marking when they hear no counter (3.2.2.4);
 * flows on the bridge, whose marks cross. */
#ifndef WEIR_ECN_H
#define WEIR_ECN_H

/* What a SYN offers, or a SYN-ACK agrees to. */
static __always_inline __u8 ecn_of_syn(struct __sk_buff *skb, struct packet *p)
{
	__u8 accurate;
	if ((p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return (p->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR) ? END_ECN : 0;
	if ((p->flags & (TCP_ECE | TCP_CWR)) != TCP_ECE || bpf_skb_load_bytes(skb, p->l4 + 12, &accurate, 1))
		return 0;
	return accurate & 1 ? 0 : END_ECN;
}

/* A packet of an end whose flow is, or may be, taken. Whether its receiver would not get it: what the
 * tunnel's path marked is marked, and dropped where it says that it cannot be (RFC 6040 4.2). */
static __always_inline int note_congestion(struct packet *p, struct flow *f, struct end *end)
{
	__u8 ecn = p->tos & 3;
	if (p->key.tunnel && (p->outer_tos & 3) == ECN_CE) {
		if (!ecn)
			return 1;
		ecn = ECN_CE;
	}
	if ((ecn == ECN_CE || (p->flags & TCP_CWR)) && (f->end[0].flags & f->end[1].flags & END_ECN))
		end->congested = ecn == ECN_CE;
	return 0;
}

static __always_inline int drop_congested(__u32 segment)
{
	count(segment, tunnel_congestion_dropped);
	return TC_ACT_SHOT;
}

/* Of a packet of the engine's sockets that has no tunnel yet. */
static __noinline int echo_congestion(struct __sk_buff *skb, struct packet *p)
{
	__be16 old, new;
	if (!p || (p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4 + 12, &old, 2))
		return -1;
	new = old | bpf_htons(TCP_ECE);
	return bpf_l4_csum_replace(skb, p->l4 + 16, old, new, 2) || bpf_skb_store_bytes(skb, p->l4 + 12, &new, 2, 0);
}

#endif
