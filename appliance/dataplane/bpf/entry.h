/* Where a watched handshake's entry is. It begins in half_open, which anybody fills with SYNs; once its
 * client acknowledged the server's SYN, so that there is a client, or says something, it is in `flows`,
 * which has bounds for each client and out of which nothing is pushed. Those that stay silent are
 * forgotten by user space (src/silence.rs). Not for: what the packets of a handshake say (handshake.h). */
#ifndef WEIR_ENTRY_H
#define WEIR_ENTRY_H

enum { ENTER_DONE, ENTER_RACE, ENTER_FULL };

/* Whether a client may have acknowledged something of its server that must be known before it is held. */
static __always_inline int server_was_heard(struct flow *f)
{
	return f->reset == SERVER_SPOKE || f->reset == RESET_BY_SERVER;
}

/* Whether a packet's flow may be in any table: whichever end is its server, a policy covers that port, or did. Most
 * packets that nobody asks for are of others, and looking for each of them costs more than all the rules. */
static __noinline int may_be_known(struct packet *p)
{
	__u32 zero = 0;
	struct port_set *covered = bpf_map_lookup_elem(&covered_ports, &zero);
	if (!p || !covered)
		return 1;
	__u16 low = p->key.port[0], high = p->key.port[1];
	return ((covered->bits[low >> 3] >> (low & 7)) | (covered->bits[high >> 3] >> (high & 7))) & 1;
}

/* Where moves of entries with such ends are counted. */
static __always_inline __u32 *moves_of(const struct flow_key *key)
{
	const __u32 *address = (const __u32 *)key->address;
	__u32 mixed = key->port[0] * 0x9e3779b1U ^ key->port[1] * 0x85ebca6bU ^ (address[3] + address[7]) * 0xc2b2ae35U;
	__u32 slot = mixed >> 16 & (MOVE_SLOTS - 1);
	return bpf_map_lookup_elem(&moves, &slot);
}

/* So many moves. */
static __noinline int moves_so_far(struct packet *p)
{
	__u32 *counted = p ? moves_of(&p->key) : 0;
	return counted ? *(volatile __u32 *)counted : 0;
}

/* From half_open to `flows`. `f` must not be used afterwards. */
static __noinline int enter(struct packet *p, struct flow *f, __u64 word)
{
	__u64 answered = (word & ~0xffULL) | STATE_ANSWERED;
	__u32 zero = 0;
	struct flow *moving = bpf_map_lookup_elem(&scratch, &zero);
	if (!p || !f || !moving)
		return ENTER_RACE;
	/* Before its state: by both it is one that was left behind (watched_in_half_open). */
	f->touched = bpf_ktime_get_ns();
	if (!swap(f, word, STATE_ANSWERED))
		return ENTER_RACE;
	__builtin_memcpy(moving, f, sizeof(*moving));
	/* half_open gives an entry's memory to another handshake at once where it is short. */
	if (*(volatile __u64 *)&f->word != answered || moving->word != answered ||
	    bpf_map_lookup_elem(&half_open, &p->key) != f)
		return ENTER_RACE;
	__u32 client_low = moving->client_low;
	/* Before it is there: whoever takes it out of the count finds it counted. */
	count_entry(&p->key, client_low, 1, 1);
	/* Before it is there, too: from then on another CPU may hold it. */
	long error = keep_alias(&p->key, moving);
	if (!error) {
		error = bpf_map_update_elem(&flows, &p->key, moving, BPF_NOEXIST);
		if (error && error != -17)
			forget_alias(&p->key, moving);
	}
	if (error) {
		count_entry(&p->key, client_low, -1, -1);
		swap(f, answered, STATE_HALF_OPEN);
		return error == -17 /* EEXIST */ ? ENTER_RACE : ENTER_FULL;
	}
	/* Between its coming there and its going here. */
	__u32 *counted = moves_of(&p->key);
	if (counted)
		__sync_fetch_and_add(counted, 1);
	/* Not that of a newer SYN, which may have taken its place. Where its client's acknowledgements must not be
	 * missed the entry stays until it is judged: a packet that did not find it in `flows` yet finds it here,
	 * however slow its CPU is. */
	if (!server_was_heard(moving) && bpf_map_lookup_elem(&half_open, &p->key) == f &&
	    !bpf_map_delete_elem(&half_open, &p->key))
		leave_syn_share(&p->key, client_low);
	return ENTER_DONE;
}

/* The rest of it: the flow is judged, or was not held. */
static __noinline int leave_half_open(struct flow_key *key, __u64 word)
{
	struct flow *old = key ? bpf_map_lookup_elem(&half_open, key) : 0;
	if (old && *(volatile __u64 *)&old->word == ((word & ~0xffULL) | STATE_ANSWERED))
		bpf_map_delete_elem(&half_open, key);
	return 0;
}

/* The entry in half_open. What is left there of one that moved long ago is none: its flow is in `flows`, or
 * over. (It stayed because its server was heard, or the kernel refused the deletion, as where an interrupt finds
 * the bucket locked.) */
static __noinline struct flow *watched_in_half_open(struct packet *p)
{
	struct flow *f = p ? bpf_map_lookup_elem(&half_open, &p->key) : 0;
	__u64 word = f ? *(volatile __u64 *)&f->word : 0;
	if (!f || (word & 0xff) != STATE_ANSWERED || (__s64)(bpf_ktime_get_ns() - f->touched) <= (__s64)SYN_ANSWERED)
		return f;
	/* A new SYN may have its place by now. */
	struct flow *now = bpf_map_lookup_elem(&half_open, &p->key);
	if (!now || *(volatile __u64 *)&now->word != word)
		return now;
	bpf_map_delete_elem(&half_open, &p->key);
	return 0;
}

#define MOVE_LOOKS 1024 /* some 20 microseconds; past it the packet is dropped, and comes again */

/* Whether a packet says nothing that must wait for its flow's entry, as far as that is known (`watched`): what
 * it acknowledges of a server that said something, or ended, must. */
static __always_inline int crosses_a_move(struct packet *p, struct flow *watched)
{
	return !p->payload && !(p->flags & (TCP_SYN | TCP_FIN | TCP_URG)) && (!watched || !server_was_heard(watched));
}

struct move {
	struct packet *packet;
	struct flow *watched;
};

/* Whether there is no more to wait for. */
static long move_is_over(__u32 look, struct move *move)
{
	(void)look;
	return (*(volatile __u64 *)&move->watched->word & 0xff) != STATE_ANSWERED ||
	       bpf_map_lookup_elem(&flows, &move->packet->key);
}

/* The entry in `flows` of a packet that was not found there and then not in half_open either, or as one
 * that is on its way (`watched`): another CPU moves it, or moved it in between (which `moves` says: one that
 * was in neither when it was looked for came to `flows` after the first look, and left half_open before the
 * second). */
static __noinline struct flow *moved(struct packet *p, struct flow *watched)
{
	struct move move = { p, watched };
	if (!p)
		return 0;
	/* The verifier of 6.1 would go through each turn of a loop. */
	if (watched)
		bpf_loop(MOVE_LOOKS, move_is_over, &move, 0);
	return bpf_map_lookup_elem(&flows, &p->key);
}

/* Back to half_open, whichever table it is in: an answered flow for a word of its server. Whether it is
 * there now, or is to be forgotten; `f` must not be used afterwards. */
static __noinline int enter_half_open(struct packet *p, struct flow *f, __u64 word, __u32 state)
{
	note_drop(0); /* its packet passes, whatever it was to be dropped for where an engine lives */
	if (!p || !f || !swap(f, word, state))
		return 0;
	if ((word & 0xff) != STATE_ANSWERED)
		return 1;
	if (state == STATE_HALF_OPEN)
		note_word(p, f);
	/* A newer handshake of the same ends stays what it is. */
	if (!bpf_map_update_elem(&half_open, &p->key, f, BPF_NOEXIST)) {
		return_to_syn_share(&p->key, f->client_low);
	} else if (state == STATE_HALF_OPEN) {
		swap(f, (word & ~0xffULL) | state, STATE_ANSWERED);
		return 1;
	}
	count_entry(&p->key, f->client_low, 0, -1);
	forget_flow(&p->key, f);
	return 1;
}

/* An entry in `flows` that was moved to half_open or released, by another CPU at this moment; or long ago,
 * where the kernel did not delete it then (a map's bucket that an interrupt finds locked is busy). One that no
 * packet comes to is forgotten by user space (src/inheritance.rs). */
static __always_inline void forget_moved(struct packet *p, struct flow *f, __u64 word)
{
	if ((__s64)(bpf_ktime_get_ns() - f->touched) <= (__s64)SYN_ANSWERED)
		return;
	/* Another CPU may have deleted it since, and a new connection have its place, or its memory. */
	struct flow *now = bpf_map_lookup_elem(&flows, &p->key);
	if (now && *(volatile __u64 *)&now->word == word)
		forget_flow(&p->key, now);
}

/* Leaves a flow that is not held yet to the bridge; it is known as such for as long as half_open has
 * room. Whether it did; `f` must not be used afterwards then. */
static __always_inline int leave_to_bridge(struct packet *p, struct flow *f, __u64 word)
{
	return enter_half_open(p, f, word, STATE_IGNORED);
}

#endif
