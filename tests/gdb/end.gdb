# scenario: debugging/ledger
# To the end, back to the beginning, and on.
continue
print total
reverse-continue
print total
break second
continue
tbreak ledger.bpf.c:103
reverse-continue
