/* The data plane's programs. port_ingress sees every packet that enters a segment; engine_ingress
 * sees what the engine's sockets send; state_command lets user space change a flow's state by
 * compare-and-swap, between packets and never over them; engine_query tells it whether another
 * engine lives.
 *
 * Nothing here decides policy: a flow is held when policy might want it, and user space judges.
 * Whatever is not understood passes: the bridge forwards it. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "weir.h"
#include "rules.h"
#include "maps.h"
#include "rule_maps.h"
#include "packet.h"
#include "clients.h"
#include "tunnel.h"
#include "options.h"
#include "path.h"
#include "ecn.h"
#include "timestamps.h"
#include "engine.h"
#include "classify.h"
#include "flow.h"
#include "entry.h"
#include "hold.h"
#include "keep_alive.h"
#include "answers.h"
#include "handshake.h"
#include "judged.h"
#include "icmp.h"
#include "reassembly.h"
#include "fragments.h"

static __always_inline int on_packet(struct __sk_buff *skb, struct said *said)
{
	struct packet p = {};
	__u32 index = skb->ifindex; /* one for all three: stack is short here */
	struct port *port = bpf_map_lookup_elem(&ports, &index);
	index = 0;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &index);
	if (!port || !port->segment || !c || port->side > SIDE_B)
		return TC_ACT_OK;
	__u32 segment = index = port->segment;
	struct segment_settings *settings = bpf_map_lookup_elem(&segments, &index);
	if (settings && settings->block_all && (c->fallback || engine_dead(c, INSTANCE))) {
		count_only(segment, fallback_dropped);
		return TC_ACT_SHOT;
	}
	int parsed = parse(skb, &p, segment);
	if (classify(skb, &p, port, c, settings, said))
		return TC_ACT_SHOT;
	if (parsed != PARSE_TCP) {
		if (p.odd_headers && said->passage != PASS_BYPASSED && (c->evasion & EVASION_UNREAD_HEADERS) &&
		    settings && settings->rules && !c->fallback && !engine_dead(c, INSTANCE)) {
			count(segment, unread_headers_dropped);
			return TC_ACT_SHOT;
		}
		if (p.fragment && p.protocol == IPPROTO_TCP && said->passage != PASS_BYPASSED &&
		    (c->evasion & EVASION_FRAGMENTS) && settings && settings->rules && !c->fallback &&
		    !engine_dead(c, INSTANCE) && is_covered_fragment(&p, port, c, said->candidate)) {
			count(segment, tcp_fragment_dropped);
			return TC_ACT_SHOT;
		}
		if (p.fragment)
			return on_fragment(skb, &p, port, c);
		return is_icmp_error(&p) && !p.stacked ? on_icmp_error(skb, &p, port) : TC_ACT_OK;
	}

	if (!said->candidate && !may_be_known(&p))
		return TC_ACT_OK;
	__u64 word;
	int action;
	int moves_before = moves_so_far(&p);
	struct flow *answered = 0, *succeeded = 0, *f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f && is_gre(p.key.tunnel) && pair_gre_key(&p))
		f = bpf_map_lookup_elem(&flows, &p.key);
	if (!f) {
		/* A held or taken flow stays what it is, whatever rule is new (SPEC D10). */
		if (said->passage == PASS_BYPASSED)
			return TC_ACT_OK;
		if (is_first_syn(&p) && !said->candidate)
			goto syn;
		struct flow *watched = watched_in_half_open(&p);
		word = watched ? *(volatile __u64 *)&watched->word : 0;
		/* Looked for in the order of the way that it goes, no entry is missed. */
		int moving = watched ? (word & 0xff) == STATE_ANSWERED : moves_so_far(&p) != moves_before;
		if (moving && settings && settings->rules && !crosses_a_move(&p, watched))
			f = moved(&p, watched);
		if (!f) {
			if (is_first_syn(&p))
				goto syn;
			f = watched;
			goto not_in_flows;
		}
	}
	word = *(volatile __u64 *)&f->word;
	switch (word & 0xff) {
	case STATE_HELD:
	case STATE_RELEASING:
		return on_held(skb, &p, port, c, f, word);
	case STATE_TAKEN:
		return on_taken(skb, &p, port, c, f, word);
	case STATE_ANSWERED:
		if (said->passage == PASS_BYPASSED) {
			leave_to_bridge(&p, f, word);
			return TC_ACT_OK;
		}
		answered = f;
		break;
	case STATE_TOMBSTONE:
	case STATE_BLOCKED:
	case STATE_WATCHED:
		break;
	case STATE_HALF_OPEN:
		forget_moved(&p, f, word);
		count(segment, state_race_dropped); /* another CPU is moving it back at this moment */
		return TC_ACT_SHOT;
	case STATE_IGNORED:
	case STATE_RELEASED:
		forget_moved(&p, f, word);
		return TC_ACT_OK;
	default:
		return TC_ACT_OK;
	}
	if ((p.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		/* A server that still has the old connection ignores it: the entry stays until the other
		 * end answers, and for good where the SYN is dropped.
		 * A flow that may yet be judged, or was, has none that its server opens: nobody watches that. */
		__u32 own = p.from_low == f->client_low && port->side == f->client_side;
		if ((word & 0xff) == STATE_TOMBSTONE || (own && (!answered || p.seq != f->end[0].isn)))
			succeeded = f;
		goto syn;
	}
	if ((p.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && f->successor_side == 2 - port->side &&
	    p.ack == f->successor + 1) {
		/* Where that SYN is not known any more its answer is one that policy may drop. */
		struct flow *newer = bpf_map_lookup_elem(&half_open, &p.key);
		if (!newer || newer->end[0].isn != f->successor) {
			action = on_unknown_answer(&p, port, c);
			if (action != TC_ACT_OK)
				return action;
			newer = 0;
		}
		if (swap(f, word, STATE_RELEASED)) {
			if ((word & 0xff) == STATE_TOMBSTONE)
				forget_tuple(&p.key);
			if (answered)
				count_entry(&p.key, f->client_low, 0, -1);
			forget_flow(&p.key, f);
			count(segment, tombstone_replaced);
		}
		if (!newer)
			return TC_ACT_OK;
		f = newer;
		word = *(volatile __u64 *)&newer->word;
		goto not_in_flows;
	}
	if ((p.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && f->successor_side && port->side != f->client_side &&
	    (answered || (word & 0xff) == STATE_WATCHED) && p.ack != f->end[0].isn + 1) {
		/* To a SYN that a later one took the place of: nobody would watch what follows. An honest
		 * client sends it again. */
		count(segment, contested_dropped);
		return TC_ACT_SHOT;
	}
	if (answered)
		return on_handshake(skb, &p, port, c, f, word);
	if ((word & 0xff) == STATE_WATCHED)
		return on_watched(skb, &p, port, c, f, word);
	if ((word & 0xff) == STATE_BLOCKED) {
		f->touched = bpf_ktime_get_ns();
		if (p.from_low != f->client_low && port->side != f->client_side)
			note_heard(&p, f);
		count(segment, blocked_dropped);
		return TC_ACT_SHOT;
	}
	return on_taken(skb, &p, port, c, f, word);
not_in_flows:
	if (f) {
		if ((word & 0xff) == STATE_ANSWERED) {
			if (crosses_a_move(&p, f))
				return TC_ACT_OK;
			count(segment, state_race_dropped); /* another CPU is moving it, and slow at that */
			return TC_ACT_SHOT;
		}
		return on_handshake(skb, &p, port, c, f, word);
	}
	if ((p.flags & TCP_SYN) && settings && settings->rules)
		return on_unknown_answer(&p, port, c);
	return TC_ACT_OK;
syn:
	action = on_syn(skb, &p, port, c, said->candidate, answered);
	if (succeeded && action == TC_ACT_OK) {
		succeeded->successor = p.seq;
		succeeded->successor_side = 1 + port->side;
	}
	return action;
}

SEC("classifier")
int port_ingress(struct __sk_buff *skb)
{
	struct said said = {};
	int action = on_packet(skb, &said);
	if (action == TC_ACT_SHOT)
		count_drop(said.virtual_segment);
	return action;
}

/* Makes the packets of the engine's sockets those of the end they speak for, and sends them out of
 * the other end's port. */
SEC("classifier")
int engine_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct tuple_key tuple = {};
	__u32 index = skb->ifindex, zero = 0;
	struct port *port = bpf_map_lookup_elem(&ports, &index);
	if (!port || port->side != SIDE_ENGINE)
		return TC_ACT_SHOT;
	__u32 segment = port->segment;
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	struct segment_settings *settings = bpf_map_lookup_elem(&segments, &segment);
	if (c && c->fallback && settings && settings->block_all) {
		/* Taken flows are blocked with all others (SPEC D10). What the sockets of an engine that
		 * died say is let out: it is the reset of both ends. */
		count_only(segment, fallback_dropped);
		return TC_ACT_SHOT;
	}
	if (parse(skb, &p, segment) != PARSE_TCP)
		goto stray;
	tuple_of(&p.key, &tuple);
	struct flow_key *key = bpf_map_lookup_elem(&engine_tuples, &tuple);
	if (!key)
		goto stray;
	struct flow *f = bpf_map_lookup_elem(&flows, key);
	if (!f)
		goto stray;
	__u32 state = *(volatile __u64 *)&f->word & 0xff;
	if (state != STATE_TAKEN && state != STATE_TOMBSTONE)
		goto stray;
	if (state == STATE_TOMBSTONE)
		f->touched = bpf_ktime_get_ns();
	__u32 from_server = p.from_low != f->client_low;
	struct end *end = &f->end[from_server & 1], *peer = &f->end[!from_server];
	__u32 to_a = from_server ? f->client_side == SIDE_A : f->client_side != SIDE_A;
	__u32 out = to_a ? port->interface[0] : port->interface[1];
	note_expected(&p, peer);
	__u32 time = from_server ? f->client_time : f->server_time;
	if ((peer->flags & END_UNHEARD && echo_time(skb, &p, peer, time)) ||
	    (peer->congested && echo_congestion(skb, &p)) || wear(skb, &p, key, end)) {
		count_only(segment, encapsulation_dropped);
		return TC_ACT_SHOT;
	}
	if (!(peer->flags & END_SPOKEN_TO))
		peer->flags |= END_SPOKEN_TO;
	return bpf_redirect(out, 0);
stray:
	count_only(segment, engine_stray_dropped);
	return TC_ACT_SHOT;
}

/* What the rules say of a frame, without a packet: cb[0] is the segment, cb[1] the side; the
 * verdict is written over cb. What parsing counts is counted. */
SEC("classifier")
int classify_probe(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0, segment = skb->cb[0];
	struct configuration *c = bpf_map_lookup_elem(&configuration, &zero);
	if (!c || segment >= MAX_SEGMENTS)
		return TC_ACT_SHOT;
	parse(skb, &p, segment);
	struct verdict *v = verdict_of(&p, segment * 2 + (skb->cb[1] & 1), c->generation);
	if (!v)
		return TC_ACT_SHOT;
	skb->cb[0] = v->virtual_segment;
	skb->cb[1] = v->rule;
	skb->cb[2] = v->passage;
	skb->cb[3] = v->candidate;
	skb->cb[4] = v->limited;
	return TC_ACT_OK;
}

/* Of a type that nothing attaches: its test run takes arguments and no packet, for which the kernel
 * would make a buffer and a socket each time. */
SEC("raw_tp")
int state_command(struct bpf_raw_tracepoint_args *arguments)
{
	struct command command;
	struct tuple_key tuple = {};
	__u64 *words = (__u64 *)&command;
#pragma unroll
	for (int i = 0; i < (int)(sizeof(command) / 8); i++)
		words[i] = arguments->args[i];
	struct flow *f = bpf_map_lookup_elem(&flows, &command.key);
	if (!f)
		return 0;
	__u64 from = (command.id << 8) | (command.from & 0xff);
	__u32 server_time = 0;
	int enters = command.to == STATE_TAKEN && command.from != STATE_TAKEN;
	if (enters) {
		/* Before the state: what the sockets send must be known as the flow's. */
		tuple_of(&command.key, &tuple);
		if (bpf_map_update_elem(&engine_tuples, &tuple, &command.key, BPF_NOEXIST))
			return COMMAND_TUPLE_OWNED;
		server_time = f->end[1].tsval; /* where `next` is from here on */
	}
	if (enters && *(volatile __u64 *)&f->word >> 8 == (command.id & ID_MASK)) {
		f->end[0].next = f->end[0].isn + 1 + command.judged;
		f->end[1].next = f->end[1].isn + 1 + f->client_heard;
	}
	if (command.from == STATE_HELD && (command.to == STATE_RELEASING || command.to == STATE_WATCHED) &&
	    *(volatile __u64 *)&f->word >> 8 == (command.id & ID_MASK)) {
		f->server_heard = 0;
		f->judged = command.judged;
	}
	__u64 found = __sync_val_compare_and_swap(&f->word, from, (command.id << 8) | (command.to & 0xff));
	if (found != from) {
		if (enters)
			bpf_map_delete_elem(&engine_tuples, &tuple);
		if ((found >> 8) != (command.id & ID_MASK))
			return 0;
		return (found & 0xff) | (f->end[0].flags & END_SPOKEN_TO ? COMMAND_SPOKEN_TO : 0);
	}
	if (enters && f->end[0].flags & f->end[1].flags & END_TIMESTAMPS) {
		/* Its sockets are silent yet. */
		f->client_time = command.client_time;
		f->server_time = server_time;
		f->end[0].flags |= END_UNHEARD;
		f->end[1].flags |= END_UNHEARD;
	}
	if (command.from == STATE_ANSWERED)
		count_entry(&command.key, f->client_low, 0, -1);
	if (command.from == STATE_HELD && server_was_heard(f))
		leave_half_open(&command.key, from);
	if (!enters && command.to != STATE_RELEASING)
		client_leaves(&command.key, f);
	if (command.to == STATE_WATCHED && *(volatile __u8 *)&f->acknowledged) {
		/* The server was faster than we. */
		if (__sync_val_compare_and_swap(&f->word, (command.id << 8) | STATE_WATCHED,
						(command.id << 8) | STATE_RELEASED) ==
		    ((command.id << 8) | STATE_WATCHED)) {
			forget_flow(&command.key, f);
			count_atomically(command.key.segment, COUNTER_release_final);
		}
		return COMMAND_SWAPPED | STATE_RELEASED;
	}
	if (command.delete) {
		if (command.from == STATE_TOMBSTONE)
			forget_tuple(&command.key);
		forget_flow(&command.key, f);
	}
	return (found & 0xff) | COMMAND_SWAPPED;
}

/* Adds its second argument to the count of the cell of client_flows that is its first. As
 * state_command. */
SEC("raw_tp")
int count_command(struct bpf_raw_tracepoint_args *arguments)
{
	__u32 cell = arguments->args[0];
	__u64 *found = bpf_map_lookup_elem(&client_flows, &cell);
	if (found)
		change_cell(found, (__s32)arguments->args[1]);
	return 0;
}

/* Test packet: 14 bytes of nothing, then an engine's number. Returns whether its process lives. */
SEC("classifier")
int engine_query(struct __sk_buff *skb)
{
	__u32 number = 0;
	if (bpf_skb_load_bytes(skb, 14, &number, sizeof(number)))
		return 0;
	return engine_there(number);
}

char _license[] SEC("license") = "Dual BSD/GPL";
