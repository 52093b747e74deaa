/* Reading packets: flow key and TCP header. */
#ifndef WEIR_PACKET_H
#define WEIR_PACKET_H

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct flow_key key;
	__u32 seq;
	__u32 ack;
	__u32 payload; /* bytes */
	__u32 l4;      /* offset of the TCP header */
	__u32 options; /* bytes of TCP options */
	__u16 window;
	__u8 flags;
	__u8 ttl;
	__u8 tos;
	__u8 from_low; /* the sender is end 0 of the key */
};

/* Whether it is a whole, untagged IPv4 TCP packet; everything else is left to the bridge. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p, __u32 segment)
{
	struct iphdr ip;
	struct tcphdr tcp;
	if (skb->vlan_present || skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) {
		count(segment, vlan_passed);
		return 0;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		count(segment, ipv6_passed);
		return 0;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return 0;
	if (ip.version != 4 || ip.ihl < 5)
		return 0;
	if (ip.frag_off & bpf_htons(0x3fff)) {
		count(segment, fragment_passed);
		return 0;
	}
	if (ip.protocol != IPPROTO_TCP)
		return 0;
	__u32 header = ip.ihl * 4;
	p->l4 = ETH_HLEN + header;
	if (bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return 0;
	__u32 offset = tcp.doff * 4;
	/* tot_len is 0 in frames over 64 KiB; Ethernet padding is no payload. */
	__u32 total = bpf_ntohs(ip.tot_len);
	if (!total)
		total = skb->len - ETH_HLEN;
	if (offset < 20 || total < header + offset || skb->len < ETH_HLEN + total)
		return 0;
	p->payload = total - header - offset;
	p->options = offset - 20;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack_seq);
	p->window = bpf_ntohs(tcp.window);
	p->flags = ((__u8 *)&tcp)[13];
	p->ttl = ip.ttl;
	p->tos = ip.tos;

	__u32 source = bpf_ntohl(ip.saddr), destination = bpf_ntohl(ip.daddr);
	p->from_low = source < destination ||
		      (source == destination && bpf_ntohs(tcp.source) <= bpf_ntohs(tcp.dest));
	__u32 low = p->from_low ? ip.saddr : ip.daddr, high = p->from_low ? ip.daddr : ip.saddr;
	p->key.segment = segment;
	p->key.address[0][10] = p->key.address[0][11] = 0xff;
	p->key.address[1][10] = p->key.address[1][11] = 0xff;
	*(__u32 *)&p->key.address[0][12] = low;
	*(__u32 *)&p->key.address[1][12] = high;
	p->key.port[0] = p->from_low ? tcp.source : tcp.dest;
	p->key.port[1] = p->from_low ? tcp.dest : tcp.source;
	return 1;
}

static __always_inline void tuple_of(const struct flow_key *key, struct tuple_key *tuple)
{
	tuple->segment = key->segment;
	__builtin_memcpy(tuple->address, key->address, sizeof(tuple->address));
	__builtin_memcpy(tuple->port, key->port, sizeof(tuple->port));
}

static __always_inline void forget_tuple(const struct flow_key *key)
{
	struct tuple_key tuple = {};
	tuple_of(key, &tuple);
	bpf_map_delete_elem(&engine_tuples, &tuple);
}

#endif
