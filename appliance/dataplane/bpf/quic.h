/* QUIC that policy blocks: given to the engine, which judges it by the name in it (src/quic.rs), but for what
 * goes on with a connection that was excepted. Not for: which packets those are (classify.h). */
#ifndef WEIR_QUIC_H
#define WEIR_QUIC_H

/* An excepted QUIC connection of which nothing came for so long is forgotten (src/layout/quic.rs has it, too): its
 * ends' idle time-outs are half a minute to some minutes, and NATs forget before (RFC 4787 4.3: 5 minutes).
 * Nothing hangs on it but room: whatever begins a connection is judged anew. */
#define EXCEPTED_QUIC_NS (900 * 1000000000ULL)
#define LONG_HEADER 0x80 /* RFC 9000 17.2; the bit behind it says nothing (RFC 9287) */
#define MOST_DATAGRAMS 128 /* of one frame: UDP_MAX_SEGMENTS of the kernel */

/* Whether a datagram of the frame could begin a connection: only a packet with a long header does, and none
 * follows upon one with a short header (RFC 9000 12.2). What is in fragments could: the rest, which names no
 * port, may have the header, or lie over it; and QUIC is not fragmented (RFC 9000 14). */
static __noinline int may_begin_connection(struct __sk_buff *skb, struct packet *p)
{
	if (!p || p->fragment)
		return 1;
	__u32 at = p->l4 + 8, each = skb->gso_size;
	for (int i = 0; i < MOST_DATAGRAMS; i++) {
		__u8 first = 0;
		if (at >= p->end)
			return 0;
		if (bpf_skb_load_bytes(skb, at, &first, 1) || (first & LONG_HEADER))
			return 1;
		if (!each)
			return 0;
		at += each;
	}
	return 1;
}

/* Whether a packet is of a connection that the policy in force is known to except, and begins no other one. */
static __noinline int is_excepted(struct __sk_buff *skb, struct packet *p, struct configuration *c)
{
	if (!p || !c)
		return 0;
	struct excepted *e = bpf_map_lookup_elem(&excepted_quic, &p->key);
	__u64 now = bpf_ktime_get_ns();
	/* Another CPU may have written a later time meanwhile. */
	if (!e || (__s64)(now - e->last) > (__s64)EXCEPTED_QUIC_NS ||
	    e->policy != *(volatile __u64 *)&c->policies || may_begin_connection(skb, p))
		return 0;
	e->last = now;
	return 1;
}

#define QUIC_WINDOW 30 /* log2 of ns: some 1.1 s */
#define QUIC_SHARE 32 /* datagrams of one client in that time, while the engine has many to judge */

/* Whether a datagram is one too many to be judged: of its client, or of all. */
static __noinline int over_judged(struct packet *p, struct configuration *c)
{
	__u32 zero = 0;
	struct traffic_filter *rate = bpf_map_lookup_elem(&dropped_rate, &zero);
	if (!p || !c || !rate)
		return 1;
	__u64 now = bpf_ktime_get_ns(), next = *(volatile __u64 *)&rate->next;
	if ((__s64)(next - now) > (__s64)(rate->burst / 2)) {
		/* The other half is for all others. */
		__u32 cell = client_hash(&p->key, p->from_low, c->seed) & (CLIENT_CELLS - 1);
		if (over_share(bpf_map_lookup_elem(&quic_shares, &cell), QUIC_WINDOW, 1, QUIC_SHARE - 1))
			return 1;
	}
	return over_rate(rate, 1);
}

/* Gives a dropped datagram to the engine. It tells its sender: a client that is told falls back at once, and
 * one that is not waits for its timer; or sends it on, where the name in it is excepted (SPEC D14). */
static __always_inline void tell_engine(struct __sk_buff *skb, struct packet *p, struct port *port, struct configuration *c)
{
	__u32 length = skb->len;
	if (p->key.tunnel || p->stacked || p->fragment || over_judged(p, c)) {
		count_only(port->segment, quic_silently_dropped);
		return;
	}
	struct dropped *d = bpf_ringbuf_reserve(&dropped_ring, sizeof(*d), 0);
	if (!d) {
		count_only(port->segment, quic_silently_dropped);
		return;
	}
	/* Read behind the verdict: the policy that judges it is no older. */
	d->policy = *(volatile __u64 *)&c->policies;
	d->key = p->key;
	d->side = port->side;
	d->from_low = p->from_low;
	d->gso_size = skb->gso_size;
	d->vlan_tci = skb->vlan_tci;
	d->vlan_present = skb->vlan_present != 0;
	if (length > DROPPED_FRAME)
		length = DROPPED_FRAME;
	d->length = length;
	/* By "not 0" the verifier of kernel 6.1 knows no lower bound; and it knows those of this register only. */
	asm volatile("" : "+r"(length));
	if (length < 42 || length > DROPPED_FRAME || bpf_skb_load_bytes(skb, 0, d->frame, length))
		bpf_ringbuf_discard(d, 0);
	else
		bpf_ringbuf_submit(d, 0);
}

#endif
