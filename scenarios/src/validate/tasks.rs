//! Tasks, checked before anything runs: names, CPUs, and scripts that cannot be.

use super::Check;
use crate::schema::machine::Cpus;
use crate::schema::play::{Op, Repeat, Task};
use crate::schema::{Action, Event, Name, Step};
use crate::span::{Finding, Span};

/// Tasks of one name beyond which it is a mistake.
const COUNT_MAX: u32 = 100_000;

/// How a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Mutex,
    Read,
    Write,
}

impl Way {
    fn is_semaphore(self) -> bool {
        self != Way::Mutex
    }
}

/// Whether an operation takes or releases a lock, how, and which.
fn lock_op(op: &Op) -> Option<(bool, Way, &Name)> {
    Some(match op {
        Op::Lock(m) => (true, Way::Mutex, m),
        Op::Unlock(m) => (false, Way::Mutex, m),
        Op::DownRead(m) => (true, Way::Read, m),
        Op::UpRead(m) => (false, Way::Read, m),
        Op::DownWrite(m) => (true, Way::Write, m),
        Op::UpWrite(m) => (false, Way::Write, m),
        _ => return None,
    })
}

impl Check<'_> {
    pub(super) fn tasks(&mut self) {
        let s = self.s;
        for (name, task) in s.tasks.iter() {
            if let Cpus::List(cpus) = &task.cpus {
                cpus.iter().for_each(|c| self.cpu(c.v, c.span));
                if cpus.is_empty() {
                    let message = format!("the task \"{}\" may run on no CPU", name.v);
                    self.found.push(Finding::error(name.span, message).hint("write cpus: all"));
                }
            }
            if task.count.v == 0 || task.count.v > COUNT_MAX {
                let message = format!("count is 1..={COUNT_MAX}");
                self.found.push(Finding::error(task.count.span, message));
            }
            if !(-20..=19).contains(&task.nice) {
                self.found.push(Finding::error(name.span, "nice is -20..=19"));
            }
            if task.weight.is_some_and(|w| !(1..=10_000).contains(&w)) {
                self.found.push(Finding::error(name.span, "weight is 1..=10000"));
            }
            self.ends_once(name, task);
            self.locks(task);
            self.returns(name, task);
            for op in &task.script {
                match op {
                    Op::Migrate(cpu) => self.cpu(cpu.v, cpu.span),
                    Op::TestRun { prog, .. } => self.prog(prog),
                    Op::Put { map, key, value, .. } => self.put(map, key, value),
                    Op::Delete { map, .. } => self.map(map),
                    _ => {}
                }
            }
        }
    }

    /// What stands behind the end of a task never happens.
    fn ends_once(&mut self, name: &Name, task: &Task) {
        let mut ends = task.script.iter().enumerate().filter_map(|(n, op)| match op {
            Op::Exit(code) => Some((n, code.span)),
            Op::Sys { call, .. } if call.v == "exit_group" => Some((n, call.span)),
            _ => None,
        });
        let Some((at, first)) = ends.next() else { return };
        if let Some((_, second)) = ends.next() {
            let message = format!("the task \"{}\" exits twice", name.v);
            let finding = Finding::error(second, message).also(first, "it has ended here");
            self.found.push(finding.hint("one Exit, the last of all"));
        } else if at + 1 < task.script.len() {
            let message = format!("the task \"{}\" goes on after its Exit", name.v);
            self.found.push(Finding::error(first, message).hint("Exit is the last of all"));
        } else if !matches!(task.repeat, Repeat::Once | Repeat::Times(1)) {
            let message = format!("the task \"{}\" ends here and cannot repeat its script", name.v);
            self.found.push(Finding::error(first, message));
        }
    }

    /// A task starts once and is killed once.
    pub(super) fn starts_and_ends(&mut self) {
        let mut before: Vec<(bool, &Name)> = Vec::new();
        let steps = self.s.timeline.iter().filter(|step| !matches!(step, Step::When(..)));
        for step in steps {
            let (end, name, done) = match step.action() {
                Action::Start(name) => (false, name, "is started"),
                Action::Kill(name) => (true, name, "is killed"),
                _ => continue,
            };
            if let Some((_, first)) = before.iter().find(|(e, n)| *e == end && n.v == name.v) {
                let message = format!("the task \"{}\" {done} twice", name.v);
                self.found.push(Finding::error(name.span, message).also(first.span, "before"));
            }
            before.push((end, name));
        }
    }

    /// A lock is released by who has it, as it was taken, and taken by who has it not.
    fn locks(&mut self, task: &Task) {
        let mut held: Vec<(Way, &Name)> = Vec::new();
        for op in &task.script {
            let Some((takes, way, m)) = lock_op(op) else { continue };
            let same = |h: &(Way, &Name)| h.1.v == m.v && h.0.is_semaphore() == way.is_semaphore();
            let before = held.iter().position(same);
            match before.map(|at| held[at]) {
                Some((_, before)) if takes => {
                    let message = format!("`{}` is taken already: this waits for itself", m.v);
                    let finding = Finding::error(m.span, message);
                    self.found.push(finding.also(before.span, "taken here"));
                }
                None if takes => held.push((way, m)),
                Some((taken, _)) if taken == way => {
                    held.remove(before.expect("it was found there"));
                }
                Some((_, before)) => {
                    let message = format!("`{}` is taken in the other way", m.v);
                    let finding = Finding::error(m.span, message);
                    self.found.push(finding.also(before.span, "taken here"));
                }
                None => {
                    let message = format!("`{}` is not taken here", m.v);
                    self.found.push(Finding::error(m.span, message));
                }
            }
        }
        if task.repeat != Repeat::Once
            && let Some((_, m)) = held.first()
        {
            let message = format!("`{}` is not released before the script is repeated", m.v);
            self.found.push(Finding::error(m.span, message));
        }
    }

    /// Functions return that were entered, and none is left when the script begins again.
    fn returns(&mut self, name: &Name, task: &Task) {
        let mut entered: Vec<&Name> = Vec::new();
        for op in &task.script {
            match op {
                Op::Enter { symbol, .. } => entered.push(symbol),
                Op::Return { value } if entered.pop().is_none() => {
                    let span = value.as_ref().map_or(name.span, crate::leaf::Data::span);
                    let message = format!("the task \"{}\" returns from no function", name.v);
                    self.found.push(Finding::error(span, message).hint("enter one before"));
                }
                _ => {}
            }
        }
        if task.repeat != Repeat::Once
            && let Some(symbol) = entered.first()
        {
            let message = format!("`{}` does not return before the script is repeated", symbol.v);
            self.found.push(Finding::error(symbol.span, message));
        }
    }

    /// A task by its name, or one of several: `worker.2`.
    pub(super) fn task(&mut self, name: &Name) {
        let s = self.s;
        let one = name.v.rsplit_once('.').filter(|(base, n)| {
            let count = s.tasks.get(base).map_or(0, |t| t.count.v);
            count > 1 && n.parse::<u32>().is_ok_and(|n| n < count)
        });
        if one.is_none() {
            self.one_of("task", name, s.tasks.names());
        }
    }

    /// Tasks that an event names.
    pub(super) fn event_tasks(&mut self, event: &Event) {
        let names = match event {
            Event::Switch { from, to, .. } => [from.as_ref(), to.as_ref()],
            Event::Stall { task } => [task.as_ref(), None],
            _ => return,
        };
        let idle = |n: &&Name| n.v.starts_with("swapper/");
        names.into_iter().flatten().filter(|n| !idle(n)).for_each(|n| self.task(n));
    }

    /// A share of all cases.
    pub(super) fn percentile(&mut self, percent: u32, span: Span) {
        if !(1..=100).contains(&percent) {
            self.found.push(Finding::error(span, "a percentile is 1..=100"));
        }
    }
}
