//! Where a run is stopped before the first debugger comes.

use std::collections::BTreeSet;
use std::str::FromStr;

use gdb::{DebugError, Debuggee, Direction, Image, Resume, Stop};

use crate::debug::Target;

/// A place of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Start {
    /// Before anything has happened.
    #[default]
    Beginning,
    /// After so many BPF instructions.
    At(u64),
    /// At the first instruction of the n-th run of a program; of the one that runs first when none
    /// is named.
    Run {
        /// Its name.
        prog: Option<String>,
        /// Counted from 1.
        nth: u64,
    },
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Start, String> {
        let (mut prog, mut run, mut packet) = (None, None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = || {
                let n = value.parse().ok().filter(|n: &u64| *n > 0);
                n.ok_or_else(|| format!("{key}={value}: a number from 1 on is expected"))
            };
            match key {
                "prog" if !value.is_empty() => prog = Some(value.to_owned()),
                "run" => run = Some(number()?),
                "packet" => packet = Some(number()?),
                _ => return Err("prog=NAME, prog=NAME,run=N or packet=N is expected".to_owned()),
            }
        }
        match (prog, run, packet) {
            (None, Some(_), _) => Err("run=N needs prog=NAME".to_owned()),
            (_, Some(_), Some(_)) => Err("it is either run=N or packet=N".to_owned()),
            (prog, run, packet) => Ok(Start::Run { prog, nth: run.or(packet).unwrap_or(1) }),
        }
    }
}

/// Why it cannot be stopped there.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// There is no such run.
    #[error("{0}")]
    Nowhere(String),
    /// The machine failed on the way.
    #[error(transparent)]
    Debuggee(#[from] DebugError),
}

impl Start {
    /// Goes there; the position.
    pub(super) fn go(&self, target: &mut Target<'_>) -> Result<u64, StartError> {
        match self {
            Start::Beginning => {}
            Start::At(insn) => {
                target.goto(*insn)?;
            }
            Start::Run { prog, nth } => run(target, prog.as_deref(), *nth)?,
        }
        Ok(target.position().insns)
    }
}

/// Goes on to the n-th time that a program is at its first instruction.
fn run(target: &mut Target<'_>, prog: Option<&str>, nth: u64) -> Result<(), StartError> {
    let on = Resume { direction: Direction::Forward, step: None, only: None };
    let (mut prog, mut came) = (prog.map(str::to_owned), 0);
    let mut set = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let result = loop {
        for image in target.images() {
            seen.insert(image.name.clone());
            let wanted = prog.as_ref().is_none_or(|p| *p == image.name);
            if wanted
                && let Some(at) = first_insn(&image)
                && set.insert(at)
            {
                target.add_breakpoint(at, false);
            }
        }
        match target.resume(&on, &mut || false)? {
            Stop::Breakpoint { cpu, .. } => {
                let pc = target.regs(cpu).pc;
                let image = target.images().into_iter().find(|i| first_insn(i) == Some(pc));
                let Some(image) = image else { continue };
                came += u64::from(*prog.get_or_insert_with(|| image.name.clone()) == image.name);
                if came == nth {
                    break Ok(());
                }
            }
            Stop::End => break Err(nowhere(prog.as_deref(), nth, came, &seen)),
            _ => {}
        }
    };
    for at in set {
        target.remove_breakpoint(at, false);
    }
    result
}

fn first_insn(image: &Image) -> Option<u64> {
    image.debug.funcs.first().map(|f| image.base + u64::from(f.body.0))
}

fn nowhere(prog: Option<&str>, nth: u64, came: u64, seen: &BTreeSet<String>) -> StartError {
    let names: Vec<&str> = seen.iter().map(String::as_str).collect();
    StartError::Nowhere(match prog {
        Some(p) if !seen.contains(p) => {
            format!("no program {p} is loaded; there are {}", names.join(", "))
        }
        Some(p) => format!("{p} runs {came} times, there is no run {nth}"),
        None => "no program runs".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::Start;

    #[test]
    fn places_are_read_or_explained() {
        let run = |prog: Option<&str>, nth| Ok(Start::Run { prog: prog.map(str::to_owned), nth });
        assert_eq!("prog=fw".parse(), run(Some("fw"), 1));
        assert_eq!("prog=fw,run=3".parse(), run(Some("fw"), 3));
        assert_eq!("packet=2".parse(), run(None, 2));
        assert_eq!("prog=fw,packet=2".parse(), run(Some("fw"), 2));
        for wrong in ["", "fw", "run=2", "prog=", "prog=fw,run=0", "prog=fw,run=x", "packet="] {
            assert!(wrong.parse::<Start>().is_err(), "{wrong}");
        }
    }
}
