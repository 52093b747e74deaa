/* What the ends' packets teach about their path, and giving it to the engine's packets. */
#ifndef WEIR_PATH_H
#define WEIR_PATH_H

static __always_inline void learn_syn(struct __sk_buff *skb, struct packet *p, struct tcp_options *options, struct end *end)
{
	__u8 mac[12];
	if (bpf_skb_load_bytes(skb, 0, mac, 12))
		return;
	__builtin_memcpy(end->mac, mac, 12);
	end->isn = p->seq;
	end->tsval = options->tsval;
	end->syn_window = p->window;
	end->mss = options->mss;
	end->window_scale = options->window_scale;
	end->ttl = p->ttl;
	end->tos = p->tos;
	end->flags = options->flags | END_SEEN;
}

/* An end's link-layer addresses, TTL and DSCP may change under a taken flow (a router fails over). */
static __always_inline void learn_path(struct __sk_buff *skb, struct packet *p, struct end *end)
{
	__u32 seen[3], known[3];
	if (end->ttl != p->ttl)
		end->ttl = p->ttl;
	if (end->tos != p->tos)
		end->tos = p->tos;
	if (bpf_skb_load_bytes(skb, 0, seen, 12))
		return;
	__builtin_memcpy(known, end->mac, 12);
	if (seen[0] != known[0] || seen[1] != known[1] || seen[2] != known[2])
		__builtin_memcpy(end->mac, seen, 12);
}

static __always_inline int rewrite_ip(struct __sk_buff *skb, struct packet *p, __u8 ttl, __u8 tos)
{
	__be16 old, new;
	if (tos != p->tos) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &old, 2))
			return -1;
		new = (old & bpf_htons(0xff00)) | bpf_htons(tos);
		if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2) || bpf_skb_store_bytes(skb, ETH_HLEN, &new, 2, 0))
			return -1;
	}
	if (ttl != p->ttl) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &old, 2))
			return -1;
		new = (old & bpf_htons(0x00ff)) | bpf_htons(ttl << 8);
		if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2) || bpf_skb_store_bytes(skb, ETH_HLEN + 8, &new, 2, 0))
			return -1;
	}
	return 0;
}

#endif
