# scenario: debugging/ledger
# Packets and maps through pointers, globals by name, and a value set by hand.
break ledger.bpf.c:85
continue
x/14xb eth
print/x eth->h_dest
x/4xb &ip->daddr
x/2xb &udp->dest
print seen
ptype struct entry
print sizeof(struct entry)
print &limit
print per_cpu_seen
set var limit = 20
finish
print total
continue
print limit
print $bpf_pc
