/* Nothing: byte swaps use the compiler's builtins. */
