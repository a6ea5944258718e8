# scenario: debugging/ledger
# A value of a map that the other CPU writes: forwards and back.
break classify
continue
print e->bytes
watch -location (e + 1)->bytes
delete 1
continue
info threads
continue
reverse-continue
reverse-continue
reverse-continue
