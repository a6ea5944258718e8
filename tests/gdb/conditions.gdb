# scenario: debugging/ledger
# Conditions and counts.
break classify if len > 100
ignore 1 1
continue
print len
info breakpoints
condition 1 len < 100
reverse-continue
print len
delete
tbreak record if slot == 1 && from->port == 80
reverse-continue
print *from
bt
tbreak add_square if n == 2
continue
print *sum
display sum->squares
next
undisplay 1
