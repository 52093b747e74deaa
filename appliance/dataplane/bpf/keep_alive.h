/* Where an end of a taken flow is in its sequence, by our own sockets' word, and its keep-alives (SPEC
 * D17): the socket that speaks for the other end answers them, and user space, told here, has the other
 * socket ask the other end. Not for: flows on the bridge, which they cross. Where the ring is full a
 * keep-alive is not passed on; the next one is. */
#ifndef WEIR_KEEP_ALIVE_H
#define WEIR_KEEP_ALIVE_H

/* Keep-alives of one flow are passed on this often, at most: they are told from other packets by
 * numbers that anybody may send. */
#define KEEP_ALIVE_EVERY 1000000000ULL /* ns */

static __noinline void tell_keep_alive(struct packet *p, struct flow *f, __u64 word, __u32 from_server)
{
	__u64 now = bpf_ktime_get_ns();
	if (!p || !f || f->owner != INSTANCE || now - f->touched < KEEP_ALIVE_EVERY)
		return;
	struct held *h = reserve(word, sizeof(*h));
	if (!h)
		return;
	f->touched = now;
	describe(0, p, f, word, h, from_server ? HELD_SERVER_ALIVE : HELD_CLIENT_ALIVE, 0);
	bpf_ringbuf_submit(h, wake(word));
}

/* RFC 9293 3.8.4, RFC 1122 4.2.3.6: a keep-alive has the sequence number before the next one, and
 * nothing in it, or the byte of that number again. A probe of a closed window looks the same. */
static __always_inline int is_keep_alive(struct packet *p, struct end *end)
{
	return p->seq + 1 == end->next && p->payload <= 1 &&
	       (p->flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST)) == TCP_ACK;
}

/* Whether a packet stands exactly where our socket expects its end's next one, or asks as a keep-alive
 * or a window probe does. Whoever forges one without seeing the flow must guess that number among 2^31. */
static __always_inline int stands_next(struct packet *p, struct end *end)
{
	return end->next - p->seq <= 1;
}

/* A packet of our socket to an end says what it expects of it. */
static __always_inline void note_expected(struct packet *p, struct end *end)
{
	if ((p->flags & (TCP_ACK | TCP_RST)) == TCP_ACK && end->next != p->ack)
		end->next = p->ack;
}

#endif
