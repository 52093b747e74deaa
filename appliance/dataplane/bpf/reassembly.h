/* Which fragments go to the engine's kernel, which puts those of taken flows together. That kernel knows of no
 * VLAN and no tunnel, and has little room: it gets the fragments of a packet in order, from the first one on (or,
 * between ends whose fragments came in disorder lately, in any order), of one packet of its addresses and id at a
 * time, and of one client no more than its share. Not for: whose a first fragment is (fragments.h). */
#ifndef WEIR_REASSEMBLY_H
#define WEIR_REASSEMBLY_H

/* Longer than that kernel waits for the rest of a packet (src/engine_namespace.rs): what is forgotten here is
 * forgotten there. */
#define REST_COMES 3000000000LL /* ns */
/* Another CPU may be giving a packet's last fragment to the kernel at this moment. */
#define LAST_COMES 1000000LL /* ns */

/* By what a receiver knows the fragments of a packet as one's: its addresses, id and, of IPv4, protocol (of an
 * IPv6 one's next headers only the first one's counts, RFC 8200 4.5). */
static __always_inline __u64 packet_of(struct packet *p)
{
	__u8 protocol = p->ether_type == ETH_P_IPV6 ? 0 : p->protocol;
	return (__u64)p->seq << 32 | (__u64)protocol << 16 | (__u64)(p->from_low & 1) << 8 | (p->key.segment & 0xff);
}

/* By what two of the same addresses and the same id differ that this receiver knows nothing of. */
static __always_inline __u64 way_of(struct packet *p, struct port *port)
{
	return (__u64)p->wire_tunnel_key << 32 | (__u64)p->key.outer_vlan << 16 | (__u64)p->wire_tunnel << 8 | port->side;
}

static __always_inline struct fragments *slot_of(struct packet *p)
{
	const __u32 *address = (const __u32 *)p->key.address;
	__u64 mixed = packet_of(p) * 0xff51afd7ed558ccdULL;
	for (int i = 0; i < 8; i++)
		mixed = (mixed ^ address[i] ^ mixed >> 32) * 0x9e3779b97f4a7c15ULL;
	__u32 slot = (mixed >> 32) & (FRAGMENT_SLOTS - 1);
	return bpf_map_lookup_elem(&taken_fragments, &slot);
}

/* Where in its packet a fragment stands, and how much it carries, in bytes; its last bit says that there is
 * more. 0: it cannot be read. */
static __always_inline __u64 place_of(struct __sk_buff *skb, struct packet *p)
{
	__u32 at = p->window & 0xfff8, more = p->window & 1, begins = p->ack;
	if (p->ether_type == ETH_P_IP) {
		__be16 field;
		if (load(skb, p->l3 + 6, &field, sizeof(field)))
			return 0;
		at = (bpf_ntohs(field) & 0x1fff) << 3;
		more = (bpf_ntohs(field) & 0x2000) != 0;
		begins = p->l4;
	}
	__u32 length = p->end - begins;
	/* What is none: as its kernel sees it (ip_frag_queue, ip6_frag_queue). */
	if (begins >= p->end || at + length > 65535 || (more && length & 7))
		return 0;
	return (__u64)at << 32 | length << 1 | more;
}

/* Whether that kernel is sure to take a fragment, as far as its headers say: it looks at the sum of IPv4's, and
 * has its own mind of options and of extension headers. */
static __noinline int is_plain(struct __sk_buff *skb, struct packet *p)
{
	__u16 words[sizeof(struct iphdr) / 2];
	__u32 sum = 0;
	if (!p)
		return 0;
	if (p->ether_type == ETH_P_IPV6)
		return p->ack == p->l3 + sizeof(struct ipv6hdr) + 8;
	if (p->l4 != p->l3 + sizeof(words) || bpf_skb_load_bytes(skb, p->l3, words, sizeof(words)))
		return 0;
	for (__u32 i = 0; i < sizeof(words) / 2; i++)
		sum += words[i];
	return sum % 0xffff == 0; /* RFC 1071; it is not 0, as the version is in it */
}

/* Of the ends and the way of a fragment, or of its packet, too. Who does not know the seed cannot choose two
 * that are the same. */
static __always_inline __u64 hash_of(struct packet *p, struct port *port, __u64 seed, __u64 packet)
{
	const __u32 *address = (const __u32 *)p->key.address, *outer = (const __u32 *)p->key.outer;
	__u64 mixed = (seed ^ packet) * 0xff51afd7ed558ccdULL;
	mixed = (mixed ^ way_of(p, port) ^ mixed >> 32) * 0x9e3779b97f4a7c15ULL;
	mixed = (mixed ^ ((__u64)outer[0] << 32 | outer[1]) ^ mixed >> 32) * 0x9e3779b97f4a7c15ULL;
	for (int i = 0; i < 8; i++)
		mixed = (mixed ^ address[i] ^ mixed >> 32) * 0x9e3779b97f4a7c15ULL;
	return mixed ^ mixed >> 29;
}

static __always_inline __u64 pair_of(struct packet *p, struct port *port, __u64 seed)
{
	return hash_of(p, port, seed, (__u64)p->key.segment << 1 | (p->from_low & 1));
}

#define DISORDER_LASTS 60000000000LL /* ns */

/* Fragments between these ends came in disorder lately, and are put together in any order. */
static __noinline int mark_disorder(struct packet *p, struct port *port, __u32 cell)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!p || !port || !c)
		return 0;
	__u64 pair = pair_of(p, port, c->seed);
	__u32 slot = pair & (DISORDER_SLOTS - 1);
	struct disorder *d = bpf_map_lookup_elem(&disordered_pairs, &slot);
	if (!d)
		return 0;
	d->pair = pair;
	d->cell = cell;
	d->since = bpf_ktime_get_ns();
	return 0;
}

/* The cell of the client of such ends, plus one; 0: theirs come in order. */
static __noinline int in_disorder(struct packet *p, struct port *port)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!p || !port || !c)
		return 0;
	__u64 pair = pair_of(p, port, c->seed);
	__u32 slot = pair & (DISORDER_SLOTS - 1);
	struct disorder *d = bpf_map_lookup_elem(&disordered_pairs, &slot);
	if (!d || d->pair != pair || (__s64)(bpf_ktime_get_ns() - d->since) > DISORDER_LASTS)
		return 0;
	return 1 + (d->cell & (CLIENT_CELLS - 1));
}

/* Notes a later fragment that came before the first one; of a first fragment (`note` is 0): whether one did. */
static __noinline int came_early(struct packet *p, struct port *port, __u32 note)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!p || !port || !c)
		return 0;
	__u64 packet = hash_of(p, port, c->seed, packet_of(p)), now = bpf_ktime_get_ns();
	__u32 slot = packet & (EARLY_SLOTS - 1);
	struct early *e = bpf_map_lookup_elem(&early_fragments, &slot);
	if (!e)
		return 0;
	if (!note)
		return e->packet == packet && (__s64)(now - e->since) < REST_COMES;
	e->packet = packet;
	e->since = now;
	return 0;
}

/* Enters a fragment of a packet whose fragments come in any order. Not one that lies over another: so the
 * packet is whole where there are as many bytes as it has. */
static __noinline int enter_piece(struct fragments *slot, __u64 place)
{
	if (!slot)
		return 0;
	__u32 begins = place >> 32, length = (__u32)place >> 1, ends = begins + length, came = slot->came;
	if (came >= PIECES || (!(place & 1) && slot->total))
		return 0;
	for (__u32 i = 0; i < PIECES; i++) {
		if (i < came && begins < slot->ends[i] && slot->begins[i] < ends)
			return 0;
	}
	slot->begins[came & (PIECES - 1)] = begins;
	slot->ends[came & (PIECES - 1)] = ends;
	slot->came = came + 1;
	slot->got += length;
	if (!(place & 1))
		slot->total = ends;
	if (!begins)
		slot->named = 1;
	return 1;
}

/* Takes a slot for the packet of a fragment, of the client with this cell. Not where it is another one's that
 * may be whole yet: its kernel would put the two together. */
static __noinline int take_slot(struct packet *p, struct port *port, __u32 cell, __u64 place, __u32 any_order)
{
	if (!p || !port)
		return 0;
	struct fragments *slot = slot_of(p);
	if (!slot)
		return 0;
	__u64 now = bpf_ktime_get_ns(), since = *(volatile __u64 *)&slot->since;
	__s64 age = now - since;
	/* One whose last fragment came just now is only in the way of what is known by the same. */
	if ((since && age < REST_COMES && (age < REST_COMES - LAST_COMES || slot->packet == packet_of(p))) ||
	    __sync_val_compare_and_swap(&slot->since, since, now) != since)
		return 0;
	*(volatile __u16 *)&slot->next = 0; /* nothing follows upon it until all else is said */
	*(volatile __u8 *)&slot->any_order = 0;
	if (over_share(bpf_map_lookup_elem(&fragment_shares, &cell), FRAGMENT_WINDOW, 1, FRAGMENT_SHARE - 1)) {
		slot->since = 0;
		return 0;
	}
	slot->packet = packet_of(p);
	slot->way = way_of(p, port);
	__builtin_memcpy(slot->address, p->key.address, sizeof(slot->address));
	__builtin_memcpy(slot->outer, p->key.outer, sizeof(slot->outer));
	slot->cell = cell;
	slot->named = 0;
	slot->plain = p->options & 1;
	slot->total = slot->came = slot->got = 0;
	enter_piece(slot, place);
	if (any_order)
		*(volatile __u8 *)&slot->any_order = 1;
	else
		*(volatile __u16 *)&slot->next = (__u32)place >> 1;
	return 1;
}

static __always_inline int is_of(struct fragments *slot, struct packet *p, struct port *port)
{
	const __u32 *address = (const __u32 *)p->key.address, *outer = (const __u32 *)p->key.outer;
	__u32 differs = (slot->outer[0] ^ outer[0]) | (slot->outer[1] ^ outer[1]);
	for (int i = 0; i < 8; i++)
		differs |= slot->address[i] ^ address[i];
	return !differs && slot->packet == packet_of(p) && slot->way == way_of(p, port);
}

/* It is whole: its kernel keeps nothing of it, as soon as the last one got there; where it did not take one of
 * them it keeps the others, and these count on. */
static __noinline int is_whole(struct fragments *slot, __u32 counted)
{
	if (!slot)
		return 0;
	__u32 cell = slot->cell;
	struct share *share = bpf_map_lookup_elem(&fragment_shares, &cell);
	if (share && slot->plain)
		share->amount -= share->amount > counted ? counted : share->amount;
	*(volatile __u16 *)&slot->next = 0;
	*(volatile __u8 *)&slot->any_order = 0;
	slot->since = bpf_ktime_get_ns() - REST_COMES + LAST_COMES;
	return 0;
}

/* Whether a fragment goes to the engine's kernel as one of a packet that is put together in any order. */
static __noinline int piece_of(struct fragments *slot, __u64 place)
{
	if (!slot || !enter_piece(slot, place))
		return 0;
	__u32 cell = slot->cell, others = slot->came - 1;
	if (slot->got == slot->total)
		is_whole(slot, others);
	else if (over_share(bpf_map_lookup_elem(&fragment_shares, &cell), FRAGMENT_WINDOW, 1, FRAGMENT_SHARE - 1))
		return 0;
	return 1;
}

enum { REST_OF_NONE, REST_OF_TAKEN, REST_OF_EITHER };

/* Whether a later fragment goes to the engine's kernel: what stands before it went there, and nothing else of
 * its packet; one in disorder comes again with all of it. Between ends whose fragments are known to come so it
 * goes there in any order, and crosses, too, until the first one says whose it is. */
static __noinline int rest_of_taken(struct __sk_buff *skb, struct packet *p, struct port *port)
{
	if (!p || !port)
		return REST_OF_NONE;
	struct fragments *slot = slot_of(p);
	__u64 place = place_of(skb, p), now = bpf_ktime_get_ns();
	if (!slot || !place)
		return REST_OF_NONE;
	__u32 fresh = (__s64)(now - *(volatile __u64 *)&slot->since) < REST_COMES, cell = slot->cell;
	__u32 next = *(volatile __u16 *)&slot->next;
	if (!fresh || !is_of(slot, p, port) || !(next || slot->any_order)) {
		int marked = p->protocol == IPPROTO_TCP ? in_disorder(p, port) : 0;
		p->options = is_plain(skb, p);
		if (marked && take_slot(p, port, marked - 1, place, 1))
			return REST_OF_EITHER;
		came_early(p, port, 1);
		return REST_OF_NONE;
	}
	if (slot->any_order) {
		slot->plain &= is_plain(skb, p);
		__u32 named = slot->named;
		return !piece_of(slot, place) ? REST_OF_NONE : named ? REST_OF_TAKEN : REST_OF_EITHER;
	}
	if (place >> 32 != next) {
		mark_disorder(p, port, cell);
		return REST_OF_NONE;
	}
	slot->plain &= is_plain(skb, p);
	if (place & 1) {
		if (over_share(bpf_map_lookup_elem(&fragment_shares, &cell), FRAGMENT_WINDOW, 1, FRAGMENT_SHARE - 1))
			return REST_OF_NONE;
		slot->came++;
		*(volatile __u16 *)&slot->next = next + ((__u32)place >> 1);
		return REST_OF_TAKEN;
	}
	is_whole(slot, slot->came);
	return REST_OF_TAKEN;
}

/* Whether a first fragment of a taken flow goes to the engine's kernel. */
static __noinline int begins_packet(struct packet *p, struct port *port, struct flow *f, __u64 place)
{
	__u32 zero = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!p || !port || !f || !c)
		return 0;
	__u32 cell = client_hash(&p->key, f->client_low, c->seed) & (CLIENT_CELLS - 1);
	struct fragments *slot = slot_of(p);
	if (slot && (__s64)(bpf_ktime_get_ns() - *(volatile __u64 *)&slot->since) < REST_COMES && slot->any_order &&
	    is_of(slot, p, port)) {
		mark_disorder(p, port, cell);
		slot->plain &= p->options;
		return piece_of(slot, place);
	}
	/* This packet is lost, whatever comes of it; for those that follow. */
	__u32 any_order = in_disorder(p, port) != 0;
	if (came_early(p, port, 0))
		mark_disorder(p, port, cell);
	return take_slot(p, port, cell, place, any_order);
}

#endif
