/* Keep-alives of taken flows (SPEC D17): the socket that speaks for the other end answers them, and
 * user space, told here, has the other socket ask the other end. Not for: flows on the bridge, which
 * they cross. Where the ring is full a keep-alive is not passed on; the next one is. */
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
static __always_inline void note_keep_alive(struct packet *p, struct flow *f, __u64 word, __u32 from_server)
{
	struct end *end = &f->end[from_server & 1];
	__u32 next = p->seq + p->payload + (p->flags & TCP_FIN);
	if ((__s32)(next - end->next) > 0)
		end->next = next;
	else if (p->seq + 1 == end->next && p->payload <= 1 &&
		 (p->flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST)) == TCP_ACK)
		tell_keep_alive(p, f, word, from_server);
}

#endif
