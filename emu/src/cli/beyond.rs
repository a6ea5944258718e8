//! What a verdict says of `--beyond`: loops that were widened, why they end, and where states
//! multiply when that was of no avail.

use std::fmt::Write as _;

use bpf::Program;
use serde::Serialize;
use verifier::explore::beyond::{LoopEnd, Multiplying, Report};

/// The fields of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Beyond {
    /// Why the kernel gives up.
    kernel: String,
    /// `abstract` or `exact`.
    walk: &'static str,
    /// Abstract walks, each generalising less.
    rounds: u32,
    /// What the first abstract walk refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
    /// Instructions where loops were widened.
    widened: Vec<Place>,
    /// Instructions where states were joined.
    joined: Vec<Place>,
    /// Loops that a counter ends.
    loops: Vec<Loop>,
    /// Where states multiply.
    multiplying: Vec<States>,
}

#[derive(Clone, Debug, Serialize)]
struct Refused {
    insn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    message: String,
}

#[derive(Clone, Debug, Serialize)]
struct Place {
    insn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    scalars: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Loop {
    insn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    counter: String,
    direction: &'static str,
    step: u64,
    trips_max: u64,
}

#[derive(Clone, Debug, Serialize)]
struct States {
    insn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<String>,
    states: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch_line: Option<String>,
    differs: Vec<Differs>,
}

#[derive(Clone, Debug, Serialize)]
struct Differs {
    what: String,
    states: u32,
}

/// The line of C an instruction comes from.
fn line(program: &Program, insn: u32) -> Option<String> {
    let l = program.line_at(bpf::insn::InsnIdx(insn))?;
    Some(format!("{}:{}: {}", l.file_name(), l.line, l.text.trim()))
}

impl Beyond {
    pub(super) fn new(program: &Program, r: Report) -> Beyond {
        let place = |(insn, scalars)| Place { insn, line: line(program, insn), scalars };
        let ends = |l: LoopEnd| Loop {
            insn: l.insn,
            line: line(program, l.insn),
            counter: l.counter,
            direction: if l.down { "down" } else { "up" },
            step: l.step,
            trips_max: l.trips,
        };
        let states = |m: Multiplying| States {
            insn: m.insn,
            line: line(program, m.insn),
            states: m.states,
            branch: m.branch,
            branch_line: m.branch.and_then(|b| line(program, b)),
            differs: m.differs.into_iter().map(|(what, states)| Differs { what, states }).collect(),
        };
        Beyond {
            kernel: r.kernel,
            walk: if r.exact { "exact" } else { "abstract" },
            rounds: r.rounds,
            refused: r.refused.map(|(insn, message)| Refused {
                insn,
                line: line(program, insn),
                message,
            }),
            widened: r.widened.into_iter().map(place).collect(),
            joined: r.joined.into_iter().map(place).collect(),
            loops: r.loops.into_iter().map(ends).collect(),
            multiplying: r.multiplying.into_iter().map(states).collect(),
        }
    }

    /// For people, indented as the lines below a verdict.
    pub(super) fn text(&self) -> String {
        let mut t = format!("    beyond the kernel's limits ({}): ", self.kernel);
        let _ = match self.walk {
            "abstract" => writeln!(
                t,
                "{} loops widened, states joined at {} instructions, {} walks",
                self.widened.len(),
                self.joined.len(),
                self.rounds
            ),
            _ => writeln!(t, "walked exactly"),
        };
        for p in &self.widened {
            let what = p.scalars.join(", ");
            let _ = writeln!(t, "      loop at insn {}{}: widened {what}", p.insn, at(&p.line));
        }
        for l in &self.loops {
            let (n, step, trips) = (l.insn, l.step, l.trips_max);
            let _ = writeln!(
                t,
                "      loop at insn {n}{}: at most {trips} trips, {} goes {} by {step}",
                at(&l.line),
                l.counter,
                l.direction
            );
        }
        if let Some(r) = self.refused.as_ref().filter(|_| self.walk == "exact") {
            let m = r.message.replace('\n', "; ");
            let place = at(&r.line);
            let _ = writeln!(t, "      with widened states refused at insn {}{place}: {m}", r.insn);
        }
        for m in &self.multiplying {
            let _ = writeln!(t, "      {} states at insn {}{}", m.states, m.insn, at(&m.line));
            let what = m.differs.iter().take(4).map(|d| format!("{} ({})", d.what, d.states));
            let what: Vec<String> = what.collect();
            let _ = writeln!(t, "        they differ in {}", what.join(", "));
            if let Some(b) = m.branch {
                let _ = writeln!(t, "        by the branch at insn {b}{}", at(&m.branch_line));
            }
        }
        t
    }
}

fn at(line: &Option<String>) -> String {
    line.as_ref().map_or(String::new(), |l| format!(" ({l})"))
}
