//! What is shown of programs in a debugger, from the files that gdb is served, evaluated on the
//! machine as gdb does: values of locals, callers, lines, and whether LLVM finds fault with them.

mod built;
mod callers;
mod dwarf;
mod files;
mod shadow;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::Arch;
use bpf::insn::Insn;
use dwarf::{Cpu, File, Sections, Shown};
use emu::debug::Target;
use emu::runner::cells::{self, Cell};
use gdb::session::Files;
use gdb::{Debuggee as _, Image, View, symbols};
use kernel_model::{CpuId, ProgId};
use shadow::Shadow;
use verifier::verified::MemClass;

/// Differences that are told at most.
const SAID_MAX: usize = 40;
/// Stops of one run at most.
const STOPS_MAX: u64 = 1500;

/// A loaded program with all that is known of it.
pub(crate) struct Program {
    pub(crate) id: ProgId,
    pub(crate) image: Arc<Image>,
    pub(crate) code: Arc<[Insn]>,
    /// Instructions that do what they say.
    pub(crate) plain: Vec<bool>,
    /// Those that have native code.
    native: BTreeSet<u32>,
    /// First ones of functions.
    first: BTreeSet<u32>,
    served: &'static File<'static>,
    clang: Option<&'static File<'static>>,
    /// Size of each function's frame, as LLVM laid it out.
    frames: BTreeMap<String, u64>,
}

/// Files live as long as the test: what is read from them borrows from them.
fn read(sections: Sections) -> &'static File<'static> {
    let sections: &'static Sections = Box::leak(Box::new(sections));
    Box::leak(Box::new(sections.read()))
}

impl Program {
    fn new(
        target: &Target<'_>,
        files: &mut Files,
        image: &Arc<Image>,
        sizes: &mut Sizes,
    ) -> Option<Program> {
        let id = ProgId(image.id);
        let prog = target.machine().kernel.prog(id)?;
        let v = &prog.verified;
        let insns = &v.program().insns;
        let mut rewritten: Vec<Vec<Insn>> = vec![Vec::new(); insns.len()];
        let mut special = BTreeSet::new();
        for (_, insn, facts) in v.insns().filter(|(_, i, _)| **i != Insn::LdImm64Hi) {
            rewritten[facts.orig.idx()].push(*insn);
            if facts.mem != MemClass::Plain {
                special.insert(facts.orig.idx());
            }
        }
        let plain = |(n, (i, r)): (usize, (&Insn, &Vec<Insn>))| {
            !special.contains(&n) && shadow::is_plain(i, r)
        };
        let plain = insns.iter().zip(&rewritten).enumerate().map(plain).collect();
        let ranges = image.debug.insns.iter().filter(|r| r.start < r.end);
        let native = ranges.map(|r| r.orig.0).collect();
        let begins = |f: &jit::FuncMap| {
            let at = image.debug.insns.partition_point(|r| r.start < f.body);
            image.debug.insns.get(at).map(|r| r.orig.0)
        };
        let first = image.debug.funcs.iter().filter_map(begins).collect();
        let elf = files.get(target, &symbols::file_name(image, View::Source))?;
        let served = read(Sections::of(&elf));
        let clang = image.origin.as_ref().and_then(|o| symbols::clang_sections(&o.object));
        let little = image.arch.endian() == bpf::Endian::Little;
        let clang = clang.filter(|all| all.contains_key(".debug_info"));
        let clang = clang.map(|all| read(Sections { all, little }));
        let image = Arc::clone(image);
        let code = insns.as_slice().into();
        let frames = sizes.of(&image, clang.is_some());
        Some(Program { id, image, code, plain, native, first, served, clang, frames })
    }

    /// Whether an instruction is the first of a function.
    pub(crate) fn begins(&self, orig: u32) -> bool {
        self.first.contains(&orig)
    }

    pub(crate) fn has_code(&self, orig: usize) -> bool {
        u32::try_from(orig).is_ok_and(|n| self.native.contains(&n))
    }

    /// Slots that an instruction takes.
    pub(crate) fn slots(&self, at: usize) -> usize {
        if matches!(self.code.get(at), Some(Insn::LdImm64 { .. })) { 2 } else { 1 }
    }
}

/// Sizes of frames, asked of clang: it writes them beside the code when it is told to.
struct Sizes {
    folder: PathBuf,
    known: BTreeMap<(String, bool), BTreeMap<String, u64>>,
}

impl Sizes {
    fn of(&mut self, image: &Image, wanted: bool) -> BTreeMap<String, u64> {
        let file = image.listing.iter().find_map(|l| l.line.as_ref()).map(|l| l.0.clone());
        let Some(file) = file.filter(|_| wanted) else { return BTreeMap::new() };
        let little = image.arch.endian() == bpf::Endian::Little;
        let folder = self.folder.clone();
        let make = || built::frames(&folder.join(&file), image.arch).unwrap_or_default();
        self.known.entry((file.clone(), little)).or_insert_with(make).clone()
    }
}

/// The machine as a debugger asks it.
struct Native<'a, 'b> {
    target: &'a Target<'b>,
    cpu: CpuId,
    regs: dwarf::Registers,
    cfa: Option<u64>,
}

fn memory(target: &Target<'_>, cpu: CpuId, addr: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; bytes];
    (target.read(cpu.0, addr, &mut out) == bytes).then_some(out)
}

impl Cpu for Native<'_, '_> {
    fn register(&self, register: u16) -> Option<u64> {
        self.regs.get(&register).copied()
    }

    fn memory(&self, addr: u64, bytes: usize) -> Option<Vec<u8>> {
        memory(self.target, self.cpu, addr, bytes)
    }

    fn cfa(&self) -> Option<u64> {
        self.cfa
    }

    fn address(&self, written: u64) -> Option<u64> {
        Some(written)
    }
}

/// The machine that the language defines: registers of BPF, addresses of the object.
#[derive(Clone, Copy)]
struct Defined<'a, 'b> {
    target: &'a Target<'b>,
    cpu: CpuId,
    regs: [u64; 11],
    image: &'a Image,
    /// Bytes by which LLVM's offsets in the frame are too large.
    down: u64,
}

impl Cpu for Defined<'_, '_> {
    fn register(&self, register: u16) -> Option<u64> {
        let value = *self.regs.get(usize::from(register))?;
        Some(if register == 10 { value - self.down } else { value })
    }

    fn memory(&self, addr: u64, bytes: usize) -> Option<Vec<u8>> {
        memory(self.target, self.cpu, addr, bytes)
    }

    fn cfa(&self) -> Option<u64> {
        None
    }

    fn address(&self, written: u64) -> Option<u64> {
        let section = u32::try_from(written >> 32).ok()?.checked_sub(1)?;
        Some(self.image.origin.as_ref()?.data.get(&section)? + (written & 0xffff_ffff))
    }
}

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    stops: u64,
    /// Values that agree.
    equal: u64,
    /// Shown as optimised out, though clang knows a value.
    hidden: u64,
    /// The argument of a program, which clang knows no more.
    recalled: u64,
    /// Shown as optimised out, and by clang too.
    unknown: u64,
    /// On the stack by an offset that LLVM may have misplaced.
    framed: u64,
    wrong: Vec<String>,
}

/// Runs a scenario instruction by instruction, and compares all locals in scope at each.
fn locals(path: &Path, cell: &Cell, arch: Arch, tally: &mut Tally) {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, cell);
    let scenario = parsed.scenario.expect("the library parses");
    let mut target = Target::new(&scenario, arch, &cells::options(path, cell)).unwrap();
    let mut files = Files::new();
    let folder = path.parent().unwrap().to_path_buf();
    let mut sizes = Sizes { folder, known: BTreeMap::new() };
    let mut programs: BTreeMap<u32, Option<Program>> = BTreeMap::new();
    // A task may be preempted in the middle of a program.
    let mut shadows: BTreeMap<_, Shadow> = BTreeMap::new();
    let mut insns = 0;
    for _ in 0..STOPS_MAX {
        let position = target.goto(insns).unwrap();
        if target.end().is_some() {
            break;
        }
        insns = position.insns.max(insns) + 1;
        let Some((cpu, pc)) = target.machine().held() else { continue };
        let images = target.images();
        let here = |i: &&Arc<Image>| (i.base..i.base + i.code.len() as u64).contains(&pc);
        let Some(image) = images.iter().find(here) else { continue };
        let make = || Program::new(&target, &mut files, image, &mut sizes);
        let Some(p) = programs.entry(image.id).or_insert_with(make) else { continue };
        let Some(orig) = target.regs(cpu.0).bpf_pc else { continue };
        tally.stops += 1;
        let task = target.machine().kernel.curr_task(cpu);
        let shadow = shadows.entry((cpu.0, task)).or_default();
        let Some(known) = shadow.at(&target, cpu, p, orig) else { continue };
        compare(&target, cpu, p, (pc, orig), known, tally);
    }
    let name = path.file_name().unwrap().to_string_lossy();
    let lost = shadows.into_values().flat_map(|s| s.lost);
    tally.wrong.extend(lost.map(|l| format!("{name} {arch}: lost: {l}")));
}

fn compare(
    target: &Target<'_>,
    cpu: CpuId,
    p: &Program,
    (pc, orig): (u64, u32),
    (argument, regs): (u64, [u64; 11]),
    tally: &mut Tally,
) {
    let Some(clang) = p.clang else { return };
    let origin = p.image.origin.as_ref().expect("it has DWARF");
    let Some(Some((section, off))) = origin.insns.get(orig as usize) else { return };
    let at = (u64::from(*section) + 1) << 32 | off;
    let frame = target.machine().stack_frames(cpu);
    let cfa = frame.first().and_then(|f| f.fp).map(|fp| symbols::cfa_of(p.image.arch, fp));
    let file = target.regs(cpu.0);
    let named = (0u8..).zip(&file.gprs);
    let native = named.map(|(n, v)| (symbols::dwarf_register(p.image.arch, n), *v)).collect();
    let native = Native { target, cpu, regs: native, cfa };
    let defined = Defined { target, cpu, regs, image: &p.image, down: 0 };
    let argument = match p.image.arch.endian() {
        bpf::Endian::Little => argument.to_le_bytes(),
        bpf::Endian::Big => argument.to_be_bytes(),
    };
    let argument = Shown::Bytes(argument.map(Some).to_vec());
    for local in p.served.in_scope(pc) {
        let shown = p.served.shown(local, pc, &native);
        let same = |l: &&dwarf::Local<'_>| {
            l.name == local.name && l.line == local.line && l.scope == local.scope
        };
        let Some(theirs) = clang.in_scope(at).find(same) else {
            if shown != Shown::OptimisedOut {
                tally.wrong.push(format!("{} is not in scope at {orig}", local.name));
            }
            continue;
        };
        let down = match clang.is_lifted(theirs, at) {
            true => p.frames.get(&local.scope[0]).copied(),
            false => Some(0),
        };
        let Some(down) = down else {
            tally.framed += 1;
            continue;
        };
        let expected = clang.shown(theirs, at, &Defined { down, ..defined });
        match (&shown, &expected) {
            (Shown::OptimisedOut, Shown::OptimisedOut) => tally.unknown += 1,
            (Shown::OptimisedOut, Shown::Bytes(_)) => tally.hidden += 1,
            (Shown::Bytes(_), Shown::OptimisedOut) if shown == argument => tally.recalled += 1,
            _ if shown == expected => tally.equal += 1,
            _ => tally.wrong.push(format!(
                "{} {} at {orig}: {}: {shown:x?}, not {expected:x?}",
                p.image.arch, p.image.name, local.name,
            )),
        }
    }
}

fn library() -> Vec<PathBuf> {
    let mut out = Vec::new();
    for topic in fs::read_dir(tests::root().join("scenarios/library")).unwrap() {
        for file in fs::read_dir(topic.unwrap().path()).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "ron") {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// At every instruction of runs of the library.
#[test]
fn locals_are_what_they_are() {
    let every = std::env::var("LIBRARY_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let only = std::env::var("SCENARIO").ok();
    let mut all = Tally::default();
    let chosen = |p: &PathBuf| only.as_ref().is_none_or(|o| p.to_string_lossy().contains(o));
    for (n, path) in library().iter().filter(|p| chosen(p)).step_by(every).enumerate() {
        let text = fs::read_to_string(path).unwrap();
        let parsed = cells::read(path, &text, &Cell::default());
        let s = parsed.scenario.expect("the library parses");
        let cell = cells::cells(&s, 1).swap_remove(0);
        let allowed = cells::archs_of(&s, &cell, &cells::archs(&s));
        let arch = *allowed.get(n % 4).unwrap_or(&allowed[0]);
        locals(path, &cell, arch, &mut all);
    }
    eprintln!(
        "{} stops: {} equal, {} recalled, {} hidden, {} unknown to clang, {} framed",
        all.stops, all.equal, all.recalled, all.hidden, all.unknown, all.framed
    );
    assert!(
        all.wrong.is_empty(),
        "{} wrong: {:#?}",
        all.wrong.len(),
        &all.wrong[..all.wrong.len().min(SAID_MAX)]
    );
    assert!(all.equal > 100 && all.recalled > 0);
}
