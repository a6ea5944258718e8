//! What is shown, apart from where the run stands, and what keys do to both.

use kernel_model::CpuId;

use super::keys::Key;
use super::past::Past;
use crate::runner::RunError;

/// What the right-hand side shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Regs,
    Maps,
    Rings,
    Locks,
    Tasks,
    Stack,
    Packet,
}

/// All of them: key, name.
pub(super) const TABS: [(Tab, char, &str); 7] = [
    (Tab::Regs, 'r', "regs"),
    (Tab::Maps, 'm', "maps"),
    (Tab::Rings, 'o', "rings"),
    (Tab::Locks, 'l', "locks"),
    (Tab::Tasks, 't', "tasks"),
    (Tab::Stack, 's', "stack"),
    (Tab::Packet, 'p', "packet"),
];

/// A line that is being typed.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// `/` a filter, `g` a position, `:` a monitor command.
    pub(super) kind: char,
    pub(super) text: String,
}

/// Text over everything.
#[derive(Clone, Debug)]
pub(super) struct Over {
    pub(super) title: String,
    pub(super) text: String,
}

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) cpu: CpuId,
    pub(super) tab: Tab,
    /// First line of the tab, or of what lies over everything.
    pub(super) scroll: usize,
    /// The axis shows the whole time, divided by two so often.
    pub(super) zoom: u32,
    /// Only events with this in their text.
    pub(super) filter: String,
    pub(super) prompt: Option<Prompt>,
    pub(super) over: Option<Over>,
    pub(super) said: String,
}

/// A leap: this share of the run.
const LEAP: u64 = 50;
/// The most that the axis is magnified.
const ZOOM_MAX: u32 = 24;

pub(super) const HELP: &str = "\
left right    previous and next BPF instruction
pgup pgdn     a fiftieth of the run back and on
home end      beginning and end
up down       previous and next event of the log, as filtered
g             go to an instruction, or e34: to event 34
1 to 9, c     CPU by number from 0, next CPU
tab backtab   next and previous pane
r m o l t s p registers, maps, rings, locks, tasks, stack, packet
j k           scroll the pane
+ -           magnify the time axis
/             show only events with a text; empty for all
:             a monitor command
?             this help
q             quit

A letter of the time axis is a run of the program beside it. Below: what
the CPU was in, t task, s softirq, h hardirq, n nmi. * is all of the events.
";

impl View {
    pub(super) fn new() -> View {
        View {
            cpu: CpuId(0),
            tab: Tab::Regs,
            scroll: 0,
            zoom: 0,
            filter: String::new(),
            prompt: None,
            over: None,
            said: String::new(),
        }
    }

    /// What a key does; false when it ends the session.
    pub(super) fn press(&mut self, past: &mut Past<'_>, key: Key) -> Result<bool, RunError> {
        self.said.clear();
        if self.prompt.is_some() {
            self.typed(past, key)?;
            return Ok(true);
        }
        if self.over.is_some() {
            self.read_over(key);
            return Ok(true);
        }
        match key {
            Key::Char('q') => return Ok(false),
            Key::Left => past.previous()?,
            Key::Right => past.next()?,
            Key::PageUp => past.goto(past.position().saturating_sub(leap(past)))?,
            Key::PageDown => past.goto(past.position() + leap(past))?,
            Key::Home => past.goto(0)?,
            Key::End => past.goto(past.end)?,
            Key::Up => self.event_before(past)?,
            Key::Down => self.event_after(past)?,
            key => {
                self.shown(past, key);
                return Ok(true);
            }
        }
        self.follow(past);
        Ok(true)
    }

    /// Keys that change what is shown, not where the run stands.
    fn shown(&mut self, past: &Past<'_>, key: Key) {
        let cpus = past.machine().kernel.config.cpus;
        let n = TABS.iter().position(|t| t.0 == self.tab).unwrap_or(0);
        let tab = |n: usize| TABS[n % TABS.len()].0;
        match key {
            Key::Tab => (self.tab, self.scroll) = (tab(n + 1), 0),
            Key::BackTab => (self.tab, self.scroll) = (tab(n + TABS.len() - 1), 0),
            Key::Char('c') => self.cpu = CpuId((self.cpu.0 + 1) % cpus),
            Key::Char(d @ '1'..='9') => match d as u32 - u32::from(b'1') {
                n if n < cpus => self.cpu = CpuId(n),
                _ => self.said = format!("there are {cpus} CPUs"),
            },
            Key::Char('j') => self.scroll += 1,
            Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Key::Char('+' | '=') => self.zoom = (self.zoom + 1).min(ZOOM_MAX),
            Key::Char('-') => self.zoom = self.zoom.saturating_sub(1),
            Key::Char(kind @ ('/' | 'g' | ':')) => {
                self.prompt = Some(Prompt { kind, text: String::new() });
            }
            Key::Char('?') => self.put_over("keys", HELP.to_owned()),
            Key::Esc => self.filter.clear(),
            Key::Char(k) => match TABS.iter().find(|t| t.1 == k) {
                Some((tab, ..)) => (self.tab, self.scroll) = (*tab, 0),
                None => self.said = format!("`{k}` does nothing; ? lists the keys"),
            },
            _ => {}
        }
    }

    /// The CPU that is shown is the one that ran last.
    fn follow(&mut self, past: &Past<'_>) {
        let current = past.current();
        if !past.machine().stack_frames(current).is_empty() {
            self.cpu = current;
        }
    }

    fn put_over(&mut self, title: &str, text: String) {
        (self.over, self.scroll) = (Some(Over { title: title.to_owned(), text }), 0);
    }

    fn read_over(&mut self, key: Key) {
        match key {
            Key::Down | Key::Char('j') => self.scroll += 1,
            Key::Up | Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Key::PageDown => self.scroll += 10,
            Key::PageUp => self.scroll = self.scroll.saturating_sub(10),
            _ => (self.over, self.scroll) = (None, 0),
        }
    }

    fn typed(&mut self, past: &mut Past<'_>, key: Key) -> Result<(), RunError> {
        let Some(prompt) = &mut self.prompt else { return Ok(()) };
        match key {
            Key::Char(c) => prompt.text.push(c),
            Key::Backspace => drop(prompt.text.pop()),
            Key::Esc => self.prompt = None,
            Key::Enter => {
                let Prompt { kind, text } = prompt.clone();
                self.prompt = None;
                match kind {
                    '/' => self.filter = text,
                    'g' => self.go(past, text.trim())?,
                    _ => {
                        let said = past.ask(self.cpu, &text);
                        self.put_over(&text, said);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// `1500`, or `e34`.
    fn go(&mut self, past: &mut Past<'_>, text: &str) -> Result<(), RunError> {
        let (event, digits) = text.strip_prefix('e').map_or((false, text), |n| (true, n));
        match (digits.parse::<u64>(), event) {
            (Ok(n), false) => past.goto(n)?,
            (Ok(n), true) if n >= 1 && n as usize <= past.events.len() => {
                past.goto_event(n as usize)?;
            }
            _ => {
                let (end, events) = (past.end, past.events.len());
                self.said = format!("an instruction up to {end}, or an event: e1 to e{events}");
                return Ok(());
            }
        }
        self.follow(past);
        Ok(())
    }

    /// Whether the log shows an event.
    pub(super) fn shows(&self, text: &str) -> bool {
        self.filter.is_empty() || text.contains(&self.filter)
    }

    fn event_before(&mut self, past: &mut Past<'_>) -> Result<(), RunError> {
        let now = past.happened();
        // Several events may have happened at once.
        let mut end = now;
        while let Some(n) = past.events[..end].iter().rposition(|e| self.shows(&e.text)) {
            past.goto_event(n + 1)?;
            if past.happened() < now {
                return Ok(());
            }
            end = n;
        }
        self.said = "no event before".to_owned();
        past.goto_event(now)
    }

    fn event_after(&mut self, past: &mut Past<'_>) -> Result<(), RunError> {
        let now = past.happened();
        match past.events[now..].iter().position(|e| self.shows(&e.text)) {
            Some(n) => past.goto_event(now + n + 1),
            None => {
                self.said = "no event after".to_owned();
                Ok(())
            }
        }
    }
}

fn leap(past: &Past<'_>) -> u64 {
    (past.end / LEAP).max(1)
}
