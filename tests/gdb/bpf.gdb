# scenario: explore/abba
# The listing of BPF instructions as the source.
break there
continue
monitor view bpf
stepi
step
step
info source
print r1
print r0
next
next
reverse-step
break bpf_res_spin_lock
continue
bt
up
print $_
monitor view source
continue
bt
