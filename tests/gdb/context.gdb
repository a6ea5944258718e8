# scenario: cgroup/sockops
# A context and a socket as the program reads them, not as the kernel has them.
break watch if ctx->op == 4
continue
print ctx->op
print ctx->is_fullsock
print ctx->family
print ctx->local_port
print ctx->sk->protocol
print ctx->sk->src_port
ptype ctx->sk
print ctx->sk->state
print ctx->nothing
