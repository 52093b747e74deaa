/* What stands on the ports of a segment with `layer-2-fallback: block-all` from its making until the
 * first engine attaches its programs in this one's place. No maps: nothing it needs can be missing. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("classifier")
int block_all(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
