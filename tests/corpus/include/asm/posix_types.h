/* The generic layout: a BPF program does not depend on the machine that built it. */
#include <asm-generic/posix_types.h>
