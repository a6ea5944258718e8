# scenario: debugging/ledger
# CPUs are threads.
info threads
break record
continue
info threads
thread apply all bt
continue
info threads
thread 1
bt
thread 2
set scheduler-locking on
next
bt 1
set scheduler-locking replay
thread apply 2 print slot
