//! Monitor commands: what gdb cannot say of a machine.
//!
//! ```text
//!  "map flows 17" ─words─► COMMANDS ─► fn(&Here, &[&str]) ─► text
//! ```
//!
//! **Invariants.** A command that only looks is a function of the machine and the CPU that is
//! looked at, and changes nothing. What it does not understand it answers with what there is.

pub mod act;
pub mod catch;
mod code;
mod frame;
mod info;
mod locks;
mod maps;
mod names;
mod packet;
mod progs;
mod rcu;
mod rings;
mod session;
mod stack;
pub(crate) mod state;
mod tasks;
mod words;

use kernel_model::cpu::Site;
use kernel_model::{CpuId, Kernel};

use crate::machine::Machine;

pub use session::{Session, run};

/// What a command says, or what is wrong with it.
pub type Reply = Result<String, String>;

/// What commands look at.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The CPU that is looked at.
    pub cpu: CpuId,
}

impl<'a> Here<'a> {
    fn kernel(&self) -> &'a Kernel {
        &self.machine.kernel
    }

    /// Program and instruction that the CPU is at: the next one, or the call that it is in.
    fn at(&self) -> Option<Site> {
        self.machine.stack_frames(self.cpu).first().map(|f| f.site)
    }

    /// The same, or that it is in none.
    fn site(&self) -> Result<Site, String> {
        let none = || format!("CPU {} runs no program here; `cpus` shows which do", self.cpu.0);
        self.at().ok_or_else(none)
    }
}

/// A command.
struct Command {
    names: &'static [&'static str],
    args: &'static str,
    says: &'static str,
    run: fn(&Here<'_>, &[&str]) -> Reply,
}

const fn c(
    names: &'static [&'static str],
    args: &'static str,
    says: &'static str,
    run: fn(&Here<'_>, &[&str]) -> Reply,
) -> Command {
    Command { names, args, says, run }
}

/// Commands that look, in the order of `help`.
#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    c(&["progs"], "", "loaded programs", progs::list),
    c(&["maps"], "", "maps", maps::list),
    c(&["map"], "NAME [KEY]", "contents of a map, or one value", maps::show),
    c(&["percpu"], "NAME [KEY]", "each CPU's value of a per-CPU map", maps::percpu),
    c(&["tasks"], "", "tasks: state, CPU, operation, time they ran", tasks::tasks),
    c(&["cpus"], "", "what each CPU is in", tasks::cpus),
    c(&["cpu"], "[N]", "all about one CPU", tasks::cpu),
    c(&["locks"], "", "locks that CPUs have and wait for", locks::held),
    c(&["lock-order"], "", "orders in which locks were taken, possible deadlocks", locks::order),
    c(&["rcu"], "", "read-side sections, grace periods, what waits for them", rcu::rcu),
    c(&["refs"], "", "what is acquired and not released, and where", rcu::refs),
    c(&["ring"], "NAME [as STRUCT]", "a ring buffer's records, or the rings of a nic", rings::ring),
    c(&["perf"], "NAME", "the events of a perf event array", rings::perf),
    c(&["trace_pipe"], "[N]", "what bpf_trace_printk wrote, the last N lines", rings::trace_pipe),
    c(&["ctx", "skb"], "", "the context of the running program, decoded", packet::ctx),
    c(&["packet"], "", "the packet at this point: headers and bytes", packet::packet),
    c(&["stack"], "[FRAME]", "slots of the BPF stack, by kind", stack::stack),
    c(&["verifier"], "", "abstract state here; `verifier log [N]`: its log", state::verifier),
    c(&["why"], "[INSN]", "states at an instruction and where its values come from", state::why),
    c(&["x/i"], "[N]", "BPF and native code from here, with the abstract state", code::list),
    c(&["jit"], "[PROG]", "native addresses of each instruction", code::jit),
    c(&["info"], "debug", "what the debugger works with", info::info),
];

/// Answers a command that only looks; `None` for one that does more, or is none.
#[must_use]
pub fn look(here: &Here<'_>, command: &str) -> Option<Reply> {
    let words = words::split(command);
    let (name, args) = words.split_first()?;
    if *name == "help" {
        return Some(help(args));
    }
    // gdb's own form, `x/8i`.
    let (name, count) = match name.strip_prefix("x/").and_then(|n| n.strip_suffix('i')) {
        Some(count) => ("x/i", Some(count).filter(|c| !c.is_empty())),
        None => (*name, None),
    };
    let command = COMMANDS.iter().find(|c| c.names.contains(&name))?;
    let args: Vec<&str> = count.into_iter().chain(args.iter().copied()).collect();
    Some((command.run)(here, &args))
}

/// `help [COMMAND]`.
fn help(args: &[&str]) -> Reply {
    let line = |names: &str, says: &str| format!("{names:<24} {says}\n");
    let looks = |c: &Command| line(format!("{} {}", c.names.join(", "), c.args).trim_end(), c.says);
    let more = |m: &(&str, &str, &str)| line(format!("{} {}", m.0, m.1).trim_end(), m.2);
    match args {
        [] => Ok(COMMANDS.iter().map(looks).chain(session::MORE.iter().map(more)).collect()),
        [name, ..] => {
            let found = COMMANDS.iter().filter(|c| c.names.contains(name)).map(looks);
            let acts = session::MORE.iter().filter(|m| m.0 == *name).map(more);
            let text: String = found.chain(acts).collect();
            if text.is_empty() { Err(unknown(name)) } else { Ok(text) }
        }
    }
}

/// What is said of a command that is none.
#[must_use]
pub fn unknown(name: &str) -> String {
    let looks = COMMANDS.iter().flat_map(|c| c.names.iter().copied());
    let all = looks.chain(session::MORE.iter().map(|m| m.0));
    match scenarios::leaf::suggest(name, all) {
        Some(s) => format!("no command `{name}`; did you mean `{s}`? `help` lists them"),
        None => format!("no command `{name}`; `help` lists them"),
    }
}

/// A number in decimal or with `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number"))
}

/// That no argument is left.
fn no_more(args: &[&str]) -> Result<(), String> {
    match args {
        [] => Ok(()),
        [first, ..] => Err(format!("`{first}` does not belong there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_once_and_suggested() {
        let mut names: Vec<&str> = COMMANDS.iter().flat_map(|c| c.names.iter().copied()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(unknown("prog").contains("did you mean `progs`"), "{}", unknown("prog"));
        assert!(help(&["nothing"]).is_err());
    }
}
