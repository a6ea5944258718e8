# scenario: debugging/ledger, without DWARF
# Lines, functions, types and variables as BTF tells them.
break ledger.bpf.c:55
continue
bt
list
info args
print total
print limit
ptype struct entry
next
next
finish
break second
continue
next
print *ctx
