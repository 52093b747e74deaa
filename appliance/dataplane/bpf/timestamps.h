/* Timestamps of taken flows (RFC 7323). A socket that was put into its connection by TCP_REPAIR knows none
 * of its peer and echoes 0 until it has heard one; what it says before is given the one to echo that the
 * end it speaks for would have echoed. Not for: its own timestamps, which it was told to go on from. */
#ifndef WEIR_TIMESTAMPS_H
#define WEIR_TIMESTAMPS_H

/* The kernel writes them as RFC 7323 appendix A says: behind two no-operations, first of all options. */
#define TIMESTAMPS_FIRST 0x0101080a

/* Of a packet of the engine's sockets, to an end whose flag says that it may be needed. Whether the
 * packet is spoilt. */
static __noinline int echo_time(struct __sk_buff *skb, struct packet *p, struct end *to, __u32 time)
{
	__be32 options[3], echo = bpf_htonl(time);
	if (!p || !to || (p->flags & (TCP_ACK | TCP_SYN)) != TCP_ACK || p->options < sizeof(options) ||
	    bpf_skb_load_bytes(skb, p->l4 + 20, options, sizeof(options)) ||
	    options[0] != bpf_htonl(TIMESTAMPS_FIRST))
		return 0;
	if (options[2]) {
		to->flags &= ~END_UNHEARD;
		return 0;
	}
	return bpf_l4_csum_replace(skb, p->l4 + 16, 0, echo, 4) ||
	       bpf_skb_store_bytes(skb, p->l4 + 28, &echo, sizeof(echo), 0);
}

#endif
