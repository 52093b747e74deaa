/* Which of several answers to a SYN counts. A server may answer more than once, a forged answer may come
 * beside the real one, and one may be made void by its client: its first word says which one it goes on
 * from. For: what is learnt of SYN-ACKs and of what a client acknowledges of them. Not for: what becomes of
 * the packet that says so (handshake.h). */
#ifndef WEIR_ANSWERS_H
#define WEIR_ANSWERS_H

/* An answer to a SYN that policy leaves to the bridge; its client may not believe it, and another one may
 * follow that it does. Whether it is the first of its flow, to be counted. */
static __always_inline int on_strange_answer(struct end *server)
{
	__u32 first = !(server->flags & (END_SEEN | END_DOUBTFUL));
	server->flags |= END_DOUBTFUL;
	return first;
}

/* A SYN-ACK that a flow can be taken with. */
static __always_inline void learn_answer(struct __sk_buff *skb, struct packet *p, struct tcp_options *options, struct flow *f)
{
	struct end *server = &f->end[1];
	__u32 known = server->flags & END_SEEN, doubtful = server->flags & END_DOUBTFUL, window = server->syn_window;
	if (known && p->seq != server->isn) {
		/* What was said so far another server said, or none. */
		doubtful = END_DOUBTFUL;
		if (f->reset != RESET_BY_ANYBODY)
			forget_words(f);
	}
	/* Before its number: another CPU may look at both. */
	server->flags |= doubtful;
	options->flags |= doubtful;
	learn_syn(skb, p, options, server);
	if (known && window > server->syn_window)
		server->syn_window = window; /* a smaller one may be a decoy's: what is outside of it is not held */
	f->contested = 0;
}

#define COOKIE_SIZES 3 /* Linux: the greatest of the segment sizes that a cookie's number stands for */

/* Where several SYN-ACKs came: what the first packets of a client in its server's window acknowledge says
 * which one it believes. One without data says so for as long as nothing else does, as no server need take
 * it; its first word says it for good. */
static __noinline int confirm(struct packet *p, struct flow *f, __u32 answered)
{
	if (!p || !f)
		return 0;
	struct end *client = &f->end[0], *server = &f->end[1];
	__u32 known = answered || (client->flags & END_CONFIRMED);
	if ((known && (!p->payload || f->reset == SERVER_SPOKE)) || !(server->flags & END_SEEN) ||
	    (p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK || p->seq - (client->isn + 1) > 65535)
		return 0;
	/* One of SYN cookies takes what is next to its number, too. (Its end alone may be what was heard.) */
	__u32 heard = p->ack - (server->isn + 1);
	__u32 by_cookie = p->payload && f->reset != SERVER_SPOKE && heard + COOKIE_SIZES <= 2 * COOKIE_SIZES &&
			  !(f->reset == RESET_BY_SERVER && heard == 1);
	if (((server->flags & END_DOUBTFUL) || by_cookie) && p->ack != server->isn + 1) {
		server->isn = p->ack - 1;
		forget_words(f);
	}
	if (p->ack == server->isn + 1)
		client->flags |= END_CONFIRMED;
	return 0;
}

/* Whether a packet of a client, so far behind its first byte and behind its server's, could begin another
 * connection of the same ends, for a server that knows connections by SYN cookies alone: Linux takes a cookie
 * in the name of any SYN, as long as it is as far from the cookie as the one that was sent. */
static __always_inline int on_a_cookies_line(__u32 start, __u32 heard)
{
	return heard - start + COOKIE_SIZES <= 2 * COOKIE_SIZES;
}

/* Whether an end ended without a word, as far as anybody can tell. */
static __always_inline int ended_silently(struct flow *f)
{
	return f->reset == RESET_BY_SERVER || f->reset == RESET_BY_CLIENT;
}

/* Whether a client seems to acknowledge before it said anything, and from a place where none stands that said
 * nothing: to a server of SYN cookies that is a connection that begins there. Once its server has ended, or
 * has seen its client's end, the client may be one byte on, or acknowledge that before what it says comes. */
static __always_inline int out_of_place(struct packet *p, struct flow *f)
{
	__u32 place = p->seq - f->end[0].isn, heard = p->ack - (f->end[1].isn + 1);
	return !p->payload && (p->flags & (TCP_ACK | TCP_SYN | TCP_FIN | TCP_RST)) == TCP_ACK && place > 1 &&
	       (f->end[1].flags & END_SEEN) && f->reset != SERVER_SPOKE &&
	       (!ended_silently(f) || (place > 2 && on_a_cookies_line(place - 1, heard)));
}

#define TLS_HANDSHAKE 0x16 /* RFC 8446 5.1 */
#define TLS_MAJOR_VERSION 3 /* behind it, of SSL 3.0, too */

/* Whether a packet begins as a ClientHello does. */
static __noinline int begins_hello(struct __sk_buff *skb, struct packet *p)
{
	__u8 first = 0;
	return p && p->payload && !bpf_skb_load_bytes(skb, p->end - p->payload, &first, 1) && first == TLS_HANDSHAKE;
}

/* Whether a packet of a client, so far behind its first byte, begins a ClientHello where a connection could
 * begin for such a server that has the SYN's number, give or take what a cookie stands for. */
static __always_inline int begins_hello_behind(struct __sk_buff *skb, struct packet *p, __u32 start)
{
	return start - 1 < COOKIE_SIZES && begins_hello(skb, p);
}

/* Whether a packet of a client, so far behind its first byte, begins a ClientHello behind that, in a connection
 * that began there (out_of_place): its server would leave out a byte before it. One byte is not enough to say
 * so, as other data have it, too, unless the packet ends behind it: the next one may have the second. */
static __noinline int begins_hello_after_end(struct __sk_buff *skb, struct packet *p, __u32 start)
{
	__u8 first = 0, second = TLS_MAJOR_VERSION;
	__u32 at = !start;
	if (!p || start > 1 + COOKIE_SIZES || p->payload <= at)
		return 0;
	__u32 from = p->end - p->payload + at;
	if (bpf_skb_load_bytes(skb, from, &first, 1) || first != TLS_HANDSHAKE)
		return 0;
	if (p->payload - at > 1 && bpf_skb_load_bytes(skb, from + 1, &second, 1))
		return 0;
	return second == TLS_MAJOR_VERSION;
}

#endif
