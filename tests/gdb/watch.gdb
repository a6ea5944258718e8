# scenario: debugging/ledger
# A global that both CPUs write, forwards and back; reads of it; a variable that goes out of scope.
watch total
continue
continue
info threads
reverse-continue
reverse-continue
print total
delete
awatch limit
continue
bt 1
delete
rwatch per_cpu_seen
continue
bt 1
delete
watch per_cpu_seen[1] if per_cpu_seen[1] > 5
continue
bt 1
