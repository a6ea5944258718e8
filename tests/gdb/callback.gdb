# scenario: debugging/ledger
# A tail call, a helper, and what the helper calls.
break second
continue
bt
break add_square
continue
bt
print n
print *sum
up
up
print sum
continue
print n
print *sum
finish
delete
break bpf_loop
continue
bt
up
print cpu
finish
reverse-finish
