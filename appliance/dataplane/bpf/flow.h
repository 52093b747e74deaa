/* A flow's life on the wire, and what is asked of a packet in any part of it. Its handshake is watched
 * (handshake.h), its client's first payload held, and once it is taken its packets go to the engine
 * (judged.h). For: TCP flows of policy's candidates. Not for: what comes before flows (weir.bpf.c),
 * handing packets to user space (hold.h). */
#ifndef WEIR_FLOW_H
#define WEIR_FLOW_H

static __always_inline int is_first_syn(struct packet *p)
{
	return (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Whether the client may take a packet of the server that was the first to say something. */
static __always_inline int server_in_window(struct packet *p, struct flow *f)
{
	__u32 offset = p->seq - (f->end[1].isn + 1);
	return !offset || offset < f->end[0].syn_window;
}

/* A server may say less in its SYN-ACK than it takes a moment later, even nothing at all. */
static __always_inline void learn_window(struct packet *p, struct flow *f)
{
	struct end *client = &f->end[0], *server = &f->end[1];
	if (!(server->flags & END_SEEN) || (p->flags & (TCP_ACK | TCP_SYN)) != TCP_ACK ||
	    p->ack != client->isn + 1 || p->seq != server->isn + 1)
		return;
	__u32 window = p->window;
	if (client->flags & server->flags & END_WINDOW_SCALE)
		window <<= server->window_scale & 15;
	if (window > 65535)
		window = 65535;
	if (window > server->syn_window)
		server->syn_window = window;
}

/* The server of such a flow said something, by policy's leave. */
static __always_inline int server_spoke(struct flow *f)
{
	return f->reset == SERVER_SPOKE && !f->served;
}

/* Whether policy lets a flow's server be the first to say something, or to end; it did where it has. */
static __always_inline int may_be_first(struct flow *f, struct configuration *c)
{
	return !f->served && (f->reset == SERVER_SPOKE || !(c->evasion & EVASION_SERVER_SPEAKS_FIRST));
}

/* CPUs may do so at one time. Before its packet crosses: its client acknowledges no more than is known. */
static __always_inline void note_said(struct packet *p, struct flow *f)
{
	if (p->payload)
		__sync_fetch_and_add(&f->said, p->payload);
}

/* By whoever alone changes the entry, or to whom another's change does no harm. */
static __always_inline void note_word(struct packet *p, struct flow *f)
{
	note_said(p, f);
	if (f->reset != SERVER_SPOKE) {
		f->client_heard = 0;
		f->reset = SERVER_SPOKE;
	}
}

/* What a server said, or how it ended, was in another connection. */
static __always_inline void forget_words(struct flow *f)
{
	f->reset = 0;
	f->said = 0;
	f->client_heard = 0;
}

/* What a client acknowledges of its server by a packet that crosses, the server does not say again. Of more
 * than was said, which it will not believe either, there is no place for a socket. Whether the packet may
 * cross: not where another CPU moves or holds the flow at this moment, which may not have this. It looks at
 * this behind its change of the state, as we do at the state behind this. */
static __always_inline int note_client_heard(struct packet *p, struct flow *f, __u64 word)
{
	__u32 heard = p->ack - (f->end[1].isn + 1), known = *(volatile __u32 *)&f->client_heard;
	__u32 most = f->reset == SERVER_SPOKE ? f->said : f->reset == RESET_BY_SERVER;
	if ((p->flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK || heard > most || heard <= known)
		return 1;
	return __sync_val_compare_and_swap(&f->client_heard, known, heard) == known &&
	       __sync_val_compare_and_swap(&f->word, word, word) == word;
}

/* Whether the only answers to its SYN were ones that policy leaves to the bridge. */
static __always_inline int answered_strangely(struct flow *f)
{
	return (f->end[1].flags & (END_SEEN | END_DOUBTFUL)) == END_DOUBTFUL;
}

/* A decoy that the other end is not meant to get: an end's packets come the way of its SYN. */
static __always_inline int expires_early(struct packet *p, struct end *end)
{
	return end->ttl > p->ttl + TTL_VARIES;
}

/* A packet that came in by the port of its other end: a second pass of the same tuple (SPEC D16), or a
 * forged source, which must not change the flow. */
static __always_inline int on_other_pass(struct configuration *c, __u32 segment)
{
	if (c->evasion & EVASION_TWO_PASSES) {
		count(segment, two_passes_dropped);
		return TC_ACT_SHOT;
	}
	count(segment, two_passes_passed);
	return TC_ACT_OK;
}

#endif
