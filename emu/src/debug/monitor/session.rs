//! Commands of a session: where it is in time, event breakpoints, what changes the machine.

use std::fmt::Write as _;

use gdb::{Debuggee as _, Stop, View};
use kernel_model::CpuId;

use super::catch::{Catches, Hit};
use super::{Here, act, help, look, no_more, number, unknown, words};
use crate::debug::{Position, Target};
use crate::machine::Machine;

/// What a session keeps beside the machine.
#[derive(Clone, Debug, Default)]
pub struct Session {
    catches: Catches,
    checkpoints: Vec<(String, Position)>,
}

impl Session {
    /// Whether it waits for events.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.catches.is_empty()
    }

    /// The machine was moved: what it is now has been seen.
    pub fn arm(&mut self, machine: &Machine) {
        self.catches.arm(machine);
    }

    /// What it waits for and has happened since it was asked last.
    pub fn happened(&mut self, machine: &Machine) -> Option<Hit> {
        self.catches.look(machine)
    }
}

/// Commands that are not in the table of those that look: name, arguments, what they do.
#[rustfmt::skip]
pub(super) const MORE: &[(&str, &str, &str)] = &[
    ("map", "NAME set KEY VALUE", "writes a value, as user space does"),
    ("inject", "KIND", "a fault: the next allocation, call, page, timer, interrupt, ring"),
    ("view", "source|bpf", "what programs are shown as"),
    ("when", "", "instructions and virtual time so far"),
    ("goto", "POSITION", "a BPF instruction of the run, @POSITION, or a checkpoint"),
    ("checkpoint", "[NAME]", "gives this moment a name"),
    ("checkpoints", "", "moments with names"),
    ("break", "EVENT", "stops at an event; `break` lists the kinds"),
    ("breaks", "", "event breakpoints"),
    ("delete", "[N]", "takes one event breakpoint out, or all"),
];

type Answer = Result<(String, Option<Stop>), String>;

/// Answers a command; the stop when the machine was moved or is shown otherwise.
pub fn run(target: &mut Target<'_>, command: &str, out: &mut dyn FnMut(&str)) -> Option<Stop> {
    match answer(target, command) {
        Ok((text, stop)) => {
            out(&text);
            stop
        }
        Err(e) => {
            out(&format!("{e}\n"));
            None
        }
    }
}

fn answer(target: &mut Target<'_>, command: &str) -> Answer {
    let cpu = CpuId(target.current());
    let words = words::split(command);
    let Some((name, args)) = words.split_first() else { return said(help(&[])?) };
    match *name {
        "when" => no_more(args).and_then(|()| said(when(target))),
        "goto" => goto(target, args),
        "checkpoint" => said(checkpoint(target, args)?),
        "checkpoints" => no_more(args).and_then(|()| said(checkpoints(target))),
        "view" => view(target, args),
        "break" => {
            let mut session = std::mem::take(&mut target.session);
            let added = session.catches.add(target.machine(), args);
            target.session = session;
            said(added?)
        }
        "breaks" => no_more(args).and_then(|()| said(target.session.catches.text())),
        "delete" => said(target.session.catches.remove(args)?),
        name => match act::act(target.machine_mut(), cpu, command) {
            Some(done) => {
                let text = done?;
                target.forked(command);
                said(text)
            }
            None => match look(&Here { machine: target.machine(), cpu }, command) {
                Some(text) => said(text?),
                None => Err(unknown(name)),
            },
        },
    }
}

fn said(text: String) -> Answer {
    Ok((text, None))
}

/// `when`.
fn when(target: &Target<'_>) -> String {
    let Position { at, insns } = target.position();
    let machine = target.machine();
    let mut out = format!("{insns} BPF instructions, position @{at}\n");
    for (n, c) in machine.kernel.cpus.iter().enumerate() {
        let mark = if n == target.current() as usize { '*' } else { ' ' };
        let _ = writeln!(out, "{mark} cpu{n}: {} ns, {} instructions", c.clock_ns, c.retired);
    }
    let _ = writeln!(out, "{} events", machine.event_count());
    out
}

/// `goto POSITION`.
fn goto(target: &mut Target<'_>, args: &[&str]) -> Answer {
    let usage = "goto INSNS | goto @POSITION | goto CHECKPOINT";
    let [to] = args else { return Err(usage.to_owned()) };
    let named = target.session.checkpoints.iter().find(|c| c.0 == *to).map(|c| c.1);
    let went = match (named, to.strip_prefix('@')) {
        (Some(p), _) => target.seek(p.at),
        (None, Some(at)) => target.seek(number(at)?),
        (None, None) => {
            target.goto(number(to).map_err(|e| format!("{e} and no checkpoint; {usage}"))?)
        }
    };
    let insns = went.map_err(|e| e.to_string())?.insns;
    let text = format!("{insns} BPF instructions");
    let stop = Stop::Event { cpu: target.current(), text: text.clone() };
    Ok((text + "\n", Some(stop)))
}

/// `checkpoint [NAME]`.
fn checkpoint(target: &mut Target<'_>, args: &[&str]) -> Result<String, String> {
    let at = target.position();
    let list = &mut target.session.checkpoints;
    let name = match args {
        [] => (1..).map(|n| format!("c{n}")).find(|n| list.iter().all(|c| c.0 != *n)),
        [name, more @ ..] => {
            no_more(more)?;
            Some((*name).to_owned())
        }
    };
    let name = name.expect("numbers do not end");
    list.retain(|c| c.0 != name);
    let said = format!("{name}: {} BPF instructions, position @{}\n", at.insns, at.at);
    list.push((name, at));
    Ok(said)
}

fn checkpoints(target: &Target<'_>) -> String {
    let list = target.session.checkpoints.iter();
    let line = |(name, p): &(String, Position)| {
        format!("{name}: {} BPF instructions, position @{}\n", p.insns, p.at)
    };
    let text: String = list.map(line).collect();
    if text.is_empty() { "there are no checkpoints\n".to_owned() } else { text }
}

/// `view source|bpf`.
fn view(target: &mut Target<'_>, args: &[&str]) -> Answer {
    let view = match args {
        ["source"] => View::Source,
        ["bpf"] => View::Bpf,
        [] => {
            let now = if target.view() == View::Bpf { "bpf" } else { "source" };
            return said(format!("{now}; view source|bpf\n"));
        }
        _ => return Err("view source|bpf".to_owned()),
    };
    target.set_view(view);
    Ok((String::new(), Some(Stop::Library { cpu: target.current() })))
}
