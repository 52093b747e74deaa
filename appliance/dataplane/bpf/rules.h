/* Types of the rule tables, shared with user space (src/layout/rules.rs repeats each). A rule is a
 * bit: a packet's value in each dimension (source, destination, ports, ...) leads to a class, the
 * class to a row of the rules that this value satisfies, and the rows' intersection is the set of
 * rules that match. Rules of a group are in order: the first bit counts. */
#ifndef WEIR_RULES_H
#define WEIR_RULES_H

/* Groups, in words of 64 rules, and in rules: the bounds of weir_policy::precedence. */
#define SEGMENT_WORDS 8
#define BYPASS_WORDS 4
#define FILTER_WORDS 8
#define POLICY_WORDS 32
#define BYPASS_AT SEGMENT_WORDS
#define FILTER_AT (BYPASS_AT + BYPASS_WORDS)
#define POLICY_AT (FILTER_AT + FILTER_WORDS)
#define ROW_WORDS (POLICY_AT + POLICY_WORDS)
#define MOST_WORDS POLICY_WORDS /* of one group */
#define RULES (ROW_WORDS * 64)
#define VIRTUAL_SEGMENTS (SEGMENT_WORDS * 64)
#define TRAFFIC_FILTERS (FILTER_WORDS * 64)
#define POLICIES (POLICY_WORDS * 64)
/* Rows of one half; more are refused when a configuration is checked. Row 0 matches nothing. */
#define ROWS 16384

struct row {
	__u64 words[ROW_WORDS];
};
_Static_assert(sizeof(struct row) == 416, "src/layout/rules.rs has the same type");

/* Rows being intersected. */
struct intersection {
	struct row left;
	__u32 kept; /* a row that is in already */
	__u32 reserved;
};

#define NO_ICMP_TYPE 256
#define UNTAGGED 4096

/* Classes of everything but addresses, of one half. */
struct classes {
	__u16 port[MAX_SEGMENTS * 2]; /* segment * 2 + side */
	__u16 protocol[256];	      /* 0: not known */
	__u16 icmp_type[NO_ICMP_TYPE + 8];
	__u16 vlan[UNTAGGED + 8];
	__u16 ether_type[65536];
	__u16 source_port[65536]; /* by the number as it is in the packet; 0: none */
	__u16 destination_port[65536];
	__u16 no_address[2]; /* of packets that are not IP: source, destination */
	__u8 policy_kind[POLICIES];
	__u32 reputation; /* whether there are entries */
};
_Static_assert(sizeof(struct classes) == 404776, "src/layout/rules.rs has the same type");

/* In the order in which they count; weir_policy::precedence::tables has the same. */
enum policy_kind { POLICY_EXCEPTED = 1, POLICY_SERVER = 2, POLICY_CLIENT = 3, POLICY_QUIC_PASSES = 4, POLICY_QUIC_BLOCKED = 5 };

/* The longest prefix's class. */
struct network_key {
	__u32 prefix; /* bits, scope included */
	__u32 scope;  /* half * 2; 1 more for destinations */
	__u8 address[16];
};

struct address_key {
	__u32 prefix;
	__u8 address[16];
};

struct host {
	__u8 address[16];
};

/* Which policies a virtual segment's profile has. */
struct policies {
	__u64 words[POLICY_WORDS];
};

enum filter_action { FILTER_BLOCK = 1, FILTER_ALLOW = 2, FILTER_TRUST = 3, FILTER_RATE_LIMIT = 4 };

/* The bucket is a clock: `next` is when all that passed would have, at the rate exactly. */
struct traffic_filter {
	__u64 next;	   /* CLOCK_MONOTONIC ns */
	__u64 picoseconds; /* a byte takes, at the rate */
	__u64 burst;	   /* ns that `next` may be ahead */
	__u32 action;
	__u32 reserved;
};
_Static_assert(sizeof(struct traffic_filter) == 32, "src/layout/rules.rs has the same type");

enum passage {
	PASS = 0,
	PASS_BYPASSED = 1, /* by an inspection bypass rule */
	PASS_TRUSTED = 2,
	DROP_FILTER = 3,
	DROP_REPUTATION = 4,
	DROP_QUARANTINE = 5,
	DROP_QUIC = 6,
};

/* What the rules say of a packet. */
struct verdict {
	__u64 until;	       /* DROP_QUARANTINE: CLOCK_MONOTONIC ns */
	__u16 virtual_segment; /* number from 1; 0: none */
	__u16 rule;	       /* bypass rule if bypassed, else traffic filter, from 1; 0: none */
	__u8 passage;
	__u8 candidate; /* TCP that a policy covers; 2: a server policy */
	__u8 limited;	/* the filter limits the rate */
	__u8 reserved;
};
_Static_assert(sizeof(struct verdict) == 16, "");

/* What was said of a packet like this one, under the rules of a generation. */
struct remembered {
	__u32 address[8]; /* of the flow's key, its ends in order */
	__u32 ports; /* their classes, source's above */
	__u32 generation;
	__u64 facts; /* everything else that rules look at */
	struct verdict verdict;
};
_Static_assert(sizeof(struct remembered) == 64, "a cache line");

/* Most packets remembered by a CPU, a power of two; another one takes the place. */
#define REMEMBERED 8192

/* TCP ports, a bit each, by their number as it is in the packet. */
struct port_set {
	__u8 bits[65536 / 8];
};
_Static_assert(sizeof(struct port_set) == 8192, "src/layout/rules.rs has the same type");

/* Why packets of a virtual segment were dropped. */
struct virtual_drop {
	__u32 virtual_segment; /* number from 0, of a half: half * VIRTUAL_SEGMENTS more */
	__u32 counter;
};
_Static_assert(sizeof(struct virtual_drop) == 8, "src/layout/rules.rs has the same type");
/* Of both halves. Past it a drop counts in its segment only. */
#define VIRTUAL_DROPS 8192

struct rule_count {
	__u64 packets;
	__u64 bytes;
};

#endif
