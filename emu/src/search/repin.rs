//! A pinned schedule after an edit of its program: each switch is looked for by the name of its
//! place, from where it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kernel_model::CpuId;

use crate::machine::schedule::{Choice, Chooser, Pick, PinnedSwitch};
use crate::machine::{Machine, MachineError};
use crate::runner::{RunError, Runs};

/// Where the switches are now, as far as they were found, in order.
type Places = Arc<Mutex<Vec<(u64, String)>>>;

/// Makes each switch at the first place that fits.
#[derive(Clone, Debug)]
struct Seek {
    first: Option<CpuId>,
    switches: Vec<PinnedSwitch>,
    /// How far places have moved, by CPU; none: they may be anywhere after the last.
    shift: Option<BTreeMap<CpuId, i64>>,
    last: BTreeMap<CpuId, u64>,
    found: Places,
}

/// A place without the numbers of source lines, which move with every edit.
fn place(name: &str) -> &str {
    let Some((head, tail)) = name.rsplit_once(':') else { return name };
    if !tail.is_empty() && tail.chars().all(|c| c.is_ascii_digit()) { head } else { name }
}

impl Chooser for Seek {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        if let Some(first) = self.first.take() {
            return Ok(c.ready_or_default(first.into()));
        }
        let mut found = self.found.lock().expect("not lent");
        let Some(next) = self.switches.get(found.len()).filter(|s| s.cpu == c.cpu) else {
            return Ok(c.default);
        };
        let name = m.place_name(c);
        let (old, now) = (next.after.cast_signed(), c.points.cast_signed());
        let far = self
            .shift
            .as_ref()
            .is_none_or(|s| now >= old.saturating_add(s.get(&c.cpu).copied().unwrap_or(0)));
        let after = self.last.get(&c.cpu).is_none_or(|last| c.points >= *last);
        let fits = place(&name) == place(&next.at) && far && after;
        let Some(to) = next.pick(m, c).filter(|_| fits) else {
            return Ok(c.default);
        };
        if let Some(shift) = &mut self.shift {
            shift.insert(c.cpu, now - old);
        }
        self.last.insert(c.cpu, c.points);
        found.push((c.points, name));
        Ok(to)
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}

/// New `after` and `at` of each switch; fewer than there are switches when one was not found.
///
/// # Errors
/// As for [`crate::runner::run`].
pub fn places(
    runs: &mut Runs<'_>,
    first: CpuId,
    switches: &[PinnedSwitch],
) -> Result<Vec<(u64, String)>, RunError> {
    let mut best = Vec::new();
    for shift in [Some(BTreeMap::new()), None] {
        let found = Places::default();
        let seek = Seek {
            first: Some(first),
            switches: switches.to_vec(),
            shift,
            last: BTreeMap::new(),
            found: found.clone(),
        };
        runs.under(Box::new(seek), &[])?;
        let found = std::mem::take(&mut *found.lock().expect("the run is over"));
        if found.len() == switches.len() {
            return Ok(found);
        }
        if found.len() > best.len() {
            best = found;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_move() {
        assert_eq!(place("p: again at a.bpf.c:17"), place("p: again at a.bpf.c:18"));
        assert_ne!(place("p: bpf_x called"), place("p: bpf_y called"));
    }
}
