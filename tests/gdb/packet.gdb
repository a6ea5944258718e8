# scenario: basics/drop_echo
# A context of a packet: what it is at, of the kernel's own structure.
break drop_echo
continue
print ctx->ingress_ifindex
print ctx->data_end - ctx->data
ptype ctx
