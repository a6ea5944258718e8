# scenario: debugging/ledger
# Backwards by instruction, line, call and breakpoint.
break ledger.bpf.c:82
break classify
continue
bt 2
reverse-continue
next
next
next
next
step
bt 1
print e->packets
next
reverse-next
reverse-finish
info locals
reverse-step
reverse-next
info locals
delete
finish
reverse-step
bt 2
reverse-continue
