/* Types shared by the eBPF programs and user space (src/layout.rs repeats each, with its size
 * asserted on both sides). Pinned maps are made of them: any change here makes another LAYOUT. */
#ifndef WEIR_H
#define WEIR_H

#include <linux/types.h>

#define MAX_SEGMENTS 64 /* segment ids 1..63 index the arrays */
#define MAX_INTERFACES 16384
#define MAX_RINGS 64	/* rings of held packets, one for each CPU; where there are more CPUs than rings they share */

/* SPEC D16: nothing that differs in one of these is ever mixed up. Canonical: end 0 is the lower
 * (address, port), compared as big-endian bytes. */
struct flow_key {
	__u32 segment;
	__u16 outer_vlan; /* 0: untagged; else 0x1000 | VLAN id */
	__u16 inner_vlan;
	__u8 tunnel; /* 0: none */
	__u8 reserved[3];
	__u32 tunnel_key;
	__u8 outer[2][4];
	__u8 address[2][16]; /* IPv4 as v4-mapped */
	__be16 port[2];
};
_Static_assert(sizeof(struct flow_key) == 60, "src/layout.rs has the same type");

/* What the engine's sockets are known by: a namespace has one flow for a tuple. */
struct tuple_key {
	__u32 segment;
	__u8 address[2][16];
	__be16 port[2];
};
_Static_assert(sizeof(struct tuple_key) == 40, "src/layout.rs has the same type");

enum side { SIDE_A = 0, SIDE_B = 1, SIDE_ENGINE = 2 };

/* By interface index in the wire namespace; segment 0: none. */
struct port {
	__u32 segment;
	__u32 side;
	__u32 interface[2]; /* of side A and side B */
	__u32 engine;	    /* outer end of the engine's veth */
};
_Static_assert(sizeof(struct port) == 20, "src/layout.rs has the same type");

struct configuration {
	__u64 heartbeat_timeout; /* ns */
	__u32 fallback;		 /* causes, FALLBACK_...; 0: none */
	__u32 attached;		 /* the engine whose programs were attached last */
	__u64 generation;	 /* of the rule tables; its last bit is the half in force */
	__u32 evasion;		 /* ways of provoking a bypass that are blocked, EVASION_... */
	__u32 client_flows;	 /* most flows of one client that are held or in their handshake; 0: no bound */
	__u64 seed;		 /* of the clients' cells (clients.h), as long as the pins */
	__u64 policies;		 /* that were put in force so far; `generation` grows by quarantine, too */
};
_Static_assert(sizeof(struct configuration) == 48, "src/layout.rs has the same type");

/* Why Layer-2 fallback is in force while the engine lives (SPEC D2, D10). */
#define FALLBACK_TOLD 1
#define FALLBACK_OVERLOADED 2
#define FALLBACK_RECOVERING 4

/* Ways in which an end can provoke a bypass, where policy says block (SPEC D15). */
#define EVASION_SERVER_SPEAKS_FIRST 1
#define EVASION_SYN_DATA 2
#define EVASION_UNTAKEABLE_OPTIONS 4
#define EVASION_UNSEEN_HANDSHAKE 8
#define EVASION_FRAGMENTS 16
#define EVASION_DECOY 32
#define EVASION_TABLE_FULL 64
#define EVASION_CLIENT_FLOOD 128
#define EVASION_TWO_PASSES 256
#define EVASION_UNREAD_HEADERS 512

#define ENGINES 16 /* that can live at one time: one, and those that drain */

/* At index number % ENGINES. */
struct engine_instance {
	__u64 heartbeat; /* CLOCK_MONOTONIC ns; of the least lively part that judges flows */
	__u32 number;	 /* from 1, another for each engine that was started */
	__u32 reserved;
};
_Static_assert(sizeof(struct engine_instance) == 16, "src/layout.rs has the same type");

struct segment_settings {
	__u32 block_all; /* layer-2-fallback: block-all */
	__u32 rules;	 /* whether any rule, or policy, could match here */
};

/* flow.word is (id << 8) | state, and an id's last byte the CPU that saw the flow's SYN, which says
 * the ring of all its records; every change of state is a compare-and-swap of the whole word. */
enum state {
	STATE_HALF_OPEN = 1, /* only in half_open: the handshake is not whole yet */
	STATE_IGNORED = 2,   /* only in half_open: left to the bridge until its entry is evicted */
	STATE_HELD = 3,	     /* client's packets go to the engine; server's pass, but for its end */
	STATE_RELEASING = 4, /* as held, but will not be taken any more */
	STATE_RELEASED = 5,  /* about to be deleted: packets pass */
	STATE_TAKEN = 6,     /* two sockets of the engine are the ends */
	STATE_TOMBSTONE = 7, /* finished: what is left goes to the engine's closing sockets, never to the bridge */
	STATE_BLOCKED = 8,   /* every packet is dropped */
	STATE_WATCHED = 9,   /* released: until the server acknowledged what was judged, the client's packets over
			      * those bytes go to the engine, which compares them; all others pass */
	STATE_ANSWERED = 10, /* the client acknowledged the server's SYN, and has said nothing yet */
};

#define TTL_VARIES 8 /* hops by which a client's packets may come a longer way than its SYN */
#define SYN_ANSWERED 10000000000ULL /* ns in which a SYN-ACK comes, if it comes by us at all */

#define END_SEEN 1
#define END_WINDOW_SCALE 2
#define END_SACK 4
#define END_TIMESTAMPS 8
#define END_ECN 16 /* RFC 3168 6.1.1: offered, or agreed to */
/* Of a taken flow's end: the socket that speaks to it has heard no timestamp of it; has said something. */
#define END_UNHEARD 32
#define END_SPOKEN_TO 64
/* Of a client: it acknowledged its server's SYN as that is known. */
#define END_CONFIRMED 128
/* Of a server: another SYN-ACK came than the one that is known; where none is, one that policy leaves to the
 * bridge. Its client may believe either. */
#define END_DOUBTFUL 128

#define RESET_BY_ANYBODY 1 /* a RST */
#define RESET_BY_SERVER 2 /* a FIN */
#define RESET_BY_CLIENT 3 /* a FIN, which its server acknowledged */
#define SERVER_SPOKE 4 /* no end: its server said something, by policy's leave */

/* What one end's own packets said. */
struct end {
	__u32 isn;
	union {
		__u32 tsval; /* of its SYN */
		__u32 next;  /* once taken: the sequence number that our socket expects of it */
	};
	__u16 syn_window;  /* never scaled */
	__u16 mss;	   /* 0: no option */
	__u8 window_scale;
	__u8 flags;
	__u8 ttl;
	__u8 tos;
	__u8 mac[12];	   /* destination, source */
	__u16 vlan_tci;	   /* with PCP and DEI; of a flow in a VLAN */
	__u8 outer_ttl;	   /* these of the tunnel's header */
	__u8 outer_tos;
	__u32 tunnel_key; /* of this end's own packets, network order */
	__u32 flow_label; /* first word of the IPv6 header, host order */
	__be16 outer_fragment;
	__u8 tunnel; /* kind of this end's own packets */
	__u8 congested; /* a packet of it came marked CE, and it has not said CWR since */
};
_Static_assert(sizeof(struct end) == 44, "src/layout.rs has the same type");

struct flow {
	__u64 word;
	__u64 touched; /* CLOCK_MONOTONIC ns: of the SYN; of an answered flow's last packet; of the hold; of a taken
			* flow's last keep-alive that was passed on; of a tombstone's or blocked flow's last packet */
	struct end end[2]; /* 0: client, 1: server */
	__u8 client_low;   /* the client is end 0 of the key */
	__u8 client_side;
	__u8 contested; /* SYNs with different sequence numbers came, and no SYN-ACK for the last one */
	__u8 acknowledged; /* while STATE_RELEASING: the server acknowledged all that was judged */
	__u32 owner; /* the engine that holds or has taken it */
	union {
		__u32 judged;	   /* bytes that were judged, from the client's first, and its FIN; from STATE_RELEASING on */
		__u32 client_time; /* once taken: the timestamp of its last packet before */
	};
	__u32 successor; /* sequence number of a newer SYN, which a SYN-ACK has to answer */
	__u8 successor_side; /* 0: no newer SYN; else 1 + the side it came in by */
	__u8 served; /* a server policy covers it: nothing but TLS is let through (SPEC T9) */
	__u8 counted; /* among its client's flows (clients.h); only in flows, changed by who changes the state */
	__u8 reset; /* RESET_..., SERVER_SPOKE: before it is judged, an end ended or reset it, as far as anybody can tell */
	union {
		__u32 client_heard; /* until released or taken: so much of its server the client acknowledged by packets
				     * that crossed, its end too where that is all it said */
		__u32 server_heard; /* from STATE_RELEASING on: so much of `judged` the server acknowledged */
		__u32 server_time; /* once taken: the timestamp of its SYN-ACK */
	};
	__u32 said; /* until taken: bytes of the server that crossed behind its SYN-ACK, repeated ones too */
	__u32 syn_payload; /* bytes */
};
_Static_assert(sizeof(struct flow) == 136, "src/layout.rs has the same type");

/* The GRE key of a SYN, and that of the answer where it differs. */
struct gre_pair {
	__u32 syn_key;
	__u32 answer_key;
	__u8 syn_tunnel;
	__u8 answer_tunnel;
	__u8 server_low; /* the end that has a key of its own is end 0 */
	__u8 answered : 1;
	__u8 ambiguous : 1; /* two half-open SYNs differ in their GRE keys alone */
};
_Static_assert(sizeof(struct gre_pair) == 12, "only the programs use it");

enum held_kind {
	HELD_FIRST = 1,
	HELD_MORE = 2,
	HELD_SERVER_SPOKE = 3,
	HELD_REPEATED = 5, /* STATE_WATCHED: a packet over bytes that were judged */
	HELD_FINAL = 6,	   /* STATE_WATCHED ended: the server acknowledged them */
	HELD_SERVER_FIRST = 7, /* without a packet: the server spoke before its client */
	HELD_CLIENT_ALIVE = 8, /* STATE_TAKEN: a keep-alive of the client */
	HELD_SERVER_ALIVE = 9, /* and of the server */
};

/* What one client had of something in a window of time. */
struct share {
	__u64 window;
	__u64 amount;
};

#define PIECES 8 /* fragments of a packet that may come in any order: more are made of none on an Ethernet */

/* A packet of which a fragment was given to the engine's kernel, and the rest not yet. */
struct fragments {
	__u64 since; /* CLOCK_MONOTONIC ns: the first fragment came; 0: nothing is in this slot */
	__u64 packet; /* addresses, packet_of, way_of and a tunnel's addresses: all that fragments can differ in */
	__u64 way;
	__u32 address[8];
	__u32 outer[2];
	__u32 cell; /* of the client of its flow */
	__u16 next; /* where in the packet the next one stands, in bytes; 0: nothing is to follow, or in any order */
	__u16 came; /* fragments */
	__u8 any_order;
	__u8 named; /* in any order: the first one came, which names the flow */
	__u8 plain; /* its kernel takes all that came, as far as their headers say */
	__u16 total; /* in any order: length of the packet; 0: its last one did not come */
	__u32 got; /* in any order: bytes */
	__u16 begins[PIECES]; /* in any order: of each that came */
	__u16 ends[PIECES];
};

/* Ends of taken flows whose fragments come in disorder: so will the next ones. */
struct disorder {
	__u64 pair; /* hash of the ends, their way and the sender's side */
	__u64 since; /* CLOCK_MONOTONIC ns: of the last packet in disorder */
	__u32 cell; /* of the client of the flow */
	__u32 reserved;
};

/* A later fragment that came before its packet's first one. */
struct early {
	__u64 packet; /* hash of all that fragments can differ in */
	__u64 since; /* CLOCK_MONOTONIC ns */
};

/* A record of the ring: this header, then `length` bytes of the frame from its Ethernet header. */
struct held {
	__u64 id;
	struct flow flow;
	struct flow_key key;
	__u32 kind;
	__u32 length;
	__u32 gso_size; /* payload of a segment; 0: not a GSO frame */
	__u32 gso_segments;
	__u16 vlan_tci;
	__u16 vlan_present;
};
_Static_assert(sizeof(struct held) == 224, "src/layout.rs has the same type");

/* Room for two datagrams that a client's kernel has in one frame: longer hellos are none. */
#define DROPPED_FRAME 3072

/* The arguments of state_command. Returns state found | COMMAND_SWAPPED; COMMAND_TUPLE_OWNED: another
 * flow's sockets have the tuple; 0: no entry of that id. From STATE_TAKEN to itself: the flow's
 * handshake is over, it counts for its client no more. From 0: changes nothing, and says by
 * COMMAND_SPOKEN_TO whether a socket of ours has said something to the client of a taken flow. */
struct command {
	__u64 id;
	struct flow_key key;
	__u32 from;
	__u32 to;
	__u32 delete; /* after the swap */
	__u32 judged; /* to STATE_RELEASING: flow.judged; to STATE_TAKEN: the client's bytes that came so far */
	__u32 client_time; /* to STATE_TAKEN: the timestamp of the client's last packet */
};
_Static_assert(sizeof(struct command) == 88, "src/layout.rs has the same type");
_Static_assert(sizeof(struct command) <= 96, "a raw tracepoint has 12 arguments");
#define COMMAND_SWAPPED 0x100
#define COMMAND_TUPLE_OWNED 0x200
#define COMMAND_SPOKEN_TO 0x400

/* A datagram of QUIC that was dropped: for an ICMP error to its sender or, where its client asks for a name
 * that policy excepts, to be sent on after all. */
struct dropped {
	__u64 policy; /* the one that dropped it, of `configuration.policies`, or a later one */
	struct flow_key key;
	__u32 side;	/* it came in by */
	__u32 from_low; /* its sender is the lower end of the key */
	__u32 length;	/* of `frame` that is used */
	__u32 gso_size; /* payload of a datagram; 0: there is one */
	__u16 vlan_tci;
	__u16 vlan_present;
	__u8 frame[DROPPED_FRAME]; /* its start */
};
_Static_assert(sizeof(struct dropped) == 3160, "src/layout/quic.rs has the same type");

/* RFC 1035 3.1: a name has 253 letters and dots at most; a multiple of 8 with what stands before it. */
#define EXCEPTED_NAME 260

/* A QUIC connection that passes though policy blocks QUIC. */
struct excepted {
	__u64 last;	  /* CLOCK_MONOTONIC ns: its last packet that passed here */
	__u64 policy;	  /* by which it is excepted; a later one judges its name again */
	__u16 length;	  /* of the name that its client asks for */
	__u8 side;	  /* its client's packets come in by */
	__u8 client_low;  /* the client is the lower end of the key */
	__u8 name[EXCEPTED_NAME];
};
_Static_assert(sizeof(struct excepted) == 280, "src/layout/quic.rs has the same type");

#endif
