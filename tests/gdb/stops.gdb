# scenario: debugging/ledger
# Breakpoints by function, by line and with a condition; what is on the stack there.
break record
continue
bt
info args
info locals
print *from
print slot
up
info locals
print seen
print *udp
print/x eth->h_proto
print limit
down
delete
break ledger.bpf.c:55 if len > 100
continue
bt
print *e
print len
up
finish
info locals
delete
tbreak ledger.bpf.c:89
continue
bt
print kind
print seen.bytes
