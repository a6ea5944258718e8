# scenario: debugging/late
# A program that is loaded while the debugger is attached.
break weigh
info breakpoints
continue
bt
next
info locals
info sharedlibrary
reverse-continue
info sharedlibrary
delete
reverse-continue
info sharedlibrary
