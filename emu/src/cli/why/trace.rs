//! The verifier's log as events: instructions with the state they leave, paths that begin, paths
//! that end because a kept state covers them.

use std::collections::BTreeMap;

/// One instruction of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Instruction.
    pub(crate) insn: u32,
    /// Frame the log names: 0 is that of the program.
    pub(crate) frame: usize,
    /// Registers and slots that changed, as the log prints them.
    pub(crate) changed: String,
}

/// What a line of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An instruction was looked at.
    Insn(Step),
    /// Another path begins: `from A to B`.
    Path {
        /// Where it left the other one.
        from: u32,
        /// Where it goes on.
        to: u32,
    },
    /// The path ends: a kept state covers it.
    Safe(u32),
}

/// Registers and slots of a frame by name, as the log prints them.
pub(crate) type State = BTreeMap<String, String>;

/// Splits `R1=ctx() fp-8=0 refs=2` at spaces outside parentheses.
fn items(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut depth = 0i32;
    let split = move |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0 && c == ' '
    };
    text.split(split).filter_map(|item| item.split_once('='))
}

/// Where a text stands outside of parentheses.
fn outside(text: &str, wanted: &str) -> Option<usize> {
    let mut depth = 0i32;
    text.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        (depth == 0 && text[at..].starts_with(wanted)).then_some(at)
    })
}

/// `frame1: R1=...`: the frame and the rest.
fn framed(text: &str) -> (usize, &str) {
    let text = text.trim();
    let frame = text.strip_prefix("frame").and_then(|t| t.split_once(':'));
    match frame.and_then(|(n, rest)| Some((n.parse().ok()?, rest))) {
        Some((n, rest)) => (n, rest.trim()),
        None => (0, text),
    }
}

/// The states of all frames, followed along the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    frames: Vec<State>,
    frame: usize,
}

impl Tracker {
    /// State of the frame that runs.
    pub(crate) fn state(&self) -> Option<&State> {
        self.frames.get(self.frame)
    }

    fn set(&mut self, text: &str, whole: bool) {
        let (frame, rest) = framed(text);
        self.frames.resize(self.frames.len().max(frame + 1), State::new());
        if whole {
            self.frames[frame].clear();
        }
        let pairs = items(rest).map(|(k, v)| (k.trim_end_matches("_w").to_owned(), v.to_owned()));
        self.frames[frame].extend(pairs);
        self.frame = frame;
    }

    /// A call leaves R1 to R5 unreadable.
    fn forget_arguments(&mut self) {
        if let Some(state) = self.frames.get_mut(self.frame) {
            ["R1", "R2", "R3", "R4", "R5"].iter().for_each(|r| {
                state.remove(*r);
            });
        }
    }
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Reads a log and hands on each event with the states before it.
pub(crate) fn walk(log: &str, mut each: impl FnMut(&Event, &Tracker)) {
    let mut states = Tracker::default();
    for line in log.lines() {
        // The listing at the log's beginning is indented.
        if line.starts_with(' ') {
            continue;
        }
        if let Some(rest) = line.strip_prefix("from ") {
            path(rest, &mut states, &mut each);
        } else if let Some((insn, rest)) = number(line) {
            let Some(rest) = rest.strip_prefix(": ") else { continue };
            instruction(insn, rest, &mut states, &mut each);
        } else if line.starts_with("frame") || line.starts_with("R0") && line.contains('=') {
            // The states of caller and callee, in lines of their own.
            states.set(line, true);
        }
    }
}

fn path(rest: &str, states: &mut Tracker, each: &mut impl FnMut(&Event, &Tracker)) {
    let Some((from, rest)) = number(rest) else { return };
    let Some((to, rest)) = rest.strip_prefix(" to ").and_then(number) else { return };
    each(&Event::Path { from, to }, states);
    let state = rest.trim_start_matches(':').trim();
    match state {
        "safe" => each(&Event::Safe(to), states),
        state => states.set(state, true),
    }
}

fn instruction(
    insn: u32,
    rest: &str,
    states: &mut Tracker,
    each: &mut impl FnMut(&Event, &Tracker),
) {
    if rest == "safe" {
        return each(&Event::Safe(insn), states);
    }
    if !rest.starts_with('(') {
        return states.set(rest, true);
    }
    // The state is behind the first "; " outside of parentheses.
    let at = outside(rest, "; ").filter(|at| rest[at + 2..].contains('='));
    let changed = at.map_or("", |at| rest[at + 2..].trim());
    let (frame, _) = if changed.is_empty() { (states.frame, "") } else { framed(changed) };
    each(&Event::Insn(Step { insn, frame, changed: changed.to_owned() }), states);
    if rest.starts_with("(85)") {
        states.forget_arguments();
    }
    if !changed.is_empty() {
        states.set(changed, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_states() {
        let log = "func#0 @0\nLive regs before insn:\n      0: .......... (b7) r0 = 0\n\
            0: R1=ctx() R10=fp0\n; int x; @ a.c:1\n0: (b7) r0 = 0   ; R0=0\n\
            1: (85) call 5 ; R0=map_value(id=1,map=m, x=2) fp-8=0\n\
            \nfrom 1 to 3: R0=7 R10=fp0\n3: (95) exit\nfrom 2 to 3: safe\n3: safe\n";
        let mut seen = Vec::new();
        let mut last = State::new();
        walk(log, |e, t| {
            seen.push(e.clone());
            last = t.state().cloned().unwrap_or_default();
        });
        assert_eq!(seen.len(), 7, "{seen:?}");
        assert!(matches!(&seen[0], Event::Insn(s) if s.insn == 0 && s.changed == "R0=0"));
        assert_eq!(seen[2], Event::Path { from: 1, to: 3 });
        assert_eq!(seen[6], Event::Safe(3));
        assert_eq!(last["R0"], "7");
        assert!(!last.contains_key("R1"));
    }

    #[test]
    fn a_known_bit_is_no_end_of_the_instruction() {
        let known = "scalar(smin=0,smax=255,var_off=(0x0; 0xff))";
        let log = format!(
            "0: R10=fp0\n0: (71) r1 = *(u8 *)(r2 +0) ; R1={known} R2=pkt(r=1)\n1: (95) exit\n"
        );
        let mut last = State::new();
        walk(&log, |_, t| last = t.state().cloned().unwrap_or_default());
        assert_eq!((last["R1"].as_str(), last["R2"].as_str()), (known, "pkt(r=1)"));
        assert_eq!(last.len(), 3);
    }

    #[test]
    fn frames() {
        let mut t = Tracker::default();
        t.set("frame1: R1=5 R10=fp0", true);
        t.set("R0=1", false);
        assert_eq!(t.frames[1]["R1"], "5");
        assert_eq!(t.state().map(|s| s["R0"].as_str()), Some("1"));
    }
}
