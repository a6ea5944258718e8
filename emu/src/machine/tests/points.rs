//! Points: the same ones, in the same order, with the same clocks, on every architecture.

use super::*;
use crate::machine::schedule::{Choice, Pick, Pinned, PinnedSwitch, Random};
use kernel_model::context::Level;

/// Notes every point that it is asked at, and goes on.
#[derive(Debug, Default, Clone)]
struct Note(Arc<std::sync::Mutex<Vec<(String, u64, u64)>>>);

impl Chooser for Note {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        let retired = m.kernel.cpus[c.cpu.idx()].retired;
        self.0.lock().unwrap().push((m.place_name(c), c.points, retired));
        Ok(c.default)
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}

/// Twice: calls a subprogram that calls a helper; a jump leads over the call the second time, to
/// the instruction that also a return leads to.
fn calls_and_loops() -> Vec<Insn> {
    vec![
        mov(6, 0),
        jmp(JmpOp::Eq, 6, 2, 1),
        Insn::Call(Call::Local(4)),
        alu(AluOp::Add, 6, Src::Imm(1)),
        jmp(JmpOp::Ne, 6, 4, -4),
        mov(0, 7),
        Insn::Exit,
        Insn::Call(Call::Helper(KTIME)),
        mov(7, 3),
        alu(AluOp::Sub, 7, Src::Imm(1)),
        jmp(JmpOp::Ne, 7, 0, -2),
        Insn::Exit,
    ]
}

fn points_of(arch: Arch) -> Vec<(String, u64, u64)> {
    let mut m = machine(arch);
    let p = load_prog(&mut m, calls_and_loops(), &[]);
    let note = Note::default();
    m.schedule(Some(Box::new(note.clone())));
    let events = run(&mut m, p, 0);
    assert_eq!(exit_value(&events), Some(7), "{arch}");
    note.0.lock().unwrap().clone()
}

#[test]
fn points_have_the_same_ordinals_on_all_architectures() {
    let first = points_of(Arch::X86_64);
    let names: Vec<&str> = first.iter().map(|p| p.0.as_str()).collect();
    let sub = [
        "t: enters insn 7",
        "t: bpf_ktime_get_ns called",
        "t: bpf_ktime_get_ns returned",
        "t: again at insn 9",
        "t: again at insn 9",
        "t: is back in insn 2",
    ];
    let back = ["t: again at insn 1"];
    let wanted = [&["idle"], &sub[..], &back, &sub, &back, &back, &sub].concat();
    assert_eq!(names, wanted);
    for arch in ARCHS {
        assert_eq!(points_of(*arch), first, "{arch}");
    }
}

/// Reads, asks for the time, and writes what it read plus one: a lost update, when another does
/// the same in between.
fn increment() -> Vec<Insn> {
    vec![
        alu(AluOp::Mov, 6, Src::Reg(Reg(1))),
        load(7, 6, 0),
        Insn::Call(Call::Helper(KTIME)),
        alu(AluOp::Add, 7, Src::Imm(1)),
        store(6, 0, 7),
        mov(0, 0),
        Insn::Exit,
    ]
}

fn two_increments(arch: Arch, chooser: Box<dyn Chooser>) -> (u64, Machine) {
    let mut m = machine(arch);
    let p = load_prog(&mut m, increment(), &[]);
    let at = m.kernel.kzalloc(64, "a counter").unwrap();
    submit(&mut m, 0, p, at);
    submit(&mut m, 1, p, at);
    m.schedule(Some(chooser));
    m.run_until_idle().unwrap();
    (m.kernel.mem.read_u64(at).unwrap(), m)
}

#[test]
fn a_random_schedule_finds_a_lost_update_that_its_switches_replay() {
    for &arch in ARCHS {
        let seeds: Vec<u64> =
            (0..20).filter(|s| two_increments(arch, Box::new(Random::new(*s))).0 == 1).collect();
        assert!(!seeds.is_empty() && seeds.len() < 20, "{arch}: {seeds:?}");
        let (_, found) = two_increments(arch, Box::new(Random::new(seeds[0])));
        let name = |s: &Switch| match &s.at {
            Some(point) => found.point_name(point),
            None => "idle".to_string(),
        };
        let switches = found.switches().iter().map(|s| PinnedSwitch {
            cpu: s.cpu,
            after: s.after,
            at: name(s),
            to: s.to.cpu,
            task: None,
        });
        let switches: Vec<PinnedSwitch> = switches.collect();
        for other in ARCHS {
            let pinned = Pinned::new(CpuId(0), switches.clone());
            let (value, m) = two_increments(*other, Box::new(pinned));
            assert_eq!(value, 1, "{arch} on {other}");
            assert_eq!(m.events(), found.events(), "{arch} on {other}");
        }
    }
}

#[test]
fn a_pinned_switch_at_another_point_is_stale() {
    let at = "t: bpf_ktime_get_ns returned".to_string();
    let switch = PinnedSwitch { cpu: CpuId(0), after: 1, at, to: CpuId(1), task: None };
    let mut m = machine(Arch::X86_64);
    let p = load_prog(&mut m, increment(), &[]);
    let counter = m.kernel.kzalloc(64, "a counter").unwrap();
    submit(&mut m, 0, p, counter);
    submit(&mut m, 1, p, counter);
    m.schedule(Some(Box::new(Pinned::new(CpuId(0), vec![switch]))));
    let MachineError::Stale { found, .. } = m.run_until_idle().unwrap_err() else { panic!() };
    assert_eq!(found, "t: bpf_ktime_get_ns called");
}

/// An interrupt at every point of a program in turn: both end as they would alone.
#[test]
fn an_interrupt_at_any_point_changes_nothing() {
    for &arch in ARCHS {
        let points = points_of(arch).len() as u64;
        for n in 1..points {
            let mut m = machine(arch);
            let p = load_prog(&mut m, calls_and_loops(), &[]);
            let irq = load_prog(&mut m, helper_loop(3), &[]);
            m.kernel.fine = true;
            submit(&mut m, 0, p, 0);
            let work = || Frame::Hook { prog: irq, ctx: 0, cookie: 0, free: 0 };
            while m.step(CpuId(0)).unwrap() {
                if m.kernel.cpus[0].points == n && m.events().iter().all(|e| !entered(e, irq)) {
                    m.kernel.interrupt(CpuId(0), Level::Hard, [work()]);
                }
            }
            let exits = m.events().iter().filter_map(|e| match e.kind {
                EventKind::Exit { prog, ret } => Some((prog.0, ret)),
                _ => None,
            });
            let exits: Vec<(u32, u64)> = exits.collect();
            assert_eq!(exits, [(irq.0, 3), (p.0, 7)], "{arch} at {n}");
        }
    }
}

fn entered(e: &Event, wanted: ProgId) -> bool {
    matches!(e.kind, EventKind::Enter { prog } if prog == wanted)
}
