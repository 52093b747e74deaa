/* An end of the wire in a VLAN or behind a tunnel, for kernels without 802.1Q, GRE and IPIP: what
 * leaves the end's interface is tagged and encapsulated, what comes is checked to be what the other
 * end sent, byte for byte but for ids, and taken out; anything else is dropped and counted. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { NONE, IPIP, GRE, GRE_KEY };

volatile const __u32 tunnel = 0;
volatile const __u32 vlan = 0; /* whether there is a tag */
volatile const __u32 own_tci = 0, peer_tci = 0;
volatile const __u32 own_key = 0, peer_key = 0;		/* host order */
volatile const __u32 own_address = 0, peer_address = 0; /* host order */
volatile const __u32 own_ttl = 0, peer_ttl = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} mismatches SEC(".maps");

struct gre {
	__be16 flags;
	__be16 type;
	__be32 key;
};

static __always_inline int mismatch(void)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&mismatches, &zero);
	if (value)
		__sync_fetch_and_add(value, 1);
	return TC_ACT_SHOT;
}

static __always_inline __u32 header_length(void)
{
	return tunnel == IPIP ? 20 : tunnel == GRE ? 24 : 28;
}

SEC("classifier")
int leave(struct __sk_buff *skb)
{
	if (tunnel && skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr outer = { .version = 4, .ihl = 5 };
		struct gre gre = { .type = bpf_htons(ETH_P_IP) };
		__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
		__u32 inner = skb->len - ETH_HLEN;
		if (tunnel != IPIP)
			flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
		if (bpf_skb_adjust_room(skb, header_length(), BPF_ADJ_ROOM_MAC, flags))
			return mismatch();
		outer.tot_len = bpf_htons(inner + header_length());
		outer.id = bpf_get_prandom_u32();
		outer.frag_off = bpf_htons(0x4000);
		outer.ttl = own_ttl;
		outer.protocol = tunnel == IPIP ? 4 : 47;
		outer.saddr = bpf_htonl(own_address);
		outer.daddr = bpf_htonl(peer_address);
		__u64 sum = bpf_csum_diff(0, 0, (void *)&outer, sizeof(outer), 0);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		outer.check = ~sum;
		bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0);
		if (tunnel == GRE)
			bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(outer), &gre, 4, 0);
		if (tunnel == GRE_KEY) {
			gre.flags = bpf_htons(0x2000);
			gre.key = bpf_htonl(own_key);
			bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(outer), &gre, 8, 0);
		}
	}
	if (vlan)
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), own_tci);
	return TC_ACT_OK;
}

SEC("classifier")
int enter(struct __sk_buff *skb)
{
	if (!vlan != !skb->vlan_present)
		return mismatch();
	if (vlan && (skb->vlan_tci != peer_tci || bpf_skb_vlan_pop(skb)))
		return mismatch();
	if (tunnel && skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr outer;
		struct gre gre = {};
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &outer, sizeof(outer)) || outer.ihl != 5 ||
		    outer.saddr != bpf_htonl(peer_address) || outer.daddr != bpf_htonl(own_address) ||
		    outer.protocol != (tunnel == IPIP ? 4 : 47) || outer.ttl != peer_ttl ||
		    outer.frag_off != bpf_htons(0x4000))
			return mismatch();
		if (tunnel != IPIP && (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(outer), &gre, sizeof(gre)) ||
				       gre.type != bpf_htons(ETH_P_IP)))
			return mismatch();
		if (tunnel == GRE && gre.flags)
			return mismatch();
		if (tunnel == GRE_KEY && (gre.flags != bpf_htons(0x2000) || gre.key != bpf_htonl(peer_key)))
			return mismatch();
		if (bpf_skb_adjust_room(skb, -(__s32)header_length(), BPF_ADJ_ROOM_MAC, 0))
			return mismatch();
	}
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
