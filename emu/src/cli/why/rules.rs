//! tidy: table
//! The rules behind the messages: a name, what it says, what to change.

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Parts of the message, all of them.
    marks: &'static [&'static str],
    pub(super) name: &'static str,
    pub(super) says: &'static str,
    pub(super) fix: &'static str,
}

const fn r(
    marks: &'static [&'static str],
    name: &'static str,
    says: &'static str,
    fix: &'static str,
) -> Rule {
    Rule { marks, name, says, fix }
}

/// The first row whose marks are all in the message counts.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    r(&["or_null"], "null-check", "the pointer may be NULL", "compare it with NULL and use it only in the branch where it is not"),
    r(&["invalid mem access 'scalar'"], "pointer-lost", "this is a number, not a pointer", "keep the pointer in a variable of pointer type; arithmetic, truncation to 32 bits or a read from memory made it a number (use bpf_probe_read_kernel for addresses)"),
    r(&["invalid mem access"], "not-dereferenceable", "this kind of pointer cannot be read or written directly", "use the helper or kernel function for this kind of object"),
    r(&["!read_ok"], "uninitialised-register", "the register has no value on this path", "initialise the variable on every path; after a call r1 to r5 are gone"),
    r(&["outside of the packet"], "packet-bounds", "the packet may be shorter than what is read", "compare the end of the access with data_end just before it; after helpers that change the packet, load data and data_end again"),
    r(&["invalid access to packet"], "packet-bounds", "the packet may be shorter than what is read", "compare the end of the access with data_end just before it; after helpers that change the packet, load data and data_end again"),
    r(&["max value is outside"], "upper-bound", "the offset may be larger than the object", "bound the index from above (`if (i >= N) return`, or `i &= N - 1`) in the type it is used with"),
    r(&["min value is outside"], "lower-bound", "the offset may be negative or before the object", "make the index unsigned, or check that it is not negative"),
    r(&["min value is negative"], "lower-bound", "the value may be negative", "use an unsigned type, or `value &= mask`, or check that it is not negative"),
    r(&["unbounded memory access"], "upper-bound", "nothing bounds the offset from above", "check the variable against the size of the object before it is added to the pointer"),
    r(&["unbounded min value"], "lower-bound", "nothing bounds the offset from below", "check the variable before it is added to the pointer"),
    r(&["invalid access to map value"], "map-value-bounds", "the access reaches past the map's value", "compare offset plus size with the size of the value"),
    r(&["invalid access to memory"], "memory-bounds", "the access reaches past the object", "compare offset plus size with the size of the object"),
    r(&["invalid bpf_context access"], "context-field", "the context has no such field for this kind of program, or not at this size, or it is read-only", "use a field that this kind of program may use, at its full size"),
    r(&["dereference of modified ctx"], "context-pointer", "the context is used through its own pointer and constant offsets", "do not add to the context pointer before the access; the compiler may have merged accesses: `volatile` or barrier_var() keep them apart"),
    r(&["uninitialized", "stack"], "uninitialised-stack", "the bytes were not written on this path", "initialise the whole variable, padding too: `struct key k = {}` or memset"),
    r(&["invalid read from stack"], "uninitialised-stack", "the bytes were not written on this path, or lie outside the stack", "initialise the whole variable, padding too: `struct key k = {}` or memset"),
    r(&["invalid indirect read from stack"], "uninitialised-stack", "the helper reads bytes that were not written", "initialise the whole variable, padding too: `struct key k = {}` or memset"),
    r(&["invalid write to stack"], "stack-bounds", "the stack has 512 bytes", "use a smaller object, or a per-CPU array as scratch"),
    r(&["stack size of", "Too large"], "stack-depth", "the stacks of a chain of calls have 512 bytes together", "use smaller objects, a per-CPU array as scratch, or fewer nested calls"),
    r(&["cannot overwrite referenced dynptr"], "dynptr", "a ring buffer reservation would be lost", "submit or discard the dynptr before its variable is used again"),
    r(&["unacquired reference"], "dynptr", "only a ring buffer dynptr that is still held can be submitted", "submit or discard it once, on every path"),
    r(&["nitialized dynptr"], "dynptr", "the variable holds no dynptr here, or one that must not be overwritten", "construct it on every path before it is used, and leave its 16 bytes alone"),
    r(&["dynptr"], "dynptr", "a dynptr is 16 aligned bytes of the stack that only the kernel touches", "pass the address of the variable itself, to functions for this kind of dynptr"),
    r(&["nitialized iter_"], "iterator", "the variable holds no iterator here, or one already", "new, next until NULL, destroy; once each, on every path"),
    r(&["iterator"], "iterator", "an iterator is a variable on the stack", "pass the address of the variable itself"),
    r(&["RCU CS"], "rcu-section", "the iterator outlived the RCU section it was made in", "make, use and destroy it between bpf_rcu_read_lock and bpf_rcu_read_unlock"),
    r(&["RCU critical section"], "rcu-section", "the object is safe in an RCU section only", "call it between bpf_rcu_read_lock and bpf_rcu_read_unlock"),
    r(&["rcu read"], "rcu-section", "RCU sections do not nest and end once", "one bpf_rcu_read_lock, one bpf_rcu_read_unlock, on every path"),
    r(&["bpf_rcu_read_lock-ed"], "rcu-section", "an RCU section is still open", "call bpf_rcu_read_unlock on every path before"),
    r(&["preempt"], "preemption", "each bpf_preempt_disable needs its bpf_preempt_enable", "enable preemption on every path, as often as it was disabled"),
    r(&["irq"], "interrupts", "saved interrupt flags are restored once, the last saved first", "keep each saved value in its own variable, restore in reverse order on every path"),
    r(&["must be held for"], "collection-lock", "a list or tree is touched under the lock beside it", "take the bpf_spin_lock of the same map value or object around the operation"),
    r(&["not in the same allocation"], "collection-lock", "a list or tree is touched under the lock beside it", "take the bpf_spin_lock of the same map value or object around the operation"),
    r(&["allocated object"], "ownership", "the function takes an object of your own, from bpf_obj_new or out of a collection", "pass the owning pointer, once: after it is added or dropped it is gone"),
    r(&["owning"], "ownership", "the pointer is no longer, or was never, yours", "remove the object from its collection first, under the lock"),
    r(&["rbtree cb"], "tree-callback", "the comparison of a tree runs under its lock", "compare the two nodes and nothing else"),
    r(&["deadlock"], "lock-order", "the lock is held already", "release it first"),
    r(&["out of order"], "lock-order", "the lock taken last is released first", "release in reverse order"),
    r(&["exception c"], "exceptions", "the exception callback takes one number and is called by bpf_throw alone", "declare it `int name(u64 cookie)`, global, and do not call it"),
    r(&["bpf_throw"], "exceptions", "a program that throws holds nothing, and callbacks do not throw", "release everything first, or return an error instead"),
    r(&["At callback return"], "return-value", "a callback returns 0 to go on and 1 to stop", "return one of the values in the message on every path"),
    r(&["At async callback return"], "return-value", "a timer's callback returns 0", "return 0 on every path"),
    r(&["tracing progs cannot use"], "map-fields", "this kind of program may interrupt anything, a lock or timer in use too", "keep the field in a map that this program does not use"),
    r(&["map pointer in R"], "map-fields", "the map named is not the one the field is in", "pass the map that the value was looked up in"),
    r(&["doesn't point to 'struct"], "map-fields", "the pointer is not at the field", "pass the address of the field in the value"),
    r(&["arena"], "arena", "arena pointers are for programs with one arena", "reference the arena map in the program, and load with CAP_BPF and CAP_PERFMON"),
    r(&["Unreleased reference"], "reference-leak", "something acquired is not released on this path", "call the releasing function on every path, early returns too"),
    r(&["reference leak"], "reference-leak", "something acquired is not released on this path", "call the releasing function on every path, early returns too"),
    r(&["has not been acquired"], "reference-owner", "the function releases what it was not given", "pass the pointer that the acquiring function returned, once"),
    r(&["expects refcounted"], "reference-owner", "the function takes a reference of your own", "acquire one first, or exchange it out of the map"),
    r(&["At program exit"], "return-value", "this kind of program may return certain values only", "return one of the values in the message on every path"),
    r(&["BPF program is too large"], "complexity", "a million instructions were followed without an end", "see --states for the branch that multiplies; use bpf_loop, an iterator or may_goto, or put the body into a global function"),
    r(&["jumps is too complex"], "complexity", "more than 8192 branches are open at once", "see --states for the branch that multiplies; use bpf_loop, an iterator or may_goto"),
    r(&["infinite loop"], "infinite-loop", "a loop comes back with the same state", "make sure that something the exit depends on changes in every round"),
    r(&["back-edge"], "loop", "without CAP_BPF there are no loops", "unroll the loop, or load with CAP_BPF"),
    r(&["unreachable insn"], "dead-code", "no path leads to this instruction", "remove it; a missing exit or goto before it is the usual reason"),
    r(&["jump out of range"], "jump-target", "a jump leaves the program or its function", "compile again; hand-written jumps count from the next instruction"),
    r(&["cannot use helper"], "helper-availability", "this kind of program may not call the helper, or the loader lacks a capability", "see `orrery features`; use another kind of program or a kernel function"),
    r(&["unknown func"], "helper-availability", "this kernel has no such helper", "take a newer kernel (--kernel), or another helper"),
    r(&["invalid func unknown"], "helper-availability", "this kernel has no such helper", "take a newer kernel (--kernel), or another helper"),
    r(&["calling kernel function", "not allowed"], "kfunc-availability", "this kind of program may not call the kernel function", "use another kind of program, or a helper"),
    r(&["GPL"], "licence", "the function is for GPL-compatible programs", "declare `char LICENSE[] SEC(\"license\") = \"GPL\"`"),
    r(&["might sleep"], "sleepable", "the program cannot sleep here", "use a sleepable section (fentry.s, lsm.s, syscall, ...) and call outside locks and RCU sections"),
    r(&["sleepable"], "sleepable", "the program cannot sleep here", "use a sleepable section (fentry.s, lsm.s, syscall, ...) and call outside locks and RCU sections"),
    r(&["type=", "expected="], "argument-type", "the argument is of another kind than the function takes", "pass what the message calls expected"),
    r(&["misaligned"], "alignment", "the address is not a multiple of the size", "align the field, or read it in smaller pieces"),
    r(&["pointer arithmetic"], "pointer-arithmetic", "this arithmetic is not possible with this pointer", "add bounded numbers to pointers into packets, maps and the stack only"),
    r(&["pointer comparison"], "pointer-leak", "pointers cannot be compared without CAP_PERFMON", "compare with NULL only, or load with CAP_PERFMON"),
    r(&["leaks addr"], "pointer-leak", "a kernel address would reach user space", "store the value behind it; or load with CAP_PERFMON"),
    r(&["has to have BTF"], "map-types", "the map has no types: its definition names none, or the kernel did not take them and the loader made it without", "define it with __type(key, ...) and __type(value, ...), and of a kind that may hold this: locks in hash, array and storage maps; timers and work in hash (also LRU) and array maps"),
    r(&["bpf_spin_lock"], "locks", "rules of bpf_spin_lock", "take one lock, call nothing but what is allowed under it, release it on every path"),
    r(&["lock"], "locks", "rules of locks", "release on every path, in order, and call nothing that may sleep in between"),
    r(&["only read"], "read-only", "this memory cannot be written", "write to a copy"),
    r(&["cannot write into"], "read-only", "this memory cannot be written", "write to a copy, or use the helper that writes"),
    r(&["same insn cannot be used with different pointers"], "one-kind-of-pointer", "one instruction would read two kinds of memory", "keep the two branches apart: barrier_var() or a volatile read in one of them"),
    r(&["unknown opcode"], "instruction-set", "this kernel does not know the instruction", "compile with a lower -mcpu, or take a newer kernel (--kernel)"),
    r(&["reserved fields"], "instruction-set", "an unused field of the instruction is not zero", "compile again; hand-written instructions leave unused fields zero"),
    r(&["div by zero"], "division", "a constant divisor is zero", "divide by something else"),
    r(&["tail_calls are not allowed"], "tail-call", "a tail call below a deep stack", "use less stack in the callers (256 bytes together), or no tail call in functions"),
    r(&["Caller passes invalid args"], "global-function", "the argument does not fit the prototype of the global function", "pass what the prototype says; __arg_ctx, __arg_nonnull and their kin say more"),
];

/// For a call that stands for what the kernel has not.
pub(super) const MISSING: Rule = r(
    &[],
    "not-in-this-kernel",
    "the program asks for something that this kernel does not have",
    "ask before (bpf_core_field_exists, bpf_core_type_exists, bpf_ksym_exists) and go another \
     way, or take a kernel that has it",
);

/// For messages without a row.
const OTHER: Rule = r(
    &[],
    "verifier",
    "see the message",
    "the log (--log-level 2) has the state at every instruction",
);

/// The rule behind a message.
pub(super) fn rule_of(message: &str) -> &'static Rule {
    let said = |rule: &&Rule| rule.marks.iter().all(|m| message.contains(m));
    RULES.iter().find(said).unwrap_or(&OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_rules() {
        let name = |m| rule_of(m).name;
        assert_eq!(name("R7 invalid mem access 'map_value_or_null'"), "null-check");
        assert_eq!(name("R1 offset is outside of the packet"), "packet-bounds");
        assert_eq!(name("Unreleased reference id=1 alloc_insn=3"), "reference-leak");
        assert_eq!(name("R1 type=scalar expected=fp"), "argument-type");
        assert_eq!(name("something new"), "verifier");
    }
}
