/* In an engine's namespace: what comes for a connection whose socket is gone is given to a socket
 * that accepts nothing, and the kernel answers it with RST. Without it such a packet would meet
 * silence, as no address there is local: an end that lost the first RST would send for ever. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} refuser SEC(".maps");

/* Asked only where no established connection has the packet's tuple. */
SEC("sk_lookup")
int refuse_stray(struct bpf_sk_lookup *lookup)
{
	__u32 zero = 0;
	if (lookup->protocol != IPPROTO_TCP)
		return SK_PASS;
	struct bpf_sock *socket = bpf_map_lookup_elem(&refuser, &zero);
	if (!socket)
		return SK_PASS;
	/* Fails where an engine that drains beside this one was asked first: its socket does the same. */
	bpf_sk_assign(lookup, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
