//! Callers by `.debug_frame`, at every native instruction of runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bpf::Arch;
use bpf::insn::InsnIdx;
use emu::debug::Target;
use emu::runner::cells::{self, Cell};
use gdb::session::Files;
use gdb::{Debuggee as _, Image, View, symbols};
use jit::{FrameChange, FuncMap};
use kernel_model::cpu::Site;
use kernel_model::{CpuId, ProgId};

use super::dwarf::{self, Sections};
use super::{library, memory};

/// Native instructions of one run at most.
const STEPS_MAX: u64 = 3000;
/// Frames at most.
const DEPTH_MAX: usize = 64;

/// Files with frames, by the addresses that they are of.
struct Frames {
    files: Files,
    kernel: &'static Sections,
    programs: BTreeMap<u32, &'static Sections>,
}

impl Frames {
    fn of(&mut self, target: &Target<'_>, pc: u64) -> &'static Sections {
        let images = target.images();
        let Some(image) = images.iter().find(|i| holds(i, pc)) else { return self.kernel };
        let name = symbols::file_name(image, View::Source);
        let files = &mut self.files;
        self.programs.entry(image.id).or_insert_with(|| kept(files, target, &name))
    }
}

fn kept(files: &mut Files, target: &Target<'_>, name: &str) -> &'static Sections {
    Box::leak(Box::new(Sections::of(&files.get(target, name).expect("it is served"))))
}

fn holds(image: &Arc<Image>, pc: u64) -> bool {
    (image.base..image.base + image.code.len() as u64).contains(&pc)
}

/// What a debugger finds: places in programs, innermost first (none in a prologue), and whether it
/// came to the bottom.
fn found(
    frames: &mut Frames,
    target: &Target<'_>,
    cpu: CpuId,
) -> (Vec<Option<(ProgId, InsnIdx)>>, bool) {
    let arch = target.arch();
    let file = target.regs(cpu.0);
    let named = (0u8..).zip(&file.gprs);
    let mut regs: dwarf::Registers =
        named.map(|(n, v)| (symbols::dwarf_register(arch, n), *v)).collect();
    let sp = symbols::dwarf_register(arch, emu::unicorn::spec(arch).sp.0);
    let (mut pc, mut back, mut out) = (file.pc, 0, Vec::new());
    for _ in 0..DEPTH_MAX {
        let place = target.machine().text().place_of(pc - back);
        if back == 0 || place.is_some() {
            out.push(place);
        }
        let read = |addr, bytes| memory(target, cpu, addr, bytes);
        let of = frames.of(target, pc - back);
        let Some(caller) = dwarf::unwind(of, (pc - back, &regs), sp, &read) else {
            return (out, false);
        };
        let Some(next) = caller.pc else { return (out, true) };
        (pc, back, regs) = (next, 1, caller.regs);
    }
    (out, false)
}

/// Whether the machine knows its frames by itself at an offset: at the first instruction of a
/// function, or where its frame is whole.
fn is_certain(f: &FuncMap, off: u32) -> bool {
    if off == f.start.0 {
        return true;
    }
    let last = f.frame.iter().take_while(|c| c.0.0 <= off && off >= f.body.0).last();
    off >= f.body.0 && last.is_none_or(|(at, c)| *at <= f.body || *c == FrameChange::Body)
}

/// Steps through a run; how many places were looked at.
fn check(path: &Path, arch: Arch, wrong: &mut Vec<String>) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, &Cell::default());
    let scenario = parsed.scenario.expect("the library parses");
    let cell = cells::cells(&scenario, 1).swap_remove(0);
    let mut target = Target::new(&scenario, arch, &cells::options(path, &cell)).unwrap();
    let mut files = Files::new();
    let kernel = kept(&mut files, &target, &symbols::kernel_file(arch));
    let mut frames = Frames { files, kernel, programs: BTreeMap::new() };
    let mut certain: BTreeMap<u32, Vec<Site>> = BTreeMap::new();
    let mut seen = 0;
    for _ in 0..STEPS_MAX {
        let at = target.position().at;
        target.seek(at + 1).unwrap();
        if target.end().is_some() {
            break;
        }
        let Some((cpu, pc)) = target.machine().held() else { continue };
        let images = target.images();
        let Some(image) = images.iter().find(|i| holds(i, pc)) else { continue };
        let off = u32::try_from(pc - image.base).unwrap();
        let Some(f) = image.debug.funcs.iter().find(|f| f.start.0 <= off && off < f.end.0) else {
            continue;
        };
        if is_certain(f, off) {
            let sites = target.machine().stack_frames(cpu).iter().map(|f| f.site).collect();
            certain.insert(cpu.0, sites);
        }
        let Some(truth) = certain.get(&cpu.0) else { continue };
        let (chain, bottom) = found(&mut frames, &target, cpu);
        // What an interrupt stopped is no caller.
        let same = chain.len() <= truth.len()
            && chain.iter().zip(truth).skip(1).all(|(c, t)| *c == Some((t.prog, t.insn)));
        seen += 1;
        if !(same && bottom && !chain.is_empty()) && wrong.len() < 40 {
            let place = f.name.as_str();
            let body = off.wrapping_sub(f.start.0);
            wrong.push(format!("{arch} {place}+{body}: {chain:?} ({bottom}), not {truth:?}"));
        }
    }
    seen
}

#[test]
fn callers_are_found_at_every_instruction() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    let every = std::env::var("LIBRARY_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let all = library();
    for path in all.iter().filter(|p| p.ends_with("debugging/ledger.ron")) {
        for arch in Arch::ALL {
            seen += check(path, arch, &mut wrong);
        }
    }
    for (n, path) in all.iter().step_by(every).enumerate() {
        seen += check(path, Arch::ALL[n % 4], &mut wrong);
    }
    eprintln!("{seen} instructions");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 5000);
}
