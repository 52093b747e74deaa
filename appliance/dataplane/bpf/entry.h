/* Where a watched handshake's entry is. It begins in half_open, which anybody fills with SYNs; once its
 * client acknowledged the server's SYN, so that there is a client, or says something, it is in `flows`,
 * which has bounds for each client and out of which nothing is pushed. Those that stay silent are
 * forgotten by user space (src/silence.rs). Not for: what the packets of a handshake say (handshake.h). */
#ifndef WEIR_ENTRY_H
#define WEIR_ENTRY_H

enum { ENTER_DONE, ENTER_RACE, ENTER_FULL };

/* From half_open to `flows`. `f` must not be used afterwards. */
static __noinline int enter(struct packet *p, struct flow *f, __u64 word)
{
	if (!p || !f || !swap(f, word, STATE_ANSWERED))
		return ENTER_RACE;
	f->touched = bpf_ktime_get_ns();
	__u32 client_low = f->client_low;
	/* Before it is there: whoever takes it out of the count finds it counted. */
	count_entry(&p->key, client_low, 1, 1);
	/* Before it is there, too: from then on another CPU may hold it. */
	long error = keep_alias(&p->key, f);
	if (!error) {
		error = bpf_map_update_elem(&flows, &p->key, f, BPF_NOEXIST);
		if (error && error != -17)
			forget_alias(&p->key, f);
	}
	if (error) {
		count_entry(&p->key, client_low, -1, -1);
		swap(f, (word & ~0xffULL) | STATE_ANSWERED, STATE_HALF_OPEN);
		return error == -17 /* EEXIST */ ? ENTER_RACE : ENTER_FULL;
	}
	bpf_map_delete_elem(&half_open, &p->key);
	return ENTER_DONE;
}

/* Leaves a flow that is not held yet to the bridge, whichever table it is in; it is known as such for
 * as long as half_open has room. Whether it did; `f` must not be used afterwards then. */
static __noinline int leave_to_bridge(struct packet *p, struct flow *f, __u64 word)
{
	if (!p || !f || !swap(f, word, STATE_IGNORED))
		return 0;
	if ((word & 0xff) != STATE_ANSWERED)
		return 1;
	count_entry(&p->key, f->client_low, 0, -1);
	/* A newer handshake of the same ends stays what it is. */
	bpf_map_update_elem(&half_open, &p->key, f, BPF_NOEXIST);
	forget_flow(&p->key, f);
	return 1;
}

#endif
