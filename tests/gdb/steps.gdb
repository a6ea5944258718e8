# scenario: debugging/ledger
# Steps of all kinds, forwards.
tbreak first
continue
next
next
next
next
step
bt 1
next
next
step
bt 2
finish
next
until 68
next
up
info locals
advance 92
stepi
nexti
step
bt 1
finish
