//! What exploration believed at each instruction, kept for whoever can compare it with a run.
//!
//! A run that stands at an instruction is *explained* by a state that was seen there: each register
//! that may still be read, and each stack slot, has a value the state allows. Pruning keeps that
//! true only where it compares, so with [`Opts::record`](super::Opts::record) every scalar counts
//! as precise, and what is dead promises nothing. Mispredicted paths are no states of a run.

use crate::cfg::Cfg;
use crate::domain::state::{FuncState, Shared, VState};
use crate::env::MapInfo;
use crate::render::log::{Log, Names};

use super::live::Liveness;

/// Registers that a call leaves alone: what is live in a caller.
const CALLEE_SAVED: u16 = 0b11_1100_0000;

/// A state some path had before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Frames, outermost first.
    pub frames: Vec<Shared<FuncState>>,
    /// Per frame: registers that may still be read.
    pub live: Vec<u16>,
    /// Per frame: stack slots that may still be read; bit n is slot n.
    pub alive: Vec<u64>,
}

/// All states, by instruction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Trace {
    /// The states seen before each instruction.
    pub at: Vec<Vec<Seen>>,
    /// The maps that registers refer to by index.
    pub maps: Vec<MapInfo>,
    /// Entries of subprograms that are verified on their own: their frame is the outermost.
    pub roots: Vec<u32>,
}

impl Trace {
    /// A state as the log prints it, innermost frame last.
    #[must_use]
    pub fn text(&self, seen: &Seen) -> String {
        let mut log = Log::new(1);
        let st = VState { frames: seen.frames.clone(), ..VState::nothing() };
        for frame in 0..seen.frames.len() {
            log.state(&st, frame, true, &Names { maps: &self.maps, btf: None, prog_btf: None });
        }
        log.text
    }
}

/// States while exploration goes on.
#[derive(Debug)]
pub(super) struct Recorder {
    room: u32,
    states: Vec<VState>,
}

impl Recorder {
    /// Up to `room` states; none when that is 0.
    pub(super) fn new(room: u32) -> Option<Recorder> {
        (room != 0).then(|| Recorder { room, states: Vec::new() })
    }

    pub(super) fn see(&mut self, cur: &VState) {
        if self.states.len() < self.room as usize && !cur.speculative {
            self.states.push(VState {
                frames: cur.frames.clone(),
                insn_idx: cur.insn_idx,
                ..VState::nothing()
            });
        } else if !cur.speculative {
            // Half a trace explains half a run.
            (self.room, self.states) = (0, Vec::new());
        }
    }

    /// The trace; none when there were more states than there is room for.
    pub(super) fn finish(
        self,
        liveness: &mut Liveness,
        cfg: &Cfg,
        maps: Vec<MapInfo>,
        roots: Vec<u32>,
    ) -> Option<Trace> {
        if self.room == 0 {
            return None;
        }
        let mut at = vec![Vec::new(); cfg.live_regs_before.len()];
        for s in self.states {
            let query = liveness.query(&s, cfg);
            let inner = s.curframe();
            let live = (0..=inner).map(|f| {
                let live = cfg.live_regs_before[s.frame_insn(f) as usize];
                if f == inner { live } else { live & CALLEE_SAVED }
            });
            let live = live.collect();
            let alive = (0..=inner).map(|f| liveness.alive(&query, f, cfg)).collect();
            at[s.insn_idx as usize].push(Seen { frames: s.frames, live, alive });
        }
        Some(Trace { at, maps, roots })
    }
}
